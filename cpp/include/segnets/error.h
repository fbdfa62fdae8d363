// The one exception that this library throws.
#pragma once

#include <stdexcept>
#include <string>

namespace segnets {

// Bad input or an unusable file. what() is one line: which file, what failed, what to do.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message);
};

}  // namespace segnets
