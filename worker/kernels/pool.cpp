#include "pool.h"

namespace argosy {
namespace {

constexpr int SPINS = 4000;  // 50 to 200 microseconds: longer than between two parts of a step, shorter than a nap

inline void rest() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// What is below the normal numbers counts, in every thread alike, whatever other libraries have set for theirs.
class Rounding {
 public:
#if defined(__x86_64__)
  Rounding() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(0x1F80); }
  ~Rounding() { __builtin_ia32_ldmxcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  Rounding() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    set(0);
  }
  ~Rounding() { set(before_); }

 private:
  static void set(uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
  uint64_t before_;
#endif
};

void until_changed(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < SPINS; i++) {
    if (value.load(std::memory_order_acquire) != old) return;
    rest();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

Pool::Pool(int threads) {
  try {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { work(i); });
  } catch (...) {  // no more threads are to be had
    end();
    throw;
  }
}

Pool::~Pool() { end(); }

void Pool::end() {
  ending_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::start(int threads, Call call, const void* job) {
  active_.store(threads, std::memory_order_relaxed);
  call_ = call;
  job_ = job;
  if (threads > 1) {
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }
  {
    Rounding same;
    call(job, 0);
  }
  barrier();
}

void Pool::work(int thread) {
  Rounding same;
  for (uint32_t seen = 0;;) {
    until_changed(round_, seen);
    seen = round_.load(std::memory_order_acquire);
    if (ending_) return;
    call_(job_, thread);
    barrier();
  }
}

void Pool::barrier() {
  const int all = active_.load(std::memory_order_relaxed);
  if (all == 1) return;
  const uint32_t now = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == all - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  } else {
    until_changed(generation_, now);
  }
}

}  // namespace argosy
