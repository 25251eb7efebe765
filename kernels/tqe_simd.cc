// The entropy-coded trellis quantiser with Google Highway: compiled once for every instruction set;
// the best one is chosen at run time. Vectors go side by side, one to a lane, through the rotation
// and the trellis; their slots are written and read one by one.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/tqe_simd.cc"
#include <hwy/foreach_target.h>
// The order of these two includes matters to Highway.
#include <hwy/highway.h>

#include "kernels/reference_math.h"
#include "kernels/tqe.h"
#include "kernels/vector_codec.h"
#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
#include "kernels/simd_columns16-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace hadal {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
// No vectors: the scalar reference is as good.
bool EncodeTqe(const EncodeRun& run) { return reference_tqe_codec().encode(run); }
void DecodeTqe(const DecodeRun& run) { reference_tqe_codec().decode(run); }
#else

constexpr int kRowWords = (kColumnValuesMax + 63) / 64 * 64;  // whole registers

// What the trellis finds for a value, in a word: the quotient and these.
constexpr int kQuotientMask = 0xff;  // a target of 32,000 has 250
constexpr int kSignBit = 8, kInputBit = 9;

// Viterbi's algorithm for vectors of one head_dim. Metrics are modulo 2^16: they differ by less
// than 2^15 (docs/codec.md, "tqe"), so the sign of a difference says which is less.
class ColumnTrellis {
 public:
  explicit ColumnTrellis(int head_dim) : head_dim_(head_dim) {}

  // The targets are x times the multipliers. Answers the sums of quotients.
  V16 search(const V16* x, V16 multipliers) {
    return trace(x, multipliers, decide(x, multipliers));
  }
  // As found last, where `wanted`; others stay as they are.
  HWY_INLINE void copy_to(V16* words, hn::MFromD<I16> wanted) const {
    for (int i = 0; i < head_dim_; ++i) words[i] = hn::IfThenElse(wanted, found_[i], words[i]);
  }

 private:
  static constexpr int kPeriodBits = kTqeUnitBits + 3;

  // Squared error and bits of the nearest value of every coset.
  static HWY_INLINE void costs(V16 target, V16* HWY_RESTRICT cost) {
    const I16 d;
    constexpr int kHalf = 1 << (kPeriodBits - 1);
    for (int coset = 0; coset < kTqeCosets; ++coset) {
      const int16_t shift = static_cast<int16_t>(kHalf - (2 * coset + 1) * kTqeUnit);
      const V16 shifted = hn::Add(target, hn::Set(d, shift));
      const V16 error = hn::Sub(hn::And(shifted, hn::Set(d, 2 * kHalf - 1)), hn::Set(d, kHalf));
      const V16 multiple = hn::ShiftRight<kPeriodBits>(shifted);
      const V16 quotient = hn::Xor(multiple, hn::ShiftRight<15>(multiple));
      cost[coset] = hn::Add(hn::Mul(error, error), hn::Mul(quotient, hn::Set(d, kTqeQuotientCost)));
    }
  }

  // Remembers, for every value, bit k of a lane: whether the path to state k comes from the state
  // whose oldest input is 1. Answers the best last states.
  HWY_NOINLINE V16 decide(const V16* x, V16 multipliers) {
    const I16 d;
    V16 metrics[kTqeStates];
    for (int k = 0; k < kTqeStates; ++k) metrics[k] = hn::Set(d, k == 0 ? 0 : kTqeBarred);
    for (int i = 0; i < head_dim_; ++i) {
      V16 cost[kTqeCosets], next[kTqeStates];
      costs(hn::MulFixedPoint15(x[i], multipliers), cost);
      V16 oldest = hn::Zero(d);
#pragma GCC unroll 8
      for (int state = kTqeStates - 1; state >= 0; --state) {
        const int before = state >> 1;  // and 4 more
        const int low = before >> 1 & 1;
        const int high = (state ^ before ^ before >> 1) & 1;
        const V16 without = hn::Add(metrics[before], cost[2 * high + low]);
        const V16 with = hn::Add(metrics[before + 4], cost[2 - 2 * high + low]);
        const V16 difference = hn::Sub(with, without);
        oldest = hn::Sub(hn::Add(oldest, oldest), hn::ShiftRight<15>(difference));
        next[state] = hn::Add(without, hn::Min(difference, hn::Zero(d)));
      }
      for (int k = 0; k < kTqeStates; ++k) metrics[k] = next[k];
      oldest_[i] = oldest;
    }
    V16 best = metrics[0], state = hn::Zero(d);
    for (int k = 1; k < kTqeStates; ++k) {
      const V16 difference = hn::Sub(metrics[k], best);
      state = hn::IfThenElse(hn::Lt(difference, hn::Zero(d)), hn::Set(d, static_cast<int16_t>(k)),
                             state);
      best = hn::Add(best, hn::Min(difference, hn::Zero(d)));
    }
    return state;
  }

  // Back along the best paths.
  HWY_NOINLINE V16 trace(const V16* x, V16 multipliers, V16 state) {
    const I16 d;
    // What the least value of a coset's period, less the coset, is, by the four inputs; the last
    // one is bit 0.
    alignas(16) static constexpr uint8_t kCosets[16] = {16, 80, 80, 16, 112, 48,  48,  112,
                                                        80, 16, 16, 80, 48,  112, 112, 48};
    alignas(16) static constexpr uint8_t kBits[16] = {1, 2, 4, 8, 16, 32, 64, 128};
    const V8 cosets = hn::LoadDup128(U8(), kCosets), bits = hn::LoadDup128(U8(), kBits);
    const auto look_up = [&](V8 table, V16 index) HWY_ATTR {  // upper bytes become 0
      const V16 lower_only = hn::Or(index, hn::Set(d, INT16_MIN));
      return hn::BitCast(d, hn::TableLookupBytesOr0(table, hn::BitCast(U8(), lower_only)));
    };
    V16 sum = hn::Zero(d);
    for (int i = head_dim_ - 1; i >= 0; --i) {
      // Highway's shifts by lanes would need more than SSSE3 has.
      const auto oldest = hn::TestBit(oldest_[i], look_up(bits, state));
      const V16 inputs = hn::Or(state, hn::IfThenElseZero(oldest, hn::Set(d, 8)));
      const V16 coset = look_up(cosets, inputs);
      const V16 target = hn::MulFixedPoint15(x[i], multipliers);
      const V16 shifted = hn::Sub(hn::Add(target, hn::Set(d, 1 << (kPeriodBits - 1))), coset);
      const V16 sign = hn::ShiftRight<15>(shifted);
      const V16 quotient = hn::Xor(hn::ShiftRight<kPeriodBits>(shifted), sign);
      sum = hn::Add(sum, quotient);
      const V16 input = hn::ShiftLeft<kInputBit>(hn::And(inputs, hn::Set(d, 1)));
      found_[i] = hn::Or(hn::Or(quotient, input), hn::And(sign, hn::Set(d, 1 << kSignBit)));
      state = hn::ShiftRight<1>(inputs);
    }
    return sum;
  }

  const int head_dim_;
  V16 oldest_[kColumnValuesMax];
  V16 found_[kColumnValuesMax];
};

// The slot of a vector whose words are those of ColumnTrellis, up to whole registers of them.
HWY_INLINE void write_slot(const int16_t* words, int head_dim, std::byte* slot) {
  const I16 d;
  const int bits_bytes = head_dim / 8;
  // A register's bits may reach past the last value, into what is written after them: no bits are
  // as long as those that follow.
  for (const int bit : {kSignBit, kInputBit}) {
    std::byte* const to = slot + (bit == kSignBit ? 0 : bits_bytes);
    for (int i = 0; i < head_dim; i += kColumns) {
      const auto mask =
          hn::TestBit(hn::LoadU(d, words + i), hn::Set(d, static_cast<int16_t>(1 << bit)));
      hn::StoreMaskBits(d, mask, reinterpret_cast<uint8_t*>(to + i / 8));
    }
  }
  uint64_t bits[2 * kColumnValuesMax / 64];
  std::fill(std::begin(bits), std::end(bits), ~uint64_t{0});
  int end = 0, current = 0;
  uint64_t pending = ~uint64_t{0};
  for (int i = 0; i < head_dim; ++i) {
    end += words[i] & kQuotientMask;
    if (end / 64 != current) {
      bits[current] = pending;
      pending = ~uint64_t{0};
      current = end / 64;
    }
    pending &= ~(uint64_t{1} << (end % 64));
    ++end;
  }
  bits[current] = pending;
  std::memcpy(slot + 2 * bits_bytes, bits, 2 * bits_bytes);
}

// One run.
template <DType kType>
class TqeEncoder {
 public:
  explicit TqeEncoder(const EncodeRun& run)
      : run_(run), head_dim_(run.head_dim), trellis_(run.head_dim) {}

  bool encode() {
    if (run_.offsets != nullptr) {
      write_mean_key<kType, kColumnValuesMax>(run_, head_dim_, offsets_);
    }
    const bool finite = reference::encode_exact_tokens(run_);
    searches_.reserve(kColumns);
    for (uint32_t token = run_.exact_token_count; token < run_.token_count; token += kColumns) {
      encode_batch(token, std::min<uint32_t>(kColumns, run_.token_count - token));
    }
    const auto exponent = hn::Set(U32(), 0x7f800000u);
    return finite && hn::AllFalse(U32(), hn::Eq(hn::And(worst_, exponent), exponent));
  }

 private:
  static constexpr int kWords = kColumnWords<kType>;

  std::byte* slot_of(uint32_t token) const {
    return run_.planes[0] + size_t{token} * (head_dim_ / 2);
  }

  void encode_batch(uint32_t token, uint32_t count) {
    std::byte* const first = const_cast<std::byte*>(run_.values) + token * run_.token_stride_bytes;
    load_values_of<kType>(column_rows(first, run_.token_stride_bytes, count, first), head_dim_,
                          values_);
    FloatPair scale, shifted;
    measure(token, count, scale, shifted);
    integers(scale, shifted);
    rotate_columns(*run_.rotation, rotated_);
    quantise();
    ColumnRows rows =
        column_rows(reinterpret_cast<std::byte*>(rows_[0]), sizeof(rows_[0]), kColumns, nullptr);
    for (int i = 0; i < head_dim_; i += 8) store_columns(words_ + i, rows, i * sizeof(int16_t));
    for (uint32_t k = 0; k < count; ++k) write_slot(rows_[k], head_dim_, slot_of(token + k));
  }

  HWY_INLINE FloatPair value(int i) const { return value_at<kType>(values_, i); }
  HWY_INLINE FloatPair residual(int i, const FloatPair& shifted) const {
    FloatPair x = value(i);
    if (run_.offsets == nullptr) return x;
    const VF offset = hn::Set(F32(), offsets_[i]);
    for (int h = 0; h < 2; ++h) x.half[h] = hn::Sub(x.half[h], hn::And(shifted.half[h], offset));
    return x;
  }

  // Writes norms. Answers what to scale vectors with, and all bits where the offset is removed.
  void measure(uint32_t token, uint32_t count, FloatPair& scale, FloatPair& shifted) {
    const F32 d;
    const U32 d32;
    const VF ones = hn::BitCast(d, hn::Set(d32, ~0u));
    FloatPair squared = squared_lengths_of(head_dim_, [&](int i) HWY_ATTR { return value(i); });
    shifted = {hn::Zero(d), hn::Zero(d)};
    for (const VF half : squared.half) remember_worst(half);
    if (run_.offsets != nullptr) {
      const FloatPair all = {ones, ones};
      const FloatPair without =
          squared_lengths_of(head_dim_, [&](int i) HWY_ATTR { return residual(i, all); });
      for (int h = 0; h < 2; ++h) {
        const auto shorter = hn::Lt(without.half[h], squared.half[h]);
        squared.half[h] = hn::IfThenElse(shorter, without.half[h], squared.half[h]);
        shifted.half[h] = hn::VecFromMask(d, shorter);
      }
    }
    FloatPair stored;
    for (int h = 0; h < 2; ++h) {
      VF norm = hn::Sqrt(squared.half[h]);
      norm = hn::IfThenElseZero(hn::Ge(norm, hn::Set(d, kNormMin)), norm);
      const auto rounded = rounded_to_bf16(norm);
      remember_worst(hn::BitCast(d, rounded));
      const auto flag = hn::Set(d32, uint32_t{kNormOffsetFlag} << 16);
      stored.half[h] =
          hn::BitCast(d, hn::Or(rounded, hn::And(flag, hn::BitCast(d32, shifted.half[h]))));
      const auto length = hn::Set(d, static_cast<float>(encoded_deviation(head_dim_)));
      scale.half[h] = hn::IfThenElseZero(hn::Gt(norm, hn::Zero(d)), hn::Div(length, norm));
    }
    alignas(64) int16_t norms[kColumns];
    hn::Store(upper_words(stored.half[0], stored.half[1]), I16(), norms);
    std::memcpy(run_.norms + token, norms, count * sizeof(uint16_t));
  }

  // The largest exponent so far: all ones for NaN and infinity.
  HWY_INLINE void remember_worst(VF x) {
    const auto exponent = hn::And(hn::BitCast(U32(), x), hn::Set(U32(), 0x7f800000u));
    worst_ = hn::Max(worst_, exponent);
  }

  void integers(const FloatPair& scale, const FloatPair& shifted) {
    for (int i = 0; i < head_dim_; ++i) {
      const FloatPair x = residual(i, shifted);
      const V16 rounded = narrowed({hn::NearestInt(hn::Mul(x.half[0], scale.half[0])),
                                    hn::NearestInt(hn::Mul(x.half[1], scale.half[1]))});
      rotated_[i] = hn::Mul(rounded, hn::Set(I16(), run_.rotation->signs[i]));
    }
  }

  void begin_searches() {
    // Without signs: -2^15, which only NaN makes, has a magnitude too. So the multiplier is small
    // enough whatever a vector is, and sums of quotients fit in 16 bits.
    const V16 zero = hn::Zero(I16());
    IntegerPair sums = {hn::Zero(I32()), hn::Zero(I32())};
    for (int i = 0; i < head_dim_; ++i) {
      const V16 magnitude = hn::Abs(rotated_[i]);
      const V16 parts[2] = {hn::InterleaveLower(I16(), magnitude, zero),
                            hn::InterleaveUpper(I16(), magnitude, zero)};
      for (int h = 0; h < 2; ++h) {
        sums.half[h] = hn::Add(sums.half[h], hn::BitCast(I32(), parts[h]));
      }
    }
    alignas(64) int32_t magnitudes[kColumns];
    for (int h = 0; h < 2; ++h) hn::Store(sums.half[h], I32(), magnitudes + h * (kColumns / 2));
    searches_.clear();
    for (int k = 0; k < kColumns; ++k) {
      searches_.emplace_back(head_dim_, static_cast<uint32_t>(magnitudes[pair_lane(k)]));
    }
  }

  // All vectors until the last one is done, which is a pass or so more than most need.
  void quantise() {
    const I16 d;
    begin_searches();
    for (bool done = false; !done;) {
      alignas(64) int16_t lanes[kColumns], wanted[kColumns];
      for (int k = 0; k < kColumns; ++k) {
        lanes[k] = static_cast<int16_t>(searches_[k].multiplier());
      }
      hn::Store(trellis_.search(rotated_, hn::Load(d, lanes)), d, lanes);
      done = true;
      for (int k = 0; k < kColumns; ++k) {
        TqeSearch& search = searches_[k];
        wanted[k] = !search.done() && search.fits(lanes[k]) ? -1 : 0;
        if (!search.done()) search.advance(lanes[k]);
        done = done && search.done();
      }
      trellis_.copy_to(words_, hn::MaskFromVec(hn::Load(d, wanted)));
    }
  }

  const EncodeRun& run_;
  const int head_dim_;
  hn::VFromD<U32> worst_ = hn::Zero(U32());
  std::vector<TqeSearch> searches_;
  alignas(64) float offsets_[kColumnValuesMax];
  V16 values_[kColumnValuesMax * kWords];
  V16 rotated_[kColumnValuesMax];
  V16 words_[kColumnValuesMax];
  ColumnTrellis trellis_;
  alignas(64) int16_t rows_[kColumns][kRowWords];
};

// Where a byte has zeros, from its least significant bit on.
struct ZeroPlaces {
  alignas(64) int16_t of_byte[256][8] = {};
  constexpr ZeroPlaces() {
    for (int byte = 0; byte < 256; ++byte) {
      int count = 0;
      for (int bit = 0; bit < 8; ++bit) {
        if ((byte >> bit & 1) == 0) of_byte[byte][count++] = static_cast<int16_t>(bit);
      }
    }
  }
};
constexpr ZeroPlaces kZeroPlaces;

// The ends of quotients, from places[1] on; before the first there is place -1. Behind the slot are
// zeros without end.
HWY_INLINE void find_zeros(const std::byte* quotients, int head_dim, int16_t* places) {
  const hn::Full128<int16_t> d;
  places[0] = -1;
  int count = 1;
  for (int i = 0; i < head_dim / 4; ++i) {
    const auto byte = static_cast<uint32_t>(quotients[i]);
    const auto within = hn::Load(d, kZeroPlaces.of_byte[byte]);
    hn::StoreU(hn::Add(within, hn::Set(d, static_cast<int16_t>(8 * i))), d, places + count);
    count += 8 - static_cast<int>(hwy::PopCount(byte));
  }
  for (int place = 2 * head_dim; count <= head_dim; ++count) {
    places[count] = static_cast<int16_t>(place++);
  }
}

// The values of a slot, up to whole registers of them. Answers the sum of the squares.
HWY_INLINE int32_t read_slot(const std::byte* slot, int head_dim, int16_t* values) {
  const I16 d;
  constexpr uint64_t kMask = (uint64_t{1} << kColumns) - 1;
  constexpr int kBitsMax = kColumnValuesMax / 8;
  alignas(64) int16_t places[2 * kColumnValuesMax + kColumns];
  std::byte signs[kBitsMax + 8] = {}, inputs[kBitsMax + 8] = {};
  std::memcpy(signs, slot, head_dim / 8);
  std::memcpy(inputs, slot + head_dim / 8, head_dim / 8);
  find_zeros(slot + head_dim / 4, head_dim, places);
  const auto mask_of = [&](uint64_t bits) HWY_ATTR {
    return hn::LoadMaskBits(d, reinterpret_cast<const uint8_t*>(&bits));
  };
  const auto where = [&](uint64_t bits, int value) HWY_ATTR {
    return hn::IfThenElseZero(mask_of(bits), hn::Set(d, static_cast<int16_t>(value)));
  };
  uint64_t past = 0;  // the last three inputs
  V32 squares[2] = {hn::Zero(I32()), hn::Zero(I32())};
  for (int i = 0; i < head_dim; i += kColumns) {
    uint64_t sign, input;
    std::memcpy(&sign, signs + i / 8, sizeof(sign));
    std::memcpy(&input, inputs + i / 8, sizeof(input));
    input = (input & kMask) << 3 | past;  // bit 3 of the first value
    past = input >> kColumns;
    const uint64_t low = input >> 1 ^ sign;
    const uint64_t high = input >> 3 ^ input >> 2 ^ input >> 1 ^ input ^ sign;
    const V16 after = hn::LoadU(d, places + i + 1), before = hn::LoadU(d, places + i);
    const V16 quotient = hn::Sub(after, before);  // and one more
    V16 value = hn::Sub(hn::ShiftLeft<3>(quotient), hn::Set(d, 7));
    value = hn::Add(value, hn::Add(where(low, 2), where(high, 4)));
    value = hn::IfThenElse(mask_of(sign), hn::Neg(value), value);
    if (i + kColumns > head_dim) value = hn::IfThenElseZero(hn::FirstN(d, head_dim - i), value);
    hn::Store(value, d, values + i);
    squares[0] = hn::ReorderWidenMulAccumulate(I32(), value, value, squares[0], squares[1]);
  }
  return hn::GetLane(hn::SumOfLanes(I32(), hn::Add(squares[0], squares[1])));
}

// One run.
template <DType kType>
class TqeDecoder {
 public:
  explicit TqeDecoder(const DecodeRun& run) : run_(run), head_dim_(run.head_dim) {
    for (int i = 0; run.offsets != nullptr && i < head_dim_; ++i) {
      offsets_[i] = reference::bf16_value(run.offsets[i]);
    }
  }

  void decode() {
    for (uint32_t token = run_.exact_token_count; token < run_.token_count; token += kColumns) {
      decode_batch(token, std::min<uint32_t>(kColumns, run_.token_count - token));
    }
  }

 private:
  static constexpr int kWords = kColumnWords<kType>;

  void decode_batch(uint32_t token, uint32_t count) {
    read_slots(token, count);
    const ColumnRows from =
        column_rows(reinterpret_cast<std::byte*>(rows_[0]), sizeof(rows_[0]), kColumns, nullptr);
    for (int i = 0; i < head_dim_; i += 8) load_columns(from, i * sizeof(int16_t), rotated_ + i);
    rotate_columns_back(*run_.rotation, rotated_);
    const ColumnRows to =
        column_rows(run_.values + token * run_.token_stride_bytes, run_.token_stride_bytes, count,
                    reinterpret_cast<std::byte*>(spare_));
    run_.offsets != nullptr ? store<true>(to) : store<false>(to);
  }

  // Past the last token it stands again.
  void read_slots(uint32_t token, uint32_t count) {
    for (uint32_t k = 0; k < kColumns; ++k) {
      const uint32_t from = token + std::min(k, count - 1);
      const int32_t squared =
          read_slot(run_.planes[0] + size_t{from} * (head_dim_ / 2), head_dim_, rows_[k]);
      const int lane = pair_lane(static_cast<int>(k));
      squared_[lane] = static_cast<float>(squared);
      norms_[lane] =
          reference::bf16_value(std::min<uint16_t>(run_.norms[from] & 0x7fffu, kTqeNormMax));
      shifted_[lane] = (run_.norms[from] & kNormOffsetFlag) != 0 ? ~0u : 0u;
    }
  }

  template <bool kOffsets>
  HWY_INLINE void store(const ColumnRows& to) const {
    const F32 d;
    FloatPair scale, shifted;
    for (int h = 0; h < 2; ++h) {
      const int first = h * (kColumns / 2);
      // Matched norm: x' = |x| R^T z / |z|.
      const VF squared = hn::Load(d, squared_ + first);
      const VF length = hn::Sqrt(hn::Mul(squared, hn::Set(d, static_cast<float>(head_dim_))));
      scale.half[h] = hn::Div(hn::Load(d, norms_ + first), length);
      shifted.half[h] = hn::BitCast(d, hn::Load(U32(), shifted_ + first));
    }
    V16 words[8 * kWords];
    for (int i = 0; i < head_dim_; i += 8) {
      for (int k = 0; k < 8; ++k) {
        const V16 sign = hn::Set(I16(), run_.rotation->signs[i + k]);
        const IntegerPair integers = widened(hn::Mul(rotated_[i + k], sign));
        FloatPair x;
        for (int h = 0; h < 2; ++h) {
          x.half[h] = hn::Mul(hn::ConvertTo(d, integers.half[h]), scale.half[h]);
          if constexpr (kOffsets) {
            const VF offset = hn::And(shifted.half[h], hn::Set(d, offsets_[i + k]));
            x.half[h] = hn::Add(x.half[h], offset);
          }
        }
        words_of<kType>(x, words + k * kWords);
      }
      for (int part = 0; part < kWords; ++part) {
        store_columns(words + 8 * part, to, (i * kWords + 8 * part) * sizeof(int16_t));
      }
    }
  }

  const DecodeRun& run_;
  const int head_dim_;
  V16 rotated_[kColumnValuesMax];
  alignas(64) int16_t rows_[kColumns][kRowWords];
  alignas(64) float squared_[kColumns];  // by pair_lane(), and so are these
  alignas(64) float norms_[kColumns];
  alignas(64) uint32_t shifted_[kColumns];
  alignas(64) float offsets_[kColumnValuesMax];
  float spare_[kColumnValuesMax];  // where what is past the last token goes
};

bool EncodeTqe(const EncodeRun& run) {
  if (run.dtype == DType::f32) return TqeEncoder<DType::f32>(run).encode();
  if (run.dtype == DType::f16) return TqeEncoder<DType::f16>(run).encode();
  return TqeEncoder<DType::bf16>(run).encode();
}
void DecodeTqe(const DecodeRun& run) {
  if (run.dtype == DType::f32) return TqeDecoder<DType::f32>(run).decode();
  if (run.dtype == DType::f16) return TqeDecoder<DType::f16>(run).decode();
  TqeDecoder<DType::bf16>(run).decode();
}

#endif  // HWY_TARGET
}  // namespace HWY_NAMESPACE
}  // namespace hadal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hadal {

HWY_EXPORT(EncodeTqe);
HWY_EXPORT(DecodeTqe);

VectorCodec simd_tqe_codec() {
  return {[](const EncodeRun& run) { return HWY_DYNAMIC_DISPATCH(EncodeTqe)(run); },
          [](const DecodeRun& run) { for_each_head(run, HWY_DYNAMIC_DISPATCH(DecodeTqe)); }};
}

}  // namespace hadal
#endif  // HWY_ONCE
