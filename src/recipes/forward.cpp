#include "recipes/forward.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/sort.h>

#include "base/error.h"
#include "base/timer.h"
#include "optim/adamw.h"
#include "recipes/device.h"
#include "recipes/model_io.h"
#include "train/state.h"
#include "train/step.h"

namespace conclave::recipes {
namespace {

using checkpoint::NamedTensor;

struct Inputs {
  at::Tensor ids, labels;  // [steps, batch, seq]; labels as transformers takes them, not shifted
};

Inputs read_inputs(const ForwardOptions& o) {
  auto tensors = checkpoint::read_tensors(o.ids);
  auto take = [&](const std::string& name) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) return at::Tensor();
    const at::Tensor& t = found->second;
    const int64_t dims = o.steps > 0 ? 3 : 2;
    if (t.scalar_type() != at::kLong || t.dim() != dims || t.numel() == 0 ||
        (o.steps > 0 && t.size(0) != o.steps))
      throw RunError(o.ids + ": `" + name + "`: expected I64 [" +
                     (o.steps > 0 ? std::to_string(o.steps) + ", " : "") + "batch, seq], got " +
                     c10::toString(t.scalar_type()) + " " + c10::str(t.sizes()));
    return o.steps > 0 ? t : t.unsqueeze(0);
  };
  Inputs in{take("input_ids"), take("labels")};
  if (!in.ids.defined())
    throw RunError(o.ids + ": expected a tensor `input_ids`, I64 [batch, seq]");
  if (!in.labels.defined()) in.labels = in.ids;
  if (in.labels.sizes() != in.ids.sizes())
    throw RunError(o.ids + ": `labels`: expected the shape of input_ids " +
                   c10::str(in.ids.sizes()) + ", got " + c10::str(in.labels.sizes()));
  return in;
}

void check_range(const ForwardOptions& o, const char* name, const at::Tensor& t, int64_t vocab,
                 bool ignorable) {
  const int64_t* p = t.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < t.numel(); ++i)
    if ((p[i] < 0 || p[i] >= vocab) && !(ignorable && p[i] == -100))
      throw RunError(o.ids + ": `" + name + "` at flat index " + std::to_string(i) +
                     ": expected 0 … " + std::to_string(vocab - 1) + (ignorable ? " or -100" : "") +
                     ", got " + std::to_string(p[i]));
}

// Rows are separate sequences; the logits at t are scored against labels[:, t + 1].
parallel::Batch make_batch(const at::Tensor& ids, const at::Tensor& labels) {
  const int64_t batch = ids.size(0), seq = ids.size(1);
  parallel::Batch b;
  b.ids = ids.contiguous().view({batch * seq});
  at::Tensor shifted = at::full({batch, seq}, -100, at::kLong);
  if (seq > 1) shifted.narrow(1, 0, seq - 1).copy_(labels.narrow(1, 1, seq - 1));
  b.labels = shifted.view({batch * seq});
  b.rows.positions = at::arange(seq, at::kLong).repeat({batch});
  for (int64_t r = 0; r <= batch; ++r) b.rows.doc_offsets.push_back(r * seq);
  b.rows.row_offsets = b.rows.doc_offsets;
  return b;
}

at::ScalarType out_dtype(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

std::vector<NamedTensor> one_pass(const ForwardOptions& o, Model& m, const parallel::Batch& batch,
                                  int64_t rows, int64_t seq) {
  const at::ScalarType wide = out_dtype(m.decoder->embedding_unit->dtype());
  std::vector<NamedTensor> out;
  parallel::Batch unlabelled = parallel::to_device(batch, m.units->device());
  unlabelled.labels = at::Tensor();
  parallel::MicroBatch inference(*m.decoder, *m.units, *m.dispatcher, unlabelled,
                                 {.training = false});
  inference.forward();
  out.push_back({"logits", inference.logits(at::arange(rows * seq, at::kLong))
                               .to(wide)
                               .view({rows, seq, m.decoder->vocab})});
  for (size_t i = 0; i < m.decoder->layers.size(); ++i)
    if (m.decoder->layers[i].block->has_experts())
      out.push_back(
          {"experts." + std::to_string(i),
           std::get<0>(at::sort(inference.expert_ids(static_cast<int>(i)), 1)).contiguous()});
  train::Evaluation e;
  if (o.grads) {
    const auto g =
        train::accumulate(*m.decoder, *m.units, *m.dispatcher, {batch}, {}, o.mtp_weight);
    e = {g.loss_sum, g.scored};
    if (o.mtp_weight != 0)
      out.push_back({"mtp_loss", g.mtp_loss_sum.div(g.mtp_scored).squeeze().to(wide)});
    for (auto& t :
         train::named_tensors(*m.units, [&](size_t i) { return m.units->shards()[i].grad; }))
      out.push_back({t.name, t.data});
  } else {
    e = train::evaluate(*m.decoder, *m.units, *m.dispatcher, batch);
  }
  out.push_back({"loss", e.loss_sum.div(static_cast<double>(e.scored)).squeeze().to(wide)});
  return out;
}

std::vector<NamedTensor> optimizer_steps(const ForwardOptions& o, Model& m, const Inputs& in) {
  optim::AdamW adamw = make_adamw(
      *m.units, {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1});
  at::Tensor losses = at::empty({o.steps}, at::kDouble),
             seconds = at::empty({o.steps}, at::kDouble);
  for (int64_t i = 0; i < o.steps; ++i) {
    const parallel::Batch batch = make_batch(in.ids[i], in.labels[i]);
    Timer timer;
    const auto r =
        train::step(*m.decoder, *m.units, *m.dispatcher, adamw, {batch}, {.lr = 1e-3}).wait();
    seconds[i] = timer.seconds();
    if (r.skipped)
      throw RunError("step " + std::to_string(i) + ": the loss or a gradient is not finite");
    losses[i] = r.loss;
  }
  std::vector<NamedTensor> out{
      {"losses", losses.to(out_dtype(m.decoder->embedding_unit->dtype()))}};
  if (o.timings) out.push_back({"seconds", seconds});
  return out;
}

}  // namespace

void forward(const ForwardOptions& o) {
  if (o.steps > 0 && o.grads)
    throw ConfigError(
        "--grads: has no effect with --steps, which writes losses only; leave one out");
  if (o.timings && o.steps <= 0) throw ConfigError("--timings: needs --steps");
  if (o.mtp_weight != 0 && !o.grads) throw ConfigError("--mtp-weight: needs --grads");
  const Inputs in = read_inputs(o);
  const at::ScalarType dtype = parse_dtype(o.dtype, "--dtype");
  const at::Device device = choose_device(o.device, "--device", dtype);
  Model m = load_model(o.model, {.dtype = dtype,
                                 .device = device,
                                 .training = o.grads || o.steps > 0,
                                 .coefs = {0, 0, 0},
                                 .mtp = o.mtp_weight != 0});
  if (o.mtp_weight != 0 && m.decoder->mtp.empty())
    throw ConfigError("--mtp-weight: " + o.model + " has no modules of multi-token prediction");
  check_range(o, "input_ids", in.ids, m.decoder->vocab, false);
  check_range(o, "labels", in.labels, m.decoder->vocab, true);
  const int64_t rows = in.ids.size(1), seq = in.ids.size(2);
  if (seq > m.decoder->max_positions)
    throw RunError(o.ids + ": rows of " + std::to_string(seq) +
                   " tokens; the model's max_position_embeddings is " +
                   std::to_string(m.decoder->max_positions));
  auto out = o.steps > 0 ? optimizer_steps(o, m, in)
                         : one_pass(o, m, make_batch(in.ids[0], in.labels[0]), rows, seq);
  for (NamedTensor& tensor : out) tensor.data = tensor.data.cpu();
  checkpoint::write_safetensors_atomic(o.out, out);
}

}  // namespace conclave::recipes
