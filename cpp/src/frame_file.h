// The file of a ring: creation with all of its memory, opening, and the locks that show that a side is alive.
//
// The locks are open file description locks (Linux). Unlike process locks, they also exclude a second user in the same
// process, and the kernel releases them however the process ends.
#pragma once

#include <unistd.h>

#include <string>
#include <utility>

#include "segnets/error.h"
#include "segnets/frame_ring.h"

namespace segnets::ring {

// An open file. Its locks end when it and its mappings are closed.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(Descriptor&& from) noexcept : number_(std::exchange(from.number_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  operator int() const { return number_; }

 private:
  int number_;
};

const char* name_of(FrameRing::Role role);
Error failed(const std::string& path, const char* what);  // "can't be <what>", with the reason in errno

bool exists(const std::string& path);
// Open or create the file and take the role. Throws Error.
Descriptor create_file(const std::string& path, const FrameLayout& layout, FrameRing::Role role);
Descriptor open_file(const std::string& path);
FrameLayout read_layout(int file, const std::string& path);

void take(int file, FrameRing::Role role, const std::string& path);  // throws Error if the role is taken
void give_up(int file, FrameRing::Role role) noexcept;
bool is_taken(int file, FrameRing::Role role, const std::string& path);  // by another descriptor

}  // namespace segnets::ring
