// Images and masks in memory, and their files.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace segnets {

// Order of a pixel's channels. Most libraries use RGB; OpenCV uses BGR.
enum class ChannelOrder { rgb, bgr };

// A view of the caller's pixels: one byte per channel, top row first. Nothing is copied or kept.
//
// The first four fields describe interleaved pixels, the usual layout. The strides describe every other layout, for
// example three channels of RGBA (pixel_stride 4) or planes (pixel_stride 1, channel_stride height * width).
struct ImageView {
  const std::uint8_t* data = nullptr;  // the first channel of the top left pixel
  std::int64_t height = 0;             // 1..2^30
  std::int64_t width = 0;              // 1..2^30
  std::int64_t row_stride = 0;         // bytes from one row to the next; 0 means pixel_stride * width
  std::int64_t pixel_stride = 3;       // bytes from one pixel to the next in a row, at least 1
  std::int64_t channel_stride = 1;     // bytes from one channel of a pixel to the next, at least 1
  ChannelOrder order = ChannelOrder::rgb;
  std::int64_t channels = 3;  // as many as the model takes; `order` applies to 3 only

  // View contiguous interleaved pixels of any number of channels: 1 for gray.
  static ImageView of(const std::uint8_t* data, std::int64_t height, std::int64_t width, std::int64_t channels) {
    return {data, height, width, channels * width, channels, 1, ChannelOrder::rgb, channels};
  }

  std::int64_t bytes_per_row() const { return row_stride == 0 ? pixel_stride * width : row_stride; }
};

// An image that owns its pixels: interleaved, contiguous; RGB, gray (1 channel) or multi-band.
struct Image {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<std::uint8_t> data;
  std::int64_t channels = 3;

  ImageView view() const { return ImageView::of(data.data(), height, width, channels); }
};

// The class id of every pixel, row by row from the top, at the size of the image. A model with the decoding
// "multilabel" gives planes instead: for each class, 1 where it is present and 0 elsewhere.
struct Mask {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t num_classes = 0;    // number of ids, or of planes
  std::vector<std::uint16_t> ids;  // (height, width), or (planes, height, width), the last index fastest
  std::int64_t planes = 0;         // 0 for class ids

  // Return the class id of a pixel, or its value in one plane.
  std::uint16_t at(std::int64_t y, std::int64_t x, std::int64_t plane = 0) const {
    return ids[static_cast<std::size_t>((plane * height + y) * width + x)];
  }
};

using Colour = std::array<std::uint8_t, 3>;  // red, green, blue

// Read a PPM (P6, 8 bit) or a gray PGM (P5, 8 bit), which has one channel; a JPEG or 8-bit PNG if the build found
// libjpeg-turbo or libpng; or any format that OpenCV decodes if it found OpenCV. The format is detected from the
// content. As in cv::imread, gray JPEG and PNG become RGB, transparency is dropped and a JPEG's EXIF orientation is
// applied. Throws Error.
Image read_image(const std::string& path);

// Return whether this build has OpenCV.
bool has_opencv();

// Return the formats that this build reads, for messages: "PPM (P6, 8 bit), PGM (P5, 8 bit), JPEG, PNG".
std::string image_formats();

// Write class ids. The suffix chooses the format:
//   .png  palette indices, which viewers show in the colours of `palette`, or VOC's for ids beyond its end
//   .pgm  gray values
//   .npy  a NumPy array (height, width), or (planes, height, width), which the other formats can't store
// For more than 256 classes, .png and .pgm have 16-bit gray values. The file appears complete or not at all. Throws
// Error.
void write_mask(const std::string& path, const Mask& mask, const std::vector<Colour>& palette = {});

// Write an image of 3 channels, or of 1 as RGB, as .ppm or .png. The file appears complete or not at all. Throws Error.
void write_image(const std::string& path, const Image& image);

// Throw Error unless write_mask (or write_image) could write to the path. Call it before long work.
void check_mask_path(const std::string& path);
void check_image_path(const std::string& path);

// Return PASCAL VOC's colour map: class 0 is black, 1 dark red, 2 dark green, and so on.
std::vector<Colour> voc_palette(std::int64_t num_classes);

// Blend an image half and half with the colours of its classes. Classes whose colour is black leave the image
// unchanged, and so does 255 (PASCAL VOC's void) if it has no colour. If several planes are 1, the last of them gives
// the colour. Gray images become RGB; of more than three channels, the first three are shown. The mask must have the
// image's size, and `palette` a colour for every other id. Throws Error.
Image overlay(const ImageView& image, const Mask& mask, const std::vector<Colour>& palette);

}  // namespace segnets
