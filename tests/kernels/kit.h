// What the tests of the native kernels share: the library, numbers that are the same on every machine, packed weights.
#pragma once
#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "argosy_cpu.h"

using argosy::Draw;
using argosy::Ends;
using argosy::GROUP;
using argosy::Layer;
using argosy::Linear;
using argosy::Step;
using argosy::TILE;

using Floats = std::vector<float>;

// --- the library

template <typename F>
F* symbol(void* library, const char* name) {
  void* found = dlsym(library, name);
  if (!found) std::fprintf(stderr, "the library has no %s\n", name), std::exit(2);
  return reinterpret_cast<F*>(found);
}

struct Library {
  explicit Library(const char* path) : handle(dlopen(path, RTLD_NOW)) {
    if (!handle) std::fprintf(stderr, "%s\n", dlerror()), std::exit(2);
    kernels = symbol<const char*(const char*)>(handle, "argosy_kernels");
    open = symbol<void*(int, const char*)>(handle, "argosy_open");
    close = symbol<void(void*)>(handle, "argosy_close");
    forward = symbol<int(void*, const Layer*, int, const Step*, const float* const*, const float* const*, float*, int)>(handle, "argosy_forward");
    step = symbol<int(void*, const Layer*, int, const Step*, const float* const*, const float* const*, const Ends*, const int32_t*, const Draw*, float*, float*, int32_t*, int)>(handle, "argosy_step");
    project = symbol<int(void*, const Linear*, const float*, float, const float*, int, float*, int)>(handle, "argosy_project");
    healthy = symbol<int(void*, const float*, int, int, uint8_t*, int)>(handle, "argosy_healthy");
    pick = symbol<int(void*, const float*, int, int, const Draw*, int32_t*, int)>(handle, "argosy_pick");
  }
  void* handle;
  const char* (*kernels)(const char*);
  void* (*open)(int, const char*);
  void (*close)(void*);
  int (*forward)(void*, const Layer*, int, const Step*, const float* const*, const float* const*, float*, int);
  int (*step)(void*, const Layer*, int, const Step*, const float* const*, const float* const*, const Ends*, const int32_t*, const Draw*, float*, float*, int32_t*, int);
  int (*project)(void*, const Linear*, const float*, float, const float*, int, float*, int);
  int (*healthy)(void*, const float*, int, int, uint8_t*, int);
  int (*pick)(void*, const float*, int, int, const Draw*, int32_t*, int);
};

// Threads with the kernels of an instruction set.
struct Engine {
  Engine(const Library& of, const std::string& name, int threads) : library(of), name(name), threads(threads), handle(of.open(threads, name.c_str())) {
    if (!handle) std::fprintf(stderr, "no %s with %d threads\n", name.c_str(), threads), std::exit(2);
  }
  ~Engine() { library.close(handle); }
  Engine(const Engine&) = delete;
  const Library& library;
  std::string name;
  int threads;
  void* handle;
};
using Engines = std::vector<std::unique_ptr<Engine>>;

// --- what was found

inline int failures = 0;

inline void check(bool good, const std::string& where, const char* what) {
  if (good) return;
  failures++;
  std::printf("FAILED %s: %s\n", where.c_str(), what);
}

inline bool same(const float* a, const float* b, size_t n) {  // no numbers are the same: their bits differ between processors
  for (size_t i = 0; i < n; i++)
    if (std::memcmp(a + i, b + i, 4) && !(std::isnan(a[i]) && std::isnan(b[i]))) return false;
  return true;
}
inline bool same(const Floats& a, const Floats& b) { return a.size() == b.size() && same(a.data(), b.data(), a.size()); }

// A line that is the same on every machine, if the case is.
inline void digest(const std::string& name, const Floats& found) {
  uint64_t hash = 14695981039346656037u;
  for (float x : found) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    hash = (hash ^ (std::isnan(x) ? 0x7FC00000u : bits)) * 1099511628211u;
  }
  std::printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(hash));
}

// --- numbers: no function of libm, which differs between machines

struct Random {
  explicit Random(uint64_t seed) : state(seed) {}
  uint64_t next() {  // splitmix64
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  int below(int n) { return int(next() >> 33) % n; }
  float one() { return float(int32_t(next() >> 40)) * 0x1p-23f - 1.0f; }  // -1 .. 1
  float number() { return one() + one() + one(); }                       // about normal
  uint64_t state;
};

inline Floats numbers(Random& random, size_t n, float size = 1.0f) {
  Floats of(n);
  for (float& x : of) x = size * random.number();
  return of;
}

inline double half(uint16_t h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  const double size = exponent ? std::ldexp(1024.0 + fraction, exponent - 25) : std::ldexp(double(fraction), -24);
  return h & 0x8000 ? -size : size;
}

// --- weights

struct Weights {
  int in, out, bits, scale_bits;
  std::vector<uint8_t> packed;  // to the byte: what lies behind belongs to nobody
  Floats bias;
  std::vector<double> plain;  // [in, out]

  Linear linear() const { return {packed.data(), bias.empty() ? nullptr : bias.data(), in, out, bits, scale_bits}; }
};

// Scales of both signs, and some that are zero or below fp16's normal numbers.
inline uint16_t scale(Random& random, int least) {
  const int kind = random.below(40);
  if (kind < 2) return uint16_t(kind ? random.below(1024) : 0);
  return uint16_t(random.below(2) << 15 | (least + random.below(3)) << 10 | random.below(1024));
}

// Drawn ones.
Weights weights(Random& random, int in, int out, int bits, bool bias, int scale_bits = 16);
