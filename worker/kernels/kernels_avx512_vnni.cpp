#include "argosy_cpu.h"
#include "vec_avx512.h"

#define KERNELS_NAME "avx512-vnni"
#include "kernels.inc"

namespace argosy {

const Kernels* avx512_vnni() { return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") ? &TABLE : nullptr; }

}  // namespace argosy
