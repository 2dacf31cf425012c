// Threads that work on one job together. They wait for the next one awake for a moment, then asleep.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace argosy {

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return int(workers_.size()) + 1; }

  // Runs job(thread) on all threads, of which the caller is number 0, or on the caller alone; returns when all have.
  template <typename Job>
  void run(bool together, const Job& job) {
    start(together ? threads() : 1, [](const void* j, int thread) { (*static_cast<const Job*>(j))(thread); }, &job);
  }

  // Of the job that runs.
  int running() const { return active_.load(std::memory_order_relaxed); }

  // Within a job: returns when all of its threads have come here.
  void barrier();

 private:
  using Call = void (*)(const void*, int);
  void start(int threads, Call call, const void* job);
  void work(int thread);
  void end();

  std::vector<std::thread> workers_;
  std::atomic<uint32_t> round_{0}, generation_{0};
  std::atomic<int32_t> arrived_{0}, active_{0};
  Call call_ = nullptr;
  const void* job_ = nullptr;
  bool ending_ = false;
};

// Pieces of work that the threads of a job take one by one.
struct Pieces {
  std::atomic<int32_t> next{0};
};

}  // namespace argosy
