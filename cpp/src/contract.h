// Reading segnets.json.
#pragma once

#include <string>
#include <string_view>

#include "segnets/model.h"

namespace segnets {

// path: the model's, for messages. Throws Error for a contract that is damaged or newer than this program.
Contract read_contract(std::string_view text, const std::string& path);

}  // namespace segnets
