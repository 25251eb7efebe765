#include "kernels/plan_codec.h"

#include "absl/strings/str_cat.h"

namespace hadal {

absl::Status PlanCodec::prepare() {
  if (!is_rotated(spec().family)) return absl::OkStatus();
  for (Side side : {Side::key, Side::value}) {
    const auto head_dim = static_cast<int>(side_head_dim(layout(), side));
    absl::StatusOr<Rotation> rotation = Rotation::create(head_dim, spec().rotation_seed);
    if (!rotation.ok()) return rotation.status();
    rotations_[static_cast<int>(side)] = *std::move(rotation);
    if (is_projected(spec().family)) {
      absl::StatusOr<Projection> projection =
          Projection::create(head_dim, spec().rotation_seed, spec().gaussian_projection);
      if (!projection.ok()) return projection.status();
      projections_[static_cast<int>(side)] = *std::move(projection);
    }
    // Made now, not in a request.
    for (int layer = 0; layer < layout().layer_count; ++layer) {
      const LayerBits bits = spec().bits_of_layer(layer);
      tables(side, side == Side::key ? bits.key_bits : bits.value_bits);
    }
  }
  return absl::OkStatus();
}

absl::Status PlanCodec::expect(const CodecSpec& block) const {
  if (spec().family == block.family && spec().rotation_seed == block.rotation_seed &&
      spec().gaussian_projection == block.gaussian_projection) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("block has codec ", block.name(), " and rotation seed ", block.rotation_seed,
                   "; this codec is ", spec().name(), " with seed ", spec().rotation_seed));
}

const CodeTables* PlanCodec::tables(Side side, int planes) const {
  const int bits = codebook_bits(spec().family, planes);
  if (bits == 0) return nullptr;
  Tables& tables = tables_[static_cast<int>(side)];
  std::call_once(tables.made[bits - 1], [&] {
    tables.of_bits[bits - 1] =
        CodeTables::make(bits, static_cast<int>(side_head_dim(layout(), side)));
  });
  return &tables.of_bits[bits - 1];
}

}  // namespace hadal
