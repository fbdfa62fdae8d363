#include "pixels.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "segnets/error.h"

namespace segnets {
namespace {

constexpr std::int64_t kMaxSide = std::int64_t{1} << 30;
constexpr std::int64_t kMaxStride = std::int64_t{1} << 32;  // so that no sum below overflows: 2^62 + 2^33

std::string size_of(const ImageView& image) { return std::to_string(image.height) + "x" + std::to_string(image.width); }

std::string channels_of(std::int64_t count) { return std::to_string(count) + (count == 1 ? " channel" : " channels"); }

// Throw Error for an impossible view; `name` is "image", or which one of several.
void check_view(const ImageView& image, const std::string& name, std::int64_t channels) {
  if (image.channels != channels)
    throw Error(name + ": has " + channels_of(image.channels) + ", but this model takes " + channels_of(channels) +
                "; set ImageView::channels, or convert the image");
  if (channels != 3 && image.order != ChannelOrder::rgb)
    throw Error(name + ": the order BGR is for 3 channels, but this image has " + std::to_string(channels));
  if (image.data == nullptr) throw Error(name + ": its data pointer is null");
  if (image.height < 1 || image.width < 1) throw Error(name + ": " + size_of(image) + " holds no pixels");
  if (image.height > kMaxSide || image.width > kMaxSide)
    throw Error(name + ": " + size_of(image) + " has a side above 2^30 pixels");
  for (const std::int64_t stride : {image.pixel_stride, image.channel_stride})
    if (stride < 1 || stride > kMaxStride)
      throw Error(name + ": a pixel or channel stride of " + std::to_string(stride) + " bytes; expected 1..2^32");
  const std::int64_t stride = image.bytes_per_row();
  // The bytes that one row spans; the channels of planes are beyond the row.
  const bool interleaved = image.channel_stride <= image.pixel_stride;
  const std::int64_t span =
      (image.width - 1) * image.pixel_stride + (interleaved ? (channels - 1) * image.channel_stride : 0) + 1;
  if (stride < span)
    throw Error(name + ": a row stride of " + std::to_string(stride) + " bytes is less than the " +
                std::to_string(span) + " that a row of " + std::to_string(image.width) + " pixels takes");
  if (stride > std::numeric_limits<std::int64_t>::max() / 2 / image.height)
    throw Error(name + ": a row stride of " + std::to_string(stride) + " bytes is more than memory can hold");
}

void check_views(const std::vector<ImageView>& images, std::int64_t channels) {
  if (images.empty()) throw Error("batch: holds no images; expected at least one");
  for (std::size_t i = 0; i < images.size(); ++i) {
    const std::string name = images.size() == 1 ? "image" : "image " + std::to_string(i) + " of the batch";
    check_view(images[i], name, channels);
    if (images[i].height != images[0].height || images[i].width != images[0].width)
      throw Error(name + ": is " + size_of(images[i]) + ", but image 0 is " + size_of(images[0]) +
                  " (height x width); a batch holds images of one size, so segment this one by itself");
  }
}

bool same_layout(const ImageView& a, const ImageView& b) {
  return a.bytes_per_row() == b.bytes_per_row() && a.pixel_stride == b.pixel_stride &&
         a.channel_stride == b.channel_stride && a.order == b.order;
}

// Return the distance in bytes between successive images, if all have the same layout and distance.
std::optional<std::int64_t> distance(const std::vector<ImageView>& images) {
  if (images.size() == 1) return images[0].height * images[0].bytes_per_row();
  const auto address = [&](std::size_t i) { return reinterpret_cast<std::uintptr_t>(images[i].data); };
  if (address(1) < address(0)) return std::nullopt;
  const std::uintptr_t step = address(1) - address(0);
  for (std::size_t i = 1; i < images.size(); ++i)
    if (!same_layout(images[i], images[0]) || address(i) - address(i - 1) != step) return std::nullopt;
  return static_cast<std::int64_t>(step);
}

// LibTorch only reads the pixels; its interface has no const.
at::Tensor blob(const ImageView& first, std::int64_t count, std::int64_t step) {
  return at::from_blob(const_cast<std::uint8_t*>(first.data), {count, first.height, first.width, first.channels},
                       {step, first.bytes_per_row(), first.pixel_stride, first.channel_stride}, at::kByte);
}

}  // namespace

at::Tensor pixels_of(const std::vector<ImageView>& images, std::int64_t channels) {
  check_views(images, channels);
  const auto count = static_cast<std::int64_t>(images.size());
  const std::optional<std::int64_t> step = distance(images);
  if (step && images[0].order == ChannelOrder::rgb) return blob(images[0], count, *step);
  // Tensors have no negative strides, so BGR must be copied to become RGB.
  const at::Tensor planes = at::empty({count, channels, images[0].height, images[0].width}, at::kByte);
  for (std::int64_t i = 0; i < count; ++i) {
    const ImageView& image = images[static_cast<std::size_t>(i)];
    const at::Tensor source = blob(image, 1, image.height * image.bytes_per_row())[0];
    for (std::int64_t c = 0; c < channels; ++c)
      planes[i][c].copy_(source.select(2, image.order == ChannelOrder::rgb ? c : 2 - c));
  }
  return planes.permute({0, 2, 3, 1});
}

}  // namespace segnets
