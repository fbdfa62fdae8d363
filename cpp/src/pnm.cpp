#include "pnm.h"

#include "segnets/error.h"

namespace segnets {
namespace {

class Header {
 public:
  Header(std::string_view bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  const char* kind() const { return bytes_.starts_with("P6") ? "PPM" : "PGM"; }

  // Skip white space and comments, and read an integer.
  std::int64_t number(const char* name) {
    skip_space();
    std::int64_t value = 0;
    const std::size_t begin = position_;
    for (; position_ < bytes_.size() && bytes_[position_] >= '0' && bytes_[position_] <= '9'; ++position_) {
      value = 10 * value + (bytes_[position_] - '0');
      if (value > kMaxFileSide) throw Error(path_ + ": its " + kind() + " header has a " + name + " above 65535");
    }
    if (position_ == begin) throw Error(path_ + ": its " + kind() + " header has no " + name);
    return value;
  }

  // Skip the single white space between header and pixels.
  std::string_view pixels() {
    if (position_ >= bytes_.size() || !is_space(bytes_[position_]))
      throw Error(path_ + ": its " + kind() + " header does not end in white space");
    return bytes_.substr(position_ + 1);
  }

 private:
  static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

  void skip_space() {
    const std::size_t begin = position_;
    while (position_ < bytes_.size() && (is_space(bytes_[position_]) || bytes_[position_] == '#')) {
      if (bytes_[position_] == '#')
        while (position_ < bytes_.size() && bytes_[position_] != '\n' && bytes_[position_] != '\r') ++position_;
      else ++position_;
    }
    if (position_ == begin) throw Error(path_ + ": its " + kind() + " header has no white space between the numbers");
  }

  std::string_view bytes_;
  const std::string& path_;
  std::size_t position_ = 2;  // after "P6" or "P5"
};

}  // namespace

Image decode_pnm(std::string_view bytes, const std::string& path) {
  Header header(bytes, path);
  const std::string kind = header.kind();
  const std::int64_t channels = kind == "PPM" ? 3 : 1;
  const std::int64_t width = header.number("width"), height = header.number("height"),
                     maximum = header.number("maximum");
  if (width < 1 || height < 1)
    throw Error(path + ": is a " + kind + " of " + std::to_string(width) + "x" + std::to_string(height) +
                ", without pixels");
  if (maximum != 255)
    throw Error(path + ": is a " + kind + " with values up to " + std::to_string(maximum) + ", expected 255 (8 bit)");
  const std::string_view pixels = header.pixels();
  const auto expected = static_cast<std::uint64_t>(channels * width * height);
  if (pixels.size() != expected)
    throw Error(path + ": is a " + kind + " of " + std::to_string(width) + "x" + std::to_string(height) +
                " (width x height) " + (pixels.size() < expected ? "that is truncated" : "with trailing bytes") + ": " +
                std::to_string(pixels.size()) + " bytes of pixels, expected " + std::to_string(expected));
  return {height, width, {pixels.begin(), pixels.end()}, channels};
}

std::string encode_ppm(const Image& image) {
  std::string bytes = "P6\n" + std::to_string(image.width) + " " + std::to_string(image.height) + "\n255\n";
  bytes.append(image.data.begin(), image.data.end());
  return bytes;
}

std::string encode_pgm(const Mask& mask) {
  const bool wide = mask.num_classes > 256;
  std::string bytes =
      "P5\n" + std::to_string(mask.width) + " " + std::to_string(mask.height) + (wide ? "\n65535\n" : "\n255\n");
  bytes.reserve(bytes.size() + mask.ids.size() * (wide ? 2 : 1));
  for (const std::uint16_t id : mask.ids) {
    if (wide) bytes.push_back(static_cast<char>(id >> 8));
    bytes.push_back(static_cast<char>(id & 0xFF));
  }
  return bytes;
}

}  // namespace segnets
