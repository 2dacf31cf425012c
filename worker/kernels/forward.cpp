#include "walk.h"

namespace argosy {
namespace {

template <typename T>
void least(std::vector<T>& v, size_t n) {
  if (v.size() < n) v.resize(n);
}

void make_room(Room& room, int threads, int parts, size_t rows, size_t in, size_t hidden) {
  room.in.least(std::max(rows, 2 * size_t(ROWS) * threads), in);  // a single row is quantized by each thread for itself
  least(room.norms, threads * hidden);
  if (room.pieces_count < parts) {
    room.pieces = std::make_unique<Pieces[]>(parts);
    room.pieces_count = parts;
  }
  for (int i = 0; i < parts; i++) room.pieces[i].next.store(0, std::memory_order_relaxed);
}

}  // namespace

void Activations::least(size_t rows, size_t in) {
  const size_t places = (rows + ROWS - 1) / ROWS * ROWS * (in / GROUP);
  argosy::least(q, places * GROUP);
  argosy::least(d, places);
  argosy::least(sum, places);
  argosy::least(raw, places);
}

bool forward(Pool& pool, const Kernels& kernels, Room& room, const Layer* layers, int count, const Step& step,
             const float* const* cos, const float* const* sin, float* x, bool together) {
  const size_t rows = step.rows, threads = pool.threads();
  const size_t tall = (rows + ROWS - 1) / ROWS;
  size_t in = 0, qkv = 0, heads = 0, ffn = 0, dim = 0, states = 0, mine = 0, all = 0;
  for (int i = 0; i < count; i++) {
    const Layer& l = layers[i];
    const size_t width = size_t(l.heads) * l.head_dim;
    in = std::max({in, size_t(l.hidden), size_t(l.o.in)});
    qkv = std::max(qkv, size_t(l.qkv.out));
    heads = std::max(heads, width);
    ffn = std::max(ffn, size_t(l.down.in));
    mine = std::max({mine, rows * std::max(l.o.out, l.down.out) * sizeof(float), tall * (l.ffn / GROUP) * BLOCK_RECORD});
    all = std::max({all, rows * l.o.in * sizeof(float), tall * (l.down.in / GROUP) * BLOCK_RECORD});
    dim = std::max(dim, size_t(l.head_dim));
    states = std::max(states, size_t(TILE + 1) * ROWS_OF_ATTENTION * l.heads);
  }
  const int hidden = layers[0].hidden;
  make_room(room, int(threads), PARTS_OF_LAYER * count + 1, 2 * (rows + ROWS), in, hidden);
  room.gated.least(rows, ffn);
  least(room.qkv, rows * qkv);
  least(room.heads, rows * heads);
  least(room.both, threads * ROWS_AT_A_GATE * 2 * GROUP);
  least(room.halves, threads * 2 * dim);
  least(room.own, threads * hidden);
  least(room.part, rows * hidden);
  least(room.states, threads * states);
  if (step.join) {
    least(room.mine, mine / sizeof(float));
    least(room.all, all / sizeof(float));
  }
  room.broken = 0;
  if (step.adapter_of) {
    room.held_width = std::max(heads, ffn) + step.most_rank;
    least(room.held, threads * room.held_width);
    least(room.low, std::max(rows, threads) * step.most_rank);
  }
  pool.run(together, [&](int thread) {
    Walk walk{pool, kernels, room, step, thread, pool.running()};
    float* its = walk.own(x, hidden);
    if (its != x) std::memcpy(its, x, hidden * sizeof(float));
    for (int i = 0; i < count; i++)
      if (!walk.layer(layers[i], i ? &layers[i - 1] : nullptr, i, its, cos[i], sin[i])) return;
    walk.each_row([&](int row) {
      walk.leave(its + size_t(row) * hidden, room.part.data(), row, layers[count - 1], count - 1, DOWN);
    });
    if (its != x && thread == 0) std::memcpy(x, its, hidden * sizeof(float));
  });
  return !room.broken;
}

void project(Pool& pool, const Kernels& kernels, Room& room, const Linear& w, const float* norm, float eps,
             const float* x, int rows, float* out, bool together) {
  make_room(room, pool.threads(), 2, rows, w.in, w.in);
  Step step{};
  step.rows = rows;
  pool.run(together, [&](int thread) {
    Walk walk{pool, kernels, room, step, thread, pool.running()};
    walk.each_row([&](int row) {
      const float* of = x + size_t(row) * w.in;
      if (norm) {
        float* normed = room.norms.data() + size_t(thread) * w.in;
        kernels.rms_norm(of, norm, eps, w.in, normed);
        of = normed;
      }
      walk.quantize(of, row, w.in);
    });
    walk.linear(w, walk.entered(w.in), rows, out);
  });
}

}  // namespace argosy
