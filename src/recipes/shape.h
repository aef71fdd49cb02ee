// A decoder as plan/ sees it, and what plan/ says of it in words.
#pragma once
#include <cstdint>
#include <string>

#include "comm/capacity.h"
#include "data/packing.h"
#include "nn/decoder.h"
#include "plan/memory.h"
#include "plan/shape.h"
#include "recipes/pretrain_config.h"

namespace conclave::recipes {

plan::ModelShape shape_of(const nn::Decoder& decoder);
plan::Precision precision_of(const std::string& dtype);  // "fp32", "fp64" or "bf16"

// What the loads of expert ranks depend on; the layers with experts are alike.
comm::LoadFacts load_facts(const plan::ModelShape& shape, int64_t tokens, int64_t expert_ranks);

// Of the device's memory. data_bytes: of the tokenized text, one of the two below.
plan::MemoryForecast forecast(const PretrainConfig& config, const plan::ModelShape& shape,
                              at::Device device, int64_t data_bytes);
// Before the text is read: an id of 4 bytes for each 3 bytes of its files; 0 if they are not there.
int64_t expected_data_bytes(const PretrainConfig& config);
int64_t data_bytes(const data::TokenizedText& text, const data::PackedDataset& rows);

// Bytes of the program and its libraries on the CPU: what they had at the start (a build with CUDA
// some 200 MiB more than one without) and what they touch later.
int64_t program_bytes();
std::string parameter_count(int64_t n);             // "671.0 B", "1026.4 B", below 1e9 "1.9 M"
std::string flops_table(const plan::Flops& flops);  // a line a term, in G or M, and the total

}  // namespace conclave::recipes
