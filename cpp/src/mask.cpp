// Masks of single images, and colours for them.
#include <algorithm>

#include "segnets/error.h"
#include "segnets/image.h"
#include "segnets/model.h"

namespace segnets {
namespace {

constexpr std::uint16_t kVoid = 255;  // labels of PASCAL VOC have it for pixels without a class

}  // namespace

Mask MaskBatch::mask(std::int64_t index) const {
  if (index < 0 || index >= count)
    throw Error("mask " + std::to_string(index) + ": the batch has " + std::to_string(count));
  const std::int64_t size = std::max<std::int64_t>(planes, 1) * height * width;
  Mask result{height, width, num_classes, std::vector<std::uint16_t>(static_cast<std::size_t>(size)), planes};
  const std::int64_t first = index * size;
  if (narrow) std::copy_n(narrow.get() + first, result.ids.size(), result.ids.begin());
  else std::copy_n(wide.get() + first, result.ids.size(), result.ids.begin());
  return result;
}

// The bits of the class id go to red, green and blue in turn, starting at the colour's highest bit.
// Everingham et al., PASCAL VOC development kit, VOClabelcolormap.m.
std::vector<Colour> voc_palette(std::int64_t num_classes) {
  std::vector<Colour> palette;
  for (std::int64_t id = 0; id < num_classes; ++id) {
    Colour colour{};
    for (int bit = 0; bit < 8; ++bit)
      for (int channel = 0; channel < 3; ++channel)
        colour[static_cast<std::size_t>(channel)] |=
            static_cast<std::uint8_t>((id >> (3 * bit + channel) & 1) << (7 - bit));
    palette.push_back(colour);
  }
  return palette;
}

namespace {

// Return the colour of a pixel: of its class, or of its last plane that is 1; black if there is none.
Colour colour_at(const Mask& mask, std::size_t pixel, const std::vector<Colour>& palette) {
  if (mask.planes == 0) {
    const std::uint16_t id = mask.ids[pixel];
    if (id < palette.size()) return palette[id];
    if (id != kVoid) throw Error("overlay: no colour for class " + std::to_string(id));
    return {0, 0, 0};
  }
  if (static_cast<std::size_t>(mask.planes) > palette.size())
    throw Error("overlay: no colour for class " + std::to_string(palette.size()));
  const auto size = static_cast<std::size_t>(mask.height * mask.width);
  for (auto plane = static_cast<std::size_t>(mask.planes); plane-- > 0;)
    if (mask.ids[plane * size + pixel] != 0) return palette[plane];
  return {0, 0, 0};
}

}  // namespace

Image overlay(const ImageView& image, const Mask& mask, const std::vector<Colour>& palette) {
  if (image.height != mask.height || image.width != mask.width)
    throw Error("overlay: the mask does not have the image's size");
  Image result{image.height, image.width, {}, 3};
  const bool gray = image.channels < 3;  // of two bands, the first one is shown
  result.data.resize(static_cast<std::size_t>(3 * image.height * image.width));
  std::size_t pixel = 0;
  for (std::int64_t y = 0; y < image.height; ++y) {
    for (std::int64_t x = 0; x < image.width; ++x, ++pixel) {
      const std::uint8_t* source = image.data + y * image.bytes_per_row() + x * image.pixel_stride;
      const Colour colour = colour_at(mask, pixel, palette);
      const bool clear = colour == Colour{0, 0, 0};
      for (std::size_t c = 0; c < 3; ++c) {
        const std::size_t channel = gray ? 0 : image.order == ChannelOrder::rgb ? c : 2 - c;
        const int value = source[static_cast<std::int64_t>(channel) * image.channel_stride];
        result.data[3 * pixel + c] = static_cast<std::uint8_t>(clear ? value : (value + colour[c] + 1) / 2);
      }
    }
  }
  return result;
}

}  // namespace segnets
