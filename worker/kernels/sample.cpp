#include "sample.h"

#include <algorithm>
#include <functional>

namespace argosy {
namespace {

// Each row on whichever thread comes first: each(thread, row).
template <typename Do>
void rows_of(Pool& pool, int rows, bool together, const Do& each) {
  Pieces pieces;
  pool.run(together && rows > 1, [&](int thread) {
    for (int row; (row = pieces.next.fetch_add(1, std::memory_order_relaxed)) < rows;) each(thread, row);
  });
}

template <typename T>
void least(std::vector<T>& v, size_t n) {
  if (v.size() < n) v.resize(n);
}

}  // namespace

void healthy(Pool& pool, const Kernels& kernels, const float* logits, int rows, int vocab, uint8_t* fine, bool together) {
  rows_of(pool, rows, together, [&](int, int row) { fine[row] = kernels.healthy(logits + size_t(row) * vocab, vocab); });
}

void pick(Pool& pool, const Kernels& kernels, SampleRoom& room, const float* logits, int rows, int vocab,
          const Draw* draws, int32_t* tokens, bool look, bool together) {
  const size_t blocks = (vocab + CHOICES - 1) / CHOICES, threads = pool.threads();
  least(room.numbers, threads * 2 * blocks);
  least(room.sums, threads * blocks);
  least(room.found, threads * vocab);
  if (std::any_of(draws, draws + rows, [](const Draw& draw) { return draw.open; })) least(room.open, threads * vocab);
  rows_of(pool, rows, together, [&](int thread, int row) {
    float* numbers = room.numbers.data() + thread * 2 * blocks;
    Candidates of{numbers, numbers + blocks, room.sums.data() + thread * blocks, room.found.data() + size_t(thread) * vocab,
                  draws[row].open ? room.open.data() + size_t(thread) * vocab : nullptr};
    const float* its = logits + size_t(row) * vocab;
    tokens[row] = look && !kernels.healthy(its, vocab) ? -1 : kernels.pick(its, vocab, draws[row], of);
  });
}

float highest_but(float* numbers, int n, int k) {
  std::nth_element(numbers, numbers + k, numbers + n, std::greater<>());
  return numbers[k];
}

void likeliest_first(Candidate* of, int wanted, int count) {
  auto before = [](const Candidate& a, const Candidate& b) { return a.below > b.below || (a.below == b.below && a.id < b.id); };
  if (wanted < count) std::nth_element(of, of + wanted, of + count, before);
  std::sort(of, of + wanted, before);
}

}  // namespace argosy
