#include "parallel/mtp_run.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "nn/linear.h"
#include "nn/norm.h"

namespace conclave::parallel {

namespace {

// Documents of one length are counted on the device: no copy, so a step with them can be recorded.
at::Tensor kept_on_device(const std::vector<int64_t>& kept, const Batch& before) {
  const auto& docs = before.rows.doc_offsets;
  const int64_t length = docs.size() > 1 ? docs[1] : 0;
  bool equal = length > 0;
  for (size_t d = 1; d < docs.size(); ++d) equal &= docs[d] - docs[d - 1] == length;
  if (equal && before.ids.is_cuda())
    return at::arange(docs.back(), before.ids.options())
        .view({-1, length})
        .narrow(1, 0, length - 1)
        .flatten();
  return to_device(at::tensor(kept, at::TensorOptions().dtype(at::kLong)), before.ids.device());
}

}  // namespace

NextToken next_token(const Batch& before) {
  std::vector<int64_t> kept, docs{0};
  for (size_t d = 0; d + 1 < before.rows.doc_offsets.size(); ++d) {
    for (int64_t i = before.rows.doc_offsets[d]; i + 1 < before.rows.doc_offsets[d + 1]; ++i)
      kept.push_back(i);
    const auto end = static_cast<int64_t>(kept.size());
    if (end > docs.back()) docs.push_back(end);
  }
  std::vector<int64_t> rows{0};
  for (int64_t offset : before.rows.row_offsets) {
    const int64_t end = std::lower_bound(kept.begin(), kept.end(), offset) - kept.begin();
    if (end > rows.back()) rows.push_back(end);
  }
  NextToken next{kept_on_device(kept, before), before};
  const at::Tensor after = next.kept.add(1);
  next.batch.ids = at::index_select(before.ids, 0, after);
  next.batch.labels = at::index_select(before.labels, 0, after);
  next.batch.rows.positions = at::index_select(before.rows.positions, 0, next.kept);
  next.batch.rows.doc_offsets = std::move(docs);
  next.batch.rows.row_offsets = std::move(rows);
  next.batch.rows.replay = nullptr;
  return next;
}

MtpRun::MtpRun(const nn::Decoder& decoder, const nn::Mtp& module, const Batch& before,
               const nn::Tape& fresh)
    : decoder_(decoder),
      module_(module),
      next_(next_token(before)),
      tokens_before_(before.ids.size(0)),
      join_(fresh),
      head_(fresh) {}

at::Tensor MtpRun::join(const at::Tensor& hidden) {
  in_ = join_.input(at::index_select(hidden, 0, next_.kept), "residual");
  auto token = nn::embedding(join_, next_.batch.ids, *decoder_.embedding, decoder_.padding);
  token.tensor_class = "residual";
  auto both = nn::concat(join_, nn::rms_norm(join_, token, *module_.enorm, decoder_.norm_eps),
                         nn::rms_norm(join_, in_, *module_.hnorm, decoder_.norm_eps));
  both.tensor_class = "residual";
  out_ = nn::linear(join_, both, *module_.eh_proj);
  in_.data.reset();
  out_.recipe = nullptr;
  return std::exchange(out_.data, {});
}

at::Tensor MtpRun::join_backward(const at::Tensor& dx, const RunOptions& options) {
  join_.seed(out_, dx);
  finish_tape(join_, options);
  const at::Tensor dkept = join_.take_grad(in_);
  at::Tensor dhidden = at::zeros({tokens_before_, dkept.size(1)}, dkept.options());
  return dhidden.index_copy_(0, next_.kept, dkept);
}

at::Tensor MtpRun::head(at::Tensor hidden, double seed) {
  return head_.forward(std::move(hidden), *module_.norm, decoder_.norm_eps, *decoder_.head,
                       next_.batch.labels, seed);
}

}  // namespace conclave::parallel
