// What Python calls (compute/native/library.py). Pointers belong to the caller and live as long as the call, those in
// layers as long as the model.
#include "forward.h"

using namespace argosy;

namespace {

struct Engine {
  Engine(int threads, const Kernels& kernels) : pool(threads), kernels(kernels) {}
  Pool pool;
  Room room;
  const Kernels& kernels;
};

const Kernels* named(const char* name) {
  for (auto of : {avx512_vnni, avx2, portable}) {
    const Kernels* found = of();
    if (found && (!*name || !__builtin_strcmp(name, found->name))) return found;
  }
  return nullptr;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int argosy_version() { return 2; }

// The best instruction set of this processor, or the one of this name; null where it lacks it.
const char* argosy_kernels(const char* name) {
  const Kernels* found = named(name);
  return found ? found->name : nullptr;
}

void* argosy_open(int threads, const char* name) {
  const Kernels* found = named(name);
  return found ? new Engine(threads, *found) : nullptr;
}

void argosy_close(void* engine) { delete static_cast<Engine*>(engine); }

void argosy_forward(void* engine, const Layer* layers, int count, const Step* step, const float* const* cos,
                    const float* const* sin, float* x, int together) {
  auto& e = *static_cast<Engine*>(engine);
  forward(e.pool, e.kernels, e.room, layers, count, *step, cos, sin, x, together != 0);
}

void argosy_project(void* engine, const Linear* w, const float* norm, float eps, const float* x, int rows, float* out,
                    int together) {
  auto& e = *static_cast<Engine*>(engine);
  project(e.pool, e.kernels, e.room, *w, norm, eps, x, rows, out, together != 0);
}

}  // extern "C"
#pragma GCC visibility pop
