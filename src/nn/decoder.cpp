#include "nn/decoder.h"

namespace conclave::nn {

Unit& Decoder::add_unit(std::string name, at::ScalarType dtype, bool trained) {
  if (!trained && dtype == at::kBFloat16) dtype = at::kFloat;
  units.push_back(std::make_unique<Unit>(std::move(name), dtype, trained, share.expert_ranks,
                                         share.expert_rank));
  return *units.back();
}

void Decoder::begin(at::ScalarType dtype) {
  if (!share.ends) return;
  embedding_unit = &add_unit("embedding", dtype);
  embedding = &Weights("", *embedding_unit).add("model.embed_tokens.weight", {vocab, hidden});
}

void Decoder::finish(at::ScalarType dtype) {
  if (!share.ends) return;
  final_unit = &add_unit("final", dtype);
  final_norm = &Weights("", *final_unit).add("model.norm.weight", {hidden});
  if (tied) {
    head_unit = embedding_unit;
    head = embedding;
  } else {
    head_unit = &add_unit("head", dtype);
    head = &Weights("", *head_unit).add("lm_head.weight", {vocab, hidden});
  }
}

}  // namespace conclave::nn
