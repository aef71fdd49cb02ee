#include "parallel/segment.h"

namespace conclave::parallel {

std::vector<SegmentKind> kinds_of(const nn::Block& block) {
  using enum SegmentKind;
  if (!block.has_experts()) return {mix, feed_forward};
  if (!block.has_shared_expert()) return {mix, route, dispatch, experts, combine, join};
  return {mix, route, dispatch, shared, experts, combine, join};
}

UnitsOfSegment units_of(const nn::Decoder& decoder, Segment s, bool backward,
                        const RunOptions& options) {
  if (s.kind == SegmentKind::embed) return {decoder.embedding_unit};
  if (s.kind == SegmentKind::head) return {decoder.final_unit, decoder.head_unit};
  if (s.layer < 0) return {};
  const auto& layer = decoder.layer(static_cast<size_t>(s.layer));
  switch (s.kind) {
    case SegmentKind::experts:
      // Rows are dispatched again from the router's norm, made again with its weight.
      if (backward && options.recompute.count("dispatch") && options.recompute.count("norm"))
        return {layer.experts, layer.dense};
      return {layer.experts};
    case SegmentKind::dispatch:
      return backward && options.experts_gradients_late ? UnitsOfSegment{layer.experts}
                                                        : UnitsOfSegment{};
    case SegmentKind::combine:
      return {};
    case SegmentKind::mtp_join:
      return {layer.dense, decoder.embedding_unit};
    case SegmentKind::mtp_head:
      return {layer.dense, decoder.head_unit};
    default:
      return {layer.dense};
  }
}

bool needed_again(const nn::Decoder& decoder, std::span<const Segment> segments, int index,
                  bool backward, const RunOptions& options, const nn::Unit* unit) {
  const int layer = segments[static_cast<size_t>(index)].layer, next = backward ? -1 : 1;
  for (int i = index + next; i >= 0 && i < static_cast<int>(segments.size()); i += next) {
    const Segment s = segments[static_cast<size_t>(i)];
    if (s.layer != layer) return false;
    const auto [first, second] = units_of(decoder, s, backward, options);
    if (unit == first || unit == second) return true;
  }
  return false;
}

}  // namespace conclave::parallel
