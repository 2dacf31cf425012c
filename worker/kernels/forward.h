// Layers of a decoder, one after the other, for the rows of a step.
#pragma once
#include <memory>
#include <vector>

#include "argosy_cpu.h"
#include "pool.h"

namespace argosy {

// Quantized rows, and room for them.
struct Activations {
  std::vector<int8_t> q;
  std::vector<float> d, sum;
  std::vector<int32_t> raw;

  Quantized all() { return {q.data(), d.data(), sum.data(), raw.data()}; }
  void least(size_t rows, size_t in);
};

// Room for what lies between the parts of a layer. It grows to the largest step that was seen.
struct Room {
  Activations in, gated;
  std::vector<float> qkv, heads, both, part, norms, states, own;
  std::vector<float> mine, all;  // what ranks join: this one's, and that of all
  int32_t broken = 0;            // whether another rank is gone
  std::vector<float> low, held;  // what adapters make of rows; and for each thread a row and the like of it
  size_t held_width = 0;
  std::vector<uint16_t> halves;
  std::unique_ptr<Pieces[]> pieces;
  int pieces_count = 0;
};

// x [rows, hidden] goes through `count` layers, in place. cos[i] and sin[i] are those of layer i, each
// [rows, rotary / 2], or by the step's `turns`. False: another rank that shares the layers is gone.
bool forward(Pool& pool, const Kernels& kernels, Room& room, const Layer* layers, int count, const Step& step,
             const float* const* cos, const float* const* sin, float* x, bool together);

// RMSNorm (where there is a norm), quantization and a linear: x [rows, in] -> out [rows, w.out].
void project(Pool& pool, const Kernels& kernels, Room& room, const Linear& w, const float* norm, float eps,
             const float* x, int rows, float* out, bool together);

}  // namespace argosy
