// What Python calls (compute/native/library.py). Pointers belong to the caller and live as long as the call, those in
// layers as long as the model.
#include "forward.h"
#include "sample.h"

using namespace argosy;

namespace {

struct Engine {
  Engine(int threads, const Kernels& kernels) : pool(threads), kernels(kernels) {}
  Pool pool;
  Room room;
  SampleRoom sampling;
  const Kernels& kernels;
};

constexpr int GONE = 3;  // another rank

// Nothing is thrown through C: 0, or 1 where there is no memory.
template <typename Do>
int tried(const Do& work) {
  try {
    work();
    return 0;
  } catch (...) {
    return 1;
  }
}

// The better ones first. Built by hatch_build.py, which has a list of them too.
const Kernels* (*const ALL[])() = {
#if defined(__x86_64__)
    avx512_vnni, avx_vnni, avx2,
#elif defined(__aarch64__)
    neon_i8mm, neon_dotprod,
#endif
    portable,
};

const Kernels* named(const char* name) {
  for (auto of : ALL) {
    const Kernels* found = of();
    if (found && (!*name || !__builtin_strcmp(name, found->name))) return found;
  }
  return nullptr;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int argosy_version() { return 12; }

// A hash of the files that this was built from.
const char* argosy_sources() { return ARGOSY_SOURCES; }

// The best instruction set of this processor, or the one of this name; null where it lacks it.
const char* argosy_kernels(const char* name) {
  const Kernels* found = named(name);
  return found ? found->name : nullptr;
}

// Null where there are no such kernels, or no threads to be had.
void* argosy_open(int threads, const char* name) {
  void* engine = nullptr;
  if (const Kernels* found = named(name)) tried([&] { engine = new Engine(threads, *found); });
  return engine;
}

void argosy_close(void* engine) { delete static_cast<Engine*>(engine); }

void argosy_pack(int bits, int scale_bits, const uint8_t* from, int rows, int blocks, int first, uint8_t* to) {
  pack(bits, scale_bits, from, rows, blocks, first, to);
}

int argosy_forward(void* engine, const Layer* layers, int count, const Step* step, const float* const* cos,
                    const float* const* sin, float* x, int together) {
  auto& e = *static_cast<Engine*>(engine);
  bool whole = true;
  const int failed = tried([&] {
    whole = forward(e.pool, e.kernels, e.room, layers, count, *step, cos, sin, x, together != 0);
  });
  return failed || whole ? failed : GONE;
}

int argosy_project(void* engine, const Linear* w, const float* norm, float eps, const float* x, int rows, float* out,
                    int together) {
  auto& e = *static_cast<Engine*>(engine);
  return tried([&] { project(e.pool, e.kernels, e.room, *w, norm, eps, x, rows, out, together != 0); });
}

int argosy_healthy(void* engine, const float* logits, int rows, int vocab, uint8_t* fine, int together) {
  auto& e = *static_cast<Engine*>(engine);
  return tried([&] { healthy(e.pool, e.kernels, logits, rows, vocab, fine, together != 0); });
}

int argosy_pick(void* engine, const float* logits, int rows, int vocab, const Draw* draws, int32_t* tokens,
                int together) {
  auto& e = *static_cast<Engine*>(engine);
  return tried([&] { pick(e.pool, e.kernels, e.sampling, logits, rows, vocab, draws, tokens, false, together != 0); });
}

// From tokens [rows] to the one that follows each, picked [rows]; -1 where its logits are no numbers. x [rows, hidden] and
// logits [rows, vocab] are room, but x where there is no embedding. 2: no token of the vocabulary.
int argosy_step(void* engine, const Layer* layers, int count, const Step* step, const float* const* cos,
                const float* const* sin, const Ends* ends, const int32_t* tokens, const Draw* draws, float* x, float* logits,
                int32_t* picked, int together) {
  auto& e = *static_cast<Engine*>(engine);
  const int rows = step->rows;
  for (int row = 0; ends->embedding && row < rows; row++)
    if (tokens[row] < 0 || tokens[row] >= ends->head.out) return 2;
  return tried([&] {
    if (ends->embedding) look_up(*ends, layers[0].hidden, tokens, rows, x);
    (void)forward(e.pool, e.kernels, e.room, layers, count, *step, cos, sin, x, together != 0);
    project(e.pool, e.kernels, e.room, ends->head, ends->norm, ends->eps, x, rows, logits, together != 0);
    pick(e.pool, e.kernels, e.sampling, logits, rows, ends->head.out, draws, picked, true, together != 0);
  });
}

}  // extern "C"
#pragma GCC visibility pop
