#include "kept_memory.h"

#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstdlib>  // names the C library, where it is glibc

#ifdef __GLIBC__
#include <malloc.h>
#include <sys/mman.h>
#endif

namespace segnets {

#ifdef __GLIBC__
namespace {

// As segnets/export/memory.py.
constexpr std::size_t kInLargePages = std::size_t{1} << 30;
constexpr std::uintptr_t kLargePage = std::uintptr_t{1} << 21;

// For the heap's next kInLargePages: grown by as much, it keeps the addresses when they are free again.
void ask_for_large_pages() {
  void* start = std::malloc(kInLargePages);
  if (start == nullptr) return;  // a limit on addresses
  const auto begin = reinterpret_cast<std::uintptr_t>(start);
  const std::uintptr_t first = (begin + kLargePage - 1) / kLargePage * kLargePage;
  const std::uintptr_t length = (begin + kInLargePages - first) / kLargePage * kLargePage;
  madvise(reinterpret_cast<void*>(first), length, MADV_HUGEPAGE);  // where the system refuses, pages are small
  std::free(start);
}

}  // namespace
#endif

void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  mallopt(M_MMAP_MAX, 0);  // mapped memory goes back to the system whenever it is freed
  ask_for_large_pages();
#endif
}

}  // namespace segnets
