// Memory that this process uses, and may still take.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace segnets {

// Memory in bytes; 0 if the system doesn't report it.
struct Memory {
  std::int64_t resident = 0;  // now
  std::int64_t peak = 0;      // at most, since the process began
};

Memory memory();

// Return the bytes that are available without swapping, or nothing if the system doesn't report them. In a container,
// that is what its control groups (version 1 or 2) leave. `root` holds the folders proc and sys.
std::optional<std::int64_t> available_memory(const std::filesystem::path& root = "/");

}  // namespace segnets
