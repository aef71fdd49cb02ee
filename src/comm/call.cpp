#include "comm/call.h"

#include <c10/util/Exception.h>

#include <numeric>
#include <sstream>

namespace conclave::comm {
namespace {

void check_buffer(const at::Tensor& x, const char* op, const char* name) {
  TORCH_CHECK(x.defined(), op, ": expected a tensor for `", name, "`, got an undefined one");
  TORCH_CHECK(x.is_contiguous(), op, ": expected a contiguous `", name, "`, got sizes ", x.sizes(),
              " with strides ", x.strides());
}

void check_pair(const at::Tensor& out, const at::Tensor& in, const char* op) {
  check_buffer(out, op, "out");
  check_buffer(in, op, "in");
  TORCH_CHECK(out.dtype() == in.dtype(), op, ": expected one dtype, got ", in.dtype(), " in and ",
              out.dtype(), " out");
  TORCH_CHECK(out.device() == in.device(), op, ": expected one device, got ", in.device(),
              " in and ", out.device(), " out");
}

// `part` is this rank's range of `whole`, or lies elsewhere altogether.
void check_alias(const at::Tensor& part, const at::Tensor& whole, int rank, const char* op) {
  const auto* p = static_cast<const char*>(part.const_data_ptr());
  const auto* w = static_cast<const char*>(whole.const_data_ptr());
  if (p == nullptr || w == nullptr || p + part.nbytes() <= w || w + whole.nbytes() <= p) return;
  TORCH_CHECK(p == w + rank * part.nbytes(), op,
              ": `in` and `out` overlap, but not as this rank's (", rank,
              ") range of the larger one");
}

void check_summable(const at::Tensor& x, const char* op) {
  const at::ScalarType t = x.scalar_type();
  TORCH_CHECK(t == at::kFloat || t == at::kDouble || t == at::kBFloat16 || t == at::kLong, op,
              ": expected Float, Double, BFloat16 or Long to add up, got ", t);
}

int64_t sum_of_rows(std::span<const int64_t> rows, int size, const char* name) {
  TORCH_CHECK(static_cast<int>(rows.size()) == size, "all_to_all: expected one count a rank (",
              size, ") in ", name, ", got ", rows.size());
  for (int64_t n : rows)
    TORCH_CHECK(n >= 0, "all_to_all: expected counts of at least 0 in ", name, ", got ", n);
  return std::accumulate(rows.begin(), rows.end(), int64_t{0});
}

std::string list(std::span<const int64_t> values) {
  std::ostringstream out;
  out << "[";
  for (size_t i = 0; i < values.size(); ++i) out << (i ? ", " : "") << values[i];
  out << "]";
  return out.str();
}

bool agree(const Call& a, const Call& b) {
  return a.op == b.op && a.dtype == b.dtype && a.shape == b.shape && a.sequence == b.sequence;
}

int name_of(size_t rank, std::span<const int> names) {
  return names.empty() ? static_cast<int>(rank) : names[rank];
}

std::string both(std::span<const Call> calls, size_t a, size_t b, std::span<const int> names) {
  std::ostringstream out;
  out << "rank " << name_of(a, names) << " called " << calls[a].text() << ", rank "
      << name_of(b, names) << " called " << calls[b].text();
  return out.str();
}

}  // namespace

std::string Call::text() const {
  std::ostringstream out;
  out << "#" << sequence << " " << op;
  if (dtype == at::ScalarType::Undefined) return out.str();
  out << " " << c10::toString(dtype) << " ";
  if (op != "all_to_all") {
    out << list(shape);
  } else {
    out << "rows of " << list(shape) << " sending " << list(send_rows) << " receiving "
        << list(receive_rows);
  }
  return out.str();
}

Call all_gather_call(const at::Tensor& out, const at::Tensor& in, int rank, int size) {
  check_pair(out, in, "all_gather");
  TORCH_CHECK(out.numel() == size * in.numel(), "all_gather: expected `out` of ", size, " · ",
              in.numel(), " elements, got ", out.numel());
  check_alias(in, out, rank, "all_gather");
  return {"all_gather", in.scalar_type(), in.sizes().vec(), {}, {}};
}

Call reduce_scatter_call(const at::Tensor& out, const at::Tensor& in, int rank, int size) {
  check_pair(out, in, "reduce_scatter");
  TORCH_CHECK(in.numel() == size * out.numel(), "reduce_scatter: expected `in` of ", size, " · ",
              out.numel(), " elements, got ", in.numel());
  check_alias(out, in, rank, "reduce_scatter");
  check_summable(in, "reduce_scatter");
  return {"reduce_scatter", in.scalar_type(), in.sizes().vec(), {}, {}};
}

Call all_reduce_call(const at::Tensor& x) {
  check_buffer(x, "all_reduce", "x");
  check_summable(x, "all_reduce");
  return {"all_reduce", x.scalar_type(), x.sizes().vec(), {}, {}};
}

Call all_to_all_call(const at::Tensor& out, const at::Tensor& in,
                     std::span<const int64_t> receive_rows, std::span<const int64_t> send_rows,
                     int size) {
  check_pair(out, in, "all_to_all");
  TORCH_CHECK(in.dim() >= 1 && out.dim() >= 1 && in.sizes().slice(1) == out.sizes().slice(1),
              "all_to_all: expected rows of one shape, got in ", in.sizes(), " and out ",
              out.sizes());
  const int64_t sent = sum_of_rows(send_rows, size, "send_rows");
  const int64_t received = sum_of_rows(receive_rows, size, "receive_rows");
  TORCH_CHECK(sent == in.size(0), "all_to_all: send_rows ", list(send_rows), " are ", sent,
              " rows, `in` has ", in.size(0));
  TORCH_CHECK(received == out.size(0), "all_to_all: receive_rows ", list(receive_rows), " are ",
              received, " rows, `out` has ", out.size(0));
  const auto* i = static_cast<const char*>(in.const_data_ptr());
  const auto* o = static_cast<const char*>(out.const_data_ptr());
  TORCH_CHECK(i == nullptr || o == nullptr || i + in.nbytes() <= o || o + out.nbytes() <= i,
              "all_to_all: `in` and `out` overlap");
  return {"all_to_all",
          in.scalar_type(),
          in.sizes().slice(1).vec(),
          {send_rows.begin(), send_rows.end()},
          {receive_rows.begin(), receive_rows.end()}};
}

Call barrier_call() { return {"barrier", at::ScalarType::Undefined, {}, {}, {}}; }

std::string mismatch(std::span<const Call> calls, std::span<const int> names) {
  for (size_t r = 1; r < calls.size(); ++r)
    if (!agree(calls[0], calls[r])) return "ranks differ: " + both(calls, 0, r, names);
  for (size_t a = 0; a < calls.size() && !calls[0].send_rows.empty(); ++a)
    for (size_t b = 0; b < calls.size(); ++b)
      if (calls[a].send_rows[b] != calls[b].receive_rows[a]) {
        std::ostringstream out;
        out << "ranks differ: rank " << name_of(a, names) << " sends " << calls[a].send_rows[b]
            << " rows to rank " << name_of(b, names) << ", which receives "
            << calls[b].receive_rows[a] << " from it; " << both(calls, a, b, names);
        return out.str();
      }
  return {};
}

}  // namespace conclave::comm
