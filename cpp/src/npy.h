// NumPy arrays as files.
#pragma once

#include <string>

#include "segnets/image.h"

namespace segnets {

// uint8, or uint16 for more than 256 classes; (height, width), or (planes, height, width).
std::string encode_npy(const Mask& mask);

}  // namespace segnets
