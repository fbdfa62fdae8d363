#include "segnets/error.h"

namespace segnets {

Error::Error(const std::string& message) : std::runtime_error(message) {}

}  // namespace segnets
