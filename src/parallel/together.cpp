#include "parallel/together.h"

#include <c10/util/Exception.h>

#include <algorithm>

namespace conclave::parallel {
namespace {

bool sends_rows(SegmentKind kind) {
  return kind == SegmentKind::dispatch || kind == SegmentKind::combine;
}

}  // namespace

void forward_together(MicroBatch& a, MicroBatch& b) {
  const int count = static_cast<int>(a.segments().size());
  TORCH_CHECK(a.segments().size() == b.segments().size(),
              "two micro-batches: expected the same segments, got ", count, " and ",
              b.segments().size());
  for (int begin = 0; begin < count;) {
    int end = begin;
    while (end < count && !sends_rows(a.segments()[static_cast<size_t>(end)].kind)) ++end;
    end = std::min(end + 1, count);
    for (MicroBatch* micro : {&a, &b})
      for (int i = begin; i < end; ++i) micro->forward(i);
    begin = end;
  }
}

void backward_together(MicroBatch& a, MicroBatch& b) {
  for (int begin = static_cast<int>(a.segments().size()); begin > 0;) {
    int end = begin - 1;
    while (end > 0 && !sends_rows(a.segments()[static_cast<size_t>(end)].kind)) --end;
    for (MicroBatch* micro : {&a, &b})
      for (int i = begin; i-- > end;) micro->backward(i);
    begin = end;
  }
}

}  // namespace conclave::parallel
