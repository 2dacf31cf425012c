#include "forward.h"

#include <algorithm>
#include <cstring>

namespace argosy {
namespace {

constexpr int ROWS_OF_ATTENTION = 8;  // rows that walk over the cache together: their state stays in the nearest cache
constexpr int ROWS_AT_A_GATE = 64;  // rows of a block of gate and up that are held at once; a multiple of ROWS
constexpr int PARTS_OF_LAYER = 9;  // calls of `shared` in `layer` at most

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

  // All rows. A single one is done by every thread for itself, with the same bits: sooner than they could meet.
  template <typename Do>
  void each_row(const Do& each) {
    if (alone()) return each(0);
    shared(step.rows, each);
  }

  bool alone() const { return step.rows == 1; }

  // ranges of 0 .. count - 1, some for each thread
  template <typename Do>
  void ranges(int count, const Do& each) {
    const int pieces = std::min(count, threads == 1 ? 1 : 8 * threads);
    shared(pieces, [&](int i) { each(int(int64_t(count) * i / pieces), int(int64_t(count) * (i + 1) / pieces)); });
  }

  // what `each_row` quantizes: of a single row every thread has its own
  Quantized entered(int in) { return room.in.all().from(alone() ? Quantized::place(ROWS * thread, 0, in / GROUP) : 0); }
  float* own(float* x, int hidden) { return alone() ? room.own.data() + size_t(thread) * hidden : x; }

  void quantize(const float* x, int row, int in) {
    k.quantize(x, in, entered(in).from(Quantized::place(row, 0, in / GROUP)));
  }

  void linear(const Linear& w, const Quantized& x, int rows, float* out) {
    ranges(w.out / TILE, [&](int from, int to) { k.linear(w, x, rows, from, to - from, out + TILE * from, w.out); });
  }

  // what the row's adapter adds to a linear of layer `layer`; null: nothing
  const LowRank* low_rank(int row, int layer, Adapted linear) const {
    if (!step.adapter_of || step.adapter_of[row] < 0) return nullptr;
    const LowRank* found = step.adapters[step.adapter_of[row]] + layer * LINEARS + linear;
    return found->rank ? found : nullptr;
  }

  // what it makes of what goes into qkv, or into gate and up
  float* low_of(int row) { return room.low.data() + size_t(alone() ? thread : row) * step.most_rank; }

  // adds to outputs of a part of a linear, which is `width` wide: `count` of them from `begin` on
  void widen(const LowRank& a, int part, const float* t, int width, int begin, int count, float* out) {
    if (a.up[part]) k.widen(a.up[part] + begin, size_t(width), a.ranks[part], t + a.first[part], count, out);
  }

  // a row of x += what `linear` of layer `layer` has made of its `in` inputs, and what the row's adapter adds to that
  void leave(float* x, const float* part, int row, int hidden, int layer, Adapted linear, int in) {
    k.add(x, part + size_t(row) * hidden, hidden);
    const LowRank* a = low_rank(row, layer, linear);
    if (!a) return;
    float *held = room.held.data() + size_t(thread) * room.held_width, *t = held + in;
    const float* from = held;
    if (linear == O)
      from = room.heads.data() + size_t(row) * in;
    else  // this goes nowhere in floats: it is what the linear itself reads
      k.held(in, room.gated.all().from(Quantized::place(row, 0, in / GROUP)), held);
    k.narrow(a->down, a->rank, from, in, t);
    widen(*a, 0, t, hidden, 0, hidden, x);
  }

  // gate and up of a block at a time, and at once to what `down` reads: neither goes through memory in floats
  void gated(const Linear& gate_up, int ffn, int rows, int layer) {
    constexpr int TILES = GROUP / TILE;
    float* both = room.both.data() + size_t(thread) * ROWS_AT_A_GATE * 2 * GROUP;
    ranges(ffn / GROUP, [&](int from, int to) {
      for (int block = from; block < to; block++)
        for (int row = 0; row < rows; row += ROWS_AT_A_GATE) {
          const int count = std::min(ROWS_AT_A_GATE, rows - row);
          const Quantized x = entered(gate_up.in).from(Quantized::place(row, 0, gate_up.in / GROUP));
          k.linear(gate_up, x, count, TILES * block, TILES, both, 2 * GROUP);
          k.linear(gate_up, x, count, TILES * block + ffn / TILE, TILES, both + GROUP, 2 * GROUP);
          for (int i = 0; step.adapter_of && i < count; i++)
            if (const LowRank* a = low_rank(row + i, layer, GATE_UP))
              for (int part = 0; part < 2; part++)
                widen(*a, part, low_of(row + i), ffn, GROUP * block, GROUP, both + (2 * i + part) * GROUP);
          k.gate(both, count, block, ffn / GROUP, room.gated.all().from(Quantized::place(row, 0, ffn / GROUP)));
        }
    });
  }

  // x += part (where there is one), then norm and quantization of what the linear `next` of layer `layer` reads. For
  // qkv what the 8 bits leave is quantized too, as a further row behind all of them. `in`: of the linear that made `part`.
  void enter(float* x, const float* part, const float* norm, float eps, int hidden, int layer, Adapted next, int in) {
    const bool twice = next == QKV;
    each_row([&](int row) {
      float* of = x + size_t(row) * hidden;
      if (part) leave(of, part, row, hidden, twice ? layer - 1 : layer, twice ? DOWN : O, in);
      float* normed = room.norms.data() + size_t(thread) * hidden;
      k.rms_norm(of, norm, eps, hidden, normed);
      if (const LowRank* a = low_rank(row, layer, next)) k.narrow(a->down, a->rank, normed, hidden, low_of(row));
      quantize(normed, row, hidden);
      if (!twice) return;
      k.remainder(normed, hidden, entered(hidden).from(Quantized::place(row, 0, hidden / GROUP)));
      quantize(normed, step.rows + row, hidden);
    });
  }

  // x: the rows, or this thread's own of a single one. `in`: what the last linear of the layer before has read.
  void layer(const Layer& l, int number, float* x, const float* part, int in, const float* cos, const float* sin) {
    // A few channels are much larger than the others here: with 8 bits alone these would lose most, and the model most
    // of all that its activations lose (docs/cpu.md).
    enter(x, part, l.attn_norm, l.eps, l.hidden, number, QKV, in);
    Linear qkv = l.qkv;
    qkv.bias = nullptr;
    linear(qkv, entered(l.hidden), 2 * step.rows, room.qkv.data());
    if (step.slices == step.rows) {  // nobody reads what another row writes
      shared(step.rows * l.kv_heads, [&](int i) {
        const int row = i / l.kv_heads, head = i % l.kv_heads;
        turn(l, number, row, head, cos, sin);
        attend(l, row, row, row + 1, head);
      });
    } else {
      shared(step.rows, [&](int row) {
        for (int head = 0; head < l.kv_heads; head++) turn(l, number, row, head, cos, sin);
      });
      attention(l);
    }
    const int width = l.heads * l.head_dim;
    if (!by_head(l)) shared(step.rows, [&](int row) { heads_of(l, row, 0, width); });
    linear(l.o, room.in.all(), step.rows, room.part.data());
    enter(x, room.part.data(), l.mlp_norm, l.eps, l.hidden, number, GATE_UP, width);
    gated(l.gate_up, l.ffn, step.rows, number);
    linear(l.down, room.gated.all(), step.rows, room.part.data());
  }

  // Queries, key and value of one kv head of a row: both terms together, at their position; key and value to the cache.
  void turn(const Layer& l, int number, int row, int head, const float* cos, const float* sin) {
    const int dim = l.head_dim, group = l.heads / l.kv_heads, half = l.rotary / 2;
    const int widths[] = {l.heads * dim, l.kv_heads * dim, l.kv_heads * dim};
    const LowRank* a = low_rank(row, number, QKV);
    const size_t stride = l.qkv.out;
    float* of = room.qkv.data() + row * stride;
    auto whole = [&](int part, int begin, int first, int count) {
      k.add(of + first, of + step.rows * stride + first, count);
      if (l.qkv.bias) k.add(of + first, l.qkv.bias + first, count);
      if (a) widen(*a, part, low_of(row), widths[part], begin, count, of + first);
      for (int i = first; part < 2 && i < first + count; i += dim) {
        if (half) k.rotate(of + i, cos + size_t(row) * half, sin + size_t(row) * half, half);
        if (l.cache_bits == 8) k.spread(of + i, dim);
      }
    };
    const int keys = (l.heads + head) * dim, values = keys + l.kv_heads * dim;
    whole(0, head * group * dim, head * group * dim, group * dim);
    whole(1, head * dim, keys, dim);
    whole(2, head * dim, values, dim);
    store(l, step.slots[row], head, of + keys, of + values);
  }

  void store(const Layer& l, int slot, int head, const float* key, const float* value) {
    const int dim = l.head_dim, size = step.block_size;
    if (l.cache_bits == 32) return store_as(l, slot, head, key, value);
    uint16_t* halves = room.halves.data() + size_t(thread) * 2 * dim;
    if (l.cache_bits == 8) {
      auto* codes = reinterpret_cast<int8_t*>(halves);
      float* scales = l.scales + (size_t(slot / size) * 2 * l.kv_heads + head) * size + slot % size;
      scales[0] = k.code(key, dim, codes);
      scales[l.kv_heads * size] = k.code(value, dim, codes + dim);
      return store_as(l, slot, head, codes, codes + dim);
    }
    k.halve(key, dim, halves);
    k.halve(value, dim, halves + dim);
    store_as(l, slot, head, halves, halves + dim);
  }

  template <typename T>
  void store_as(const Layer& l, int slot, int head, const T* key, const T* value) {
    const int size = step.block_size, dim = l.head_dim, within = slot % size, place = within % TILE;
    T* block = static_cast<T*>(l.cache) + (size_t(slot / size) * 2 * l.kv_heads + head) * dim * size;
    T* tile = block + size_t(within - place) * dim + place;
    for (int i = 0; i < dim; i++) tile[TILE * i] = key[i];
    std::memcpy(block + size_t(l.kv_heads) * dim * size + size_t(within) * dim, value, dim * sizeof(T));
  }

  void attention(const Layer& l) {
    int tasks = 0;
    for (int s = 0; s < step.slices; s++)
      tasks += (step.cu_rows[s + 1] - step.cu_rows[s] + ROWS_OF_ATTENTION - 1) / ROWS_OF_ATTENTION;
    shared(tasks * l.kv_heads, [&](int i) {
      int task = i / l.kv_heads, slice = 0;
      for (;; slice++) {
        const int here = (step.cu_rows[slice + 1] - step.cu_rows[slice] + ROWS_OF_ATTENTION - 1) / ROWS_OF_ATTENTION;
        if (task < here) break;
        task -= here;
      }
      const int first = step.cu_rows[slice] + task * ROWS_OF_ATTENTION;
      attend(l, slice, first, std::min(first + ROWS_OF_ATTENTION, step.cu_rows[slice + 1]), i % l.kv_heads);
    });
  }

  // One kv head of some rows of a slice, and where whole blocks belong to it, what `o` reads of it.
  void attend(const Layer& l, int slice, int first, int last, int head) {
    const int width = l.heads * l.head_dim, its = width / l.kv_heads;
    float* states = room.states.data() + size_t(thread) * (TILE + 1) * ROWS_OF_ATTENTION * l.heads;
    k.attend(l, step, slice, first, last, head, room.qkv.data(), l.qkv.out, room.heads.data(), width, states);
    for (int row = first; by_head(l) && row < last; row++) heads_of(l, row, head * its, its);
  }

  static bool by_head(const Layer& l) { return l.heads / l.kv_heads * l.head_dim % GROUP == 0; }

  void heads_of(const Layer& l, int row, int first, int count) {
    const int width = l.heads * l.head_dim;
    const float* heads = room.heads.data() + size_t(row) * width + first;
    k.quantize(heads, count, room.in.all().from(Quantized::place(row, first / GROUP, width / GROUP)));
  }
};

template <typename T>
void least(std::vector<T>& v, size_t n) {
  if (v.size() < n) v.resize(n);
}

void make_room(Room& room, int threads, int parts, size_t rows, size_t in, size_t hidden) {
  room.in.least(std::max(rows, size_t(ROWS) * threads), in);  // a single row is quantized by each thread for itself
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
  size_t in = 0, qkv = 0, heads = 0, ffn = 0, dim = 0, states = 0;
  for (int i = 0; i < count; i++) {
    const Layer& l = layers[i];
    const size_t width = size_t(l.heads) * l.head_dim;
    in = std::max({in, size_t(l.hidden), width});
    qkv = std::max(qkv, size_t(l.qkv.out));
    heads = std::max(heads, width);
    ffn = std::max(ffn, size_t(l.ffn));
    dim = std::max(dim, size_t(l.head_dim));
    states = std::max(states, size_t(TILE + 1) * ROWS_OF_ATTENTION * l.heads);
  }
  const int hidden = layers[0].hidden;
  make_room(room, int(threads), PARTS_OF_LAYER * count + 1, 2 * rows, in, hidden);
  room.gated.least(rows, ffn);
  least(room.qkv, 2 * rows * qkv);
  least(room.heads, rows * heads);
  least(room.both, threads * ROWS_AT_A_GATE * 2 * GROUP);
  least(room.halves, threads * 2 * dim);
  least(room.own, threads * hidden);
  least(room.part, rows * hidden);
  least(room.states, threads * states);
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
      walk.layer(layers[i], i, its, i ? room.part.data() : nullptr, i ? layers[i - 1].ffn : 0, cos[i], sin[i]);
    walk.each_row([&](int row) {
      walk.leave(its + size_t(row) * hidden, room.part.data(), row, hidden, count - 1, DOWN, layers[count - 1].ffn);
    });
    if (its != x && thread == 0) std::memcpy(x, its, hidden * sizeof(float));
  });
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
