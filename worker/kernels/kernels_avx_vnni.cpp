#include <cpuid.h>

#include "argosy_cpu.h"
#include "vec_avx2.h"

#define KERNELS_NAME "avx-vnni"
#include "kernels.inc"

namespace argosy {

const Kernels* avx_vnni() {
#if defined(__AVX512VNNI__)  // only tests compile it so: AVX-512 has the same products, and more machines have AVX-512
  const bool products = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl");
#else
  unsigned a = 0, b, c, d;
  const bool products = __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
#endif
  return products && avx2() ? &TABLE : nullptr;
}

}  // namespace argosy
