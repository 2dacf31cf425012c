// What the kernels compute, written plainly and in double precision. Activations are rounded to 8 bits as argosy_cpu.h says.
// reference.cpp has it, and is compiled without sanitizers: it is tried by what it is compared with, and takes long.
#pragma once
#include <algorithm>
#include <utility>

#include "kit.h"

using Doubles = std::vector<double>;

constexpr float EPS = 1e-5f;

struct Shape {
  int heads, kv_heads, head_dim, rotary, window, cache_bits, block_size, bits;
  int hidden = 64, ffn = 64, layers = 2;
  bool before = true, behind = false;  // where norms are
  int qk = 0;                          // norms of queries and keys: 1 of each head, 2 of all together
  int activation = argosy::SILU;
  float softcap = 0, residual = 1;
  int width() const { return heads * head_dim; }
  int kv_width() const { return kv_heads * head_dim; }
};

// The last bits of a sum decide which code a number gets that lies between two: with a `way` above 0 some other of the two.
// Equal numbers go the same way: heads that share values have them. `off` is how far the last bits reach, in codes.
inline uint64_t way = 0;

// One row. `size` gets the sum of the sizes of what was added: how far an answer may be off is a part of that.
Doubles product(const Weights& w, const Doubles& x, Doubles* size = nullptr);

Doubles normed(const Doubles& x, const Floats& weight, float eps);

struct LayerOf {
  Weights qkv, o, gate_up, down;
  Floats attn_norm, mlp_norm, post_attn_norm, post_mlp_norm, q_norm, k_norm;  // empty: none
};

inline float scale_of(const Shape& shape) { return 2.0f / float(shape.head_dim); }

// Turns of the positions that are the same on every machine: [positions, rotary / 2] of cos, then of sin.
std::pair<Floats, Floats> turns(int positions, int half);

// One sequence, which goes row by row through all layers.
struct Sequence {
  Sequence(const Shape& shape, const std::vector<LayerOf>& all, int rows) : s(shape), layers(all), turned(turns(rows, shape.rotary / 2)), held(all.size()) {}

  // What the next row, x [hidden], becomes. `again`: instead of the last one.
  Doubles next(Doubles x, bool again);

 private:
  Doubles queries_keys_values(const LayerOf& l, const Doubles& x) const;
  Doubles heads_of(const std::vector<Doubles>& all) const;  // of the last row
  void feed(const LayerOf& l, Doubles& x) const;

  const Shape& s;
  const std::vector<LayerOf>& layers;
  const std::pair<Floats, Floats> turned;
  std::vector<std::vector<Doubles>> held;  // of each layer, of each row: queries, keys and values
};
