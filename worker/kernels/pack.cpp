#include <cstring>

#include "argosy_cpu.h"

namespace argosy {

void pack(int bits, const uint8_t* from, int rows, int blocks, int first, uint8_t* to) {
  const size_t bytes = block_bytes(bits);
  for (int row = 0; row < rows; row++) {
    const int r = (first + row) % TILE;
    uint8_t* block = to + size_t((first + row) / TILE) * blocks * bytes;
    for (int b = 0; b < blocks; b++, block += bytes) {
      uint8_t* q = block + 4 * r;
      if (bits == 4) {
        uint8_t values[GROUP];
        for (int i = 0; i < GROUP / 2; i++) values[i] = from[4 + i] & 15, values[i + GROUP / 2] = from[4 + i] >> 4;
        for (int j = 0; j < GROUP / 8; j++)
          for (int i = 0; i < 4; i++) q[64 * j + i] = uint8_t(values[8 * j + i] | values[8 * j + 4 + i] << 4);
        std::memcpy(block + 256 + 2 * r, from, 2);
        std::memcpy(block + 256 + 2 * TILE + 2 * r, from + 2, 2);
        from += 4 + GROUP / 2;
      } else {
        for (int j = 0; j < GROUP / 4; j++)
          for (int i = 0; i < 4; i++) q[64 * j + i] = from[2 + 4 * j + i] ^ 128;
        std::memcpy(block + 512 + 2 * r, from, 2);
        from += 2 + GROUP;
      }
    }
  }
}

}  // namespace argosy
