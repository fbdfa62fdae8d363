// Portable pixmaps: PPM in and out, PGM out. http://netpbm.sourceforge.net/doc/ppm.html
#pragma once

#include <string>
#include <string_view>

#include "segnets/image.h"

namespace segnets {

// Decode one binary 8-bit PPM (P6); `path` is for messages. Throws Error for anything else, before allocating pixels.
Image decode_ppm(std::string_view bytes, const std::string& path);

std::string encode_ppm(const Image& image);
std::string encode_pgm(const Mask& mask);  // 8 bit up to 256 classes, else 16 bit, high byte first

}  // namespace segnets
