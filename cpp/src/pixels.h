// The caller's pixels as a tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "segnets/image.h"

namespace segnets {

// Return images as (N, H, W, channels) uint8, RGB for three channels, in general not contiguous, valid as long as the
// pixels are. RGB images at equal distances, or a single one, are not copied. Others are copied once, to the layout
// that preprocessing would copy to, so that it need not copy again. Throws Error if there is no image, one has no
// pixels, impossible strides or the wrong number of channels, or the sizes differ.
at::Tensor pixels_of(const std::vector<ImageView>& images, std::int64_t channels = 3);

}  // namespace segnets
