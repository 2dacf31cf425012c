#include "grid.h"

#include <cstddef>

namespace {

// Some of the dimensions. Their choices have numbers, from `first` on.
struct Together {
  std::vector<int> dimensions, strides;
  int first;

  int number(const std::vector<int>& choices) const {
    int at = first;
    for (std::size_t i = 0; i < dimensions.size(); i++) at += choices[dimensions[i]] * strides[i];
    return at;
  }
};

// The next case of the whole product; false after the last one.
bool next(std::vector<int>& choices, const std::vector<int>& sizes) {
  for (std::size_t d = sizes.size(); d-- > 0; choices[d] = 0)
    if (++choices[d] < sizes[d]) return true;
  return false;
}

}  // namespace

std::vector<std::vector<int>> covering(const std::vector<int>& sizes, int together) {
  std::vector<Together> sets;
  int numbers = 0;
  for (unsigned set = 0; set < 1u << sizes.size(); set++) {
    if (__builtin_popcount(set) != together) continue;
    Together of{{}, {}, numbers};
    int stride = 1;
    for (int d = 0; d < int(sizes.size()); d++)
      if (set >> d & 1) of.dimensions.push_back(d), of.strides.push_back(stride), stride *= sizes[d];
    numbers += stride;
    sets.push_back(of);
  }
  std::vector<std::vector<int>> taken;
  std::vector<char> seen(numbers);
  for (int least = int(sets.size()); least > 0; least--) {
    std::vector<int> choices(sizes.size());
    do {
      int fresh = 0;
      for (const Together& of : sets) fresh += !seen[of.number(choices)];
      if (fresh < least) continue;
      taken.push_back(choices);
      for (const Together& of : sets) seen[of.number(choices)] = 1;
    } while (next(choices, sizes));
  }
  return taken;
}
