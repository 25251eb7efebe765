// TurboQuant-prod and QJL with Google Highway. Compiled once for every instruction set; the best
// one is chosen at run time.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/prod_simd.cc"
#include <hwy/foreach_target.h>
// The order of these two includes matters to Highway.
#include <hwy/highway.h>

#include "kernels/projection.h"
#include "kernels/reference_math.h"
#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
#include "kernels/simd_column_vectors-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
// No vectors: the scalar reference is as good.
bool EncodeProjected(const EncodeRun& run) {
  return (run.tables != nullptr ? reference_prod_codec() : reference_qjl_codec()).encode(run);
}
void DecodeProjected(const DecodeRun& run) {
  (run.tables != nullptr ? reference_prod_codec() : reference_qjl_codec()).decode(run);
}
#else

// Columns of 16 bits, two to a register: what a Gaussian matrix is multiplied with.
class ColumnPairs {
 public:
  // Of values 2k and 2k + 1, whose upper 16 bits are left out.
  HWY_INLINE void set(int k, V32 even, V32 odd) {
    const V16 upper = hn::BitCast(I16(), hn::ShiftLeft<16>(odd));
    pairs_[k] = hn::OddEven(upper, hn::BitCast(I16(), even));
  }

  // To column i of `sums` row i of a matrix times the columns, head_dim of each, in 32 bits.
  void add_products(const std::vector<int16_t>& matrix, int head_dim,
                    V32* HWY_RESTRICT sums) const {
    for (int first = 0; first < head_dim; first += kRows) {
      const int16_t* const rows = matrix.data() + first * head_dim;
      V32 of_rows[kRows];
      for (int row = 0; row < kRows; ++row) of_rows[row] = sums[first + row];
      for (int k = 0; k < head_dim / 2; ++k) {
        const V16 pair = pairs_[k];
#pragma GCC unroll 4
        for (int row = 0; row < kRows; ++row) {
          int32_t entries;
          std::memcpy(&entries, rows + row * head_dim + 2 * k, sizeof(entries));
          const V16 weights = hn::BitCast(I16(), hn::Set(I32(), entries));
          of_rows[row] = hn::Add(of_rows[row], multiply_pairs(pair, weights));
        }
      }
      for (int row = 0; row < kRows; ++row) sums[first + row] = of_rows[row];
    }
  }

 private:
  static constexpr int kRows = 4;  // that share what is read of the columns
  V16 pairs_[kColumnsMax / 2];
};

// Encodes one run, kLanes tokens at a time.
class ColumnEncoder {
 public:
  explicit ColumnEncoder(const EncodeRun& run) : run_(run), source_(run) {
    if (run.tables == nullptr) {
      length_ = static_cast<float>(encoded_deviation(run.head_dim));
      return;
    }
    const CodeTables& tables = *run.tables;
    length_ = static_cast<float>(tables.input_scale << tables.input_shift);
    residual_length_ = residual_length(tables, run.head_dim);
    thresholds_.set(tables.thresholds.data(), 1 << tables.bits);
    centroids_.set(tables.centroids[tables.bits - 1].data(), 1 << tables.bits);
  }

  template <DType kType>
  bool encode() {
    source_.find_offsets<kType>();
    finite_ = reference::encode_exact_tokens(run_);
    for (uint32_t token = run_.exact_token_count; token < run_.token_count; token += kLanes) {
      source_.load<kType>(token);
      write_norms(token);
      source_.rotate(length_, integers_);
      if (run_.tables != nullptr) write_indices(token);
      const V32* const coordinates = project();
      for (int i = 0; i < run_.head_dim; ++i) {
        bits_.set(i, hn::Gt(coordinates[i], hn::Set(I32(), -1)));
      }
      write_bits(run_.plane_count - 1, token);
    }
    return finite_;
  }

 private:
  void write_bits(int plane, uint32_t token) const {
    bits_.write(run_.planes[plane], run_.head_dim, token, run_.token_count);
  }

  void write_norms(uint32_t token) {
    for (uint32_t t = 0; t < kLanes && token + t < run_.token_count; ++t) {
      finite_ = finite_ && source_.is_finite(t);
      run_.norms[token + t] = reference::bf16_of(source_.norm(t)) | source_.offset_flag(t);
    }
  }

  // The planes of the indices, and the residual in place of the coordinates; residual_of() in 32
  // bits, of the part that is kept and the part that is cut.
  void write_indices(uint32_t token) {
    const I32 d;
    const CodeTables& tables = *run_.tables;
    const int shift = tables.input_shift;
    const V32 scale = hn::Set(d, tables.centroid_scales[tables.bits - 1]);
    const V32 deviation = hn::Set(d, tables.input_scale);
    const V32 half = hn::Set(d, 1 << shift >> 1);
    using I64 = hn::RepartitionToWide<I32>;
    auto even = hn::Zero(I64()), odd = hn::Zero(I64());
    for (int i = 0; i < run_.head_dim; ++i) indices_[i] = hn::Zero(d);
    for (int plane = 0; plane < tables.bits; ++plane) {
      const V32 first = hn::Set(d, 1 << plane);
      for (int i = 0; i < run_.head_dim; ++i) {
        const V32 kept = hn::ShiftRightSame(integers_[i], shift);
        const V32 threshold = thresholds_[hn::Add(first, indices_[i])];
        const auto bit = hn::Not(hn::Lt(kept, threshold));
        bits_.set(i, bit);
        const V32 doubled = hn::Add(indices_[i], indices_[i]);
        indices_[i] = hn::Add(doubled, hn::IfThenElseZero(bit, hn::Set(d, 1)));
      }
      write_bits(plane, token);
    }
    for (int i = 0; i < run_.head_dim; ++i) {
      const V32 kept = hn::ShiftRightSame(integers_[i], shift);
      const V32 cut = hn::Sub(integers_[i], hn::ShiftLeftSame(kept, shift));
      const V32 rest = hn::ShiftRightSame(hn::Add(hn::Mul(scale, cut), half), shift);
      const V32 distance =
          hn::Sub(hn::Mul(scale, kept), hn::Mul(deviation, centroids_[indices_[i]]));
      const V32 residual = hn::Add(distance, rest);
      integers_[i] = residual;
      const V32 upper = hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(I64(), residual)));
      even = hn::Add(even, hn::MulEven(residual, residual));
      odd = hn::Add(odd, hn::MulEven(upper, upper));
    }
    alignas(64) int64_t squares[2][std::max(1, kLanes / 2)];
    hn::Store(even, I64(), squares[0]);
    hn::Store(odd, I64(), squares[1]);
    for (uint32_t t = 0; t < kLanes && token + t < run_.token_count; ++t) {
      const float length = std::sqrt(static_cast<float>(squares[t % 2][t / 2]));
      run_.residual_norms[token + t] =
          reference::bf16_of(length * (source_.norm(t) / residual_length_));
    }
  }

  // Columns with the signs of P e, where e is in integers_.
  const V32* project() {
    const Projection& projection = *run_.projection;
    if (projection.is_gaussian()) return project_gaussian(projection.gaussian);
    rotate_columns(integers_, projection.rotation);
    return integers_;
  }

  // P e in units of 2^18, of QJL 2^9, rounded down: its sign is that of P e. e is taken in digits
  // of 9 bits, the last one signed, from the lowest on; what a digit's sums have above 9 bits is
  // carried to the next.
  //
  // Residuals are below 2^30 / sqrt(d), so 2^27, and QJL's coordinates below 2^15. So no digit is
  // above 2^9, no sum with a row of P above 2^30.5, and no carry above 2^22: 31 bits hold all.
  const V32* project_gaussian(const std::vector<int16_t>& matrix) {
    constexpr int kDigitBits = 9;
    const int digits = run_.tables != nullptr ? 3 : 2;
    std::fill_n(sums_, run_.head_dim, hn::Zero(I32()));
    for (int digit = 0; digit < digits; ++digit) {
      const V32 mask = hn::Set(I32(), digit + 1 < digits ? (1 << kDigitBits) - 1 : -1);
      for (int i = 0; i < run_.head_dim; i += 2) {
        pairs_.set(i / 2, hn::And(integers_[i], mask), hn::And(integers_[i + 1], mask));
      }
      for (int i = 0; i < run_.head_dim; ++i) {
        integers_[i] = hn::ShiftRight<kDigitBits>(integers_[i]);
        sums_[i] = hn::ShiftRight<kDigitBits>(sums_[i]);
      }
      pairs_.add_products(matrix, run_.head_dim, sums_);
    }
    return sums_;
  }

  const EncodeRun& run_;
  ColumnSource source_;
  float length_ = 0, residual_length_ = 0;
  bool finite_ = true;
  ColumnTable thresholds_, centroids_;
  ColumnBits bits_;
  V32 integers_[kColumnsMax], indices_[kColumnsMax], sums_[kColumnsMax];
  ColumnPairs pairs_;
};

// Decodes one run, whose correction or signs are there.
class ColumnDecoder {
 public:
  explicit ColumnDecoder(const DecodeRun& run)
      : run_(run), units_(product_units(*run.projection, run.tables)) {
    if (run.tables == nullptr) return;
    const int bits = run.tables->bits;
    centroids_.set(run.tables->centroids[bits - 1].data(), 1 << bits);
  }

  template <DType kType>
  void decode() {
    for (uint32_t token = run_.exact_token_count; token < run_.token_count; token += kLanes) {
      read_signs(token);
      if (run_.tables != nullptr) add_centroids(token);
      add_offsets(run_, token, 1, values_);
      rows_.store_columns<kType>(
          values_, run_.head_dim,
          ColumnRows(run_.values, run_.token_stride_bytes, token, run_.token_count));
    }
  }

 private:
  void read_signs(uint32_t token) {
    const F32 d;
    bits_.read(run_, run_.plane_count - 1, token);
    project_back();
    rotate_columns_back(integers_, *run_.rotation, false);
    const uint16_t* scalars = run_.tables != nullptr ? run_.residual_norms : run_.norms;
    const VF scale =
        hn::Mul(lengths_of(scalars, token, run_.token_count), hn::Set(d, units_.signs));
    for (int i = 0; i < run_.head_dim; ++i) {
      values_[i] = hn::Mul(hn::ConvertTo(d, integers_[i]), scale);
    }
  }

  // P^T t, with t the signs.
  void project_back() {
    const Projection& projection = *run_.projection;
    const auto sign = [&](int i) HWY_ATTR {
      return hn::IfThenElse(bits_.get(i), hn::Set(I32(), 1), hn::Set(I32(), -1));
    };
    if (projection.is_gaussian()) {
      for (int i = 0; i < run_.head_dim; i += 2) pairs_.set(i / 2, sign(i), sign(i + 1));
      std::fill_n(integers_, run_.head_dim, hn::Zero(I32()));
      pairs_.add_products(projection.gaussian_transposed, run_.head_dim, integers_);
    } else {
      for (int i = 0; i < run_.head_dim; ++i) integers_[i] = sign(i);
      rotate_columns_back(integers_, projection.rotation, false);
    }
  }

  void add_centroids(uint32_t token) {
    const F32 d;
    const int bits = run_.tables->bits;
    bits_.read_indices(run_, bits, token, integers_);
    for (int i = 0; i < run_.head_dim; ++i) integers_[i] = centroids_[integers_[i]];
    rotate_columns_back(integers_, *run_.rotation, bits <= narrow_planes_max(run_.head_dim));
    const VF scale =
        hn::Mul(lengths_of(run_.norms, token, run_.token_count), hn::Set(d, units_.centroids));
    for (int i = 0; i < run_.head_dim; ++i) {
      values_[i] = hn::Add(hn::Mul(hn::ConvertTo(d, integers_[i]), scale), values_[i]);
    }
  }

  const DecodeRun& run_;
  const ProductUnits units_;
  ColumnTable centroids_;
  ColumnBits bits_;
  RowBuffer rows_;
  VF values_[kColumnsMax];
  V32 integers_[kColumnsMax];
  ColumnPairs pairs_;
};

bool EncodeProjected(const EncodeRun& run) { return encode_columns<ColumnEncoder>(run); }
void DecodeProjected(const DecodeRun& run) { decode_columns<ColumnDecoder>(run); }

#endif  // HWY_TARGET
}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hadal {

HWY_EXPORT(EncodeProjected);
HWY_EXPORT(DecodeProjected);

namespace {

bool encode_projected(const EncodeRun& run) { return HWY_DYNAMIC_DISPATCH(EncodeProjected)(run); }
void decode_projected(const DecodeRun& run) {
  for_each_head(run, HWY_DYNAMIC_DISPATCH(DecodeProjected));
}
void decode_prod(const DecodeRun& run) {
  if (run.residual_norms == nullptr) return simd_vector_codec().decode(run);
  decode_projected(run);
}

}  // namespace

VectorCodec simd_prod_codec() { return {encode_projected, decode_prod, simd_score_run}; }
VectorCodec simd_qjl_codec() { return {encode_projected, decode_projected, simd_score_run}; }

}  // namespace hadal
#endif  // HWY_ONCE
