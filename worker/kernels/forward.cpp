#include "forward.h"

#include <algorithm>
#include <cstring>

namespace argosy {
namespace {

constexpr int ROWS_OF_ATTENTION = 8;  // rows that walk over the cache together: their state stays in the nearest cache
constexpr int ROWS_AT_A_GATE = 64;  // rows of a block of gate and up that are held at once; a multiple of ROWS
constexpr int PARTS_OF_LAYER = 9;  // calls of `shared` in `layer`

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

  // ranges of 0 .. count - 1, some for each thread
  template <typename Do>
  void ranges(int count, const Do& each) {
    const int pieces = std::min(count, threads == 1 ? 1 : 8 * threads);
    shared(pieces, [&](int i) { each(int(int64_t(count) * i / pieces), int(int64_t(count) * (i + 1) / pieces)); });
  }

  void quantize(const float* x, int row, int in) {
    k.quantize(x, in, room.in.all().from(Quantized::place(row, 0, in / GROUP)));
  }

  void linear(const Linear& w, const Quantized& x, int rows, float* out) {
    ranges(w.out / TILE, [&](int from, int to) { k.linear(w, x, rows, from, to - from, out + TILE * from, w.out); });
  }

  // gate and up of a block at a time, and at once to what `down` reads: neither goes through memory in floats
  void gated(const Linear& gate_up, int ffn, int rows) {
    constexpr int TILES = GROUP / TILE;
    float* both = room.both.data() + size_t(thread) * ROWS_AT_A_GATE * 2 * GROUP;
    ranges(ffn / GROUP, [&](int from, int to) {
      for (int block = from; block < to; block++)
        for (int row = 0; row < rows; row += ROWS_AT_A_GATE) {
          const int count = std::min(ROWS_AT_A_GATE, rows - row);
          const Quantized x = room.in.all().from(Quantized::place(row, 0, gate_up.in / GROUP));
          k.linear(gate_up, x, count, TILES * block, TILES, both, 2 * GROUP);
          k.linear(gate_up, x, count, TILES * block + ffn / TILE, TILES, both + GROUP, 2 * GROUP);
          k.gate(both, count, block, ffn / GROUP, room.gated.all().from(Quantized::place(row, 0, ffn / GROUP)));
        }
    });
  }

  // x += part (where there is one), then norm and quantization of what the next linear reads. `twice`: what the 8 bits
  // leave is quantized too, as a further row behind all of them.
  void enter(float* x, const float* part, const float* norm, float eps, int hidden, bool twice) {
    shared(step.rows, [&](int row) {
      float* of = x + size_t(row) * hidden;
      if (part) k.add(of, part + size_t(row) * hidden, hidden);
      float* normed = room.norms.data() + size_t(thread) * hidden;
      k.rms_norm(of, norm, eps, hidden, normed);
      quantize(normed, row, hidden);
      if (!twice) return;
      k.remainder(normed, hidden, room.in.all().from(Quantized::place(row, 0, hidden / GROUP)));
      quantize(normed, step.rows + row, hidden);
    });
  }

  void layer(const Layer& l, float* x, const float* part, const float* cos, const float* sin) {
    const int rows = step.rows, dim = l.head_dim, width = l.heads * dim, kv = l.kv_heads * dim;
    const size_t stride = size_t(l.qkv.out);
    // A few channels are much larger than the others here: with 8 bits alone these would lose most, and the model most
    // of all that its activations lose (docs/cpu.md).
    enter(x, part, l.attn_norm, l.eps, l.hidden, true);
    Linear qkv = l.qkv;
    qkv.bias = nullptr;
    linear(qkv, room.in.all(), 2 * rows, room.qkv.data());
    shared(rows, [&](int row) {
      float* of = room.qkv.data() + row * stride;
      k.add(of, of + rows * stride, int(stride));
      if (l.qkv.bias) k.add(of, l.qkv.bias, int(stride));
      const int half = l.rotary / 2;
      if (half)
        for (int head = 0; head < l.heads + l.kv_heads; head++)
          k.rotate(of + head * dim, cos + size_t(row) * half, sin + size_t(row) * half, half);
      if (l.cache_bits == 8)
        for (int head = 0; head < l.heads + l.kv_heads; head++) k.spread(of + head * dim, dim);
      store(l, step.slots[row], of + width, of + width + kv);
    });
    attention(l, stride);
    shared(rows, [&](int row) { quantize(room.heads.data() + size_t(row) * width, row, width); });
    linear(l.o, room.in.all(), rows, room.part.data());
    enter(x, room.part.data(), l.mlp_norm, l.eps, l.hidden, false);
    gated(l.gate_up, l.ffn, rows);
    linear(l.down, room.gated.all(), rows, room.part.data());
  }

  // keys and values [kv_heads, head_dim] of one row
  void store(const Layer& l, int slot, const float* keys, const float* values) {
    if (l.cache_bits == 32) return store_as(l, slot, keys, values);
    const int count = l.kv_heads * l.head_dim;
    uint16_t* halves = room.halves.data() + size_t(thread) * 2 * count;
    if (l.cache_bits == 8) {
      auto* codes = reinterpret_cast<int8_t*>(halves);
      const int size = step.block_size, all = l.kv_heads * size;
      float* scales = l.scales + size_t(slot / size) * 2 * all + slot % size;
      for (int head = 0; head < l.kv_heads; head++) {
        const int at = head * l.head_dim;
        scales[head * size] = k.code(keys + at, l.head_dim, codes + at);
        scales[all + head * size] = k.code(values + at, l.head_dim, codes + count + at);
      }
      return store_as(l, slot, codes, codes + count);
    }
    k.halve(keys, count, halves);
    k.halve(values, count, halves + count);
    store_as(l, slot, halves, halves + count);
  }

  template <typename T>
  void store_as(const Layer& l, int slot, const T* keys, const T* values) {
    const int size = step.block_size, dim = l.head_dim, within = slot % size, place = within % TILE;
    T* block = static_cast<T*>(l.cache) + size_t(slot / size) * 2 * l.kv_heads * dim * size;
    T* behind = block + size_t(l.kv_heads) * dim * size;
    for (int head = 0; head < l.kv_heads; head++, keys += dim, values += dim) {
      T* tile = block + (size_t(head) * size + within - place) * dim + place;
      for (int i = 0; i < dim; i++) tile[TILE * i] = keys[i];
      std::memcpy(behind + (size_t(head) * size + within) * dim, values, dim * sizeof(T));
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

template <typename T>
void least(std::vector<T>& v, size_t n) {
  if (v.size() < n) v.resize(n);
}

void make_room(Room& room, int threads, int parts, size_t rows, size_t in, size_t hidden) {
  room.in.least(rows, in);
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

void forward(Pool& pool, const Kernels& kernels, Room& room, const Layer* layers, int count, const Step& step,
             const float* const* cos, const float* const* sin, float* x, bool together) {
  const size_t rows = step.rows, threads = pool.threads();
  size_t in = 0, qkv = 0, heads = 0, ffn = 0, kv = 0, states = 0;
  for (int i = 0; i < count; i++) {
    const Layer& l = layers[i];
    const size_t width = size_t(l.heads) * l.head_dim;
    in = std::max({in, size_t(l.hidden), width});
    qkv = std::max(qkv, size_t(l.qkv.out));
    heads = std::max(heads, width);
    ffn = std::max(ffn, size_t(l.ffn));
    kv = std::max(kv, size_t(l.kv_heads) * l.head_dim);
    states = std::max(states, size_t(TILE + 1) * ROWS_OF_ATTENTION * l.heads);
  }
  const int hidden = layers[0].hidden;
  make_room(room, int(threads), PARTS_OF_LAYER * count + 1, 2 * rows, in, hidden);
  room.gated.least(rows, ffn);
  least(room.qkv, 2 * rows * qkv);
  least(room.heads, rows * heads);
  least(room.both, threads * ROWS_AT_A_GATE * 2 * GROUP);
  least(room.halves, threads * 2 * kv);
  least(room.part, rows * hidden);
  least(room.states, threads * states);
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
      walk.quantize(of, row, w.in);
    });
    walk.linear(w, room.in.all(), rows, out);
  });
}

}  // namespace argosy
