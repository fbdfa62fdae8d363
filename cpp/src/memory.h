// How much memory this process has.
#pragma once

#include <cstdint>

namespace segnets {

// In bytes; 0 where the system does not say.
struct Memory {
  std::int64_t resident = 0;  // now
  std::int64_t peak = 0;      // at most, since the process began
};

Memory memory();

}  // namespace segnets
