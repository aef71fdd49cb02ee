// The work of loading, cut into chunks that threads take from one list: each reads a part of one
// tensor and puts it, converted, where it belongs.
#pragma once
#include <string>
#include <vector>

#include "checkpoint/load.h"
#include "checkpoint/stored.h"

namespace conclave::checkpoint {

class InputFile {
 public:
  explicit InputFile(const std::string& path);
  InputFile(const InputFile&) = delete;
  ~InputFile();
  // Bytes at … at + bytes of the file. Throws RunError if it has become shorter. Any thread.
  void read(void* into, int64_t at, int64_t bytes) const;

 private:
  std::string path_;
  int fd_;
};

struct Source {
  Stored stored;
  const InputFile* values = nullptr;
  const InputFile* scales = nullptr;  // of the quantized ones
  const LoadTarget* target = nullptr;
};

struct Chunk {
  const Source* source;
  int64_t first, count;  // elements of the target; transposed: first is the number of a tile
};

// Appends the chunks that fill the source's target.
void cut_chunks(const Source& source, std::vector<Chunk>& chunks);

// One a thread: it keeps what lies between the file and the target, at most a few MB.
class ChunkReader {
 public:
  void read(const Chunk& chunk);

 private:
  void read_plain(const Chunk& chunk);
  void read_transposed(const Chunk& chunk);
  void read_fp8(const Chunk& chunk);
  void read_mxfp4(const Chunk& chunk);

  std::vector<char> raw_, scales_, turned_;
  std::vector<float> values_;
};

}  // namespace conclave::checkpoint
