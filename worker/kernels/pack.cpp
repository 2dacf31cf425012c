#include <cstring>

#include "argosy_cpu.h"
#include "vec_plain.h"

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

void look_up(const Ends& ends, int hidden, const int32_t* tokens, int rows, float* x) {
  const int blocks = hidden / GROUP, bytes = 2 + GROUP;
  for (int row = 0; row < rows; row++) {
    const uint8_t* from = ends.embedding + size_t(tokens[row]) * blocks * bytes;
    for (int b = 0; b < blocks; b++, from += bytes, x += GROUP) {
      uint16_t d;
      std::memcpy(&d, from, sizeof d);
      const float scale = vec::half(d);
      for (int i = 0; i < GROUP; i++) x[i] = float(int8_t(from[2 + i])) * scale;
      for (int i = 0; ends.factor != 1 && i < GROUP; i++) x[i] *= ends.factor;
    }
  }
}

}  // namespace argosy
