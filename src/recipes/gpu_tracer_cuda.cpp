#include <c10/cuda/CUDAFunctions.h>
#include <cupti.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "recipes/gpu_tracer.h"

namespace conclave::recipes {
namespace {

void check(CUptiResult result, const char* call) {
  if (result == CUPTI_SUCCESS) return;
  const char* text = "an unknown error";
  cuptiGetResultString(result, &text);
  throw RunError(format("the GPU's work cannot be recorded: %s failed: %s", call, text));
}

uint64_t now() {
  uint64_t ns = 0;
  check(cuptiGetTimestamp(&ns), "cuptiGetTimestamp");
  return ns;
}

constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                         CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET,
                                         CUPTI_ACTIVITY_KIND_RUNTIME, CUPTI_ACTIVITY_KIND_DRIVER};

// What the records say, in CUPTI's nanoseconds. Buffers come back on a thread of CUPTI's.
struct Records {
  struct OnDevice {
    std::string name;
    uint64_t begin, end;
    uint32_t stream, call;
  };
  struct Call {
    CUpti_CallbackDomain domain;
    CUpti_CallbackId function;
    uint64_t begin, end;
  };
  std::mutex mutex;
  std::vector<OnDevice> on_device;
  std::unordered_map<uint32_t, Call> calls;  // by correlation id
  size_t dropped = 0;

  void add(const CUpti_Activity* record);
};

void Records::add(const CUpti_Activity* record) {
  switch (record->kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
      const auto* k = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      on_device.push_back({k->name, k->start, k->end, k->streamId, k->correlationId});
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMCPY: {
      const auto* c = reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
      on_device.push_back({"copy", c->start, c->end, c->streamId, c->correlationId});
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMSET: {
      const auto* m = reinterpret_cast<const CUpti_ActivityMemset4*>(record);
      on_device.push_back({"fill", m->start, m->end, m->streamId, m->correlationId});
      break;
    }
    case CUPTI_ACTIVITY_KIND_RUNTIME:
    case CUPTI_ACTIVITY_KIND_DRIVER: {
      const auto* a = reinterpret_cast<const CUpti_ActivityAPI*>(record);
      const auto domain = record->kind == CUPTI_ACTIVITY_KIND_RUNTIME ? CUPTI_CB_DOMAIN_RUNTIME_API
                                                                      : CUPTI_CB_DOMAIN_DRIVER_API;
      calls.try_emplace(a->correlationId, Call{domain, a->cbid, a->start, a->end});
      break;
    }
    default:
      break;
  }
}

Records* recording = nullptr;  // by the one tracer that lives

constexpr size_t kBufferBytes = size_t{8} << 20;

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* most_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = *buffer ? kBufferBytes : 0;
  *most_records = 0;
}

void CUPTIAPI take_buffer(CUcontext context, uint32_t stream, uint8_t* buffer, size_t,
                          size_t valid) {
  if (recording) {
    const std::lock_guard lock(recording->mutex);
    CUpti_Activity* record = nullptr;
    while (valid && cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS)
      recording->add(record);
    size_t dropped = 0;
    if (cuptiActivityGetNumDroppedRecords(context, stream, &dropped) == CUPTI_SUCCESS)
      recording->dropped += dropped;
  }
  std::free(buffer);
}

// "cudaStreamSynchronize" for a call that waits for the device, else "".
std::string waits_as(const Records::Call& call) {
  const char* text = nullptr;
  if (cuptiGetCallbackName(call.domain, call.function, &text) != CUPTI_SUCCESS || !text) return "";
  std::string name = text;  // of the runtime with a version behind: cudaMemcpy_v3020
  if (const size_t version = name.find("_v"); version != std::string::npos) name.resize(version);
  const bool waits = name.ends_with("Synchronize") || name == "cudaMemcpy" || name == "cudaFree" ||
                     name == "cudaMemcpy2D" || name == "cudaFreeHost";
  return waits ? name : "";
}

// Calls of the runtime, and those of the driver that no call of the runtime made.
std::map<std::string, int64_t> waits_of(const Records& records, uint64_t begin, uint64_t end) {
  std::vector<Records::Call> calls;
  for (const auto& [id, call] : records.calls)
    if (call.begin >= begin && call.begin < end) calls.push_back(call);
  std::sort(calls.begin(), calls.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, b.end) < std::pair(b.begin, a.end);
  });
  std::map<std::string, int64_t> waits;
  uint64_t inside = 0;  // of a call that waits, until then
  for (const auto& call : calls) {
    if (call.begin < inside) continue;
    const std::string name = waits_as(call);
    if (name.empty()) continue;
    ++waits[name];
    inside = call.end;
  }
  return waits;
}

}  // namespace

struct GpuTracer::State {
  struct Change {
    uint64_t at;
    const char* part;
  };
  Records records;
  std::vector<Change> changes;
  uint64_t begin = 0;

  const char* part_at(uint64_t time) const {
    const auto after = std::upper_bound(changes.begin(), changes.end(), time,
                                        [](uint64_t t, const Change& c) { return t < c.at; });
    return after == changes.begin() ? nullptr : std::prev(after)->part;
  }
};

GpuTracer::GpuTracer() : state_(std::make_unique<State>()) {
  recording = &state_->records;
  static const CUptiResult registered = cuptiActivityRegisterCallbacks(give_buffer, take_buffer);
  check(registered, "cuptiActivityRegisterCallbacks");
  c10::cuda::device_synchronize();
  for (auto kind : kKinds) check(cuptiActivityEnable(kind), "cuptiActivityEnable");
  observe_parts(this);
  state_->begin = now();
}

GpuTracer::~GpuTracer() {
  observe_parts(nullptr);
  for (auto kind : kKinds) cuptiActivityDisable(kind);
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  recording = nullptr;
}

void GpuTracer::enter(const char* part) {
  auto& changes = state_->changes;
  if (!changes.empty() && changes.back().part) nvtxRangePop();
  changes.push_back({now(), part});
  if (part) nvtxRangePushA(part);
}

Timeline GpuTracer::finish() {
  const uint64_t done = now();
  c10::cuda::device_synchronize();
  const uint64_t end = now();
  enter(nullptr);
  observe_parts(nullptr);
  check(cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED), "cuptiActivityFlushAll");

  const std::lock_guard lock(state_->records.mutex);
  const Records& r = state_->records;
  if (r.dropped) throw RunError(format("CUPTI lost %zu records of the GPU's work", r.dropped));
  const auto seconds = [&](uint64_t ns) {
    return ns > state_->begin ? 1e-9 * static_cast<double>(ns - state_->begin) : 0.0;
  };
  Timeline t;
  std::unordered_map<std::string, size_t> names;
  for (const auto& a : r.on_device) {
    const auto [name, first] = names.try_emplace(a.name, names.size());
    if (first) t.names.push_back(a.name);
    const auto call = r.calls.find(a.call);
    t.activities.push_back({name->second,
                            call == r.calls.end() ? nullptr : state_->part_at(call->second.begin),
                            seconds(a.begin), seconds(a.end), a.stream});
  }
  std::stable_sort(t.activities.begin(), t.activities.end(),
                   [](const auto& a, const auto& b) { return a.begin < b.begin; });
  for (const auto& c : state_->changes) t.host.push_back({c.part, seconds(c.at)});
  t.seconds = seconds(end);
  t.waits = waits_of(r, state_->begin, done);
  return t;
}

}  // namespace conclave::recipes
