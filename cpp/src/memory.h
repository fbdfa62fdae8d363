// Memory use of this process.
#pragma once

#include <cstdint>

namespace segnets {

// Memory in bytes; 0 if the system doesn't report it.
struct Memory {
  std::int64_t resident = 0;  // now
  std::int64_t peak = 0;      // at most, since the process began
};

Memory memory();

}  // namespace segnets
