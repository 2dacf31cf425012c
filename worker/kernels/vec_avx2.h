// 16 floats or integers in two registers of AVX2; products of bytes by way of 16 bits, exact for weights below 128.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace {
namespace vec {

struct F { __m256 a, b; };
struct I { __m256i a, b; };
struct W { __m256i a, b; };

inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
inline F all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline __m256 abs8(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
inline F abs(F x) { return {abs8(x.a), abs8(x.b)}; }
inline __m256 whole8(__m256 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F whole(F x) { return {whole8(x.a), whole8(x.b)}; }
inline F floats(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline I integers(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline I all(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline F halves(const uint16_t* p) {
  auto q = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
inline void store_bytes(int8_t* p, I x) {
  __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0b11011000);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline __m256 power8(__m256 x, __m256 e) {  // in two steps, so that results below the normal numbers are right
  __m256i n = _mm256_cvtps_epi32(e), one = _mm256_srai_epi32(n, 1), two = _mm256_sub_epi32(n, one);
  auto by = [](__m256i k) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(k, _mm256_set1_epi32(127)), 23)); };
  return _mm256_mul_ps(_mm256_mul_ps(x, by(one)), by(two));
}
inline F times_power(F x, F e) { return {power8(x.a, e.a), power8(x.b, e.b)}; }

inline float sum(F x) {
  auto four = [](__m256 v) {  // (x0 + x2) + (x1 + x3) in every place of each four
    v = _mm256_add_ps(v, _mm256_permute_ps(v, 0b01001110));
    return _mm256_add_ps(v, _mm256_permute_ps(v, 0b10110001));
  };
  auto two = [](__m256 v) { return _mm_add_ss(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)); };
  return _mm_cvtss_f32(_mm_add_ss(two(four(x.a)), two(four(x.b))));
}
inline float highest(F x) {
  __m256 m = _mm256_max_ps(x.a, x.b);
  __m128 n = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
  n = _mm_max_ps(n, _mm_movehl_ps(n, n));
  return _mm_cvtss_f32(_mm_max_ss(n, _mm_shuffle_ps(n, n, 1)));
}
inline F sums(const F* a) {
  float r[16];
  for (int i = 0; i < 16; i++) r[i] = sum(a[i]);
  return load(r);
}

inline W bytes(const uint8_t* p) {
  auto q = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
inline __m256i low8(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
inline W low(W x) { return {low8(x.a), low8(x.b)}; }
inline W high(W x) { return {low8(_mm256_srli_epi16(x.a, 4)), low8(_mm256_srli_epi16(x.b, 4))}; }
inline __m256i dot8(__m256i sum, __m256i w, __m256i x) {
  // even and odd bytes apart: 255 * 128 * 2 would not fit the 16 bits of maddubs
  __m256i mask = _mm256_set1_epi16(255);
  __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, mask), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
  __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
  return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}
inline I dot(I sum, W w, const int8_t* four) {
  int32_t x;
  __builtin_memcpy(&x, four, 4);
  __m256i y = _mm256_set1_epi32(x);
  return {dot8(sum.a, w.a, y), dot8(sum.b, w.b, y)};
}

}  // namespace vec
}  // namespace
