// Ranks as threads of one process. A collective has one stretch of work between two meeting points;
// in it each element of memory is written by one rank, and read by others only if nobody writes it.
#include <ATen/ThreadLocalState.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <numeric>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "base/error.h"
#include "comm/comm.h"
#include "comm/groups.h"
#include "comm/meeting.h"
#include "comm/rank_sum.h"

namespace conclave::comm {
namespace {

class ThreadComm final : public Comm {
 public:
  ThreadComm(Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return meeting_.size(); }

  void all_gather(at::Tensor out, const at::Tensor& in) override {
    meet([&] { return all_gather_call(out, in, rank_, size()); }, in, out,
         [&] {
           const size_t n = in.nbytes();
           for (int r = 0; r < size(); ++r)
             copy(mine().out + static_cast<size_t>(r) * n, of(r).in, n);
         });
  }

  void reduce_scatter(at::Tensor out, const at::Tensor& in) override {
    meet([&] { return reduce_scatter_call(out, in, rank_, size()); }, in, out,
         [&] {
           with_sum_type(in.scalar_type(), [&]<class T, class Sum>(T, Sum) {
             const int64_t n = out.numel();
             sum_in_rank_order<T, Sum>(
                 size(), n, [&](int r) { return reinterpret_cast<const T*>(of(r).in) + rank_ * n; },
                 [&](int64_t begin, int64_t count, const T* sums) {
                   std::copy_n(sums, count, reinterpret_cast<T*>(mine().out) + begin);
                 });
           });
         });
  }

  // Rank r adds up the r-th part of x and writes it to all ranks: nobody else touches that part.
  void all_reduce(at::Tensor x) override {
    meet([&] { return all_reduce_call(x); }, x, x,
         [&] {
           with_sum_type(x.scalar_type(), [&]<class T, class Sum>(T, Sum) {
             const int64_t first = x.numel() * rank_ / size(),
                           last = x.numel() * (rank_ + 1) / size();
             sum_in_rank_order<T, Sum>(
                 size(), last - first,
                 [&](int r) { return reinterpret_cast<const T*>(of(r).in) + first; },
                 [&](int64_t begin, int64_t count, const T* sums) {
                   for (int r = 0; r < size(); ++r)
                     std::copy_n(sums, count, reinterpret_cast<T*>(of(r).out) + first + begin);
                 });
           });
         });
  }

  void all_to_all(at::Tensor out, const at::Tensor& in, std::span<const int64_t> receive_rows,
                  std::span<const int64_t> send_rows) override {
    meet([&] { return all_to_all_call(out, in, receive_rows, send_rows, size()); }, in, out,
         [&] {
           if (out.numel() == 0) return;
           const int64_t row = static_cast<int64_t>(out.nbytes()) / out.size(0);  // bytes
           char* to = mine().out;
           for (int r = 0; r < size(); ++r) {
             const auto& sent = of(r).call.send_rows;
             const int64_t skip = std::accumulate(sent.begin(), sent.begin() + rank_, int64_t{0});
             const int64_t n = receive_rows[static_cast<size_t>(r)] * row;
             copy(to, of(r).in + skip * row, static_cast<size_t>(n));
             to += n;
           }
         });
  }

  void barrier() override {
    meet([] { return barrier_call(); }, {}, {}, [] {});
  }

 private:
  // `work` reads and writes what the ranks brought; it must not throw, for others read this rank's
  // buffers meanwhile. A call that breaks its contract has its number too: a rank that catches the
  // error and goes on is found out at its next call.
  template <class Describe, class Work>
  void meet(const Describe& describe, const at::Tensor& in, const at::Tensor& out,
            const Work& work) {
    ++sequence_;
    Meeting::Brought brought{describe(), nullptr, nullptr};
    brought.call.sequence = sequence_;
    if (in.defined()) {
      TORCH_CHECK(in.is_cpu(), brought.call.op, ": thread ranks expect CPU tensors, got ",
                  in.device());
      brought.in = static_cast<const char*>(in.const_data_ptr());
      brought.out = static_cast<char*>(out.mutable_data_ptr());
    }
    meeting_.arrive(rank_, std::move(brought));
    work();
    meeting_.finish(rank_);
  }

  const Meeting::Brought& of(int rank) const { return meeting_.of(rank); }
  const Meeting::Brought& mine() const { return of(rank_); }
  static void copy(char* to, const char* from, size_t n) {
    if (n > 0 && to != from) std::memcpy(to, from, n);
  }

  Meeting& meeting_;
  const int rank_;
  int64_t sequence_ = 0;
};

class ThreadFactory final : public CommFactory {
 public:
  ThreadFactory(Meetings& meetings, int rank) : meetings_(meetings), rank_(rank) {}
  int rank() const override { return rank_; }
  int world() const override { return meetings_.world(); }
  std::unique_ptr<Comm> make(const std::vector<int>& ranks, const std::string& name) override {
    Meeting& meeting = meetings_.of(rank_, ranks, name);
    const auto place = std::lower_bound(ranks.begin(), ranks.end(), rank_) - ranks.begin();
    return std::make_unique<ThreadComm>(meeting, static_cast<int>(place));
  }

 private:
  Meetings& meetings_;
  const int rank_;
};

struct Outcome {
  std::exception_ptr error;
  bool own = false;  // not merely the consequence of another rank's leaving
};

std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "something that is no std::exception";
  }
}

Outcome run_rank(Meetings& meetings, int rank, const std::function<void(CommFactory&)>& body) {
  ThreadFactory factory(meetings, rank);
  Outcome outcome;
  try {
    body(factory);
  } catch (const RankLeft&) {
    outcome = {std::current_exception(), false};
  } catch (...) {
    outcome = {std::current_exception(), true};
  }
  meetings.leave(rank, outcome.error ? "it threw: " + text_of(outcome.error) : "it returned");
  return outcome;
}

}  // namespace

void run_thread_ranks(int size, const std::function<void(CommFactory&)>& body) {
  TORCH_CHECK(size >= 1, "run_threads: expected at least 1 rank, got ", size);
  Meetings meetings(size);
  std::vector<Outcome> outcomes(static_cast<size_t>(size));
  const at::ThreadLocalState callers;  // gradient mode, inference mode, dispatch keys
  std::vector<std::thread> threads;
  std::string not_started;
  for (int rank = 0; rank < size && not_started.empty(); ++rank) try {
      threads.emplace_back([&, rank] {
        const at::ThreadLocalStateGuard as_the_caller(callers);
        outcomes[static_cast<size_t>(rank)] = run_rank(meetings, rank, body);
      });
    } catch (const std::system_error& e) {
      not_started = "cannot start thread " + std::to_string(rank) + " of " + std::to_string(size) +
                    ": " + e.what();
      for (int r = rank; r < size; ++r) meetings.leave(r, not_started);
    }
  for (std::thread& thread : threads) thread.join();
  if (!not_started.empty()) throw RunError(not_started);
  for (bool own : {true, false})
    for (const Outcome& outcome : outcomes)
      if (outcome.error && outcome.own == own) std::rethrow_exception(outcome.error);
}

void run_threads(int size, const std::function<void(Comm&)>& body) {
  run_thread_ranks(size, [&](CommFactory& factory) {
    std::vector<int> all(static_cast<size_t>(size));
    std::iota(all.begin(), all.end(), 0);
    body(*factory.make(all, ""));
  });
}

}  // namespace conclave::comm
