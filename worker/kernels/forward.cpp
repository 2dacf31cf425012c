#include "forward.h"

#include <algorithm>
#include <cstring>

namespace argosy {
namespace {

constexpr int ROWS_OF_ATTENTION = 8;  // rows that walk over the cache together: their state stays in the nearest cache
constexpr int PARTS_OF_LAYER = 10;  // calls of `shared` in `layer`
constexpr int WIDE = 512;  // numbers of a row that are gated and quantized at a time

// One step on one thread: every thread runs this, and they meet at the barriers.
struct Walk {
  Pool& pool;
  const Kernels& k;
  Room& room;
  const Step& step;
  int thread, threads;
  int part = 0;

  template <typename Do>
  void shared(int count, const Do& each) {  // pieces 0 .. count - 1, whoever comes first
    if (threads == 1) {
      for (int i = 0; i < count; i++) each(i);
      return;
    }
    Pieces& pieces = room.pieces[part++];
    for (int i; (i = pieces.next.fetch_add(1, std::memory_order_relaxed)) < count;) each(i);
    pool.barrier();
  }

  void quantize(const float* x, int row, int in, int from, int n) {
    k.quantize(x, n, room.quantized().from(Quantized::place(row, from / GROUP, in / GROUP)));
  }

  void linear(const Linear& w, int rows, float* out) {
    const int tiles = w.out / TILE, pieces = std::min(tiles, threads == 1 ? 1 : 8 * threads);
    const Quantized x = room.quantized();
    shared(pieces, [&](int i) {
      const int from = int(int64_t(tiles) * i / pieces), to = int(int64_t(tiles) * (i + 1) / pieces);
      k.linear(w, x, rows, from, to - from, out, w.out);
    });
  }

  // x += part (where there is one), then norm and quantization of what the next linear reads
  void enter(float* x, const float* part, const float* norm, float eps, int hidden) {
    shared(step.rows, [&](int row) {
      float* of = x + size_t(row) * hidden;
      if (part) k.add(of, part + size_t(row) * hidden, hidden);
      float* normed = room.norms.data() + size_t(thread) * hidden;
      k.rms_norm(of, norm, eps, hidden, normed);
      quantize(normed, row, hidden, 0, hidden);
    });
  }

  void layer(const Layer& l, float* x, const float* part, const float* cos, const float* sin) {
    const int rows = step.rows, dim = l.head_dim, width = l.heads * dim, kv = l.kv_heads * dim;
    const size_t stride = size_t(l.qkv.out);
    enter(x, part, l.attn_norm, l.eps, l.hidden);
    linear(l.qkv, rows, room.qkv.data());
    shared(rows, [&](int row) {
      float* of = room.qkv.data() + row * stride;
      const int half = l.rotary / 2;
      if (half)
        for (int head = 0; head < l.heads + l.kv_heads; head++)
          k.rotate(of + head * dim, cos + size_t(row) * half, sin + size_t(row) * half, half);
      store(l, step.slots[row], of + width, of + width + kv);
    });
    attention(l, stride);
    shared(rows, [&](int row) { quantize(room.heads.data() + size_t(row) * width, row, width, 0, width); });
    linear(l.o, rows, room.part.data());
    enter(x, room.part.data(), l.mlp_norm, l.eps, l.hidden);
    linear(l.gate_up, rows, room.gate_up.data());
    const int parts = (l.ffn + WIDE - 1) / WIDE;
    shared(rows * parts, [&](int i) {
      const int row = i / parts, from = i % parts * WIDE, n = std::min(WIDE, l.ffn - from);
      const float* gate = room.gate_up.data() + size_t(row) * 2 * l.ffn + from;
      float* wide = room.wide.data() + size_t(thread) * WIDE;
      k.silu_times(gate, gate + l.ffn, n, wide);
      quantize(wide, row, l.ffn, from, n);
    });
    linear(l.down, rows, room.part.data());
  }

  // keys and values [kv_heads, head_dim] of one row
  void store(const Layer& l, int slot, const float* keys, const float* values) {
    const int size = step.block_size, dim = l.head_dim, within = slot % size, place = within % TILE;
    float* block = l.cache + size_t(slot / size) * 2 * l.kv_heads * dim * size;
    float* behind = block + size_t(l.kv_heads) * dim * size;
    for (int head = 0; head < l.kv_heads; head++, keys += dim, values += dim) {
      float* tile = block + (size_t(head) * size + within - place) * dim + place;
      for (int i = 0; i < dim; i++) tile[TILE * i] = keys[i];
      std::memcpy(behind + (size_t(head) * size + within) * dim, values, dim * sizeof(float));
    }
  }

  void attention(const Layer& l, size_t stride) {
    const int width = l.heads * l.head_dim;
    int tasks = 0;
    for (int s = 0; s < step.slices; s++)
      tasks += (step.cu_rows[s + 1] - step.cu_rows[s] + ROWS_OF_ATTENTION - 1) / ROWS_OF_ATTENTION;
    float* states = room.states.data() + size_t(thread) * (TILE + 1) * ROWS_OF_ATTENTION * l.heads;
    shared(tasks * l.kv_heads, [&](int i) {
      int task = i / l.kv_heads, slice = 0;
      for (;; slice++) {
        const int here = (step.cu_rows[slice + 1] - step.cu_rows[slice] + ROWS_OF_ATTENTION - 1) / ROWS_OF_ATTENTION;
        if (task < here) break;
        task -= here;
      }
      const int first = step.cu_rows[slice] + task * ROWS_OF_ATTENTION;
      const int last = std::min(first + ROWS_OF_ATTENTION, step.cu_rows[slice + 1]);
      k.attend(l, step, slice, first, last, i % l.kv_heads, room.qkv.data(), stride, room.heads.data(), width, states);
    });
  }
};

void make_room(Room& room, int threads, int parts, size_t rows, size_t in, size_t hidden) {
  auto least = [](auto& v, size_t n) {
    if (v.size() < n) v.resize(n);
  };
  const size_t places = (rows + ROWS - 1) / ROWS * ROWS * (in / GROUP);
  least(room.q, places * GROUP);
  least(room.d, places);
  least(room.sum, places);
  least(room.raw, places);
  least(room.norms, threads * hidden);
  if (room.pieces_count < parts) {
    room.pieces = std::make_unique<Pieces[]>(parts);
    room.pieces_count = parts;
  }
  for (int i = 0; i < parts; i++) room.pieces[i].next.store(0, std::memory_order_relaxed);
}

}  // namespace

void forward(Pool& pool, const Kernels& kernels, Room& room, const Layer* layers, int count, const Step& step,
             const float* const* cos, const float* const* sin, float* x, bool together) {
  const size_t rows = step.rows, threads = pool.threads();
  size_t in = 0, qkv = 0, heads = 0, gate_up = 0;
  for (int i = 0; i < count; i++) {
    const Layer& l = layers[i];
    in = std::max({in, size_t(l.hidden), size_t(l.heads) * l.head_dim, size_t(l.ffn)});
    qkv = std::max(qkv, size_t(l.qkv.out));
    heads = std::max(heads, size_t(l.heads) * l.head_dim);
    gate_up = std::max(gate_up, size_t(2) * l.ffn);
    room.states.resize(std::max(room.states.size(), threads * (TILE + 1) * ROWS_OF_ATTENTION * l.heads));
  }
  const int hidden = layers[0].hidden;
  make_room(room, int(threads), PARTS_OF_LAYER * count + 1, rows, in, hidden);
  auto least = [](std::vector<float>& v, size_t n) {
    if (v.size() < n) v.resize(n);
  };
  least(room.qkv, rows * qkv);
  least(room.heads, rows * heads);
  least(room.gate_up, rows * gate_up);
  least(room.wide, threads * WIDE);
  least(room.part, rows * hidden);
  pool.run(together, [&](int thread) {
    Walk walk{pool, kernels, room, step, thread, pool.running()};
    for (int i = 0; i < count; i++) walk.layer(layers[i], x, i ? room.part.data() : nullptr, cos[i], sin[i]);
    walk.shared(step.rows, [&](int row) { kernels.add(x + size_t(row) * hidden, room.part.data() + size_t(row) * hidden, hidden); });
  });
}

void project(Pool& pool, const Kernels& kernels, Room& room, const Linear& w, const float* norm, float eps,
             const float* x, int rows, float* out, bool together) {
  make_room(room, pool.threads(), 2, rows, w.in, w.in);
  Step step{};
  step.rows = rows;
  pool.run(together, [&](int thread) {
    Walk walk{pool, kernels, room, step, thread, pool.running()};
    walk.shared(rows, [&](int row) {
      const float* of = x + size_t(row) * w.in;
      if (norm) {
        float* normed = room.norms.data() + size_t(thread) * w.in;
        kernels.rms_norm(of, norm, eps, w.in, normed);
        of = normed;
      }
      walk.quantize(of, row, w.in, 0, w.in);
    });
    walk.linear(w, rows, out);
  });
}

}  // namespace argosy
