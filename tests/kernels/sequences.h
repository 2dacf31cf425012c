// Layers over a paged cache, and sequences that go through them in parts.
#pragma once
#include "reference.h"

struct Model {
  Model(Random& random, const Shape& s, float norm = 1.0f) : shape(s) {
    auto some = [&](bool there, int n) { return there ? numbers(random, n, norm) : Floats(); };
    const int heads = s.qk == 2 ? s.heads : 1, kv_heads = s.qk == 2 ? s.kv_heads : 1;
    for (int i = 0; i < s.layers; i++)
      layers.push_back({weights(random, s.hidden, s.width() + 2 * s.kv_width(), s.bits, i == 0),
                        weights(random, s.width(), s.hidden, s.bits, false),
                        weights(random, s.hidden, 2 * s.ffn, s.bits, false),
                        weights(random, s.ffn, s.hidden, s.bits, i == 0),
                        some(s.before, s.hidden), some(s.before, s.hidden), some(s.behind, s.hidden), some(s.behind, s.hidden),
                        some(s.qk, heads * s.head_dim), some(s.qk, kv_heads * s.head_dim)});
  }
  Shape shape;
  std::vector<LayerOf> layers;
};

// Rows start .. start + count - 1 of a sequence, whose blocks are those of `table`.
struct Slice {
  int start, count;
  std::vector<int32_t> table;
};

// The cache of every layer. What nobody wrote is no number: it must not reach an answer.
struct Cache {
  Cache(const Shape& s, int blocks) {
    const size_t n = size_t(blocks) * 2 * s.kv_width() * s.block_size;
    for (int i = 0; i < s.layers; i++)
      if (s.cache_bits == 32) floats.emplace_back(n, std::nanf(""));
      else if (s.cache_bits == 16) halves.emplace_back(n, uint16_t(0x7E00));
      else codes.emplace_back(n, int8_t(-128)), scaled.emplace_back(n / s.head_dim, std::nanf(""));
  }
  void* of(int layer) {
    if (!codes.empty()) return codes[layer].data();
    return floats.empty() ? static_cast<void*>(halves[layer].data()) : floats[layer].data();
  }
  float* scales(int layer) { return scaled.empty() ? nullptr : scaled[layer].data(); }
  std::vector<Floats> floats, scaled;
  std::vector<std::vector<uint16_t>> halves;
  std::vector<std::vector<int8_t>> codes;
};

// A step as the library is given it.
struct Stepped {
  std::vector<Layer> layers;
  std::vector<int32_t> positions, cu_rows{0}, lengths, table, slots;
  Floats cos, sin;  // of each row; by position, of all positions from 0 on
  std::vector<const float*> cosines, sines;
  Step step{};

  Stepped(const Model& model, Cache& cache, const std::vector<Slice>& slices, bool by_position = false) {
    const Shape& s = model.shape;
    for (size_t i = 0; i < model.layers.size(); i++) {
      const LayerOf& l = model.layers[i];
      auto at = [](const Floats& norm) { return norm.empty() ? nullptr : norm.data(); };
      layers.push_back({l.qkv.linear(), l.o.linear(), l.gate_up.linear(), l.down.linear(), at(l.attn_norm), at(l.mlp_norm),
                        at(l.post_attn_norm), at(l.post_mlp_norm), at(l.q_norm), at(l.k_norm), cache.of(int(i)), cache.scales(int(i)),
                        s.hidden, s.heads, s.kv_heads, s.head_dim, s.ffn, s.rotary, s.window, s.cache_bits, s.activation, s.qk == 2,
                        EPS, scale_of(s), s.softcap, s.residual});
    }
    size_t width = 0;
    int most = 0;
    for (const Slice& slice : slices) width = std::max(width, slice.table.size());
    for (const Slice& slice : slices) {
      for (int p = slice.start; p < slice.start + slice.count; p++) {
        positions.push_back(p);
        slots.push_back(slice.table[p / s.block_size] * s.block_size + p % s.block_size);
      }
      cu_rows.push_back(int(positions.size()));
      lengths.push_back(slice.start + slice.count);
      most = std::max(most, slice.start + slice.count);
      table.insert(table.end(), slice.table.begin(), slice.table.end());
      table.resize(cu_rows.size() * width - width, -1);
    }
    const int half = s.rotary / 2;
    if (by_position) {
      const auto all = turns(most, half);
      cos = all.first, sin = all.second;
      step.turns = positions.data();
    } else {
      for (int p : positions) {
        const auto all = turns(p + 1, half);
        cos.insert(cos.end(), all.first.end() - half, all.first.end());
        sin.insert(sin.end(), all.second.end() - half, all.second.end());
      }
    }
    cosines.assign(layers.size(), cos.data()), sines.assign(layers.size(), sin.data());
    step.rows = int32_t(positions.size()), step.slices = int32_t(slices.size());
    step.positions = positions.data(), step.cu_rows = cu_rows.data(), step.context_lens = lengths.data();
    step.block_table = table.data(), step.slots = slots.data(), step.table_width = int32_t(width), step.block_size = s.block_size;
  }
  Stepped(const Stepped&) = delete;
};

// x [rows of all slices, hidden] -> the same after all layers.
inline Floats run(const Engine& engine, const Model& model, Cache& cache, Floats x, const std::vector<Slice>& slices) {
  const Stepped of(model, cache, slices);
  const int failed = engine.library.forward(engine.handle, of.layers.data(), int(of.layers.size()), &of.step, of.cosines.data(), of.sines.data(), x.data(), engine.threads > 1);
  check(!failed, engine.name, "no memory");
  return x;
}
