// Image files: PPM, PGM and PNG out; PPM and PGM in, and JPEG and PNG if their libraries or OpenCV are available.
#include <algorithm>
#include <cctype>
#include <filesystem>
#include <string_view>

#include "archive.h"
#include "codecs.h"
#include "npy.h"
#include "output_file.h"
#include "png_writer.h"
#include "pnm.h"
#include "segnets/error.h"
#include "segnets/image.h"

#ifdef SEGNETS_WITH_OPENCV
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#endif

namespace segnets {
namespace {

constexpr std::uint64_t kMaxImageBytes = std::uint64_t{2} << 30;

std::string extension_of(const std::string& path) {
  std::string extension = std::filesystem::path(path).extension().string();
  std::ranges::transform(extension, extension.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension;
}

void check_extension(const std::string& path, const std::string& plain) {
  const std::string extension = extension_of(path);
  if (extension != ".png" && extension != plain)
    throw Error(path + ": expected a name that ends in " + (plain == ".pgm" ? ".pgm, .npy" : plain) + " or .png");
}

bool is_array(const std::string& path) { return extension_of(path) == ".npy"; }

// Return whether a JPEG is truncated. Decoders would fill the missing part with gray.
// Segments are skipped by their lengths up to the first scan. After it, FF D9 only occurs as the end of the image
// (ITU-T T.81, B.1.1).
[[maybe_unused]] bool is_truncated_jpeg(std::string_view bytes) {
  if (!bytes.starts_with("\xFF\xD8")) return false;
  std::size_t at = 2;
  while (at + 4 <= bytes.size() && static_cast<unsigned char>(bytes[at]) == 0xFF) {
    const auto byte = [&](std::size_t i) {
      return static_cast<std::size_t>(static_cast<unsigned char>(bytes[at + i]));
    };
    if (byte(1) == 0xFF) {  // padding
      ++at;
    } else if (byte(1) == 0xDA) {
      return bytes.find("\xFF\xD9", at) == std::string_view::npos;
    } else {
      at += 2 + (byte(2) << 8 | byte(3));
    }
  }
  return true;
}

[[maybe_unused]] void check_end(const std::string& bytes, const std::string& path) {
  if (is_truncated_jpeg(bytes)) throw Error(path + ": is a JPEG image that ends too early; copy or fetch it again");
}

#ifdef SEGNETS_WITH_OPENCV

Image decode(const std::string& bytes, const std::string& path) {
  check_end(bytes, path);
  try {
    const cv::Mat encoded(1, static_cast<int>(bytes.size()), CV_8U, const_cast<char*>(bytes.data()));
    // Like cv::imread: gray becomes RGB, transparency is dropped, the EXIF orientation is applied.
    const cv::Mat bgr = cv::imdecode(encoded, cv::IMREAD_COLOR);
    if (bgr.empty()) throw Error(path + ": is not an image, or a damaged one; OpenCV can't decode it");
    Image image{bgr.rows, bgr.cols, {}};
    image.data.reserve(bgr.total() * 3);
    for (int y = 0; y < bgr.rows; ++y)
      for (int x = 0; x < bgr.cols; ++x) {
        const auto& pixel = bgr.at<cv::Vec3b>(y, x);
        image.data.insert(image.data.end(), {pixel[2], pixel[1], pixel[0]});
      }
    return image;
  } catch (const cv::Exception& exception) {
    throw Error(path + ": OpenCV can't decode it: " + exception.err);
  }
}

#else

std::string kind_of(std::string_view bytes) {
  if (bytes.starts_with("\xFF\xD8\xFF")) return "a JPEG image";
  if (bytes.starts_with("\x89PNG")) return "a PNG image";
  if (bytes.starts_with("P3")) return "a PPM image in text form (P3)";
  if (bytes.starts_with("P2")) return "a PGM image in text form (P2)";
  if (bytes.starts_with("RIFF") && bytes.substr(8, 4) == "WEBP") return "a WebP image";
  if (bytes.starts_with("GIF8")) return "a GIF image";
  return "";
}

Image decode(const std::string& bytes, const std::string& path) {
#ifdef SEGNETS_WITH_JPEG
  if (bytes.starts_with("\xFF\xD8")) {
    check_end(bytes, path);
    return decode_jpeg(bytes, path);
  }
#endif
#ifdef SEGNETS_WITH_PNG
  if (bytes.starts_with("\x89PNG")) return decode_png(bytes, path);
#endif
  const std::string kind = kind_of(bytes);
  const std::string reads = "this build reads " + image_formats();
  if (kind.empty()) throw Error(path + ": is not an image that this build reads; " + reads);
  throw Error(path + ": is " + kind + "; " + reads + ": convert it, or build with the library for it");
}

#endif

}  // namespace

bool has_opencv() {
#ifdef SEGNETS_WITH_OPENCV
  return true;
#else
  return false;
#endif
}

std::string image_formats() {
  std::string formats = "PPM (P6, 8 bit), PGM (P5, 8 bit)";
#ifdef SEGNETS_WITH_OPENCV
  formats += ", and JPEG, PNG and more by OpenCV";
#endif
#ifdef SEGNETS_WITH_JPEG
  formats += ", JPEG";
#endif
#ifdef SEGNETS_WITH_PNG
  formats += ", PNG";
#endif
  return formats;
}

Image read_image(const std::string& path) {
  const std::string bytes = read_file(path, kMaxImageBytes - 1);
  constexpr std::size_t kDepthAt = 24;  // in the header of a PNG
  if (bytes.starts_with("\x89PNG") && bytes.size() > kDepthAt && bytes[kDepthAt] == 16)
    throw Error(path + ": is a PNG of 16 bits per channel, expected 8; convert it");
  return bytes.starts_with("P6") || bytes.starts_with("P5") ? decode_pnm(bytes, path) : decode(bytes, path);
}

void check_mask_path(const std::string& path) {
  if (!is_array(path)) check_extension(path, ".pgm");
  check_writable_target(path);
}

void check_image_path(const std::string& path) {
  check_extension(path, ".ppm");
  check_writable_target(path);
}

void write_mask(const std::string& path, const Mask& mask, const std::vector<Colour>& palette) {
  check_mask_path(path);
  if (is_array(path)) return write_file(path, encode_npy(mask));
  if (mask.planes > 0) throw Error(path + ": the mask has a plane for each class; write it as .npy");
  write_file(path, extension_of(path) == ".png" ? encode_png(mask, palette) : encode_pgm(mask));
}

void write_image(const std::string& path, const Image& image) {
  check_image_path(path);
  if (image.channels != 1 && image.channels != 3)
    throw Error(path + ": the image has " + std::to_string(image.channels) + " channels; files hold 1 or 3");
  const bool png = extension_of(path) == ".png";
  if (image.channels == 3) return write_file(path, png ? encode_png(image) : encode_ppm(image));
  Image rgb{image.height, image.width, {}};
  rgb.data.reserve(3 * image.data.size());
  for (const std::uint8_t value : image.data) rgb.data.insert(rgb.data.end(), 3, value);
  write_file(path, png ? encode_png(rgb) : encode_ppm(rgb));
}

}  // namespace segnets
