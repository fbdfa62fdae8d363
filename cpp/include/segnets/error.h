// The one exception that this library throws.
#pragma once

#include <stdexcept>
#include <string>

namespace segnets {

// Bad input or a file that can't be used. what() is one line for a person: which file, what is wrong, what to do.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message);
};

}  // namespace segnets
