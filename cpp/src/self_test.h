// Replay of an export's golden pair.
#pragma once

#include <string_view>

#include "program.h"
#include "segnets/model.h"

namespace segnets {

// Run the golden image and compare with the reference output; `golden` holds the bytes of golden.safetensors.
// Call it in inference mode. Throws Error, and whatever LibTorch throws.
SelfTest replay(const Program& program, const Contract& contract, std::string_view golden);

}  // namespace segnets
