// Replaying the golden pair of an export.
#pragma once

#include <string_view>

#include "program.h"
#include "segnets/model.h"

namespace segnets {

// golden: the bytes of golden.safetensors. To be called in inference mode. Throws Error, and what LibTorch throws.
SelfTest replay(const Program& program, const Contract& contract, std::string_view golden);

}  // namespace segnets
