#include "nn/norm.h"

#include "ops/norm.h"

namespace conclave::nn {

Value rms_norm(Tape& tape, const Value& x, Weight& w, double eps) {
  Part part("norms and rotary");
  auto [y, rstd] = ops::rms_norm(x.data, w.data(), eps);
  Saved saved = tape.save(x);
  Saved saved_rstd = tape.save("statistics", rstd);
  Value out = tape.record(y, [=, id = x.id, &w](Tape& tape, const at::Tensor& dy) {
    auto [dx, dweight] =
        ops::rms_norm_backward(dy, saved.get(), saved_rstd.get(), w.data(), tape.take_sum(id));
    tape.add_grad(id, dx, /*own=*/true);
    tape.later([=, &w] { w.grad().add_(dweight); });
  });
  out.made_again_by(
      "norm", [=, &w] { return ops::rms_norm_from(saved.get(), saved_rstd.get(), w.data()); });
  return out;
}

}  // namespace conclave::nn
