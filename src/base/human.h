// Numbers for people.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace conclave {

std::string human_bytes(double bytes);  // "512 B", "1.5 GiB"
// "72 GiB" and the like, of any such unit, back to bytes; nothing for another text.
std::optional<int64_t> bytes_of(const std::string& text);
std::string human_count(double count);                        // "812", "12.3 M"
std::string human_duration(double seconds);                   // "0:00:05", "1:02:03", "3 d 1:02:03"
std::string human_rate(double per_second, const char* unit);  // "12.3 k tokens/s"

}  // namespace conclave
