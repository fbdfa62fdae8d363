// NumPy's file format, version 1.0. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#include <bit>
#include <cstdint>
#include <string>

#include "output_file.h"
#include "segnets/model.h"

namespace segnets {

void write_logits(const std::string& path, const Logits& logits) {
  static_assert(std::endian::native == std::endian::little, "the header below says little-endian");
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, " + std::to_string(logits.num_classes) +
                       ", " + std::to_string(logits.height) + ", " + std::to_string(logits.width) + "), }";
  constexpr std::size_t kPreamble = 10, kAlignment = 64;  // magic, version and length; the values start aligned
  while ((kPreamble + header.size() + 1) % kAlignment != 0) header += ' ';
  header += '\n';
  std::string bytes = "\x93NUMPY";
  bytes += {'\x01', '\x00', static_cast<char>(header.size() & 0xFF), static_cast<char>(header.size() >> 8)};
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(logits.values.data()), logits.values.size() * sizeof(float));
  write_file(path, bytes);
}

}  // namespace segnets
