// The caller's pixels as a tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "segnets/image.h"

namespace segnets {

// Return images as (N, H, W, 3) uint8 RGB, in general not contiguous, valid as long as the pixels are. RGB images at
// equal distances, or a single one, are not copied. Others are copied once, to the layout that preprocessing would
// copy to, so that it need not copy again.
// Throws Error if there is no image, one has no pixels or impossible strides, or the sizes differ.
at::Tensor pixels_of(const std::vector<ImageView>& images);

}  // namespace segnets
