#include <cstring>

#include "argosy_cpu.h"

namespace argosy {

void pack(int bits, int scale_bits, const uint8_t* from, int rows, int blocks, int first, uint8_t* to) {
  const size_t bytes = block_bytes(bits, scale_bits), size = scale_bits / 8;
  for (int row = 0; row < rows; row++) {
    const int r = (first + row) % TILE;
    uint8_t* block = to + size_t((first + row) / TILE) * blocks * bytes;
    for (int b = 0; b < blocks; b++, block += bytes) {
      uint8_t* q = block + 4 * r;
      if (bits == 4) {
        uint8_t values[GROUP];
        for (int i = 0; i < GROUP / 2; i++) values[i] = from[2 * size + i] & 15, values[i + GROUP / 2] = from[2 * size + i] >> 4;
        for (int j = 0; j < GROUP / 8; j++)
          for (int i = 0; i < 4; i++) q[64 * j + i] = uint8_t(values[8 * j + i] | values[8 * j + 4 + i] << 4);
        std::memcpy(block + 256 + size * r, from, size);
        std::memcpy(block + 256 + size * TILE + size * r, from + size, size);
        from += 2 * size + GROUP / 2;
      } else {
        for (int j = 0; j < GROUP / 4; j++)
          for (int i = 0; i < 4; i++) q[64 * j + i] = from[size + 4 * j + i] ^ 128;
        std::memcpy(block + 512 + size * r, from, size);
        from += size + GROUP;
      }
    }
  }
}

}  // namespace argosy
