// Writing files that are complete or not there at all (POSIX).
#pragma once

#include <string>
#include <string_view>

namespace segnets {

// Throws Error unless a regular file may be created or replaced there; links, devices and folders are refused,
// because a rename would put a regular file in their place.
void check_writable_target(const std::string& path);

// A name that nobody else has, in the folder of `path`: ".segnets-*.tmp".
std::string temporary_beside(const std::string& path);

// Through a temporary file beside the target, flushed and renamed. On failure the target is as it was. Throws Error.
void write_file(const std::string& path, std::string_view bytes);

}  // namespace segnets
