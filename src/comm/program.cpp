#include "comm/program.h"

#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/hash.h"
#include "base/text.h"

namespace conclave::comm {
namespace {

bool matters(std::string_view library) {
  for (const char* part : {"torch", "c10", "nccl", "cudart", "cublas", "cudnn", "libcuda.so"})
    if (library.find(part) != std::string_view::npos) return true;
  return false;
}

// The build id among a library's notes; without one its size in memory.
std::string identity(const dl_phdr_info& info) {
  uint64_t size = 0;
  for (int i = 0; i < info.dlpi_phnum; ++i) {
    const auto& header = info.dlpi_phdr[i];
    if (header.p_type == PT_LOAD) size = std::max<uint64_t>(size, header.p_vaddr + header.p_memsz);
    if (header.p_type != PT_NOTE) continue;
    const auto* at = reinterpret_cast<const char*>(info.dlpi_addr + header.p_vaddr);
    const auto* end = at + header.p_memsz;
    while (at + sizeof(ElfW(Nhdr)) <= end) {
      ElfW(Nhdr) note;
      std::memcpy(&note, at, sizeof note);
      const char* name = at + sizeof note;
      const char* value = name + (note.n_namesz + 3U) / 4 * 4;
      if (value + note.n_descsz > end) break;
      if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(name, "GNU", 4) == 0)
        return hash_hex(xxh3(std::as_bytes(std::span(value, note.n_descsz))));
      at = value + (note.n_descsz + 3U) / 4 * 4;
    }
  }
  return std::to_string(size) + " bytes";
}

int add_line(dl_phdr_info* info, size_t, void* lines) {
  const std::string path = info->dlpi_name ? info->dlpi_name : "";
  const std::string name = path.substr(path.rfind('/') + 1);
  if (matters(name))
    static_cast<std::vector<std::string>*>(lines)->push_back(name + ": " + identity(*info));
  return 0;
}

}  // namespace

std::string program_lines() {
  std::vector<std::string> lines;
  ::dl_iterate_phdr(add_line, &lines);
  std::sort(lines.begin(), lines.end());
  const MappedFile program("/proc/self/exe");
  lines.insert(lines.begin(), "program: " + hash_hex(xxh3(program.bytes())));
  return join(lines, "\n");
}

}  // namespace conclave::comm
