// NumPy's file format, version 1.0. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#include "npy.h"

#include <bit>
#include <cstdint>
#include <vector>

#include "output_file.h"
#include "segnets/model.h"

namespace segnets {
namespace {

// Return everything before the values; `type` is NumPy's name of it.
std::string header_of(const std::string& type, const std::vector<std::int64_t>& shape) {
  static_assert(std::endian::native == std::endian::little, "the types below are little-endian");
  std::string header = "{'descr': '" + type + "', 'fortran_order': False, 'shape': (";
  for (std::size_t axis = 0; axis < shape.size(); ++axis)
    header += (axis == 0 ? "" : ", ") + std::to_string(shape[axis]);
  header += "), }";
  constexpr std::size_t kPreamble = 10, kAlignment = 64;  // magic, version and length; the values start aligned
  while ((kPreamble + header.size() + 1) % kAlignment != 0) header += ' ';
  header += '\n';
  std::string bytes = "\x93NUMPY";
  bytes += {'\x01', '\x00', static_cast<char>(header.size() & 0xFF), static_cast<char>(header.size() >> 8)};
  return bytes + header;
}

}  // namespace

void write_logits(const std::string& path, const Logits& logits) {
  std::string bytes = header_of("<f4", {1, logits.num_classes, logits.height, logits.width});
  bytes.append(reinterpret_cast<const char*>(logits.values.data()), logits.values.size() * sizeof(float));
  write_file(path, bytes);
}

std::string encode_npy(const Mask& mask) {
  const bool wide = mask.planes == 0 && mask.num_classes > 256;
  std::vector<std::int64_t> shape = {mask.height, mask.width};
  if (mask.planes > 0) shape.insert(shape.begin(), mask.planes);
  std::string bytes = header_of(wide ? "<u2" : "|u1", shape);
  bytes.reserve(bytes.size() + mask.ids.size() * (wide ? 2 : 1));
  for (const std::uint16_t id : mask.ids) {
    bytes.push_back(static_cast<char>(id & 0xFF));
    if (wide) bytes.push_back(static_cast<char>(id >> 8));
  }
  return bytes;
}

}  // namespace segnets
