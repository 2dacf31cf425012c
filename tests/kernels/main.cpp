// Tests of the native kernels through their C interface, for sanitizers and for processors that are emulated:
//   main LIBRARY [quick|full|quick-bits|full-bits] [part/parts] [only]     cases whose name begins with `only`
// Every instruction set of the processor, on one thread and on more, must give the bits of the portable one, which must be
// near the reference. Prints a line for each case, which is the same on every machine; fails with 1. `bits`: without the
// reference of layers, for an emulator, whose lines are held against those of a processor. `part/parts`, as 0/7: every
// seventh case from the first on, for programs side by side.
// Linears are tried in the whole product of their dimensions. Layers have seven of them, thousands of cases, each with all
// instruction sets: full has any three choices together in some case (any kind with any heads and any cache, any heads with
// any cache and any window, ...), quick any two.
#include "grid.h"
#include "sequences.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {

struct Tests {
  const Library& library;
  bool full, reference;
  std::string only;
  int part, parts;
  Engines engines;  // the first is portable, on one thread
  mutable int cases = 0;           // so far, of all parts
  mutable int rows = 0, exact = 0;  // of layers: compared with the reference, and found but for the last bits

  // Called once for each case.
  bool wanted(const std::string& name) const { return name.compare(0, only.size(), only) == 0 && cases++ % parts == part; }
};

Floats part(const Floats& x, int first, int count, int width) {
  return Floats(x.begin() + ptrdiff_t(first) * width, x.begin() + ptrdiff_t(first + count) * width);
}

Floats product_of(const Engine& engine, const Weights& w, const Floats& x, int rows, const Floats& norm) {
  Floats out(size_t(rows) * w.out, std::nanf(""));
  const Linear linear = w.linear();
  const int failed = engine.library.project(engine.handle, &linear, norm.empty() ? nullptr : norm.data(), EPS, x.data(), rows, out.data(), engine.threads > 1);
  check(!failed, engine.name, "no memory");
  return out;
}

double distance(const Floats& found, const Doubles& expected, const Floats& from) {  // of what was added to `from`
  double off = 0, size = 0;
  for (size_t i = 0; i < found.size(); i++) {
    off += std::pow(double(found[i]) - expected[i], 2);
    size += std::pow(expected[i] - double(from[i]), 2);
  }
  return std::sqrt(off / size);
}

void linear(const Tests& tests, int bits, int in, int out, int rows, bool bias, bool norm, int scale_bits = 16) {
  const std::string name = "linear " + std::to_string(bits) + " bits " + std::to_string(in) + "x" + std::to_string(out) + " rows " +
                           std::to_string(rows) + (bias ? " bias" : "") + (norm ? " norm" : "") + (scale_bits == 32 ? " fine scales" : "");
  if (!tests.wanted(name)) return;
  Random random(uint64_t(bits) * 1000003 + in * 1009 + out * 31 + rows);
  const Weights w = weights(random, in, out, bits, bias, scale_bits);
  const Floats x = numbers(random, size_t(rows) * in), by = norm ? numbers(random, in) : Floats();
  Floats first;
  for (const auto& engine : tests.engines) {
    const Floats found = product_of(*engine, w, x, rows, by);
    if (first.empty()) first = found;
    check(same(found, first), name + " " + engine->name, "not the bits of the portable kernels");
    for (int begin = 0, count = 1; begin < rows; begin += count++) {  // 1, 2, 3 ... rows at a time
      count = std::min(count, rows - begin);
      check(same(product_of(*engine, w, part(x, begin, count, in), count, by), part(found, begin, count, out)), name + " " + engine->name, "rows depend on their company");
    }
  }
  for (int row = 0; row < rows; row++) {
    const Doubles given(x.begin() + ptrdiff_t(row) * in, x.begin() + ptrdiff_t(row + 1) * in);
    Doubles sizes;
    const Doubles expected = product(w, norm ? normed(given, by, EPS) : given, &sizes);
    for (int o = 0; o < out; o++)  // after a norm, which is not to the bit that of the reference, a number may be rounded the other way
      check(std::fabs(first[size_t(row) * out + o] - expected[o]) <= (norm ? 1e-2 : 2e-6) * sizes[o], name, "not what the reference has");
  }
  digest(name, first);
}

void layers(const Tests& tests, const Shape& s) {
  std::string name = "layers " + std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " heads of " + std::to_string(s.head_dim) +
                     " turned " + std::to_string(s.rotary) + " window " + std::to_string(s.window) + " cache " + std::to_string(s.cache_bits) +
                     " blocks of " + std::to_string(s.block_size) + " weights " + std::to_string(s.bits) +
                     (s.before ? "" : " norms not before") + (s.behind ? " norms behind" : "") + (s.qk == 1 ? " norms of heads" : s.qk ? " norms of all heads" : "") +
                     (s.activation ? " gelu" : "") + (s.softcap != 0 ? " soft-cap" : "") + (s.residual != 1 ? " factor" : "");
  if (!tests.wanted(name)) return;
  Random random(uint64_t(s.heads) * 7919 + s.head_dim * 31 + s.window + s.cache_bits + s.block_size + s.bits);
  const Model model(random, s);
  constexpr int ROWS = 37, BLOCKS = 8;
  Floats x = numbers(random, size_t(ROWS) * s.hidden);
  const Floats before = numbers(random, size_t(5) * s.hidden);
  for (int row = 0; row < ROWS; row++)  // a channel that is larger than others: of another block in some rows, and in some of none
    if (row % 10) x[size_t(row) * s.hidden + (row < 20 ? 3 : 50)] *= 20;
  const std::vector<int32_t> table = {5, 1, 4}, others = {0, 7}, again = {2, 6, 3};
  Floats first;
  for (const auto& engine : tests.engines) {
    Cache cache(s, BLOCKS);
    const Floats whole = run(*engine, model, cache, x, {{0, ROWS, table}});
    if (first.empty()) first = whole;
    check(same(whole, first), name + " " + engine->name, "not the bits of the portable kernels");
    Cache cut(s, BLOCKS);
    for (int begin = 0, count = 1; begin < ROWS; begin += count, count = count % 16 * 2 + 1) {
      count = std::min(count, ROWS - begin);
      check(same(run(*engine, model, cut, part(x, begin, count, s.hidden), {{begin, count, again}}), part(whole, begin, count, s.hidden)),
            name + " " + engine->name, "rows depend on where a sequence is cut");
    }
    Floats both = before;
    both.insert(both.end(), x.begin() + 20 * s.hidden, x.end());
    const Floats found = run(*engine, model, cut, both, {{0, 5, others}, {20, ROWS - 20, again}});
    check(same(part(found, 5, ROWS - 20, s.hidden), part(whole, 20, ROWS - 20, s.hidden)), name + " " + engine->name, "rows depend on their company");
    Floats one = part(before, 0, 1, s.hidden);
    one.insert(one.end(), x.end() - s.hidden, x.end());
    const Floats each = run(*engine, model, cut, one, {{5, 1, others}, {ROWS - 1, 1, again}});
    check(same(part(each, 1, 1, s.hidden), part(whole, ROWS - 1, 1, s.hidden)), name + " " + engine->name, "rows depend on whether others have one, too");
  }
  if (!tests.reference) return digest(name, first);
  // A row with another code is some hundredths off, and so are all that see it: each is held against the nearest of some ways.
  constexpr uint64_t WAYS = 50;
  constexpr double LAST_BITS = 1e-4;
  Sequence sequence(s, model.layers, ROWS);
  Doubles expected;
  for (int row = 0; row < ROWS; row++) {
    const Floats given = part(x, row, 1, s.hidden), its = part(first, row, 1, s.hidden);
    auto become = [&](uint64_t this_way, bool again) {
      way = this_way;
      return sequence.next(Doubles(given.begin(), given.end()), again);
    };
    Doubles nearest = become(0, false);
    uint64_t best = 0;
    while (distance(its, nearest, given) > LAST_BITS && way < WAYS) {
      const Doubles other = become(way + 1, true);
      if (distance(its, other, given) < distance(its, nearest, given)) nearest = other, best = way;
    }
    if (way > best) become(best, true);
    tests.rows++, tests.exact += distance(its, nearest, given) <= LAST_BITS;
    expected.insert(expected.end(), nearest.begin(), nearest.end());
  }
  check(distance(first, expected, x) < 1e-2, name, "not what the reference has");
  digest(name, first);
}

// Whether a token may be drawn at all, by the definition of each limit alone; ties count for those who are kept.
bool may_come(Floats row, const Draw& draw, int token) {
  for (int i = 0; draw.open && i < int(row.size()); i++)
    if (!(draw.open[i / 8] >> i % 8 & 1)) row[i] = -INFINITY;
  if (draw.open && row[token] == -INFINITY) return false;
  if (draw.temperature == 0) {
    for (int i = 0; i < int(row.size()); i++)
      if (row[i] > row[token] || (row[i] == row[token] && i < token)) return false;
    return true;
  }
  float most = row[0];
  for (float x : row) most = x > most ? x : most;
  double above = 0, all = 0;
  int better = 0;
  for (float x : row) {
    const double scaled = double(x - most) / draw.temperature, weight = scaled >= draw.least ? std::exp(scaled) : 0;
    all += weight;
    if (x > row[token]) above += weight, better++;
  }
  if (double(row[token] - most) / draw.temperature < draw.least) return false;
  if (draw.top_k > 0 && better >= draw.top_k) return false;
  return draw.top_k > 0 || above < draw.top_p * all * (1 + 1e-9);
}

void picks(const Tests& tests, int vocab) {
  const std::string name = "picks of " + std::to_string(vocab);
  if (!tests.wanted(name)) return;
  Random random(vocab);
  constexpr int ROWS = 40;
  const double temperatures[] = {0, 0.01, 0.7, 1, 30}, leasts[] = {-INFINITY, -INFINITY, -3, -0.05}, top_ps[] = {1, 1, 0.95, 0.3, 1e-9};
  const int top_ks[] = {0, 0, 1, 7, vocab / 2, vocab, vocab + 3};
  Floats logits;
  std::vector<Draw> draws;
  std::vector<std::vector<uint8_t>> bits(ROWS);  // of every third row: few tokens, about half, or all but few
  for (int row = 0; row < ROWS; row++) {
    Floats of = numbers(random, vocab, float(row % 4 * row % 4 * 3));
    if (row % 5 == 1)
      for (float& x : of) x = float(int(x));
    if (row % 5 == 2)
      for (int i = 0; i < vocab; i++)
        if (i % 3 && i != row % vocab) of[i] = -INFINITY;
    logits.insert(logits.end(), of.begin(), of.end());
    draws.push_back({temperatures[random.below(5)], leasts[random.below(4)], top_ps[random.below(5)], double(random.next() >> 11) * 0x1p-53, top_ks[random.below(7)], nullptr});
    if (row % 3) continue;
    bits[row].resize((vocab + 7) / 8);
    for (uint8_t& byte : bits[row])
      byte = uint8_t(row % 9 == 0 ? random.next() & random.next() & random.next() : row % 9 == 3 ? random.next() : random.next() | random.next() | random.next());
    bits[row][row % vocab / 8] |= uint8_t(1 << row % vocab % 8);
    logits[size_t(row) * vocab + row % vocab] = 0.5f;
    draws.back().open = bits[row].data();
  }
  std::vector<int32_t> first;
  for (const auto& engine : tests.engines) {
    std::vector<int32_t> found(ROWS, -1);
    check(!tests.library.pick(engine->handle, logits.data(), ROWS, vocab, draws.data(), found.data(), engine->threads > 1), name, "no memory");
    if (first.empty()) first = found;
    check(found == first, name + " " + engine->name, "not the tokens of the portable kernels");
    for (int row = 0; row < ROWS; row++) {
      int32_t alone = -1;
      tests.library.pick(engine->handle, logits.data() + size_t(row) * vocab, 1, vocab, &draws[row], &alone, 0);
      check(alone == found[row], name + " " + engine->name, "tokens depend on their company");
    }
    std::vector<uint8_t> fine(ROWS, 7);
    tests.library.healthy(engine->handle, logits.data(), ROWS, vocab, fine.data(), engine->threads > 1);
    for (int row = 0; row < ROWS; row++) {
      bool finite = true;
      for (int i = 0; i < vocab; i++) finite &= std::isfinite(logits[size_t(row) * vocab + i]);
      check(fine[row] == finite, name + " " + engine->name, "rows that are numbers, and only they, are healthy");
    }
  }
  for (int row = 0; row < ROWS; row++) {
    const Floats of = part(logits, row, 1, vocab);
    check(first[row] >= 0 && first[row] < vocab && may_come(of, draws[row], first[row]), name, "a token that may not come");
  }
  const std::vector<uint8_t> nothing((vocab + 7) / 8);
  for (const auto& engine : tests.engines)
    for (Draw draw : draws) {
      int32_t token = -1;
      draw.open = nothing.data();
      tests.library.pick(engine->handle, logits.data(), 1, vocab, &draw, &token, 0);
      check(token == 0, name + " " + engine->name, "where nothing may come, token 0");
    }
  digest(name, Floats(first.begin(), first.end()));
}

// From tokens to tokens: what the parts of it give one after the other, with cosines and sines by position.
void steps(const Tests& tests, int rows) {
  const std::string name = "steps of " + std::to_string(rows);
  if (!tests.wanted(name)) return;
  const Shape s{4, 2, 32, 32, 0, 16, 16, 4};
  Random random(rows);
  const Model model(random, s);
  constexpr int VOCAB = 80;
  const Weights head = weights(random, s.hidden, VOCAB, 8, false);
  const Floats norm = numbers(random, s.hidden);
  std::vector<uint8_t> embedding(size_t(VOCAB) * s.hidden / GROUP * (2 + GROUP));
  for (uint8_t& byte : embedding) byte = uint8_t(random.next());
  for (size_t i = 0; i < embedding.size(); i += 2 + GROUP) {
    const uint16_t d = scale(random, 10);
    std::memcpy(embedding.data() + i, &d, 2);
  }
  constexpr int ILL = 7;  // a token whose row is no number
  const uint16_t infinite = 0x7C00;
  std::memcpy(embedding.data() + size_t(ILL) * s.hidden / GROUP * (2 + GROUP), &infinite, 2);
  std::vector<int32_t> tokens;
  std::vector<Draw> draws;
  std::vector<Slice> slices;
  for (int row = 0; row < rows; row++) {
    tokens.push_back(row == 2 ? ILL : 8 + random.below(VOCAB - 8));
    draws.push_back({row % 2 ? 0.8 : 0.0, -INFINITY, row % 3 ? 1 : 0.9, double(random.next() >> 11) * 0x1p-53, 0, nullptr});
    slices.push_back({row, 1, {row, rows + row}});
  }
  const Floats before = numbers(random, size_t(rows) * s.hidden);
  Floats first;
  for (const auto& engine : tests.engines)
    for (float factor : {1.0f, 3.5f}) {
      const Ends ends{embedding.data(), factor, head.linear(), norm.data(), EPS};
      Floats x(size_t(rows) * s.hidden), logits(size_t(rows) * VOCAB), known;
      for (int32_t token : tokens)
        for (int b = 0; b < s.hidden / GROUP; b++) {
          const uint8_t* block = embedding.data() + (size_t(token) * s.hidden / GROUP + b) * (2 + GROUP);
          uint16_t d;
          std::memcpy(&d, block, 2);
          const float of = (d & 0x7C00) == 0x7C00 ? INFINITY : float(half(d));
          for (int i = 0; i < GROUP; i++) known.push_back(float(int8_t(block[2 + i])) * of * factor);
        }
      Cache one(s, 2 * rows), other(s, 2 * rows);
      for (int row = 1; row < rows; row++)
        for (Cache* cache : {&one, &other}) run(*engine, model, *cache, part(before, 0, row, s.hidden), {{0, row, slices[row].table}});
      const Stepped of(model, one, slices, true);
      std::vector<int32_t> picked(rows, -7), expected(rows);
      check(!tests.library.step(engine->handle, of.layers.data(), int(of.layers.size()), &of.step, of.cosines.data(), of.sines.data(), &ends,
                                tokens.data(), draws.data(), x.data(), logits.data(), picked.data(), engine->threads > 1),
            name, "no memory");
      const Floats passed = run(*engine, model, other, known, slices);
      check(same(x, passed), name + " " + engine->name, "not the rows that the layers give");
      Floats scores(logits.size());
      const Linear w = head.linear();
      tests.library.project(engine->handle, &w, norm.data(), EPS, passed.data(), rows, scores.data(), engine->threads > 1);
      check(same(logits, scores), name + " " + engine->name, "not the logits that the head gives");
      std::vector<uint8_t> fine(rows);
      tests.library.healthy(engine->handle, scores.data(), rows, VOCAB, fine.data(), 0);
      for (int row = 0; row < rows; row++) {
        check(fine[row] == (row != 2), name, "rows that are numbers, and only they, are healthy");
        expected[row] = -1;
        if (fine[row]) tests.library.pick(engine->handle, scores.data() + size_t(row) * VOCAB, 1, VOCAB, &draws[row], &expected[row], 0);
      }
      check(picked == expected, name + " " + engine->name, "not the tokens that are drawn");
      if (factor != 1) continue;
      if (first.empty()) first = logits;
      check(same(logits, first), name + " " + engine->name, "not the bits of the portable kernels");
      for (int32_t none : {-1, VOCAB}) {
        std::vector<int32_t> wrong = tokens;
        wrong.back() = none;
        check(tests.library.step(engine->handle, of.layers.data(), int(of.layers.size()), &of.step, of.cosines.data(), of.sines.data(), &ends,
                                 wrong.data(), draws.data(), x.data(), logits.data(), picked.data(), 0) == 2,
              name, "a token that the vocabulary lacks");
      }
    }
  digest(name, first);
}

// Numbers at the ends of what fp32 and fp16 hold, zeros, and what is no number.
void extremes(const Tests& tests) {
  for (int bits : {4, 8}) {
    const std::string name = "extremes linear " + std::to_string(bits);
    if (!tests.wanted(name)) continue;
    Random random(bits);
    const Weights w = weights(random, 64, 32, bits, false);
    constexpr int ROWS = 12;
    Floats x = numbers(random, ROWS * 64), first;
    const float sizes[ROWS] = {1e-38f, 1e-36f, 1e-32f, 1e-30f, 1e-29f, 1e-20f, 1e20f, 1e36f, 1, 1, 1, 0};
    for (int i = 0; i < ROWS * 64; i++) x[i] *= sizes[i / 64];
    x[8 * 64 + 5] = std::nanf(""), x[9 * 64 + 40] = INFINITY, x[10 * 64 + 63] = -INFINITY;
    for (const auto& engine : tests.engines) {
      const Floats found = product_of(*engine, w, x, ROWS, {});
      if (first.empty()) first = found;
      check(same(found, first), name + " " + engine->name, "not the bits of the portable kernels");
    }
    for (int i = 0; i < ROWS * 32; i++) check(std::isfinite(first[i]) == (i / 32 < 8 || i / 32 == 11), name, "rows that are numbers, and only they, must stay so");
    digest(name, first);
  }
  for (int cache_bits : {8, 16, 32})
    for (int place : {-1, 4, 20}) {  // a row that is no number, among those of the sequence
      const std::string name = "extremes layers " + std::to_string(cache_bits) + " ill " + std::to_string(place);
      if (!tests.wanted(name)) continue;
      const Shape s{4, 2, 32, 32, 0, cache_bits, 16, 4};
      Random random(cache_bits);
      const Model model(random, s, 1e6f);
      constexpr int ROWS = 24;
      Floats x = numbers(random, size_t(ROWS) * s.hidden), first;
      float size = 1e-9f;
      for (int row = 0; row < ROWS; row++, size *= 5)
        for (int i = 0; i < s.hidden; i++) x[row * s.hidden + i] *= size;
      if (place >= 0) x[place * s.hidden + 7] = std::nanf("");
      for (const auto& engine : tests.engines) {
        Cache cache(s, 2);
        const Floats found = run(*engine, model, cache, x, {{0, ROWS, {1, 0}}});
        if (first.empty()) first = found;
        check(same(found, first), name + " " + engine->name, "not the bits of the portable kernels");
      }
      for (int i = 0; i < ROWS * s.hidden; i++)
        if (place < 0) check(std::isfinite(first[i]), name, "not finite");
      digest(name, first);
    }
}

// The caller's mode of rounding to zero what is below the normal numbers: no matter, and left as it was.
class ToZero {
 public:
#if defined(__x86_64__)
  ToZero() : before(_mm_getcsr()) { _mm_setcsr(before | 0x8040); }
  ~ToZero() { _mm_setcsr(before); }
  bool still() const { return _mm_getcsr() & 0x8000; }
  unsigned before;
#elif defined(__aarch64__)
  ToZero() {
    asm volatile("mrs %0, fpcr" : "=r"(before));
    asm volatile("msr fpcr, %0" ::"r"(before | uint64_t(1) << 24));
  }
  ~ToZero() { asm volatile("msr fpcr, %0" ::"r"(before)); }
  bool still() const {
    uint64_t now;
    asm volatile("mrs %0, fpcr" : "=r"(now));
    return now >> 24 & 1;
  }
  uint64_t before;
#else
  bool still() const { return true; }
#endif
};

void rounding(const Tests& tests) {
  const std::string name = "rounding";
  if (!tests.wanted(name)) return;
  Random random(1);
  Weights w = weights(random, 32, 16, 8, false);
  std::memset(w.packed.data(), 128, 64);  // 0 for the first inputs, of which one makes the activations' scale; 1 for the others
  std::memset(w.packed.data() + 64, 129, 512 - 64);
  const uint16_t least = 1;  // of fp16
  for (int r = 0; r < TILE; r++) std::memcpy(w.packed.data() + 512 + 2 * r, &least, 2);
  Floats x = numbers(random, 32, 3e-32f);
  x[0] = 2e-30f;
  Floats first;
  for (const auto& engine : tests.engines) {
    const Floats plain = product_of(*engine, w, x, 1, {});
    bool below = false;
    for (float y : plain) below |= y != 0 && std::fabs(y) < 1.17549435e-38f;
    check(below, name + " " + engine->name, "no answer below the normal numbers: this shows nothing");
    Floats found;
    bool still;
    {
      ToZero mode;
      found = product_of(*engine, w, x, 1, {});
      still = mode.still();
    }
    check(same(found, plain), name + " " + engine->name, "the caller's mode of rounding counts");
    check(still, name + " " + engine->name, "the caller's mode of rounding is lost");
    if (first.empty()) first = plain;
    check(same(plain, first), name + " " + engine->name, "not the bits of the portable kernels");
  }
  digest(name, first);
}

// Threads that begin, work, wait and end; jobs alone and together in turn, some of more threads than pieces.
void pool(const Tests& tests) {
  const std::string name = "pool";
  if (!tests.wanted(name)) return;
  Random random(3);
  const Weights w = weights(random, 32, 32, 4, false);
  const Floats x = numbers(random, 3 * 32), expected = product_of(*tests.engines[0], w, x, 3, {});
  for (int threads : {1, 2, 3, 5})
    for (int round = 0; round < (tests.full ? 50 : 5); round++) {
      const Engine engine(tests.library, "", threads);
      const Linear linear = w.linear();
      for (int i = 0; i < round % 5 * 8; i++) {
        Floats out(3 * 32);
        tests.library.project(engine.handle, &linear, nullptr, 0, x.data(), 3, out.data(), i % 3 != 0);
        check(same(out, expected), name, "another answer");
      }
    }
  check(!tests.library.kernels("none such") && !tests.library.open(1, "none such"), name, "kernels that there are not");
  digest(name, expected);
}

void all(const Tests& tests) {
  for (int bits : {4, 8}) {
    for (int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33}) linear(tests, bits, 96, 48, rows, rows % 2, false);
    linear(tests, bits, 32, 16, 65, false, true);
    linear(tests, bits, 1536, 64, 3, true, true);
    if (tests.full)
      for (int in : {32, 64, 160, 576})
        for (int out : {16, 32, 80, 208})
          for (int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 31, 32, 33, 64, 65})
            for (int with = 0; with < 4; with++) linear(tests, bits, in, out, rows, with & 1, with & 2);
  }
  for (int rows = 1; rows < (tests.full ? 34 : 11); rows++) linear(tests, 4, 96, 48, rows, rows % 2, rows % 3 == 0, 32);
  // as families have them: Llama, Qwen 3, Gemma 2, Gemma 3, OLMo 2, Granite
  const struct { bool before, behind; int qk, activation; float softcap, residual; } kinds[] = {
      {true, false, 0, argosy::SILU, 0, 1}, {true, false, 1, argosy::SILU, 0, 1}, {true, true, 0, argosy::GELU, 3, 1}, {true, true, 1, argosy::GELU, 0, 1}, {false, true, 2, argosy::SILU, 0, 1}, {true, false, 0, argosy::SILU, 0, 0.22f}};
  const struct { int heads, kv_heads, dim, rotary; } heads[] = {{3, 1, 32, 32}, {4, 2, 64, 32}, {2, 1, 80, 64}, {2, 2, 80, 32}, {2, 2, 96, 96}, {5, 1, 128, 128}, {1, 1, 256, 256}, {12, 1, 32, 32}};
  const int windows[] = {0, 1, 20}, caches[] = {8, 16, 32}, blocks[] = {16, 32, 64};
  for (const auto& c : covering({6, 8, 2, 3, 3, 3, 2}, tests.full ? 3 : 2)) {
    const auto& kind = kinds[c[0]];
    const auto& h = heads[c[1]];
    Shape shape{h.heads, h.kv_heads, h.dim, c[2] ? 0 : h.rotary, windows[c[3]], caches[c[4]], blocks[c[5]], c[6] ? 8 : 4};
    shape.before = kind.before, shape.behind = kind.behind, shape.qk = kind.qk;
    shape.activation = kind.activation, shape.softcap = kind.softcap, shape.residual = kind.residual;
    layers(tests, shape);
  }
  for (int vocab : {1, 3, 16, 63, 64, 65, 200, 5000}) picks(tests, vocab);
  for (int rows : {1, 2, 9}) steps(tests, rows);
  extremes(tests);
  rounding(tests);
  pool(tests);
}

}  // namespace

int main(int count, char** words) {
  if (count < 2) return std::fprintf(stderr, "main LIBRARY [quick|full|quick-bits|full-bits] [part/parts] [only]\n"), 2;
  const Library library(words[1]);
  const std::string grid = count > 2 ? words[2] : "quick";
  int part = 0, parts = 1;
  if (count > 3 && (std::sscanf(words[3], "%d/%d", &part, &parts) != 2 || part < 0 || part >= parts)) return std::fprintf(stderr, "no part: %s\n", words[3]), 2;
  Tests tests{library, grid.rfind("full", 0) == 0, grid.find("bits") == std::string::npos, count > 4 ? words[4] : "", part, parts, {}};
  for (const char* name : {"portable", "avx2", "avx-vnni", "avx512-vnni", "neon-dotprod", "neon-i8mm"})
    for (int threads : {1, 2})
      if (library.kernels(name) && (tests.full || (threads == 1) == !std::strcmp(name, "portable")))
        tests.engines.push_back(std::make_unique<Engine>(library, name, threads));
  for (const auto& engine : tests.engines) std::fprintf(stderr, "%s on %d threads\n", engine->name.c_str(), engine->threads);
  all(tests);
  if (tests.only.empty() && tests.reference) check(tests.exact > 0.95 * tests.rows, "layers", "not most rows are the reference's but for the last bits");
  return failures ? 1 : 0;
}
