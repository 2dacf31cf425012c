#include <cpuid.h>

#include "argosy_cpu.h"
#include "vec_avx2.h"

#define KERNELS_NAME "avx2"
#include "kernels.inc"

namespace argosy {

const Kernels* avx2() {
  unsigned a, b, c = 0, d;  // older compilers do not know "f16c"
  const bool halves = __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
  return halves && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &TABLE : nullptr;
}

}  // namespace argosy
