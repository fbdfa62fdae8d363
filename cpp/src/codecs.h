// JPEG by libjpeg-turbo and PNG by libpng, in builds that found them.
#pragma once

#include <string>
#include <string_view>

#include "segnets/image.h"

namespace segnets {

// Decode an image as OpenCV does: gray becomes RGB, transparency is dropped, the EXIF orientation of a JPEG is applied.
// `path` is for messages. Throws Error, also for damaged images.
Image decode_jpeg(std::string_view bytes, const std::string& path);
Image decode_png(std::string_view bytes, const std::string& path);

}  // namespace segnets
