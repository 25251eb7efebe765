#pragma once

// What kernels read of a codec, whatever the batch. Host code without CUDA.

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/codec_spec.h"
#include "common/kv_layout.h"
#include "kernels/cuda/launch.h"

namespace hadal::cuda {

struct FamilyTables {
  std::array<RotationBits, 2> rotations = {};     // by side; of families that rotate
  std::array<RotationBits, 2> projections = {};   // by side; of families that project
  std::array<std::vector<int16_t>, 2> gaussians;  // in place of those of Gaussian projections
  std::vector<VectorScales> scales;
  std::vector<CodeTables> codes;   // of the same indices, or none
  std::vector<PolarTables> polar;  // one, of PolarQuant
  // Indices by side and planes.
  std::array<std::array<uint8_t, limits::kBitsMax + 1>, 2> index = {};

  // Of a layout and a codec that are valid. InvalidArgument where a head_dim has no rotation or
  // no kernels.
  static absl::StatusOr<FamilyTables> make(const KvLayout& layout, const CodecSpec& spec);
};

}  // namespace hadal::cuda
