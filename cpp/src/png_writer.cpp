#include "png_writer.h"

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "crc32.h"
#include "segnets/error.h"

namespace segnets {
namespace {

constexpr int kGrey = 0, kRgb = 2, kIndexed = 3;  // colour types

void put(std::string& bytes, std::uint32_t number) {
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(number >> shift & 0xFF));
}

void put_chunk(std::string& file, std::string_view type, std::string_view data) {
  put(file, static_cast<std::uint32_t>(data.size()));
  const std::size_t begin = file.size();
  file.append(type).append(data);
  put(file, crc32(std::string_view(file).substr(begin)));
}

std::uint32_t adler32(std::string_view bytes) {
  constexpr std::uint32_t kBase = 65521;
  constexpr std::size_t kMost = 5552;  // bytes whose sums fit into 32 bits
  std::uint32_t a = 1, b = 0;
  while (!bytes.empty()) {
    const std::string_view part = bytes.substr(0, kMost);
    for (const char c : part) b += a += static_cast<unsigned char>(c);
    a %= kBase;
    b %= kBase;
    bytes.remove_prefix(part.size());
  }
  return b << 16 | a;
}

// A zlib stream of stored blocks (RFC 1950, RFC 1951 3.2.4).
std::string stored(std::string_view bytes) {
  constexpr std::size_t kBlock = 65535;
  const std::uint32_t checksum = adler32(bytes);
  std::string stream = "\x78\x01";
  stream.reserve(bytes.size() + bytes.size() / kBlock * 5 + 16);
  do {
    const std::string_view block = bytes.substr(0, kBlock);
    bytes.remove_prefix(block.size());
    stream.push_back(bytes.empty() ? '\1' : '\0');
    for (const std::size_t number : {block.size(), ~block.size()})
      for (const int shift : {0, 8}) stream.push_back(static_cast<char>(number >> shift & 0xFF));
    stream.append(block);
  } while (!bytes.empty());
  put(stream, checksum);
  return stream;
}

// `rows` holds each row's bytes, after a zero that stands for "no filter".
std::string png(std::int64_t height, std::int64_t width, int depth, int colour, std::string_view palette,
                std::string_view rows) {
  constexpr std::size_t kMostRows = 0x7F000000;  // a chunk has less than 2^31 bytes
  if (rows.size() > kMostRows) throw Error("an image of this size can't be written as PNG; write .pgm or .ppm");
  std::string header;
  put(header, static_cast<std::uint32_t>(width));
  put(header, static_cast<std::uint32_t>(height));
  for (const int byte : {depth, colour, 0, 0, 0}) header.push_back(static_cast<char>(byte));
  std::string file = "\x89PNG\r\n\x1A\n";
  put_chunk(file, "IHDR", header);
  if (!palette.empty()) put_chunk(file, "PLTE", palette);
  put_chunk(file, "IDAT", stored(rows));
  put_chunk(file, "IEND", "");
  return file;
}

}  // namespace

std::string encode_png(const Mask& mask, const std::vector<Colour>& palette) {
  const std::uint16_t highest = mask.ids.empty() ? std::uint16_t{0} : *std::ranges::max_element(mask.ids);
  const bool wide = mask.num_classes > 256 || highest > 255;
  std::string rows;
  rows.reserve(mask.ids.size() * (wide ? 2 : 1) + static_cast<std::size_t>(mask.height));
  for (std::size_t pixel = 0; pixel < mask.ids.size(); ++pixel) {
    if (pixel % static_cast<std::size_t>(mask.width) == 0) rows.push_back('\0');
    if (wide) rows.push_back(static_cast<char>(mask.ids[pixel] >> 8));
    rows.push_back(static_cast<char>(mask.ids[pixel] & 0xFF));
  }
  if (wide) return png(mask.height, mask.width, 16, kGrey, {}, rows);
  std::vector<Colour> colours = voc_palette(std::max<std::int64_t>(mask.num_classes, highest + 1));
  std::copy_n(palette.begin(), std::min(palette.size(), colours.size()), colours.begin());
  std::string table;
  for (const Colour& colour : colours) table.append(colour.begin(), colour.end());
  return png(mask.height, mask.width, 8, kIndexed, table, rows);
}

std::string encode_png(const Image& image) {
  const auto row = static_cast<std::size_t>(3 * image.width);
  std::string rows;
  rows.reserve(image.data.size() + static_cast<std::size_t>(image.height));
  for (auto at = image.data.begin(); at != image.data.end(); at += static_cast<std::ptrdiff_t>(row)) {
    rows.push_back('\0');
    rows.append(at, at + static_cast<std::ptrdiff_t>(row));
  }
  return png(image.height, image.width, 8, kRgb, {}, rows);
}

}  // namespace segnets
