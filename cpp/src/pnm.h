// Portable pixmaps: PPM and PGM, in and out. http://netpbm.sourceforge.net/doc/ppm.html
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "segnets/image.h"

namespace segnets {

inline constexpr std::int64_t kMaxFileSide = 65535;  // height and width of an image in a file of any kind

// Decode one binary 8-bit PPM (P6) or PGM (P5); `path` is for messages. Throws Error for anything else, before
// allocating pixels.
Image decode_pnm(std::string_view bytes, const std::string& path);

std::string encode_ppm(const Image& image);
std::string encode_pgm(const Mask& mask);  // 8 bit up to 256 classes, else 16 bit, high byte first

}  // namespace segnets
