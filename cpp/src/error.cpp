#include "segnets/error.h"

namespace segnets {

// Weak, because model.cpp defines it too: a program with both libraries takes that one, one without LibTorch this one.
__attribute__((weak)) Error::Error(const std::string& message) : std::runtime_error(message) {}

}  // namespace segnets
