// PolarQuant with Google Highway, a vector in every lane. Compiled once for every instruction set;
// the best one is chosen at run time.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/polar_simd.cc"
#include <hwy/foreach_target.h>
// The order of these two includes matters to Highway.
#include <hwy/highway.h>

#include <bit>

#include "kernels/polar.h"
#include "kernels/reference_math.h"
#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
#include "kernels/simd_column_vectors-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
// No vectors: the scalar reference is as good.
bool EncodePolar(const EncodeRun& run) { return reference_polar_codec().encode(run); }
void DecodePolar(const DecodeRun& run) { reference_polar_codec().decode(run); }
#else

constexpr int kPolarRunsMax = kColumnsMax / kPolarRun;
constexpr int kSignBits = 16;  // lanes are 16 bits with their sign: bits from here on say it

// The codes of kLanes vectors, by run and lane.
struct PolarColumns {
  alignas(64) uint32_t level1[kPolarRunsMax][kLanes];
  alignas(64) uint32_t upper[kPolarRunsMax][kLanes];  // level 2, above it levels 3 and 4

  void write(std::byte* words, int run_count, uint32_t lane) const {
    PolarWords runs[kPolarRunsMax];
    for (int i = 0; i < run_count; ++i) {
      const uint32_t of_run = upper[i][lane];
      runs[i] = {level1[i][lane], static_cast<uint8_t>(of_run), static_cast<uint8_t>(of_run >> 8)};
    }
    write_polar_words(runs, run_count, words);
  }
  void read(const std::byte* words, int run_count, uint32_t lane) {
    PolarWords runs[kPolarRunsMax];
    read_polar_words(words, run_count, runs);
    for (int i = 0; i < run_count; ++i) {
      level1[i][lane] = runs[i].level1;
      upper[i][lane] = runs[i].level2 | uint32_t{runs[i].level34} << 8;
    }
  }
};

// Encodes one run, kLanes tokens at a time.
class PolarEncoder {
 public:
  explicit PolarEncoder(const EncodeRun& run)
      : run_(run), source_(run), run_count_(run.head_dim / kPolarRun), lengths_(run.head_dim) {
    for (int level = 1; level <= kPolarLevels; ++level) {
      tangents_[level] = hn::Set(F32(), polar_tables().tangents[level]);
    }
  }

  template <DType kType>
  bool encode() {
    source_.find_offsets<kType>();
    bool finite = reference::encode_exact_tokens(run_);
    for (uint32_t token = run_.exact_token_count; token < run_.token_count; token += kLanes) {
      source_.load<kType>(token);
      source_.rotate(lengths_.encoded_length, integers_);
      const VF unit = hn::Div(source_.norms(), hn::Set(F32(), lengths_.rotated_length));
      for (int i = 0; i < run_count_; ++i) encode_values(i, unit);
      for (uint32_t t = 0; t < kLanes && token + t < run_.token_count; ++t) {
        finite = finite && source_.is_finite(t) && source_.norm(t) < kPolarLengthMax;
        write(token + t, t);
      }
    }
    return finite;
  }

 private:
  // Adds the codes of one level from kBit on, and makes sums of pairs of squares.
  template <int kLevel, int kBit>
  HWY_INLINE V32 encode_level(V32* HWY_RESTRICT squares, V32 codes) const {
    const I32 d;
    constexpr int kPairs = kPolarRun >> kLevel;
    const VF tangent = tangents_[kLevel];
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i) {
      const V32 unit = hn::Set(d, 1 << (kBit + polar_code_bits(kLevel) * i));
      const auto where = [&](auto reached) HWY_ATTR {
        return hn::IfThenElseZero(hn::RebindMask(d, reached), unit);
      };
      const VF a = hn::ConvertTo(F32(), squares[2 * i]);
      const VF b = hn::ConvertTo(F32(), squares[2 * i + 1]);
      codes = hn::Add(codes, where(hn::Ge(b, hn::Mul(a, tangent))));
      codes = hn::Add(codes, where(hn::Ge(b, a)));
      codes = hn::Add(codes, where(hn::Ge(hn::Mul(b, tangent), a)));
      squares[i] = hn::Add(squares[2 * i], squares[2 * i + 1]);
    }
    return codes;
  }

  HWY_INLINE void encode_values(int i, VF unit) {
    const I32 d;
    const V32* const values = integers_ + kPolarRun * i;
    V32 squares[kPolarRun], level1 = hn::Zero(d);
#pragma GCC unroll 16
    for (int k = 0; k < kPolarRun; ++k) {
      const V32 negative = hn::ShiftRight<kSignBits>(values[k]);
      const auto bit = static_cast<int32_t>(4u << (k / 2 * 4 + k % 2));
      level1 = hn::Or(level1, hn::And(negative, hn::Set(d, bit)));
      // As pairs of 16 bits, of which the upper one's square is left out.
      const V16 lower = hn::BitCast(I16(), hn::And(values[k], hn::Set(d, 0xffff)));
      V32 unused = hn::Zero(d);
      squares[k] = hn::ReorderWidenMulAccumulate(d, lower, lower, unused, unused);
    }
    level1 = encode_level<1, 0>(squares, level1);
    V32 upper = encode_level<2, 0>(squares, hn::Zero(d));
    upper = encode_level<3, 8>(squares, upper);
    upper = encode_level<4, 12>(squares, upper);
    const VF radius = hn::Mul(hn::Sqrt(hn::ConvertTo(F32(), squares[0])), unit);
    hn::Store(hn::BitCast(U32(), level1), U32(), columns_.level1[i]);
    hn::Store(hn::BitCast(U32(), upper), U32(), columns_.upper[i]);
    hn::Store(hn::ShiftRight<16>(rounded_to_bf16(radius)), U32(), radii_[i]);
  }

  void write(uint32_t token, uint32_t lane) const {
    uint16_t* const radii = run_.norms + size_t{token} * run_count_;
    for (int i = 0; i < run_count_; ++i) radii[i] = static_cast<uint16_t>(radii_[i][lane]);
    radii[0] |= source_.offset_flag(lane);
    columns_.write(run_.planes[0] + size_t{token} * run_.vector.word_bytes, run_count_, lane);
  }

  const EncodeRun& run_;
  ColumnSource source_;
  const int run_count_;
  const PolarScale lengths_;
  VF tangents_[kPolarLevels + 1];
  V32 integers_[kColumnsMax];
  PolarColumns columns_;
  alignas(64) uint32_t radii_[kPolarRunsMax][kLanes];
};

// Decodes one run, kLanes tokens at a time.
class PolarDecoder {
 public:
  explicit PolarDecoder(const DecodeRun& run)
      : run_(run), run_count_(run.head_dim / kPolarRun), lengths_(run.head_dim) {
    for (int level = 1; level <= kPolarLevels; ++level) {
      alignas(16) int32_t cosines[kPolarAngles], sines[kPolarAngles];
      for (int i = 0; i < kPolarAngles; ++i) {
        cosines[i] = polar_tables().cosines[level][i];
        sines[i] = polar_tables().cosines[level][kPolarAngles - 1 - i];
      }
      cosines_[level] = hn::LoadDup128(I32(), cosines);
      sines_[level] = hn::LoadDup128(I32(), sines);
    }
  }

  template <DType kType>
  void decode() {
    const F32 d;
    for (uint32_t token = run_.exact_token_count; token < run_.token_count; token += kLanes) {
      for (uint32_t t = 0; t < kLanes; ++t) read(std::min(token + t, run_.token_count - 1), t);
      const VF length = this->length();
      const VF scale = hn::IfThenZeroElse(hn::Lt(length, hn::Set(d, kNormMin / 2)),
                                          hn::Div(hn::Set(d, lengths_.decoded_length), length));
      for (int i = 0; i < run_count_; ++i) decode_values(i, scale);
      rotate_columns_back(integers_, *run_.rotation, false);
      const VF unit = hn::Div(length, hn::Set(d, lengths_.restored_length));
      for (int i = 0; i < run_.head_dim; ++i) {
        values_[i] = hn::Mul(hn::ConvertTo(d, integers_[i]), unit);
      }
      add_offsets(run_, token, run_count_, values_);
      rows_.store_columns<kType>(
          values_, run_.head_dim,
          ColumnRows(run_.values, run_.token_stride_bytes, token, run_.token_count));
    }
  }

 private:
  void read(uint32_t token, uint32_t lane) {
    const uint16_t* const radii = run_.norms + size_t{token} * run_count_;
    for (int i = 0; i < run_count_; ++i) radii_[i][lane] = radii[i];
    columns_.read(run_.planes[0] + size_t{token} * run_.vector.word_bytes, run_count_, lane);
  }

  HWY_INLINE VF radius(int i) const {
    const U32 d;
    constexpr uint32_t kMax = std::bit_cast<uint32_t>(kPolarLengthMax) >> 16;
    const auto bits = hn::And(hn::Load(d, radii_[i]), hn::Set(d, 0x7fffu));
    return hn::BitCast(F32(), hn::ShiftLeft<16>(hn::Min(bits, hn::Set(d, kMax))));
  }
  HWY_INLINE VF length() const {
    VF squared = hn::Zero(F32());
    for (int i = 0; i < run_count_; ++i) {
      squared = hn::Add(squared, hn::Mul(radius(i), radius(i)));
    }
    return hn::Sqrt(squared);
  }

  // Every radius becomes two. Codes begin at bit kBit.
  template <int kLevel, int kBit>
  HWY_INLINE void decode_level(V32 codes, V32* HWY_RESTRICT radii) const {
    const I32 d;
#pragma GCC unroll 8
    for (int i = (kPolarRun >> kLevel) - 1; i >= 0; --i) {
      const V32 code = hn::ShiftRightSame(codes, kBit + polar_code_bits(kLevel) * i);
      const auto index = hn::IndicesFromVec(d, hn::And(code, hn::Set(d, kPolarAngles - 1)));
      const V16 radius = hn::BitCast(I16(), radii[i]);
      // Neither is negative: upper halves stay 0.
      const auto times = [&](V32 factors) HWY_ATTR {
        const V16 factor = hn::BitCast(I16(), hn::TableLookupLanes(factors, index));
        return hn::BitCast(d, hn::MulFixedPoint15(radius, factor));
      };
      radii[2 * i + 1] = times(sines_[kLevel]);
      radii[2 * i] = times(cosines_[kLevel]);
    }
  }

  HWY_INLINE void decode_values(int i, VF scale) {
    const I32 d;
    const V32 level1 = hn::BitCast(d, hn::Load(U32(), columns_.level1[i]));
    const V32 upper = hn::BitCast(d, hn::Load(U32(), columns_.upper[i]));
    V32 values[kPolarRun];
    values[0] = hn::NearestInt(hn::Mul(radius(i), scale));
    decode_level<4, 12>(upper, values);
    decode_level<3, 8>(upper, values);
    decode_level<2, 0>(upper, values);
    decode_level<1, 0>(level1, values);
#pragma GCC unroll 16
    for (int k = 0; k < kPolarRun; ++k) {
      const V32 first = hn::ShiftLeftSame(level1, 31 - (k / 2 * 4 + 2 + k % 2));
      const V32 negative = hn::BroadcastSignBit(first);
      integers_[kPolarRun * i + k] = hn::Sub(hn::Xor(values[k], negative), negative);
    }
  }

  const DecodeRun& run_;
  const int run_count_;
  const PolarScale lengths_;
  V32 cosines_[kPolarLevels + 1], sines_[kPolarLevels + 1];
  PolarColumns columns_;
  alignas(64) uint32_t radii_[kPolarRunsMax][kLanes];  // as stored
  RowBuffer rows_;
  VF values_[kColumnsMax];
  V32 integers_[kColumnsMax];
};

bool EncodePolar(const EncodeRun& run) { return encode_columns<PolarEncoder>(run); }
void DecodePolar(const DecodeRun& run) { decode_columns<PolarDecoder>(run); }

#endif  // HWY_TARGET
}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hadal {

HWY_EXPORT(EncodePolar);
HWY_EXPORT(DecodePolar);

VectorCodec simd_polar_codec() {
  polar_tables();  // made now, not in a request
  return {[](const EncodeRun& run) { return HWY_DYNAMIC_DISPATCH(EncodePolar)(run); },
          [](const DecodeRun& run) { for_each_head(run, HWY_DYNAMIC_DISPATCH(DecodePolar)); }};
}

}  // namespace hadal
#endif  // HWY_ONCE
