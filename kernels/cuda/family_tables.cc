#include "kernels/cuda/family_tables.h"

#include "absl/strings/str_cat.h"
#include "common/block_plan.h"
#include "kernels/cuda/head_dims.h"
#include "kernels/rotation.h"
#include "kernels/vector_codec.h"

namespace hadal::cuda {
namespace {

RotationBits bits_of(const Rotation& rotation) {
  RotationBits bits = {};
  for (int i = 0; i < rotation.head_dim; ++i) {
    if (rotation.signs[i] < 0) bits.signs[i / 32] |= 1u << (i % 32);
  }
  for (int i = 0; rotation.core > 1 && i < rotation.core; ++i) {
    for (int j = 0; j < rotation.core; ++j) {
      if (rotation.core_matrix[i * rotation.core + j] > 0) continue;
      bits.core_rows[i] |= uint64_t{1} << j;
      bits.core_columns[j] |= uint64_t{1} << i;
    }
  }
  return bits;
}

// Whether some layer has so many planes of a side.
bool is_used(const KvLayout& layout, const CodecSpec& spec, Side side, int planes) {
  if (!has_planes(spec.family)) return planes == 1;
  for (int layer = 0; layer < layout.layer_count; ++layer) {
    const LayerBits of = spec.bits_of_layer(layer);
    if ((side == Side::key ? of.key_bits : of.value_bits) == planes) return true;
  }
  return false;
}

void add_tables(const CodecSpec& spec, int head_dim, int planes, FamilyTables& tables) {
  VectorScales scales;
  scales.input_length = static_cast<float>(encoded_deviation(head_dim));
  if (spec.family == CodecFamily::polar) {
    scales.polar = PolarScale(head_dim);
    scales.input_length = scales.polar.encoded_length;
  }
  if (const int bits = codebook_bits(spec.family, planes); bits != 0) {
    const CodeTables& codes = tables.codes.emplace_back(CodeTables::make(bits, head_dim));
    scales.input_length = static_cast<float>(codes.input_scale << codes.input_shift);
    scales.input_shift = codes.input_shift;
  }
  tables.scales.push_back(scales);
}

// Of the tables added last.
void add_products(const Projection& projection, FamilyTables& tables) {
  VectorScales& scales = tables.scales.back();
  if (tables.codes.empty()) {
    scales.units = product_units(projection, nullptr);
    return;
  }
  scales.residual_length = residual_length(tables.codes.back(), projection.head_dim);
  scales.units = product_units(projection, &tables.codes.back());
}

}  // namespace

absl::StatusOr<FamilyTables> FamilyTables::make(const KvLayout& layout, const CodecSpec& spec) {
  FamilyTables tables;
  if (!is_rotated(spec.family)) return tables;
  if (spec.family == CodecFamily::polar) tables.polar = {polar_tables()};
  for (Side side : {Side::key, Side::value}) {
    const auto head_dim = static_cast<int>(side_head_dim(layout, side));
    const auto number = static_cast<uint8_t>(side);
    absl::StatusOr<Rotation> rotation = Rotation::create(head_dim, spec.rotation_seed);
    if (!rotation.ok()) return rotation.status();
    if (!with_head_dim(head_dim, [](auto) {})) {
      return absl::InvalidArgumentError(
          absl::StrCat(side == Side::key ? "K" : "V", " has head_dim ", head_dim,
                       ", for which no kernels are made for GPUs; use codec raw"));
    }
    tables.rotations[number] = bits_of(*rotation);
    Projection projection;
    if (is_projected(spec.family)) {
      projection = *Projection::create(head_dim, spec.rotation_seed, spec.gaussian_projection);
      tables.projections[number] = bits_of(projection.rotation);
      tables.gaussians[number] = projection.gaussian;
    }
    for (int planes = 1; planes <= limits::kBitsMax; ++planes) {
      if (!is_used(layout, spec, side, planes)) continue;
      tables.index[number][planes] = static_cast<uint8_t>(tables.scales.size());
      add_tables(spec, head_dim, planes, tables);
      if (is_projected(spec.family)) add_products(projection, tables);
    }
  }
  return tables;
}

}  // namespace hadal::cuda
