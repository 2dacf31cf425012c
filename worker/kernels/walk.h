// One step on one thread: the parts of layers, and where threads meet between them.
#pragma once
#include <algorithm>
#include <cstring>

#include "forward.h"

namespace argosy {
namespace {

constexpr int ROWS_OF_ATTENTION = 8;  // rows that walk over the cache together: their state stays in the nearest cache
constexpr int ROWS_AT_A_GATE = 64;  // rows of a block of gate and up that are held at once; a multiple of ROWS
constexpr int PARTS_OF_LAYER = 12;  // calls of `shared` in `layer` at most

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

  // Ranges of 0 .. count - 1: half a thread's share of what is left at a time, so that memory is read in one direction for a
  // while, and nobody waits long for the last one.
  template <typename Do>
  void ranges(int count, const Do& each) {
    if (threads == 1) return each(0, count);
    std::atomic<int32_t>& next = room.pieces[part++].next;
    for (int from = next.load(std::memory_order_relaxed); from < count;) {
      const int to = from + std::max(1, (count - from) / (2 * threads));
      if (!next.compare_exchange_weak(from, to, std::memory_order_relaxed)) continue;
      each(from, to);
      from = next.load(std::memory_order_relaxed);
    }
    pool.barrier();
  }

  // what `each_row` quantizes: of a single row every thread has its own
  Quantized entered(int in) { return room.in.all().from(alone() ? Quantized::place(2 * ROWS * thread, 0, in / GROUP) : 0); }
  // what 8 bits leave of the rows lies behind them
  int behind() const { return (step.rows + ROWS - 1) / ROWS * ROWS; }
  float* own(float* x, int hidden) { return alone() ? room.own.data() + size_t(thread) * hidden : x; }

  void quantize(const float* x, int row, int in) {
    k.quantize(x, in, entered(in).from(Quantized::place(row, 0, in / GROUP)));
  }

  void linear(const Linear& w, const Quantized& x, int rows, float* out) {
    ranges(w.out / TILE, [&](int from, int to) { k.linear(w, x, rows, from, to - from, out + TILE * from, w.out); });
  }

  // What ranks have of rows, side by side; false where one of them is gone. All have come here from a meeting before.
  bool join(int number, Joined what, const void* mine, void* all) {
    if (thread == 0) room.broken = step.join(number, what, mine, all);
    pool.barrier();
    return !room.broken;
  }

  // A linear's outputs on all ranks: to `part`.
  bool whole(const Linear& w, const Quantized& x, int number, Joined what) {
    if (!step.join) return linear(w, x, step.rows, room.part.data()), true;
    linear(w, x, step.rows, room.mine.data());
    return join(number, what, room.mine.data(), room.part.data());
  }

  // Blocks of the gated part on all ranks: in records, so that those of a rank lie side by side.
  bool whole_gated(const Layer& l, int number) {
    constexpr int SCALES = ROWS * sizeof(float);
    const int tall = (step.rows + ROWS - 1) / ROWS;
    const auto record = [&](std::vector<float>& of, int i) { return reinterpret_cast<uint8_t*>(of.data()) + size_t(i) * BLOCK_RECORD; };
    ranges(tall * (l.ffn / GROUP), [&](int from, int to) {
      for (int i = from; i < to; i++) {
        const Quantized x = room.gated.all().from(size_t(i) * ROWS);
        uint8_t* out = record(room.mine, i);
        std::memcpy(out, x.q, ROWS * GROUP);
        std::memcpy(out + ROWS * GROUP, x.d, SCALES);
        std::memcpy(out + ROWS * GROUP + SCALES, x.sum, SCALES);
        std::memcpy(out + ROWS * GROUP + 2 * SCALES, x.raw, SCALES);
      }
    });
    if (!join(number, GATED, room.mine.data(), room.all.data())) return false;
    ranges(tall * (l.down.in / GROUP), [&](int from, int to) {
      for (int i = from; i < to; i++) {
        const Quantized x = room.gated.all().from(size_t(i) * ROWS);
        const uint8_t* in = record(room.all, i);
        std::memcpy(x.q, in, ROWS * GROUP);
        std::memcpy(x.d, in + ROWS * GROUP, SCALES);
        std::memcpy(x.sum, in + ROWS * GROUP + SCALES, SCALES);
        std::memcpy(x.raw, in + ROWS * GROUP + 2 * SCALES, SCALES);
      }
    });
    return true;
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

  // a row of x += what `linear` of layer `number` has made, and what the row's adapter adds to that: normed, and times the
  // layer's factor
  void leave(float* x, const float* part, int row, const Layer& l, int number, Adapted linear) {
    const int hidden = l.hidden, in = linear == O ? l.heads * l.head_dim : l.ffn;
    const float *made = part + size_t(row) * hidden, *norm = linear == O ? l.post_attn_norm : l.post_mlp_norm;
    const bool as_it_is = !norm && l.residual == 1;
    float* to = as_it_is ? x : room.norms.data() + size_t(thread) * hidden;
    if (as_it_is)
      k.add(x, made, hidden);
    else
      std::memcpy(to, made, hidden * sizeof(float));
    if (const LowRank* a = low_rank(row, number, linear)) {
      float *held = room.held.data() + size_t(thread) * room.held_width, *t = held + in;
      const float* from = held;
      if (linear == O)
        from = room.heads.data() + size_t(row) * in;
      else  // this goes nowhere in floats: it is what the linear itself reads
        k.held(in, room.gated.all().from(Quantized::place(row, 0, in / GROUP)), held);
      k.narrow(a->down, a->rank, from, in, t);
      widen(*a, 0, t, hidden, 0, hidden, to);
    }
    if (as_it_is) return;
    if (norm) k.rms_norm(to, norm, l.eps, hidden, to);
    for (int i = 0; l.residual != 1 && i < hidden; i++) to[i] *= l.residual;
    k.add(x, to, hidden);
  }

  // gate and up of a block at a time, and at once to what `down` reads: neither goes through memory in floats
  void gated(const Layer& l, int rows, int number) {
    constexpr int TILES = GROUP / TILE;
    const Linear& gate_up = l.gate_up;
    const int ffn = l.ffn;
    float* both = room.both.data() + size_t(thread) * ROWS_AT_A_GATE * 2 * GROUP;
    ranges(ffn / GROUP, [&](int from, int to) {
      for (int block = from; block < to; block++)
        for (int row = 0; row < rows; row += ROWS_AT_A_GATE) {
          const int count = std::min(ROWS_AT_A_GATE, rows - row);
          const Quantized x = entered(gate_up.in).from(Quantized::place(row, 0, gate_up.in / GROUP));
          k.linear(gate_up, x, count, TILES * block, TILES, both, 2 * GROUP);
          k.linear(gate_up, x, count, TILES * block + ffn / TILE, TILES, both + GROUP, 2 * GROUP);
          for (int i = 0; step.adapter_of && i < count; i++)
            if (const LowRank* a = low_rank(row + i, number, GATE_UP))
              for (int part = 0; part < 2; part++)
                widen(*a, part, low_of(row + i), ffn, GROUP * block, GROUP, both + (2 * i + part) * GROUP);
          const Quantized to = room.gated.all().from(Quantized::place(row, 0, ffn / GROUP));
          k.gate(both, count, block, ffn / GROUP, l.activation, to);
        }
    });
  }

  // x += part, which the attention has made, or the layer `before` (where there is one); then norm and quantization of what
  // the linear `next` reads. For qkv what the 8 bits leave is quantized too, as a further row behind all of them.
  void enter(float* x, const float* part, const Layer& l, const Layer* before, int number, Adapted next) {
    const bool twice = next == QKV;
    const int hidden = l.hidden;
    const float* norm = twice ? l.attn_norm : l.mlp_norm;
    each_row([&](int row) {
      float* of = x + size_t(row) * hidden;
      if (!twice)
        leave(of, part, row, l, number, O);
      else if (before)
        leave(of, part, row, *before, number - 1, DOWN);
      float* normed = room.norms.data() + size_t(thread) * hidden;
      if (norm)
        k.rms_norm(of, norm, l.eps, hidden, normed);
      else
        std::memcpy(normed, of, hidden * sizeof(float));
      if (const LowRank* a = low_rank(row, number, next)) k.narrow(a->down, a->rank, normed, hidden, low_of(row));
      quantize(normed, row, hidden);
      if (!twice) return;
      const auto place = [&](int of) { return entered(hidden).from(Quantized::place(of, 0, hidden / GROUP)); };
      k.quantize_rest(normed, hidden, place(row), place(behind() + row));
    });
  }

  // x: the rows, or this thread's own of a single one. False: another rank that shares the layer is gone.
  bool layer(const Layer& l, const Layer* before, int number, float* x, const float* cos, const float* sin) {
    // A few channels are much larger than the others here: with 8 bits alone these would lose most, and the model most
    // of all that its activations lose (docs/cpu.md).
    enter(x, room.part.data(), l, before, number, QKV);
    Linear qkv = l.qkv;
    qkv.bias = nullptr;
    const Quantized first = entered(l.hidden), second = first.from(Quantized::place(behind(), 0, l.hidden / GROUP));
    ranges(qkv.out / TILE, [&](int from, int to) {
      float* out = room.qkv.data() + TILE * from;
      k.linear(qkv, first, step.rows, from, to - from, out, qkv.out);
      k.linear_more(qkv, second, step.rows, from, to - from, out, qkv.out);
    });
    if (l.together) shared(step.rows, [&](int row) { norm_together(l, number, row); });
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
    if (step.join && !join(number, HEADS, room.heads.data(), room.all.data())) return false;
    if (!by_head(l)) shared(step.rows, [&](int row) { heads_of(l, row, 0, l.o.in); });
    if (!whole(l.o, room.in.all(), number, OF_O)) return false;
    enter(x, room.part.data(), l, nullptr, number, GATE_UP);
    gated(l, step.rows, number);
    if (step.join && !whole_gated(l, number)) return false;
    return whole(l.down, room.gated.all(), number, OF_DOWN);
  }

  float* qkv_of(const Layer& l, int row) { return room.qkv.data() + size_t(row) * l.qkv.out; }

  // `count` queries (part 0), keys (1) or values (2) of a row, from `begin` on: with the bias, and what the row's
  // adapter adds. Returns where they lie.
  float* gather(const Layer& l, int number, int row, int part, int begin, int count) {
    const int queries = l.heads * l.head_dim, keys = l.kv_heads * l.head_dim;
    const int first = (part == 0 ? 0 : queries + (part - 1) * keys) + begin;
    float* of = qkv_of(l, row) + first;
    if (l.qkv.bias) k.add(of, l.qkv.bias + first, count);
    if (const LowRank* a = low_rank(row, number, QKV)) widen(*a, part, low_of(row), part ? keys : queries, begin, count, of);
    return of;
  }

  // All of a row, where all queries, and all keys, have one norm.
  void norm_together(const Layer& l, int number, int row) {
    const int queries = l.heads * l.head_dim, keys = l.kv_heads * l.head_dim;
    float *q = gather(l, number, row, 0, 0, queries), *its = gather(l, number, row, 1, 0, keys);
    gather(l, number, row, 2, 0, keys);
    k.rms_norm(q, l.q_norm, l.eps, queries, q);
    k.rms_norm(its, l.k_norm, l.eps, keys, its);
  }

  // Queries, key and value of one kv head of a row, at their position; key and value to the cache.
  void turn(const Layer& l, int number, int row, int head, const float* cos, const float* sin) {
    const int dim = l.head_dim, group = l.heads / l.kv_heads, half = l.rotary / 2;
    const int counts[] = {group * dim, dim, dim};
    float* parts[] = {qkv_of(l, row), qkv_of(l, row) + l.heads * dim, qkv_of(l, row) + (l.heads + l.kv_heads) * dim};
    for (int part = 0; part < 3; part++) {
      parts[part] += head * counts[part];
      if (!l.together) gather(l, number, row, part, head * counts[part], counts[part]);
    }
    const size_t at = size_t(step.turns ? step.turns[row] : row) * half;
    for (int part = 0; part < 2; part++) {
      const float* norm = l.together ? nullptr : part ? l.k_norm : l.q_norm;
      for (float* x = parts[part]; x < parts[part] + counts[part]; x += dim) {
        if (norm) k.rms_norm(x, norm, l.eps, dim, x);
        if (half) k.rotate(x, cos + at, sin + at, half);
        if (l.cache_bits == 8) k.spread(x, dim);
      }
    }
    store(l, step.slots[row], head, parts[1], parts[2]);
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

  bool by_head(const Layer& l) const { return !step.join && l.heads / l.kv_heads * l.head_dim % GROUP == 0; }

  void heads_of(const Layer& l, int row, int first, int count) {
    const int width = l.o.in;
    const float* heads = (step.join ? room.all : room.heads).data() + size_t(row) * width + first;
    k.quantize(heads, count, room.in.all().from(Quantized::place(row, first / GROUP, width / GROUP)));
  }
};

}  // namespace
}  // namespace argosy
