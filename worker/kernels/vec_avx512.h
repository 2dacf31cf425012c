// 16 floats or integers in one register of AVX-512, and products of bytes by VNNI.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace {
namespace vec {

using F = __m512;
using I = __m512i;

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline F all(float x) { return _mm512_set1_ps(x); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F abs(F a) { return _mm512_abs_ps(a); }
inline F whole(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F floats(I a) { return _mm512_cvtepi32_ps(a); }
inline I integers(F a) { return _mm512_cvtps_epi32(a); }
inline I all(int32_t x) { return _mm512_set1_epi32(x); }
inline F bytes(const int8_t* p) { return floats(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); }
inline F halves(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline void store_halves(uint16_t* p, F x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_bytes(int8_t* p, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a)); }
inline F times_power(F x, F e) { return _mm512_scalef_ps(x, e); }

// y where x is not below `least`, else 0.
inline F unless_below(F x, float least, F y) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(least), _CMP_NLT_UQ), y);
}

// Of each two lanes that are HALF apart: the sum in the first, the difference in the second.
template <int HALF> inline F pairs(F x) {
  F other;
  if constexpr (HALF == 1) other = _mm512_permute_ps(x, 0b10110001);
  if constexpr (HALF == 2) other = _mm512_permute_ps(x, 0b01001110);
  if constexpr (HALF == 4) other = _mm512_shuffle_f32x4(x, x, 0b10110001);
  if constexpr (HALF == 8) other = _mm512_shuffle_f32x4(x, x, 0b01001110);
  constexpr __mmask16 SECOND = HALF == 1 ? 0xAAAA : HALF == 2 ? 0xCCCC : HALF == 4 ? 0xF0F0 : 0xFF00;
  return _mm512_mask_sub_ps(_mm512_add_ps(x, other), SECOND, other, x);
}

// ((x0 + x2) + (x1 + x3)) of each four lanes, then (l0 + l1) + (l2 + l3): the order that every instruction set keeps.
inline float sum(F a) {
  F b = _mm512_add_ps(a, _mm512_permute_ps(a, 0b01001110));
  F c = _mm512_add_ps(b, _mm512_permute_ps(b, 0b10110001));
  F d = _mm512_add_ps(c, _mm512_shuffle_f32x4(c, c, 0b10110001));
  F e = _mm512_add_ps(d, _mm512_shuffle_f32x4(d, d, 0b01001110));
  return _mm512_cvtss_f32(e);
}
inline float highest(F a) { return _mm512_reduce_max_ps(a); }
inline float first(F a) { return _mm512_cvtss_f32(a); }

// x at the places `from` .. `to - 1`, elsewhere minus infinity.
inline F within(F x, int from, int to) {
  return _mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()), __mmask16((1u << to) - (1u << from)), x);
}

// Weights (unsigned bytes) of 16 outputs and 4 inputs, twice, and sums of their products with activations.
constexpr int ROWS_AT_ONCE = 8, QUERIES_AT_ONCE = 6, QUERIES_THAT_UNFOLD = 1 << 30;
using W = __m512i;
struct Pair { W one, two; };
template <int BITS> using Sum = I;
template <int BITS> inline I start(int32_t raw) { return _mm512_set1_epi32(BITS == 4 ? 0 : raw); }
template <int BITS> inline Pair weights(const uint8_t* w, int j) {
  if constexpr (BITS == 4) {
    W both = _mm512_loadu_si512(w + 64 * j), mask = _mm512_set1_epi8(15);
    return {_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16(both, 4), mask)};
  } else {
    return {_mm512_loadu_si512(w + 128 * j), _mm512_loadu_si512(w + 128 * j + 64)};
  }
}
inline I dot(I sum, W w, const int8_t* four) {
  int32_t x;
  __builtin_memcpy(&x, four, 4);
  return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x));
}
inline I whole(I sum) { return sum; }

}  // namespace vec
}  // namespace
