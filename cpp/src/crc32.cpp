#include "crc32.h"

#include <array>
#include <cstddef>

namespace segnets {

// Eight bytes at a time ("slicing by 8", Kounavis and Berry 2005).
std::uint32_t crc32(std::string_view bytes) {
  static const auto tables = [] {
    std::array<std::array<std::uint32_t, 256>, 8> result{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0u);
      result[0][i] = value;
    }
    for (std::size_t table = 1; table < 8; ++table)
      for (std::size_t i = 0; i < 256; ++i)
        result[table][i] = result[table - 1][i] >> 8 ^ result[0][result[table - 1][i] & 0xFF];
    return result;
  }();
  std::uint32_t crc = 0xFFFFFFFF;
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  std::size_t left = bytes.size();
  for (; left >= 8; left -= 8, data += 8) {
    const std::uint32_t low = crc ^ (data[0] | data[1] << 8 | data[2] << 16 | std::uint32_t{data[3]} << 24);
    crc = tables[7][low & 0xFF] ^ tables[6][low >> 8 & 0xFF] ^ tables[5][low >> 16 & 0xFF] ^ tables[4][low >> 24] ^
          tables[3][data[4]] ^ tables[2][data[5]] ^ tables[1][data[6]] ^ tables[0][data[7]];
  }
  for (; left > 0; --left, ++data) crc = crc >> 8 ^ tables[0][(crc ^ *data) & 0xFF];
  return ~crc;
}

}  // namespace segnets
