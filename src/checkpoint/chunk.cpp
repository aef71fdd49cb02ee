#include "checkpoint/chunk.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "checkpoint/convert.h"
#include "checkpoint/dequantize.h"

namespace conclave::checkpoint {
namespace {

constexpr int64_t kPlain = int64_t{4} << 20;        // bytes: threads share large tensors
constexpr int64_t kConverted = int64_t{256} << 10;  // bytes that stay in the cache until converted
constexpr int64_t kDecoded = int64_t{64} << 10;     // elements, 256 KiB of fp32
constexpr int64_t kTile = int64_t{512} << 10;       // bytes of a tile that is turned
constexpr int64_t kTileColumns = 32;                // at least: a cache line of bf16 in the target

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t size_of(const TensorInfo& tensor) {
  return static_cast<int64_t>(c10::elementSize(tensor.dtype));
}

char* element(const LoadTarget& target, int64_t i) {
  return static_cast<char*>(target.into.data_ptr()) +
         i * static_cast<int64_t>(target.into.element_size());
}

// A transposed tensor as matrices [rows, cols] here and [cols, rows] in the file, each cut into
// tiles of all rows that the target needs and `columns` columns.
struct Tiling {
  int64_t rows, cols, columns;
  explicit Tiling(const Source& source)
      : rows(source.target->shape.end()[-2]), cols(source.target->shape.end()[-1]) {
    const int64_t fit = kTile / std::max<int64_t>(1, rows * size_of(*source.stored.values.tensor));
    columns = std::max(kTileColumns, fit / kTileColumns * kTileColumns);
  }
  int64_t matrix() const { return rows * cols; }
  int64_t tiles() const { return ceil_div(cols, columns); }  // of a matrix
};

// in [n, m] → out [m, n]
template <class T>
void turn(const char* in, char* out, int64_t n, int64_t m) {
  constexpr int64_t kRows = 32;
  const auto* from = reinterpret_cast<const T*>(in);
  auto* to = reinterpret_cast<T*>(out);
  for (int64_t begin = 0; begin < m; begin += kRows) {
    const int64_t end = std::min(m, begin + kRows);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = begin; j < end; ++j) to[j * n + i] = from[i * m + j];
  }
}

void turn(const char* in, char* out, int64_t n, int64_t m, int64_t element_size) {
  switch (element_size) {
    case 1:
      return turn<uint8_t>(in, out, n, m);
    case 2:
      return turn<uint16_t>(in, out, n, m);
    case 4:
      return turn<uint32_t>(in, out, n, m);
    default:
      return turn<uint64_t>(in, out, n, m);
  }
}

}  // namespace

InputFile::InputFile(const std::string& path)
    : path_(path), fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (fd_ < 0) throw_errno(path_, "open");
}

InputFile::~InputFile() { close(fd_); }

void InputFile::read(void* into, int64_t at, int64_t bytes) const {
  for (auto* to = static_cast<char*>(into); bytes > 0;) {
    const ssize_t got = pread(fd_, to, static_cast<size_t>(bytes), at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno(path_, "read");
    if (got == 0)
      throw RunError(path_ + ": ended while it was read; is another program writing it?");
    to += got, at += got, bytes -= got;
  }
}

void cut_chunks(const Source& source, std::vector<Chunk>& chunks) {
  const LoadTarget& target = *source.target;
  const TensorInfo& tensor = *source.stored.values.tensor;
  const int64_t numel = target.into.numel();
  if (numel == 0) return;
  if (source.stored.form == Form::transposed) {
    const Tiling tiling(source);
    const int64_t begin = target.first / tiling.matrix() * tiling.tiles(),
                  end = ceil_div(target.first + numel, tiling.matrix()) * tiling.tiles();
    for (int64_t tile = begin; tile < end; ++tile) chunks.push_back({&source, tile, 1});
    return;
  }
  const bool same = tensor.dtype == target.into.scalar_type();
  const int64_t step =
      source.stored.form != Form::plain ? kDecoded : (same ? kPlain : kConverted) / size_of(tensor);
  for (int64_t first = 0; first < numel; first += step)
    chunks.push_back({&source, first, std::min(step, numel - first)});
}

void ChunkReader::read(const Chunk& chunk) {
  switch (chunk.source->stored.form) {
    case Form::plain:
      return read_plain(chunk);
    case Form::transposed:
      return read_transposed(chunk);
    case Form::fp8:
      return read_fp8(chunk);
    case Form::mxfp4:
      return read_mxfp4(chunk);
  }
}

void ChunkReader::read_plain(const Chunk& chunk) {
  const LoadTarget& target = *chunk.source->target;
  const TensorInfo& tensor = *chunk.source->stored.values.tensor;
  const int64_t size = size_of(tensor), at = tensor.begin + (target.first + chunk.first) * size,
                bytes = chunk.count * size;
  if (tensor.dtype == target.into.scalar_type())
    return chunk.source->values->read(element(target, chunk.first), at, bytes);
  raw_.resize(static_cast<size_t>(bytes));
  chunk.source->values->read(raw_.data(), at, bytes);
  convert(raw_.data(), tensor.dtype, element(target, chunk.first), target.into.scalar_type(),
          chunk.count);
}

void ChunkReader::read_transposed(const Chunk& chunk) {
  const LoadTarget& target = *chunk.source->target;
  const TensorInfo& tensor = *chunk.source->stored.values.tensor;
  const Tiling tiling(*chunk.source);
  const int64_t size = size_of(tensor), cols = tiling.cols;
  const int64_t base =
      chunk.first / tiling.tiles() * tiling.matrix();  // the matrix's first element
  const int64_t left = chunk.first % tiling.tiles() * tiling.columns,
                n = std::min(tiling.columns, cols - left);
  // What the target takes of the matrix, and the rows that hold it.
  const int64_t begin = std::max<int64_t>(target.first - base, 0),
                end = std::min(target.first + target.into.numel() - base, tiling.matrix());
  const int64_t top = begin / cols, m = ceil_div(end, cols) - top;
  raw_.resize(static_cast<size_t>(n * m * size));
  turned_.resize(raw_.size());
  const int64_t at = tensor.begin + (base + left * tiling.rows + top) * size;
  if (m == tiling.rows)
    chunk.source->values->read(raw_.data(), at, n * m * size);
  else
    for (int64_t i = 0; i < n; ++i)
      chunk.source->values->read(raw_.data() + i * m * size, at + i * tiling.rows * size, m * size);
  turn(raw_.data(), turned_.data(), n, m, size);
  for (int64_t row = 0; row < m; ++row) {
    const int64_t start = (top + row) * cols + left;
    const int64_t from = std::max(start, begin), to = std::min(start + n, end);
    if (from < to)
      convert(turned_.data() + (row * n + from - start) * size, tensor.dtype,
              element(target, base + from - target.first), target.into.scalar_type(), to - from);
  }
}

void ChunkReader::read_fp8(const Chunk& chunk) {
  const auto& [stored, values, scales, target] = *chunk.source;
  const int64_t first = target->first + chunk.first, cols = target->shape[1];
  const int64_t across = ceil_div(cols, kFp8Block), top = first / cols / kFp8Block,
                bottom = (first + chunk.count - 1) / cols / kFp8Block + 1;
  raw_.resize(static_cast<size_t>(chunk.count));
  values->read(raw_.data(), stored.values.tensor->begin + first, chunk.count);
  std::vector<float> grid(static_cast<size_t>((bottom - top) * across));
  scales->read(grid.data(), stored.scales.tensor->begin + top * across * int64_t{sizeof(float)},
               static_cast<int64_t>(grid.size() * sizeof(float)));
  values_.resize(static_cast<size_t>(chunk.count));
  fp8_values(reinterpret_cast<const uint8_t*>(raw_.data()), grid.data(), cols, first, chunk.count,
             values_.data());
  convert(values_.data(), at::kFloat, element(*target, chunk.first), target->into.scalar_type(),
          chunk.count);
}

void ChunkReader::read_mxfp4(const Chunk& chunk) {
  const auto& [stored, values, scales, target] = *chunk.source;
  const int64_t first = target->first + chunk.first, last = first + chunk.count;
  raw_.resize(static_cast<size_t>(ceil_div(last, 2) - first / 2));
  values->read(raw_.data(), stored.values.tensor->begin + first / 2,
               static_cast<int64_t>(raw_.size()));
  scales_.resize(static_cast<size_t>(ceil_div(last, kMxfp4Block) - first / kMxfp4Block));
  scales->read(scales_.data(), stored.scales.tensor->begin + first / kMxfp4Block,
               static_cast<int64_t>(scales_.size()));
  values_.resize(static_cast<size_t>(chunk.count));
  mxfp4_values(reinterpret_cast<const uint8_t*>(raw_.data()),
               reinterpret_cast<const uint8_t*>(scales_.data()), first, chunk.count,
               values_.data());
  convert(values_.data(), at::kFloat, element(*target, chunk.first), target->into.scalar_type(),
          chunk.count);
}

}  // namespace conclave::checkpoint
