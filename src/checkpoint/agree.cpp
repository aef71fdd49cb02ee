#include "checkpoint/agree.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "comm/store.h"

namespace conclave::checkpoint {
namespace {

std::vector<int64_t> sizes_of(comm::Comm& ranks, const std::string& text) {
  at::Tensor all = at::empty({ranks.size()}, at::kLong);
  ranks.all_gather(all, at::full({1}, static_cast<int64_t>(text.size()), at::kLong));
  const int64_t* size = all.const_data_ptr<int64_t>();
  return {size, size + ranks.size()};
}

at::Tensor bytes_of(const std::string& text, int64_t room) {
  at::Tensor bytes = at::zeros({room}, at::kByte);
  if (!text.empty()) std::memcpy(bytes.data_ptr(), text.data(), text.size());
  return bytes;
}

std::string text_at(const at::Tensor& bytes, int64_t begin, int64_t size) {
  return {static_cast<const char*>(bytes.const_data_ptr()) + begin, static_cast<size_t>(size)};
}

}  // namespace

void all_or_none(comm::Comm& ranks, const std::function<void()>& work) {
  std::string error;
  try {
    work();
  } catch (const RunError& e) {
    error = e.what();
    if (error.empty()) error = "an error without words";
  } catch (const std::exception& e) {
    error = comm::first_line(e);
  }
  const std::vector<int64_t> sizes = sizes_of(ranks, error);
  const int64_t most = *std::max_element(sizes.begin(), sizes.end());
  if (most == 0) return;
  at::Tensor all = at::empty({most * ranks.size()}, at::kByte);
  ranks.all_gather(all, bytes_of(error, most));
  for (size_t r = 0; r < sizes.size(); ++r)
    if (sizes[r] > 0)
      throw RunError("rank " + std::to_string(r) + ": " +
                     text_at(all, static_cast<int64_t>(r) * most, sizes[r]));
}

void require_same(comm::Comm& ranks, uint64_t hash, const std::string& error) {
  const auto mine = static_cast<int64_t>(hash >> 1);
  const int64_t first = of_rank_zero(ranks, mine);
  all_or_none(ranks, [&] {
    if (mine != first) throw RunError(error);
  });
}

std::vector<std::string> collect(comm::Comm& ranks, const std::string& text) {
  const std::vector<int64_t> sizes = sizes_of(ranks, text);
  std::vector<int64_t> sent(sizes.size(), 0), arrived(sizes.size(), 0);
  sent[0] = static_cast<int64_t>(text.size());
  if (ranks.rank() == 0) arrived = sizes;
  at::Tensor all =
      at::empty({std::accumulate(arrived.begin(), arrived.end(), int64_t{0})}, at::kByte);
  ranks.all_to_all(all, bytes_of(text, sent[0]), arrived, sent);
  std::vector<std::string> texts;
  int64_t at = 0;
  for (size_t r = 0; ranks.rank() == 0 && r < sizes.size(); at += sizes[r++])
    texts.push_back(text_at(all, at, sizes[r]));
  return texts;
}

int64_t of_rank_zero(comm::Comm& ranks, int64_t number) {
  at::Tensor x = at::full({1}, ranks.rank() == 0 ? number : 0, at::kLong);
  ranks.all_reduce(x);
  return x.item<int64_t>();
}

}  // namespace conclave::checkpoint
