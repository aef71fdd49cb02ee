#include "parallel/segment.h"

namespace conclave::parallel {

at::Tensor to_device(const at::Tensor& host, at::Device device) {
  if (!host.defined() || host.device().type() == device.type()) return host;
  return (device.is_cuda() ? host.pin_memory() : host).to(device, /*non_blocking=*/true);
}

Batch to_device(Batch batch, at::Device device) {
  for (at::Tensor* t : {&batch.ids, &batch.labels, &batch.rows.positions, &batch.hidden})
    *t = to_device(*t, device);
  return batch;
}

}  // namespace conclave::parallel
