#if defined(__APPLE__)
#include <sys/sysctl.h>
#else
#include <sys/auxv.h>
#endif

#include "argosy_cpu.h"
#include "vec_neon.h"

#define KERNELS_NAME "neon-i8mm"
#include "kernels.inc"

namespace argosy {
namespace {

bool products_of_rows() {
#if defined(__APPLE__)
  int found = 0;
  size_t size = sizeof found;
  return !sysctlbyname("hw.optional.arm.FEAT_I8MM", &found, &size, nullptr, 0) && found;
#else
  constexpr unsigned long I8MM = 1ul << 13;  // <asm/hwcap.h>
  return getauxval(AT_HWCAP2) & I8MM;
#endif
}

}  // namespace

const Kernels* neon_i8mm() { return products_of_rows() && neon_dotprod() ? &TABLE : nullptr; }

}  // namespace argosy
