#include <cstring>

#include "argosy_cpu.h"
#include "vec_plain.h"

namespace argosy {

namespace {

using Word = uint32_t;  // four bytes, each changed alone: their order in it does not matter
constexpr Word LOW = 0x0F0F0F0F, SIGNS = 0x80808080;

void put(uint8_t* to, Word word) { std::memcpy(to, &word, sizeof word); }

// 32 weights of a row in 4 bits: inputs i and 16 + i share byte i in a checkpoint, inputs i and 4 + i in a tile.
void pack4(const uint8_t* from, uint8_t* to) {
  Word part[4];
  std::memcpy(part, from, sizeof part);
  for (int j = 0; j < 2; j++) {
    const Word a = part[2 * j], b = part[2 * j + 1];
    put(to + 64 * j, (a & LOW) | (b & LOW) << 4);
    put(to + 64 * (2 + j), (a >> 4 & LOW) | (b & ~LOW));
  }
}

// 32 weights of a row in 8 bits, which become unsigned.
void pack8(const uint8_t* from, uint8_t* to) {
  Word part[8];
  std::memcpy(part, from, sizeof part);
  for (int j = 0; j < 8; j++) put(to + 64 * j, part[j] ^ SIGNS);
}

}  // namespace

void pack(int bits, int scale_bits, const uint8_t* from, int rows, int blocks, int first, uint8_t* to) {
  const size_t bytes = block_bytes(bits, scale_bits), size = scale_bits / 8;
  for (int row = 0; row < rows; row++) {
    const int r = (first + row) % TILE;
    uint8_t* block = to + size_t((first + row) / TILE) * blocks * bytes;
    for (int b = 0; b < blocks; b++, block += bytes) {
      if (bits == 4) {
        std::memcpy(block + 256 + size * r, from, size);
        std::memcpy(block + 256 + size * TILE + size * r, from + size, size);
        pack4(from + 2 * size, block + 4 * r);
        from += 2 * size + GROUP / 2;
      } else {
        std::memcpy(block + 512 + size * r, from, size);
        pack8(from + size, block + 4 * r);
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
