// 16 floats or integers as plain loops, which a compiler turns into whatever its target has. The same operations in the
// same order as the other instruction sets, so the same bits.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {
namespace vec {

struct F { float v[16]; };
struct I { int32_t v[16]; };
struct W { uint8_t v[64]; };

#define EACH(T, expression)                      \
  T r;                                           \
  for (int i = 0; i < 16; i++) r.v[i] = expression; \
  return r

inline F load(const float* p) { F r; std::memcpy(r.v, p, 64); return r; }
inline void store(float* p, F x) { std::memcpy(p, x.v, 64); }
inline F all(float x) { EACH(F, x); }
inline F add(F a, F b) { EACH(F, a.v[i] + b.v[i]); }
inline F sub(F a, F b) { EACH(F, a.v[i] - b.v[i]); }
inline F mul(F a, F b) { EACH(F, a.v[i] * b.v[i]); }
inline F div(F a, F b) { EACH(F, a.v[i] / b.v[i]); }
inline F fma(F a, F b, F c) { EACH(F, __builtin_fmaf(a.v[i], b.v[i], c.v[i])); }
inline F max(F a, F b) { EACH(F, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }  // the second where one is no number, as x86
inline F min(F a, F b) { EACH(F, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
inline F abs(F a) { EACH(F, __builtin_fabsf(a.v[i])); }
inline F whole(F a) { EACH(F, __builtin_nearbyintf(a.v[i])); }
inline F floats(I a) { EACH(F, float(a.v[i])); }
inline I integers(F a) { EACH(I, a.v[i] >= -2147483648.0f && a.v[i] < 2147483648.0f ? int32_t(__builtin_nearbyintf(a.v[i])) : INT32_MIN); }
inline I all(int32_t x) { EACH(I, x); }
inline F times_power(F x, F e) { EACH(F, e.v[i] == e.v[i] ? __builtin_ldexpf(x.v[i], int(e.v[i])) : e.v[i]); }
inline void store_bytes(int8_t* p, I a) {
  for (int i = 0; i < 16; i++) p[i] = int8_t(a.v[i] < -128 ? -128 : a.v[i] > 127 ? 127 : a.v[i]);
}

inline F unless_below(F x, float least, F y) { EACH(F, x.v[i] < least ? 0.0f : y.v[i]); }

inline float half(uint16_t h) {
  uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023, bits;
  if (exponent == 31) bits = sign | 0x7F800000 | fraction << 13;
  else if (exponent) bits = sign | (exponent + 112) << 23 | fraction << 13;
  else {
    float value = float(fraction) * 0x1p-24f;
    return sign ? -value : value;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline F bytes(const int8_t* p) { EACH(F, float(p[i])); }
inline F halves(const uint16_t* p) { EACH(F, half(p[i])); }
inline uint16_t to_half(float x) {  // to the nearest, of two equally near the even one; |x| is at most 65504, or x no number
  uint32_t bits, sign;
  std::memcpy(&bits, &x, 4);
  sign = bits >> 16 & 0x8000;
  bits &= 0x7FFFFFFF;
  if (bits > 0x7F800000) return uint16_t(sign | 0x7E00 | (bits >> 13 & 1023));
  if (bits < 0x38800000) {  // below the normal numbers: whole 2^-24
    float small;
    std::memcpy(&small, &bits, 4);
    return uint16_t(sign | uint32_t(__builtin_nearbyintf(small * 0x1p24f)));
  }
  return uint16_t(sign | (bits - 0x38000000 + 0xFFF + (bits >> 13 & 1)) >> 13);
}
inline void store_halves(uint16_t* p, F x) {
  for (int i = 0; i < 16; i++) p[i] = to_half(x.v[i]);
}

// Of each two lanes that are HALF apart: the sum in the first, the difference in the second.
template <int HALF> inline F pairs(F x) { EACH(F, i & HALF ? x.v[i - HALF] - x.v[i] : x.v[i] + x.v[i + HALF]); }

inline float sum(F a) {
  float lane[4];
  for (int i = 0; i < 4; i++) lane[i] = (a.v[4 * i] + a.v[4 * i + 2]) + (a.v[4 * i + 1] + a.v[4 * i + 3]);
  return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}
inline float highest(F a) {
  float most = a.v[0];
  for (int i = 1; i < 16; i++) most = a.v[i] > most ? a.v[i] : most;
  return most;
}
inline float first(F a) { return a.v[0]; }
inline F within(F a, int from, int to) { EACH(F, i >= from && i < to ? a.v[i] : -__builtin_inff()); }

constexpr int ROWS_AT_ONCE = 2, QUERIES_AT_ONCE = 1, QUERIES_THAT_UNFOLD = 3;
struct Pair { W one, two; };
template <int BITS> using Sum = I;
template <int BITS> inline I start(int32_t raw) { return all(BITS == 4 ? 0 : raw); }
template <int BITS> inline Pair weights(const uint8_t* w, int j) {
  Pair r;
  if constexpr (BITS == 4) {
    for (int i = 0; i < 64; i++) r.one.v[i] = w[64 * j + i] & 15, r.two.v[i] = w[64 * j + i] >> 4;
  } else {
    std::memcpy(r.one.v, w + 128 * j, 64);
    std::memcpy(r.two.v, w + 128 * j + 64, 64);
  }
  return r;
}
inline I dot(I sum, W w, const int8_t* x) {
  for (int i = 0; i < 16; i++)
    sum.v[i] += w.v[4 * i] * x[0] + w.v[4 * i + 1] * x[1] + w.v[4 * i + 2] * x[2] + w.v[4 * i + 3] * x[3];
  return sum;
}
inline I whole(I sum) { return sum; }
#undef EACH

}  // namespace vec
}  // namespace
