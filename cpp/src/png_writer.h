// PNG out, without a library: the pixels are stored, not compressed. https://www.w3.org/TR/png-3/
#pragma once

#include <string>
#include <vector>

#include "segnets/image.h"

namespace segnets {

// Class ids as palette indices, whose colours are `palette` and VOC's for the rest; 16-bit gray above 256 classes.
std::string encode_png(const Mask& mask, const std::vector<Colour>& palette);
std::string encode_png(const Image& image);  // 8-bit RGB

}  // namespace segnets
