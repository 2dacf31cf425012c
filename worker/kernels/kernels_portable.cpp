#include "argosy_cpu.h"
#include "vec_plain.h"

#define KERNELS_NAME "portable"
#include "kernels.inc"

namespace argosy {

const Kernels* portable() { return &TABLE; }

}  // namespace argosy
