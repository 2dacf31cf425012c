// What the machine can do at most, by so many threads side by side: bytes read from memory, multiply-adds of bytes and of
// floats. One line of JSON for each number of threads. benchmarks/cpu_ceilings.py compiles and runs it.
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr size_t BYTES = size_t(256) << 20;  // of a thread: no cache holds them
constexpr int TRIES = 7, CHAINS = 12, TIMES = 4'000'000;

template <typename Work>
double best(int threads, const Work& work) {  // seconds
  double least = 1e9;
  for (int i = 0; i < TRIES; i++) {
    std::atomic<int> ready{0};
    std::vector<std::thread> all;
    std::atomic<bool> go{false};
    for (int t = 0; t < threads; t++)
      all.emplace_back([&, t] {
        ready++;
        while (!go) {}
        work(t);
      });
    while (ready < threads) {}
    auto begun = std::chrono::steady_clock::now();
    go = true;
    for (auto& one : all) one.join();
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    least = seconds < least ? seconds : least;
  }
  return least;
}

uint64_t read(const uint64_t* p, size_t n) {
  uint64_t sums[16] = {};
  for (size_t i = 0; i < n; i += 16)
    for (int j = 0; j < 16; j++) sums[j] += p[i + j];
  uint64_t all = 0;
  for (uint64_t sum : sums) all += sum;
  return all;
}

volatile uint64_t kept;  // else nothing would be computed

#if defined(__AVX512VNNI__)
constexpr int PRODUCTS = 64;
void bytes() {
  __m512i sums[CHAINS], x = _mm512_set1_epi8(3);
  for (int c = 0; c < CHAINS; c++) sums[c] = _mm512_set1_epi32(c);
  for (int i = 0; i < TIMES; i++)
    for (int c = 0; c < CHAINS; c++) {
      sums[c] = _mm512_dpbusd_epi32(sums[c], x, x);
      asm volatile("" : "+v"(sums[c]));
    }
  for (auto& sum : sums) kept = kept + uint64_t(_mm512_reduce_add_epi32(sum));
}
#elif defined(__AVXVNNI__)
constexpr int PRODUCTS = 32;
void bytes() {
  __m256i sums[CHAINS], x = _mm256_set1_epi8(3);
  for (int c = 0; c < CHAINS; c++) sums[c] = _mm256_set1_epi32(c);
  for (int i = 0; i < TIMES; i++)
    for (int c = 0; c < CHAINS; c++) {
      sums[c] = _mm256_dpbusd_avx_epi32(sums[c], x, x);
      asm volatile("" : "+x"(sums[c]));
    }
  for (auto& sum : sums) kept = kept + uint64_t(_mm256_extract_epi32(sum, 0));
}
#else
constexpr int PRODUCTS = 0;
void bytes() {}
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
void floats() {
  __m512 sums[CHAINS], x = _mm512_set1_ps(0.5f);
  for (int c = 0; c < CHAINS; c++) sums[c] = _mm512_set1_ps(float(c));
  for (int i = 0; i < TIMES; i++)
    for (int c = 0; c < CHAINS; c++) {
      sums[c] = _mm512_fmadd_ps(sums[c], x, x);
      asm volatile("" : "+v"(sums[c]));
    }
  for (auto& sum : sums) kept = kept + uint64_t(_mm512_reduce_add_ps(sum));
}
#elif defined(__FMA__)
constexpr int LANES = 8;
void floats() {
  __m256 sums[CHAINS], x = _mm256_set1_ps(0.5f);
  for (int c = 0; c < CHAINS; c++) sums[c] = _mm256_set1_ps(float(c));
  for (int i = 0; i < TIMES; i++)
    for (int c = 0; c < CHAINS; c++) {
      sums[c] = _mm256_fmadd_ps(sums[c], x, x);
      asm volatile("" : "+x"(sums[c]));
    }
  for (auto& sum : sums) kept = kept + uint64_t(_mm256_cvtss_f32(sum));
}
#else
constexpr int LANES = 0;
void floats() {}
#endif

}  // namespace

int main(int, char** arguments) {
  const int most = std::atoi(arguments[1]);
  for (int threads = 1;; threads = most) {
    std::vector<uint64_t*> parts;
    for (int t = 0; t < threads; t++) {
      void* part = mmap(nullptr, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (part == MAP_FAILED) return 1;
#if defined(MADV_HUGEPAGE)
      madvise(part, BYTES, MADV_HUGEPAGE);
#endif
      parts.push_back(static_cast<uint64_t*>(part));
      for (size_t i = 0; i < BYTES / 8; i++) parts[t][i] = i;
    }
    double reading = best(threads, [&](int t) { kept = kept + read(parts[t], BYTES / 8); });
    for (auto part : parts) munmap(part, BYTES);
    const double times = double(TIMES) * CHAINS * threads;
    double of_bytes = PRODUCTS ? times * PRODUCTS / best(threads, [](int) { bytes(); }) : 0;
    double of_floats = LANES ? times * LANES / best(threads, [](int) { floats(); }) : 0;
    std::printf("{\"threads\": %d, \"read\": %.4g, \"bytes\": %.4g, \"floats\": %.4g}\n", threads,
                double(BYTES) * threads / reading, of_bytes, of_floats);
    if (threads == most) return 0;
  }
}
