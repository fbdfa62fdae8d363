#include "memory.h"

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>
#include <string>

namespace segnets {
namespace {

namespace fs = std::filesystem;

void take_smaller(std::optional<std::int64_t>& least, std::int64_t value) {
  least = std::min(least.value_or(value), value);
}

// Return the number in a file; nothing for "max", which is no limit.
std::optional<std::int64_t> number_in(const fs::path& path) {
  std::ifstream file(path);
  std::int64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;
}

// Return the number after a word that begins a line.
std::optional<std::int64_t> field_of(const fs::path& path, const std::string& name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string word;
    std::int64_t number = 0;
    if (words >> word >> number && word == name) return number;
  }
  return std::nullopt;
}

// Lower `least` to the memory that a group and its parents leave. In a container, the path may be that of the host.
void check_group(const fs::path& mount, const std::string& path, const std::array<const char*, 3>& names,
                 std::optional<std::int64_t>& least) {
  fs::path relative = fs::path(path).relative_path();
  for (;;) {
    const fs::path group = mount / relative;
    const auto limit = number_in(group / names[0]), usage = number_in(group / names[1]);
    // Pages of files that were read long ago count as available.
    if (limit && usage)
      take_smaller(least,
                   std::max<std::int64_t>(0, *limit - *usage + field_of(group / "memory.stat", names[2]).value_or(0)));
    if (relative.empty()) return;
    relative = relative.parent_path();
  }
}

}  // namespace

std::optional<std::int64_t> available_memory(const fs::path& root) {
  std::optional<std::int64_t> least;
  if (const auto kib = field_of(root / "proc/meminfo", "MemAvailable:")) take_smaller(least, *kib * 1024);
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",",
                      path = line.substr(second + 1);
    if (controllers == ",,")
      check_group(root / "sys/fs/cgroup", path, {"memory.max", "memory.current", "inactive_file"}, least);
    else if (controllers.find(",memory,") != std::string::npos)
      check_group(root / "sys/fs/cgroup/memory", path,
                  {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}, least);
  }
  return least;
}

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
