// Atomic writing of files (POSIX).
#pragma once

#include <string>
#include <string_view>

namespace segnets {

// Throw Error unless a regular file may be created or replaced at the path. Links, devices and folders are refused,
// because a rename would replace them with a regular file.
void check_writable_target(const std::string& path);

// Return an unused name in the folder of `path`: ".segnets-*.tmp".
std::string temporary_beside(const std::string& path);

// Write a temporary file next to the target, flush it and rename it. On failure the target is unchanged. Throws Error.
void write_file(const std::string& path, std::string_view bytes);

}  // namespace segnets
