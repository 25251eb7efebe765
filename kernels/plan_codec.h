#pragma once

// What a Codec is: the tables of its layout, and where the vectors of a block lie. Private to
// kernels/.

#include <array>
#include <cstddef>
#include <mutex>

#include "absl/status/status.h"
#include "common/block_plan.h"
#include "kernels/codec.h"
#include "kernels/vector_codec.h"

namespace hadal {

class PlanCodec final : public Codec {
 public:
  PlanCodec(const KvLayout& layout, const CodecSpec& spec, VectorCodec vectors)
      : Codec(layout, spec), vectors_(vectors) {}

  // Makes the tables, before anything else is called.
  absl::Status prepare();

  // FailedPrecondition where a block of that codec, which is not raw, is none that this one reads.
  absl::Status expect(const CodecSpec& block) const;

  const Rotation& rotation(Side side) const { return rotations_[static_cast<int>(side)]; }
  // Null for families that do not project.
  const Projection* projection(Side side) const {
    return is_projected(spec().family) ? &projections_[static_cast<int>(side)] : nullptr;
  }
  // Of the codebook that a side with so many planes uses; null for none. A block that another
  // client stored may have other bits than this codec's.
  const CodeTables* tables(Side side, int planes) const;
  const VectorCodec& vectors() const { return vectors_; }

 private:
  struct Tables {
    std::array<std::once_flag, limits::kBitsMax> made;
    std::array<CodeTables, limits::kBitsMax> of_bits;
  };

  VectorCodec vectors_;
  Rotation rotations_[2];
  Projection projections_[2];
  mutable Tables tables_[2];
};

// Every codec is a PlanCodec; Codec::create is the only way to make one.
inline const PlanCodec& implementation(const Codec& codec) {
  return static_cast<const PlanCodec&>(codec);
}

// One (layer, head) of a side.
struct RunIndex {
  int layer, head, group;
};

// One side of an encoded block.
struct EncodedSide {
  const BlockPlan& plan;
  Side side;
  std::byte* block;

  size_t vector_bytes() const {
    return side_head_dim(plan.layout(), side) * dtype_bytes(plan.layout().dtype);
  }
  // Runs before it in its layer group.
  size_t runs_before(const RunIndex& index) const {
    return size_t(index.layer - plan.group_begin(index.group)) * plan.layout().kv_head_count +
           index.head;
  }
  std::byte* cell(int plane, int group) const {
    return block + plan.cell(side, plane, group).offset;
  }
  // Source values of a run, dense: of its exact tokens, or in a raw block of all.
  std::byte* exact_values(const RunIndex& index) const {
    return cell(0, index.group) + plan.sections(side, 0, index.group).exact +
           runs_before(index) * plan.shape().exact_token_count * vector_bytes();
  }
  std::byte* raw_values(const RunIndex& index) const {
    return cell(0, index.group) + runs_before(index) * plan.shape().token_count * vector_bytes();
  }
};

// An EncodeRun or a DecodeRun of `planes` planes, which still lacks the values in memory.
template <typename Run>
Run encoded_run(const PlanCodec& codec, const EncodedSide& of, const RunIndex& index, int planes) {
  const BlockPlan& plan = of.plan;
  const size_t runs_before = of.runs_before(index);
  const size_t vectors_before = runs_before * plan.shape().token_count;
  Run run;
  run.dtype = plan.layout().dtype;
  run.token_count = plan.shape().token_count;
  run.exact_token_count = plan.shape().exact_token_count;
  run.head_dim = static_cast<int>(side_head_dim(plan.layout(), of.side));
  run.rotation = &codec.rotation(of.side);
  run.tables = codec.tables(of.side, plan.plane_count(of.side, index.group));
  run.projection = codec.projection(of.side);
  run.plane_count = planes;
  run.vector = plan.plane_vector(of.side, 0, index.group);
  for (int plane = 0; plane < planes; ++plane) {
    const CellSections sections = plan.sections(of.side, plane, index.group);
    const PlaneVector vector = plan.plane_vector(of.side, plane, index.group);
    std::byte* cell = of.cell(plane, index.group);
    run.planes[plane] = cell + sections.words + vectors_before * vector.word_bytes;
    if (vector.scalar_count != 0) {
      auto* scalars = reinterpret_cast<uint16_t*>(cell + sections.scalars);
      (plane == 0 ? run.norms : run.residual_norms) =
          scalars + vectors_before * vector.scalar_count;
    }
    if (sections.offsets != sections.exact) {
      run.offsets =
          reinterpret_cast<uint16_t*>(cell + sections.offsets) + runs_before * run.head_dim;
    }
  }
  return run;
}

}  // namespace hadal
