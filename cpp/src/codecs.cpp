#include "codecs.h"

#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <vector>

#include "pnm.h"
#include "segnets/error.h"

#ifdef SEGNETS_WITH_JPEG
#include <jpeglib.h>
#endif
#ifdef SEGNETS_WITH_PNG
#include <png.h>
#endif

namespace segnets {
namespace {

[[noreturn, maybe_unused]] void refuse(const std::string& path, const char* kind, const char* reason) {
  throw Error(path + ": is a " + kind + " image that can't be decoded: " + reason + "; convert it, or fetch it again");
}

}  // namespace

#ifdef SEGNETS_WITH_JPEG

namespace {

struct JpegErrors {
  jpeg_error_mgr manager{};  // first, as libjpeg passes a pointer to it
  std::array<char, JMSG_LENGTH_MAX> message{};
  std::jmp_buf back{};
};

void leave(j_common_ptr jpeg) {
  auto* errors = reinterpret_cast<JpegErrors*>(jpeg->err);
  jpeg->err->format_message(jpeg, errors->message.data());
  std::longjmp(errors->back, 1);  // NOLINT(modernize-avoid-setjmp-longjmp): libjpeg is C
}

// A damaged file gives warnings and gray pixels.
void note(j_common_ptr jpeg, int level) {
  if (level < 0) leave(jpeg);
}

// Return the EXIF orientation, 1..8, of an APP1 segment; 1 if it has none.
int orientation_of(std::string_view segment) {
  constexpr std::string_view kExif("Exif\0\0", 6);
  if (!segment.starts_with(kExif)) return 1;
  segment.remove_prefix(kExif.size());
  const bool big = segment.starts_with("MM");
  const auto number = [&](std::size_t at, std::size_t size) {
    std::size_t value = 0;
    for (std::size_t i = 0; i < size && at + i < segment.size(); ++i)
      value |= static_cast<std::size_t>(static_cast<unsigned char>(segment[at + i])) << 8 * (big ? size - 1 - i : i);
    return value;
  };
  constexpr std::size_t kTag = 0x0112, kEntry = 12;
  const std::size_t directory = number(4, 4), count = number(directory, 2);
  for (std::size_t i = 0; i < count && directory + 2 + kEntry * (i + 1) <= segment.size(); ++i) {
    const std::size_t entry = directory + 2 + kEntry * i, value = number(entry + 8, 2);
    if (number(entry, 2) == kTag && value >= 1 && value <= 8) return static_cast<int>(value);
  }
  return 1;
}

// Return the image as a viewer shows it.
Image turned(Image image, int orientation) {
  if (orientation == 1) return image;
  const bool transposed = orientation >= 5;
  const bool flip_rows = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool flip_columns = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  Image result{transposed ? image.width : image.height, transposed ? image.height : image.width, {}};
  result.data.reserve(image.data.size());
  for (std::int64_t y = 0; y < result.height; ++y)
    for (std::int64_t x = 0; x < result.width; ++x) {
      std::int64_t row = transposed ? x : y, column = transposed ? y : x;
      if (flip_rows) row = image.height - 1 - row;
      if (flip_columns) column = image.width - 1 - column;
      const auto* pixel = image.data.data() + 3 * (row * image.width + column);
      result.data.insert(result.data.end(), pixel, pixel + 3);
    }
  return result;
}

struct JpegReader {
  jpeg_decompress_struct jpeg{};
  JpegErrors errors;
  Image image;
  int orientation = 1;

  JpegReader() = default;
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&jpeg); }

  // Return whether the image was decoded. No object with a destructor lives here when libjpeg jumps back.
  bool read(std::string_view bytes) {
    jpeg.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = leave;
    errors.manager.emit_message = note;
    if (setjmp(errors.back) != 0) return false;  // NOLINT(modernize-avoid-setjmp-longjmp): libjpeg is C
    jpeg_create_decompress(&jpeg);
    jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
    jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&jpeg, TRUE);
    jpeg.out_color_space = JCS_RGB;
    jpeg_start_decompress(&jpeg);
    image.height = jpeg.output_height;
    image.width = jpeg.output_width;
    image.data.resize(static_cast<std::size_t>(3 * image.height * image.width));
    while (jpeg.output_scanline < jpeg.output_height) {
      JSAMPROW row = image.data.data() + 3 * image.width * static_cast<std::int64_t>(jpeg.output_scanline);
      jpeg_read_scanlines(&jpeg, &row, 1);
    }
    for (jpeg_saved_marker_ptr marker = jpeg.marker_list; marker != nullptr; marker = marker->next)
      if (orientation == 1) orientation = orientation_of({reinterpret_cast<char*>(marker->data), marker->data_length});
    jpeg_finish_decompress(&jpeg);
    return true;
  }
};

}  // namespace

Image decode_jpeg(std::string_view bytes, const std::string& path) {
  JpegReader reader;
  if (!reader.read(bytes)) refuse(path, "JPEG", reader.errors.message.data());
  return turned(std::move(reader.image), reader.orientation);
}

#endif

#ifdef SEGNETS_WITH_PNG

namespace {

struct PngReader {
  std::string_view rest;
  png_structp png = nullptr;
  png_infop info = nullptr;
  Image image;
  std::array<char, 128> message{};

  explicit PngReader(std::string_view bytes) : rest(bytes) {}
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }

  static void leave(png_structp png, const char* reason) {
    auto* reader = static_cast<PngReader*>(png_get_error_ptr(png));
    std::snprintf(reader->message.data(), reader->message.size(), "%s", reason);
    png_longjmp(png, 1);
  }
  static void ignore(png_structp, const char*) {}
  static void take(png_structp png, png_bytep out, std::size_t count) {
    auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
    if (count > reader->rest.size()) png_error(png, "it ends too early");
    std::memcpy(out, reader->rest.data(), count);
    reader->rest.remove_prefix(count);
  }

  // Return whether the image was decoded. No object with a destructor lives here when libpng jumps back.
  bool read() {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, leave, ignore);
    info = png == nullptr ? nullptr : png_create_info_struct(png);
    if (info == nullptr) return false;
    if (setjmp(png_jmpbuf(png)) != 0) return false;  // NOLINT(modernize-avoid-setjmp-longjmp): libpng is C
    png_set_read_fn(png, this, take);
    png_set_user_limits(png, kMaxFileSide, kMaxFileSide);
    png_read_info(png, info);
    png_set_expand(png);
    png_set_strip_16(png);
    png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);
    const int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    image.height = png_get_image_height(png, info);
    image.width = png_get_image_width(png, info);
    if (png_get_rowbytes(png, info) != static_cast<std::size_t>(3 * image.width)) png_error(png, "unknown pixels");
    image.data.resize(static_cast<std::size_t>(3 * image.height * image.width));
    for (int pass = 0; pass < passes; ++pass)
      for (std::int64_t y = 0; y < image.height; ++y)
        png_read_row(png, image.data.data() + 3 * image.width * y, nullptr);
    png_read_end(png, nullptr);
    return true;
  }
};

}  // namespace

Image decode_png(std::string_view bytes, const std::string& path) {
  PngReader reader(bytes);
  if (!reader.read()) refuse(path, "PNG", reader.message.data());
  return std::move(reader.image);
}

#endif

}  // namespace segnets
