// 16 floats or integers in four registers of NEON, and sums of products of bytes by its dot products.
#pragma once
#include <arm_neon.h>

#include <cstdint>

namespace {
namespace vec {

struct F { float32x4_t v[4]; };
struct I { int32x4_t v[4]; };

#define EACH(T, expression)                      \
  T r;                                           \
  for (int i = 0; i < 4; i++) r.v[i] = expression; \
  return r

inline F load(const float* p) { EACH(F, vld1q_f32(p + 4 * i)); }
inline void store(float* p, F x) {
  for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.v[i]);
}
inline F all(float x) { EACH(F, vdupq_n_f32(x)); }
inline F add(F a, F b) { EACH(F, vaddq_f32(a.v[i], b.v[i])); }
inline F sub(F a, F b) { EACH(F, vsubq_f32(a.v[i], b.v[i])); }
inline F mul(F a, F b) { EACH(F, vmulq_f32(a.v[i], b.v[i])); }
inline F div(F a, F b) { EACH(F, vdivq_f32(a.v[i], b.v[i])); }
inline F fma(F a, F b, F c) { EACH(F, vfmaq_f32(c.v[i], a.v[i], b.v[i])); }
// The second where one is no number, as x86; the instructions of NEON give the one that is none.
inline F max(F a, F b) { EACH(F, vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
inline F min(F a, F b) { EACH(F, vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
inline F abs(F a) { EACH(F, vabsq_f32(a.v[i])); }
inline F whole(F a) { EACH(F, vrndnq_f32(a.v[i])); }
inline F floats(I a) { EACH(F, vcvtq_f32_s32(a.v[i])); }
inline I integers(F a) { EACH(I, vcvtnq_s32_f32(a.v[i])); }
inline I all(int32_t x) { EACH(I, vdupq_n_s32(x)); }
inline F bytes(const int8_t* p) {
  const int8x16_t all = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(all)), high = vmovl_s8(vget_high_s8(all));
  return floats(I{{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))}});
}
inline F halves(const uint16_t* p) { EACH(F, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)))); }
inline void store_halves(uint16_t* p, F x) {
  for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
}
inline void store_bytes(int8_t* p, I a) {
  for (int i = 0; i < 4; i += 2)
    vst1_s8(p + 4 * i, vqmovn_s16(vcombine_s16(vqmovn_s32(a.v[i]), vqmovn_s32(a.v[i + 1]))));
}
inline F times_power(F x, F e) {  // e is -126 .. 127: 2^e is a normal number
  EACH(F, vmulq_f32(x.v[i], vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(e.v[i]), vdupq_n_s32(127)), 23))));
}

inline F unless_below(F x, float least, F y) {
  EACH(F, vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y.v[i]), vcltq_f32(x.v[i], vdupq_n_f32(least)))));
}

// Of each two lanes that are HALF apart: the sum in the first, the difference in the second.
template <int HALF> inline F pairs(F x) {
  if constexpr (HALF >= 4) {
    constexpr int STEP = HALF / 4;
    EACH(F, i & STEP ? vsubq_f32(x.v[i - STEP], x.v[i]) : vaddq_f32(x.v[i], x.v[i + STEP]));
  } else {
    const uint32_t second[4] = {0, HALF == 1 ? ~0u : 0, HALF == 1 ? 0 : ~0u, ~0u};
    auto other = [&](int i) { return HALF == 1 ? vrev64q_f32(x.v[i]) : vextq_f32(x.v[i], x.v[i], 2); };
    EACH(F, vbslq_f32(vld1q_u32(second), vsubq_f32(other(i), x.v[i]), vaddq_f32(x.v[i], other(i))));
  }
}

// ((x0 + x2) + (x1 + x3)) of each four lanes, then (l0 + l1) + (l2 + l3): the order that every instruction set keeps.
inline float sum(F a) {
  auto two = [](float32x4_t v) { return vadd_f32(vget_low_f32(v), vget_high_f32(v)); };
  return vaddv_f32(vpadd_f32(vpadd_f32(two(a.v[0]), two(a.v[1])), vpadd_f32(two(a.v[2]), two(a.v[3]))));
}
inline float highest(F a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3]))); }

inline float first(F a) { return vgetq_lane_f32(a.v[0], 0); }

// x at the places `from` .. `to - 1`, elsewhere minus infinity.
inline F within(F x, int from, int to) {
  const int32_t first[4] = {0, 1, 2, 3};
  const int32x4_t places = vld1q_s32(first);
  auto in = [&](int i) {
    const int32x4_t at = vaddq_s32(places, vdupq_n_s32(4 * i));
    return vandq_u32(vcgeq_s32(at, vdupq_n_s32(from)), vcltq_s32(at, vdupq_n_s32(to)));
  };
  EACH(F, vbslq_f32(in(i), x.v[i], vdupq_n_f32(-__builtin_inff())));
}

// Weights of 16 outputs and 4 inputs, twice: signed bytes, those of 8 bits less their offset.
constexpr int ROWS_AT_ONCE = 4, QUERIES_AT_ONCE = 1, QUERIES_THAT_UNFOLD = 3;
struct W { int8x16_t v[4]; };
struct Pair { W one, two; };
template <int BITS> using Sum = I;
template <int BITS> inline I start(int32_t) { return all(int32_t(0)); }
template <int BITS> inline Pair weights(const uint8_t* w, int j) {
  Pair r;
  for (int i = 0; i < 4; i++) {
    if constexpr (BITS == 4) {
      const uint8x16_t both = vld1q_u8(w + 64 * j + 16 * i);
      r.one.v[i] = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
      r.two.v[i] = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
    } else {
      r.one.v[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w + 128 * j + 16 * i), vdupq_n_u8(128)));
      r.two.v[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w + 128 * j + 64 + 16 * i), vdupq_n_u8(128)));
    }
  }
  return r;
}
inline I dot(I sum, W w, const int8_t* four) {
  int32_t x;
  __builtin_memcpy(&x, four, 4);
  const int8x16_t same = vreinterpretq_s8_s32(vdupq_n_s32(x));
  EACH(I, vdotq_s32(sum.v[i], w.v[i], same));
}
inline I whole(I sum) { return sum; }
#undef EACH

#if defined(__ARM_FEATURE_MATMUL_INT8)
#define VEC_SUMS
// Sums of two rows at a time: an instruction makes those of two rows and two outputs, over 8 inputs.
template <int BITS, int M> struct Sums {
  static constexpr int PAIRS = M / 2, ROW_BYTES = 32;
  int32x4_t both[PAIRS + 1][8];  // outputs 2 i and 2 i + 1 of the first row, then those of the second one
  I last;                        // of a row without another one

  explicit Sums(const int32_t*) : last(all(int32_t(0))) {
    for (auto& pair : both)
      for (auto& some : pair) some = vdupq_n_s32(0);
  }
  void add(const Pair& w, const int8_t* x) {
    for (int i = 0; i < 4; i++) {
      const int32x4_t one = vreinterpretq_s32_s8(w.one.v[i]), two = vreinterpretq_s32_s8(w.two.v[i]);
      const int8x16_t first = vreinterpretq_s8_s32(vzip1q_s32(one, two)), second = vreinterpretq_s8_s32(vzip2q_s32(one, two));
      for (int p = 0; p < PAIRS; p++) {
        const int8_t* of = x + 2 * ROW_BYTES * p;
        const int8x16_t rows = vcombine_s8(vld1_s8(of), vld1_s8(of + ROW_BYTES));
        both[p][2 * i] = vmmlaq_s32(both[p][2 * i], rows, first);
        both[p][2 * i + 1] = vmmlaq_s32(both[p][2 * i + 1], rows, second);
      }
    }
    if constexpr (M % 2) last = dot(dot(last, w.one, x + ROW_BYTES * (M - 1)), w.two, x + ROW_BYTES * (M - 1) + 4);
  }
  I row(int m) const {
    if (m == 2 * PAIRS) return last;
    I r;
    for (int i = 0; i < 4; i++) {
      const int32x4_t a = both[m / 2][2 * i], b = both[m / 2][2 * i + 1];
      r.v[i] = m % 2 ? vcombine_s32(vget_high_s32(a), vget_high_s32(b)) : vcombine_s32(vget_low_s32(a), vget_low_s32(b));
    }
    return r;
  }
};
#endif

}  // namespace vec
}  // namespace
