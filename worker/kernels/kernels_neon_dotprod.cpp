#if defined(__APPLE__)
#include <sys/sysctl.h>
#else
#include <sys/auxv.h>
#endif

#include "argosy_cpu.h"
#include "vec_neon.h"

#define KERNELS_NAME "neon-dotprod"
#include "kernels.inc"

namespace argosy {
namespace {

bool dot_products() {
#if defined(__APPLE__)
  int found = 0;
  size_t size = sizeof found;
  return !sysctlbyname("hw.optional.arm.FEAT_DotProd", &found, &size, nullptr, 0) && found;
#else
  constexpr unsigned long ASIMDDP = 1ul << 20;  // <asm/hwcap.h>
  return getauxval(AT_HWCAP) & ASIMDDP;
#endif
}

}  // namespace

const Kernels* neon_dotprod() { return dot_products() ? &TABLE : nullptr; }

}  // namespace argosy
