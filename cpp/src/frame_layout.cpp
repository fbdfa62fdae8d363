#include "frame_layout.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "crc32.h"
#include "segnets/error.h"

namespace segnets {

namespace {

constexpr std::array<const char*, 9> kNames = {"",      "uint8",   "int16",   "uint16", "int32",
                                               "int64", "float16", "float32", "float64"};
constexpr std::array<std::int64_t, 9> kItemSizes = {0, 1, 2, 2, 4, 8, 2, 4, 8};
constexpr std::int64_t kMaxFrame = std::int64_t{1} << 40, kMaxSlots = std::int64_t{1} << 20;
constexpr std::size_t kMaxDimensions = 8;
constexpr std::uint32_t kVersion = 1;
constexpr std::string_view kMagic = "\x89segring";

constexpr std::size_t kTypeAt = 16, kDimensionsAt = 20, kShapeAt = 24, kStridesAt = 88, kSlotsAt = 152;
constexpr std::size_t kFrameSizeAt = 160, kSlotSizeAt = 168, kFlagsAt = 176, kHeaderChecksumAt = 180;
constexpr std::uint32_t kHasChecksum = 1, kLatest = 2;

// A ring never leaves the machine, and both languages only support little-endian machines.
static_assert(std::endian::native == std::endian::little);

template <typename Number>
void put(ring::Header& header, std::size_t at, Number number) {
  std::memcpy(header.data() + at, &number, sizeof number);
}

template <typename Number>
Number get(const ring::Header& header, std::size_t at) {
  Number number;
  std::memcpy(&number, header.data() + at, sizeof number);
  return number;
}

std::uint32_t checksum_of(const ring::Header& header) {
  return crc32({reinterpret_cast<const char*>(header.data()), kHeaderChecksumAt});
}

std::string join(const std::vector<std::int64_t>& numbers) {
  std::string text = "(";
  for (const std::int64_t number : numbers) text += (text.size() > 1 ? ", " : "") + std::to_string(number);
  return text + ")";
}

// Return the bytes from the first item to the end of the last, or -1 if a frame can't be that large.
std::int64_t extent(const FrameLayout& layout) {
  std::int64_t size = layout.item_size();
  for (std::size_t i = 0; i < layout.shape.size(); ++i) {
    std::int64_t step = 0;
    if (__builtin_mul_overflow(layout.shape[i] - 1, layout.strides[i], &step) ||
        __builtin_add_overflow(size, step, &size) || size > kMaxFrame)
      return -1;
  }
  return size;
}

// Return whether two indices share bytes. Sorted by stride, each dimension must step over all inner ones.
bool overlaps(const FrameLayout& layout) {
  std::vector<std::pair<std::int64_t, std::int64_t>> steps;
  for (std::size_t i = 0; i < layout.shape.size(); ++i)
    if (layout.shape[i] > 1) steps.emplace_back(layout.strides[i], layout.shape[i]);
  std::ranges::sort(steps);
  std::int64_t within = layout.item_size();
  for (const auto& [stride, count] : steps) {
    if (stride < within) return true;
    within += stride * (count - 1);  // no overflow: extent() is checked before
  }
  return false;
}

}  // namespace

std::int64_t FrameLayout::item_size() const { return kItemSizes[static_cast<std::size_t>(type)]; }

std::int64_t FrameLayout::frame_size() const { return extent(ring::checked(*this, "frame_size", "")); }

namespace ring {

std::uint64_t slot_size(const FrameLayout& layout) {
  return (kSlotHeader + static_cast<std::uint64_t>(extent(layout)) + 63) / 64 * 64;
}

std::uint64_t file_size(const FrameLayout& layout) {  // at most 2^12 + 2^20 * (2^40 + 2^7)
  return kHeaderSize + static_cast<std::uint64_t>(layout.slots) * slot_size(layout);
}

FrameLayout checked(FrameLayout layout, const std::string& where, const std::string& advice) {
  const auto refuse = [&](const std::string& what) { throw Error(where + ": " + what + advice); };
  const auto type = static_cast<std::uint32_t>(layout.type);
  if (type < 1 || type >= kNames.size()) refuse("type=" + std::to_string(type) + ", expected 1..8");
  if (layout.shape.empty() || layout.shape.size() > kMaxDimensions)
    refuse("ndim=" + std::to_string(layout.shape.size()) + ", expected 1..8");
  if (std::ranges::min(layout.shape) < 1) refuse("shape=" + join(layout.shape) + ", expected numbers of at least 1");
  if (layout.slots < 1 || layout.slots > kMaxSlots)
    refuse("slots=" + std::to_string(layout.slots) + ", expected 1..1048576");
  if (layout.latest && layout.slots < 2) refuse("slots=1, expected at least 2 for a ring of the latest frame");
  const std::string too_large = "shape=" + join(layout.shape) + ", expected a frame of at most 1 TiB";
  if (layout.strides.empty()) {
    std::int64_t stride = layout.item_size();
    layout.strides.resize(layout.shape.size());
    for (std::size_t i = layout.shape.size(); i-- > 0;) {
      layout.strides[i] = stride;
      if (__builtin_mul_overflow(stride, layout.shape[i], &stride) || stride > kMaxFrame) refuse(too_large);
    }
  }
  if (layout.strides.size() != layout.shape.size())
    refuse("strides=" + join(layout.strides) + " for shape=" + join(layout.shape) + ", expected as many numbers");
  for (const std::int64_t stride : layout.strides)
    if (stride < 1 || stride % layout.item_size() != 0)
      refuse("strides=" + join(layout.strides) + ", expected multiples of the item size, " +
             std::to_string(layout.item_size()));
  if (extent(layout) < 0) refuse(too_large);
  if (overlaps(layout))
    refuse("strides=" + join(layout.strides) + " for shape=" + join(layout.shape) + " make items overlap");
  return layout;
}

Header encode(const FrameLayout& layout) {
  Header header{};
  std::memcpy(header.data(), kMagic.data(), kMagic.size());
  put(header, 8, kVersion);
  put(header, 12, static_cast<std::uint32_t>(kHeaderSize));
  put(header, kTypeAt, static_cast<std::uint32_t>(layout.type));
  put(header, kDimensionsAt, static_cast<std::uint32_t>(layout.shape.size()));
  for (std::size_t i = 0; i < layout.shape.size(); ++i) {
    put(header, kShapeAt + 8 * i, layout.shape[i]);
    put(header, kStridesAt + 8 * i, layout.strides[i]);
  }
  put(header, kSlotsAt, layout.slots);
  put(header, kFrameSizeAt, extent(layout));
  put(header, kSlotSizeAt, slot_size(layout));
  put(header, kFlagsAt, (layout.checksum ? kHasChecksum : 0) | (layout.latest ? kLatest : 0));
  put(header, kHeaderChecksumAt, checksum_of(header));
  return header;
}

FrameLayout decode(const Header& header, std::uint64_t size, const std::string& path) {
  const std::string again = "; remove the file and create the ring again";
  const auto refuse = [&](const std::string& what) { throw Error(path + ": " + what + again); };
  if (std::memcmp(header.data(), kMagic.data(), kMagic.size()) != 0)
    throw Error(path + ": is not a frame ring (wrong magic bytes); pass the file that the other side created");
  const auto version = get<std::uint32_t>(header, 8);
  if (version != kVersion)
    throw Error(path + ": has version " + std::to_string(version) + ", but this program reads " +
                std::to_string(kVersion) + "; use one version of segnets on both sides");
  if (size < kHeaderSize)
    refuse("is " + std::to_string(size) + " bytes, but a frame ring has at least " + std::to_string(kHeaderSize));
  if (get<std::uint32_t>(header, kHeaderChecksumAt) != checksum_of(header))
    refuse("its header is damaged (wrong checksum)");
  if (get<std::uint32_t>(header, 12) != kHeaderSize)
    refuse("header_size=" + std::to_string(get<std::uint32_t>(header, 12)) + ", expected 4096");
  const auto dimensions = get<std::uint32_t>(header, kDimensionsAt);
  if (dimensions < 1 || dimensions > kMaxDimensions) refuse("ndim=" + std::to_string(dimensions) + ", expected 1..8");
  FrameLayout layout{
      static_cast<FrameType>(get<std::uint32_t>(header, kTypeAt)), {}, get<std::int64_t>(header, kSlotsAt), false, {}};
  for (std::size_t i = 0; i < kMaxDimensions; ++i) {
    const auto count = get<std::int64_t>(header, kShapeAt + 8 * i);
    const auto stride = get<std::int64_t>(header, kStridesAt + 8 * i);
    if (i < dimensions) {
      layout.shape.push_back(count);
      layout.strides.push_back(stride);
    } else if (count != 0 || stride != 0) {
      refuse("its shape or strides continue past ndim=" + std::to_string(dimensions));
    }
  }
  const auto flags = get<std::uint32_t>(header, kFlagsAt);
  layout.checksum = (flags & kHasChecksum) != 0;
  layout.latest = (flags & kLatest) != 0;
  layout = checked(std::move(layout), path, again);
  if (flags > (kHasChecksum | kLatest)) refuse("flags=" + std::to_string(flags) + ", expected 0..3");
  if (get<std::int64_t>(header, kFrameSizeAt) != extent(layout))
    refuse("frame_size=" + std::to_string(get<std::uint64_t>(header, kFrameSizeAt)) +
           ", but its shape and strides give " + std::to_string(extent(layout)));
  if (get<std::uint64_t>(header, kSlotSizeAt) != slot_size(layout))
    refuse("slot_size=" + std::to_string(get<std::uint64_t>(header, kSlotSizeAt)) + ", but its frame_size gives " +
           std::to_string(slot_size(layout)));
  if (size != file_size(layout))
    refuse("is " + std::to_string(size) + " bytes, but its header describes " + std::to_string(file_size(layout)));
  return layout;
}

std::string describe(const FrameLayout& layout) {
  return std::string(kNames[static_cast<std::size_t>(layout.type)]) + " " + join(layout.shape) + ", strides " +
         join(layout.strides) + ", " + std::to_string(layout.slots) + " slots, " +
         (layout.checksum ? "CRC-32" : "no checksum") + (layout.latest ? ", latest frame only" : "");
}

}  // namespace ring
}  // namespace segnets
