#include "checkpoint/shared_plan.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include "checkpoint/header.h"
#include "checkpoint/save_parts.h"

namespace conclave::checkpoint {
namespace {

// The tensor as the file has it, without memory for its elements.
NamedTensor shape_of(const TensorPart& part) {
  std::vector<int64_t> shape = part.shape;
  if (part.transposed) {
    TORCH_CHECK(shape.size() >= 2, "save: `", part.name, "`: expected two dims to be transposed");
    std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
  }
  return {part.name, at::empty({}, part.dtype).expand(shape)};
}

std::map<std::string, SharedPlan::Place> plan_file(const std::string& name,
                                                   std::span<const NamedTensor> tensors,
                                                   const Metadata& metadata, SharedPlan& plan) {
  std::vector<const NamedTensor*> order;
  PlannedFile file{name, make_header(tensors, metadata, order), 0};
  file.bytes = static_cast<int64_t>(file.header.size());
  std::map<std::string, SharedPlan::Place> places;
  for (const NamedTensor* tensor : order) {
    places[tensor->name] = {plan.files.size(), file.bytes};
    file.bytes += static_cast<int64_t>(tensor->data.nbytes());
  }
  plan.files.push_back(std::move(file));
  return places;
}

std::vector<NamedTensor> shapes_of(const std::vector<TensorPart>& parts) {
  std::vector<NamedTensor> shapes;
  shapes.reserve(parts.size());
  for (const TensorPart& part : parts) shapes.push_back(shape_of(part));
  return shapes;
}

}  // namespace

SharedPlan plan_files(const SharedContents& contents) {
  SharedPlan plan;
  const std::vector<NamedTensor> model = shapes_of(contents.tensors);
  const auto shards = cut_shards(model, contents.max_shard_bytes);
  for (size_t i = 0; i < shards.size(); ++i)
    plan.tensors.merge(plan_file(shard_name(i, shards.size()), shards[i], kModelMetadata, plan));
  if (shards.size() > 1) plan.index_json = index_of(shards);
  for (const auto& [name, parts] : contents.beside)
    plan.beside[name] = plan_file(name, shapes_of(parts), {}, plan);
  return plan;
}

}  // namespace conclave::checkpoint
