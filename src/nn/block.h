// A block of a decoder is made of segments: mix (attention half) → route (norm, router) → dispatch
// → shared (the shared expert, while rows are on their way) → experts → combine → join.
// Communication segments are steps of whoever runs the block (parallel/); each compute segment
// leaves its own tape, so a schedule may run another micro-batch, a shared expert or a weight
// gradient while a dispatch is in flight.
#pragma once
#include <memory>
#include <vector>

#include "nn/tape.h"
#include "nn/weight.h"

namespace conclave::nn {

// Keys and values of what was already seen, for generation: one document, one entry a layer.
class KvCache {
 public:
  explicit KvCache(size_t layers) : layers_(layers) {}
  struct Seen {
    at::Tensor k, v;  // [seen, kv_heads, head_dim]
  };
  // Appends k, v [new, kv_heads, head_dim] to a layer and returns all of it. Buffers double as they
  // fill.
  Seen append(int layer, const at::Tensor& k, const at::Tensor& v);

 private:
  struct Layer {
    at::Tensor k, v;  // [capacity, kv_heads, head_dim]
    int64_t seen = 0;
  };
  std::vector<Layer> layers_;
};

// Who chooses the experts: the router, or for measurements a rule (ops/router.h).
enum class Gate { router, balanced, uniform };

// What a micro-batch of packed rows looks like, beside its hidden states. tokens = rows · length of
// a row.
struct Rows {
  at::Tensor
      positions;  // [tokens] int64: place of each token in its document; 0 at each document's start
  std::vector<int64_t> doc_offsets;  // docs + 1 ascending token indices, first 0, last tokens:
                                     // attention does not cross them
  std::vector<int64_t> row_offsets;  // rows + 1: the groups over which the auxiliary loss balances
                                     // (docs/decisions.md)
  KvCache* cache = nullptr;          // generation: one document, its keys and values so far
  // What the router's losses are multiplied with, so that the cut of the global batch into
  // micro-batches and ranks changes nothing: the auxiliary loss of a row with 1 / rows of the
  // global batch, z-loss and sequence loss of a token with 1 / its tokens.
  double aux_seed = 0, token_seed = 0;
  Gate gate = Gate::router;
  uint64_t gate_seed = 0;  // uniform: another one for each micro-batch
  // Router replay: ids [tokens, top_k] int64 by layer; an undefined one is chosen by the router.
  const std::vector<at::Tensor>* replay = nullptr;
};

struct Routed {
  Value x;           // [tokens, hidden]: what is dispatched
  at::Tensor ids;    // [tokens, top_k] int64, in order of falling score or as given
  Value weights;     // [tokens, top_k], the compute type's accumulation type (fp32 or wider)
  at::Tensor loads;  // [experts] int64: (token, expert) pairs of this micro-batch
  at::Tensor aux;    // [] fp64: this micro-batch's part of the router's losses, coefficients and
                     // seeds included; undefined without
};

// Rows as the experts get them: expert-major, in token order within an expert.
struct Received {
  Value rows;          // [received, hidden]
  Value weights;       // [received]: the routing weight of each row
  at::Tensor offsets;  // [local_experts + 1] int64; on CUDA int32, on the device: expert e has rows
                       // offsets[e] … offsets[e + 1)
};

class Block {
 public:
  virtual ~Block() = default;
  // x [tokens, hidden] → x + attention(norm(x)), same shape.
  virtual Value mix(Tape& tape, const Value& x, const Rows& rows) = 0;
  // True: route, experts and join are called. False: feed_forward is.
  virtual bool has_experts() const { return true; }
  virtual Routed route(Tape& tape, const Value& h, const Rows& rows) = 0;
  // A shared expert, which every token meets: shared is called with route's x, and its output is
  // added to what the experts' rows combine to.
  virtual bool has_shared_expert() const { return false; }
  virtual Value shared(Tape&, const Value&) { return {}; }  // [tokens, hidden]
  virtual Value experts(
      Tape& tape, const Received& received) = 0;  // [received, hidden], routing weights applied
  virtual Value join(Tape& tape, const Value& h, const Value& combined);  // h + combined
  // Dense layer: h + mlp(norm(h)). Throws where an architecture has none.
  virtual Value feed_forward(Tape& tape, const Value& h);
  // The buffer [experts] that follows the loads after each optimizer step, if the router has one.
  virtual Weight* correction_bias() { return nullptr; }
};

}  // namespace conclave::nn
