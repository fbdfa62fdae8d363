// The fixed part of a ring's header: encoding a layout, and decoding untrusted bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "segnets/frame_ring.h"

namespace segnets::ring {

constexpr std::size_t kHeaderSize = 4096;
constexpr std::size_t kFixedSize = 184;  // bytes that create() writes; the counters follow
constexpr std::size_t kWritten = 256, kProducerState = 264, kRead = 320, kConsumerState = 328;
constexpr std::size_t kSlotHeader = 64;
constexpr std::size_t kTimestamp = 8, kTag = 16, kChecksum = 24;  // in a slot; the sequence is at 0

using Header = std::array<std::byte, kFixedSize>;

std::uint64_t slot_size(const FrameLayout& layout);
std::uint64_t file_size(const FrameLayout& layout);

// Return the layout with its strides filled in. Throws Error, prefixed by `where` and followed by `advice`, for a
// layout that no ring can have.
FrameLayout checked(FrameLayout layout, const std::string& where, const std::string& advice);

Header encode(const FrameLayout& layout);  // needs a checked layout

// Decode a header. Throws Error, prefixed by `path`, unless it is complete and describes a file of `size` bytes.
FrameLayout decode(const Header& header, std::uint64_t size, const std::string& path);

std::string describe(const FrameLayout& layout);  // "uint8 (480, 640, 3), 4 slots"

}  // namespace segnets::ring
