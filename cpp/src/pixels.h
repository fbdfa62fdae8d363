// Somebody else's pixels as a tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "segnets/image.h"

namespace segnets {

// (N, H, W, 3) uint8 RGB, not contiguous in general; valid as long as the pixels are. Where the images are RGB and at
// equal distances (one image always is), their memory is used as it is. Otherwise they are gathered, once, in the
// order in which preprocessing would have made its copy, which then makes none.
// Throws Error if there is no image, one has no pixels or impossible strides, or their sizes differ.
at::Tensor pixels_of(const std::vector<ImageView>& images);

}  // namespace segnets
