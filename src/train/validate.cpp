#include "train/validate.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>

#include "train/loop.h"
#include "train/step.h"

namespace conclave::train {
namespace {

double validate_once(Parts& parts, int64_t micro_rows) {
  comm::Comm& ranks = parts.units.comm();
  const int64_t rows = parts.validation->rows();
  at::Tensor loss_sum =
      at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(parts.units.device()));
  int64_t scored = 0;
  for (int64_t round = 0; round < rows; round += micro_rows * ranks.size()) {
    // A rank for which none are left takes a row that counts nothing: all gather the same weights.
    const int64_t mine = round + ranks.rank() * micro_rows;
    const int64_t count = std::min(micro_rows, rows - mine);
    std::vector<int64_t> chosen(static_cast<size_t>(std::max<int64_t>(count, 1)));
    std::iota(chosen.begin(), chosen.end(), count > 0 ? mine : 0);
    parallel::Batch batch = make_batch(parts.validation->batch(chosen));
    if (count <= 0) batch.labels.fill_(-100);
    const Evaluation e = evaluate(parts.decoder, parts.units, parts.dispatcher, std::move(batch));
    loss_sum.add_(e.loss_sum);
    scored += e.scored;
  }
  if (ranks.size() > 1) {
    const at::Tensor count = at::full({1}, static_cast<double>(scored), at::kDouble);
    ranks.all_reduce(loss_sum);
    ranks.all_reduce(count);
    scored = static_cast<int64_t>(count.item<double>());
  }
  return loss_sum.item().toDouble() / static_cast<double>(std::max<int64_t>(scored, 1));
}

}  // namespace

double validate(Parts& parts, CapacityKeeper& capacity, int64_t micro_rows) {
  for (;;) {
    const double loss = validate_once(parts, micro_rows);
    if (capacity.had_room()) return loss;
  }
}

}  // namespace conclave::train
