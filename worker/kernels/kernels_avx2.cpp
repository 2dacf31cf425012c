#if defined(__x86_64__)
#include "argosy_cpu.h"
#include "vec_avx2.h"

#define KERNELS_NAME "avx2"
#include "kernels.inc"

namespace argosy {

const Kernels* avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") ? &TABLE : nullptr; }

}  // namespace argosy

#else

#include "argosy_cpu.h"

namespace argosy {

const Kernels* avx2() { return nullptr; }

}  // namespace argosy

#endif
