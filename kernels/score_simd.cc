// Inner products with encoded vectors with Google Highway, kLanes of them at a time. Compiled once
// for every instruction set; the best one is chosen at run time.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/score_simd.cc"
#include <hwy/foreach_target.h>
// The order of these two includes matters to Highway.
#include <hwy/highway.h>

#include "kernels/projection.h"
#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
#include "kernels/simd_columns-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
// No vectors: the scalar reference is as good.
void ScoreRunSimd(const ScoreRun& run) { reference_score_run(run); }
#else

class ColumnScores {
 public:
  explicit ColumnScores(const ScoreRun& scored) : scored_(scored), run_(scored.vectors) {
    if (run_.projection != nullptr) units_ = product_units(*run_.projection, run_.tables);
    has_signs_ = run_.tables == nullptr || run_.residual_norms != nullptr;
    if (run_.tables == nullptr) return;
    planes_ = has_signs_ ? run_.tables->bits : run_.plane_count;
    centroids_.set(run_.tables->centroids[planes_ - 1].data(), 1 << planes_);
  }

  void score() {
    for (uint32_t token = run_.exact_token_count; token < run_.token_count; token += kLanes) {
      VF sum = hn::Zero(F32());
      if (planes_ > 0) sum = centroid_part(token);
      if (has_signs_) sum = hn::Add(sum, sign_part(token));
      alignas(64) float scores[kLanes];
      hn::Store(sum, F32(), scores);
      const size_t count = std::min<size_t>(kLanes, run_.token_count - token);
      std::copy_n(scores, count, scored_.scores + token);
    }
  }

 private:
  VF lengths(const uint16_t* scalars, uint32_t token) const {
    return lengths_of(scalars, token, run_.token_count);
  }

  VF centroid_part(uint32_t token) {
    const F32 d;
    VF sum = hn::Zero(d);
    V32 squares = hn::Zero(I32());  // below 2^31: CodeTables::make()
    bits_.read_indices(run_, planes_, token, indices_);
    for (int i = 0; i < run_.head_dim; ++i) {
      const V32 centroid = centroids_[indices_[i]];
      const VF product = hn::Mul(hn::ConvertTo(d, centroid), hn::Set(d, scored_.rotated[i]));
      sum = hn::Add(sum, product);
      if (!has_signs_) squares = hn::Add(squares, hn::Mul(centroid, centroid));
    }
    const VF norms = lengths(run_.norms, token);
    if (has_signs_) return hn::Mul(sum, hn::Mul(norms, hn::Set(d, units_.centroids)));
    const VF head_dim = hn::Set(d, static_cast<float>(run_.head_dim));
    return hn::Mul(sum, hn::Div(norms, hn::Sqrt(hn::Mul(hn::ConvertTo(d, squares), head_dim))));
  }

  VF sign_part(uint32_t token) {
    const F32 d;
    VF sum = hn::Zero(d);
    bits_.read(run_, run_.plane_count - 1, token);
    for (int i = 0; i < run_.head_dim; ++i) {
      const VF value = hn::Set(d, scored_.projected[i]);
      const auto positive = hn::RebindMask(d, bits_.get(i));
      sum = hn::Add(sum, hn::IfThenElse(positive, value, hn::Neg(value)));
    }
    const VF of_signs = lengths(planes_ > 0 ? run_.residual_norms : run_.norms, token);
    return hn::Mul(sum, hn::Mul(of_signs, hn::Set(d, units_.signs)));
  }

  const ScoreRun& scored_;
  const DecodeRun& run_;
  ProductUnits units_;
  bool has_signs_ = false;
  int planes_ = 0;  // of the centroids
  ColumnTable centroids_;
  ColumnBits bits_;
  V32 indices_[kColumnsMax];
};

void ScoreRunSimd(const ScoreRun& run) { ColumnScores(run).score(); }

#endif  // HWY_TARGET
}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hadal {

HWY_EXPORT(ScoreRunSimd);

void simd_score_run(const ScoreRun& run) { HWY_DYNAMIC_DISPATCH(ScoreRunSimd)(run); }

}  // namespace hadal
#endif  // HWY_ONCE
