#include "base/check.h"

#include <algorithm>
#include <sstream>

namespace conclave {
namespace {

template <class Sizes>
std::string listed(const Sizes& sizes) {
  std::ostringstream out;
  const char* between = "[";
  for (int64_t size : sizes) {
    out << between << size;
    between = ", ";
  }
  out << (sizes.size() == 0 ? "[]" : "]");
  return out.str();
}

}  // namespace

void check_shape(const at::Tensor& x, const char* name, const char* names,
                 std::initializer_list<int64_t> dims) {
  TORCH_CHECK(x.defined(), name, ": expected [", names, "] = ", listed(dims),
              ", got an undefined tensor");
  at::IntArrayRef sizes = x.sizes();
  TORCH_CHECK(std::equal(sizes.begin(), sizes.end(), dims.begin(), dims.end()), name,
              ": expected [", names, "] = ", listed(dims), ", got ", listed(sizes));
  TORCH_CHECK(x.is_contiguous(), name, ": expected [", names, "] = ", listed(dims),
              " contiguous, got strides ", listed(x.strides()));
}

void check_dtype(const at::Tensor& x, const char* name, at::ScalarType expected) {
  TORCH_CHECK(x.defined(), name, ": expected dtype ", expected, ", got an undefined tensor");
  TORCH_CHECK(x.scalar_type() == expected, name, ": expected dtype ", expected, ", got ",
              x.scalar_type());
}

}  // namespace conclave
