// Tokens for rows of logits, rows side by side on the threads of a pool.
#pragma once
#include <vector>

#include "argosy_cpu.h"
#include "pool.h"

namespace argosy {

// For each thread, `Candidates` of the largest vocabulary that was seen.
struct SampleRoom {
  std::vector<float> numbers;
  std::vector<double> sums;
  std::vector<Candidate> found;
  std::vector<float> open;
};

// logits [rows, vocab]; fine [rows]: 1 where a row is finite.
void healthy(Pool& pool, const Kernels& kernels, const float* logits, int rows, int vocab, uint8_t* fine, bool together);

// logits [rows, vocab], draws [rows] -> tokens [rows]. `look`: at rows that may not be finite, of which -1 comes.
void pick(Pool& pool, const Kernels& kernels, SampleRoom& room, const float* logits, int rows, int vocab,
          const Draw* draws, int32_t* tokens, bool look, bool together);

}  // namespace argosy
