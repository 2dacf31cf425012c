#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "argosy_cpu.h"
#define VEC_UNIT
#include "vec_avx512.h"

#define KERNELS_NAME "avx512-amx"
#include "kernels.inc"

namespace argosy {
namespace {

// Whether the processor multiplies matrices of bytes, and the system lets this process use the registers for that.
bool matrices() {
#if defined(__linux__)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 25 & 1)) return false;  // AMX-TILE, AMX-INT8
  constexpr long REQUEST = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM and XTILEDATA of <asm/prctl.h>
  return syscall(SYS_arch_prctl, REQUEST, TILES) == 0;
#else
  return false;
#endif
}

}  // namespace

const Kernels* avx512_amx() { return avx512_vnni() && matrices() ? &TABLE : nullptr; }

}  // namespace argosy
