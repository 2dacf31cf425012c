// Which cases are tried where all would take too long.
#pragma once
#include <vector>

// Cases, a choice in each dimension of `sizes`, so that any `together` dimensions have all their choices in some case: the
// first of the product that bring most that is new, then those that bring less, the same everywhere.
std::vector<std::vector<int>> covering(const std::vector<int>& sizes, int together);
