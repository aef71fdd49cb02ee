// Small functions on strings.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace conclave {

// As printf; the compiler checks the arguments.
std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));

std::string join(const std::vector<std::string>& parts, std::string_view between);
std::string join_or(const std::vector<std::string>& parts);  // "a, b or c"
std::vector<std::string> split(std::string_view text,
                               char at);  // "a..b" at '.' → a, "", b; "" → one empty part

// The fewest insertions, deletions, replacements and swaps of neighbours that make a into b, by
// bytes.
int64_t edit_distance(std::string_view a, std::string_view b);
// The nearest of `names`, or "" if none is near enough to be meant (a third of the letters wrong,
// at least one allowed).
std::string nearest(std::string_view name, const std::vector<std::string>& names);

// The shortest decimal that reads back to the same double: "0.0003", "1e-08".
std::string shortest(double value);

}  // namespace conclave
