// CRC-32 as in zip, PNG and Python's zlib.crc32.
#pragma once

#include <cstdint>
#include <string_view>

namespace segnets {

std::uint32_t crc32(std::string_view bytes);

}  // namespace segnets
