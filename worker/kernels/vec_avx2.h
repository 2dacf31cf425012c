// 16 floats or integers in two registers of AVX2; sums of products of bytes by VNNI where this is compiled for it, else by
// way of 16 bits, where they fit.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace {
namespace vec {

struct F { __m256 a, b; };
struct I { __m256i a, b; };

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
inline F bytes(const int8_t* p) {
  auto eight = [](const int8_t* of) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(of))); };
  return floats({eight(p), eight(p + 8)});
}
inline F halves(const uint16_t* p) {
  auto q = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
inline void store_halves(uint16_t* p, F x) {
  auto q = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(q, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(q + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
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

inline F unless_below(F x, float least, F y) {
  __m256 most = _mm256_set1_ps(least);
  return {_mm256_and_ps(_mm256_cmp_ps(x.a, most, _CMP_NLT_UQ), y.a), _mm256_and_ps(_mm256_cmp_ps(x.b, most, _CMP_NLT_UQ), y.b)};
}

// Of each two lanes that are HALF apart: the sum in the first, the difference in the second.
template <int HALF> inline F pairs(F x) {
  if constexpr (HALF == 8) return {_mm256_add_ps(x.a, x.b), _mm256_sub_ps(x.a, x.b)};
  auto both = [](__m256 v) {
    __m256 other;
    if constexpr (HALF == 1) other = _mm256_permute_ps(v, 0b10110001);
    if constexpr (HALF == 2) other = _mm256_permute_ps(v, 0b01001110);
    if constexpr (HALF == 4) other = _mm256_permute2f128_ps(v, v, 1);
    constexpr int SECOND = HALF == 1 ? 0xAA : HALF == 2 ? 0xCC : 0xF0;
    return _mm256_blend_ps(_mm256_add_ps(v, other), _mm256_sub_ps(other, v), SECOND);
  };
  return {both(x.a), both(x.b)};
}

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
inline __m256 within8(__m256 x, __m256i places, int from, int to) {
  __m256i in = _mm256_and_si256(_mm256_cmpgt_epi32(places, _mm256_set1_epi32(from - 1)), _mm256_cmpgt_epi32(_mm256_set1_epi32(to), places));
  return _mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), x, _mm256_castsi256_ps(in));
}
inline F within(F x, int from, int to) {
  __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {within8(x.a, places, from, to), within8(x.b, _mm256_add_epi32(places, _mm256_set1_epi32(8)), from, to)};
}

inline float first(F x) { return _mm256_cvtss_f32(x.a); }

constexpr int QUERIES_AT_ONCE = 1, QUERIES_THAT_UNFOLD = 3;
inline __m256i four(const int8_t* p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return _mm256_set1_epi32(x);
}

#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)

constexpr int ROWS_AT_ONCE = 4;
struct Pair { I one, two; };
template <int BITS> using Sum = I;
template <int BITS> inline I start(int32_t raw) { return all(BITS == 4 ? 0 : raw); }
template <int BITS> inline Pair weights(const uint8_t* w, int j) {
  auto load = [](const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); };
  if constexpr (BITS == 4) {
    __m256i a = load(w + 64 * j), b = load(w + 64 * j + 32), mask = _mm256_set1_epi8(15);
    auto high = [&](__m256i x) { return _mm256_and_si256(_mm256_srli_epi16(x, 4), mask); };
    return {{_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)}, {high(a), high(b)}};
  } else {
    w += 128 * j;
    return {{load(w), load(w + 32)}, {load(w + 64), load(w + 96)}};
  }
}
inline I dot(I sum, I w, const int8_t* p) {
  __m256i x = four(p);
  return {_mm256_dpbusd_epi32(sum.a, w.a, x), _mm256_dpbusd_epi32(sum.b, w.b, x)};
}
inline I whole(I sum) { return sum; }

#else

constexpr int ROWS_AT_ONCE = 4;
inline __m256i from16(__m256i x) { return _mm256_madd_epi16(x, _mm256_set1_epi16(1)); }
// Sums are to be made product by product. GCC makes all products of a block first and puts them aside in memory, at one
// store for each: a third of the time of a linear. To the compiler this says that both numbers may change here.
inline void now(__m256i& a, __m256i& b) { asm("" : "+x"(a), "+x"(b)); }

// 4 bits: a block's 16 products for each place of 16 bits are 16 * 15 * 127 at most, which fits.
struct Sum4 { __m256i a, b; };
struct W4 { __m256i a, b; };
inline Sum4 dot(Sum4 sum, W4 w, const int8_t* p) {
  __m256i x = four(p);
  sum = {_mm256_add_epi16(sum.a, _mm256_maddubs_epi16(w.a, x)), _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(w.b, x))};
  now(sum.a, sum.b);
  return sum;
}
inline I whole(Sum4 sum) { return {from16(sum.a), from16(sum.b)}; }

// 8 bits, as signed numbers: two products are 2 * 128 * 127 at most, which fits; more are added in 32 bits.
struct Sum8 { __m256i a, b; };
struct W8 { __m256i a, b, size_a, size_b; };
inline Sum8 dot(Sum8 sum, W8 w, const int8_t* p) {
  __m256i x = four(p);
  sum = {_mm256_add_epi32(sum.a, from16(_mm256_maddubs_epi16(w.size_a, _mm256_sign_epi8(x, w.a)))),
         _mm256_add_epi32(sum.b, from16(_mm256_maddubs_epi16(w.size_b, _mm256_sign_epi8(x, w.b))))};
  now(sum.a, sum.b);
  return sum;
}
inline I whole(Sum8 sum) { return {sum.a, sum.b}; }

template <int BITS> struct Types { using Sum = Sum4; struct Pair { W4 one, two; }; };
template <> struct Types<8> { using Sum = Sum8; struct Pair { W8 one, two; }; };
template <int BITS> using Sum = typename Types<BITS>::Sum;
template <int BITS> inline Sum<BITS> start(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
template <int BITS> inline typename Types<BITS>::Pair weights(const uint8_t* w, int j) {
  auto load = [](const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); };
  if constexpr (BITS == 4) {
    __m256i a = load(w + 64 * j), b = load(w + 64 * j + 32), mask = _mm256_set1_epi8(15);
    auto high = [&](__m256i x) { return _mm256_and_si256(_mm256_srli_epi16(x, 4), mask); };
    return {{_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)}, {high(a), high(b)}};
  } else {
    auto signs = [&](const uint8_t* p) {
      __m256i a = _mm256_xor_si256(load(p), _mm256_set1_epi8(-128)), b = _mm256_xor_si256(load(p + 32), _mm256_set1_epi8(-128));
      return W8{a, b, _mm256_abs_epi8(a), _mm256_abs_epi8(b)};
    };
    return {signs(w + 128 * j), signs(w + 128 * j + 64)};
  }
}
#endif

}  // namespace vec
}  // namespace
