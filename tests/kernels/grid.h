// Which cases are tried where all would take too long.
#pragma once
#include <set>
#include <vector>

// Cases, a choice in each dimension of `sizes`, so that any `together` dimensions have all their choices in some case: the
// first of the product that bring most that is new, then those that bring less, the same everywhere.
inline std::vector<std::vector<int>> covering(const std::vector<int>& sizes, int together) {
  const unsigned dimensions = unsigned(sizes.size());
  std::vector<unsigned> sets;  // of dimensions, a bit for each
  for (unsigned set = 0; set < 1u << dimensions; set++)
    if (__builtin_popcount(set) == together) sets.push_back(set);
  std::vector<std::vector<int>> taken;
  std::set<std::vector<int>> seen;
  for (int least = int(sets.size()); least > 0; least--) {
    std::vector<int> choices(dimensions);
    for (bool more = true; more;) {
      std::vector<std::vector<int>> fresh;
      for (unsigned set : sets) {
        std::vector<int> of(dimensions, -1);
        for (unsigned d = 0; d < dimensions; d++)
          if (set >> d & 1) of[d] = choices[d];
        if (!seen.count(of)) fresh.push_back(of);
      }
      if (int(fresh.size()) >= least) taken.push_back(choices), seen.insert(fresh.begin(), fresh.end());
      more = false;
      for (unsigned d = dimensions; d-- > 0 && !more;) {
        more = ++choices[d] < sizes[d];
        if (!more) choices[d] = 0;
      }
    }
  }
  return taken;
}
