#include "safetensors.h"

#include <utility>

#include "json.h"
#include "segnets/error.h"

namespace segnets {
namespace {

constexpr std::uint64_t kMaxHeaderBytes = 1 << 20;

std::uint64_t item_size(const std::string& dtype, const std::string& what) {
  if (dtype == "U8") return 1;
  if (dtype == "I16") return 2;
  if (dtype == "F32") return 4;
  throw Error(what + ": has a tensor of type " + dtype + ", expected U8, I16 or F32");
}

TensorView read_tensor(const Json& entry, std::string_view data, const std::string& what) {
  TensorView tensor;
  tensor.dtype = entry.at("dtype").string();
  std::uint64_t bytes = item_size(tensor.dtype, what);
  for (const Json& side : entry.at("shape").array()) {
    const std::int64_t length = side.integer();
    // No tensor is larger than the data, so the product never overflows.
    if (length < 1 || static_cast<std::uint64_t>(length) > data.size() / bytes)
      throw Error(what + ": has a tensor with an impossible shape");
    bytes *= static_cast<std::uint64_t>(length);
    tensor.shape.push_back(length);
  }
  const Json::Array& offsets = entry.at("data_offsets").array();
  if (offsets.size() != 2) throw Error(what + ": has a tensor without two offsets");
  const std::int64_t begin = offsets[0].integer(), end = offsets[1].integer();
  if (begin < 0 || end < begin || std::cmp_greater(end, data.size()) || std::cmp_not_equal(end - begin, bytes))
    throw Error(what + ": has a tensor whose offsets don't fit its shape");
  tensor.data = data.substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(bytes));
  return tensor;
}

}  // namespace

std::map<std::string, TensorView> read_safetensors(std::string_view bytes, const std::string& what) {
  if (bytes.size() < 8) throw Error(what + ": is too short");
  std::uint64_t header_size = 0;
  for (int i = 7; i >= 0; --i) header_size = header_size << 8 | static_cast<unsigned char>(bytes[i]);
  if (header_size > kMaxHeaderBytes || header_size > bytes.size() - 8) throw Error(what + ": has an impossible header");
  const Json header = Json::parse(bytes.substr(8, header_size), what);
  std::map<std::string, TensorView> tensors;
  for (const auto& [name, entry] : header.object())
    if (name != "__metadata__") tensors.emplace(name, read_tensor(entry, bytes.substr(8 + header_size), what));
  return tensors;
}

}  // namespace segnets
