#include "memory.h"

#include <sys/resource.h>

#include <fstream>
#include <string>

namespace segnets {

Memory memory() {
  Memory result;
#ifdef __linux__
  // getrusage reports a maximum that a process inherits from its parent.
  std::ifstream status("/proc/self/status");
  for (std::string field; status >> field;) {
    std::int64_t kib = 0;
    if (field == "VmHWM:" && status >> kib) result.peak = kib * 1024;
    if (field == "VmRSS:" && status >> kib) result.resident = kib * 1024;
  }
#else
  struct rusage usage{};
  if (::getrusage(RUSAGE_SELF, &usage) == 0) result.peak = usage.ru_maxrss;  // bytes on macOS
#endif
  return result;
}

}  // namespace segnets
