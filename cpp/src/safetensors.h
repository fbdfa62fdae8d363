// Reader of the part of safetensors that a golden pair uses.
// The format: https://github.com/huggingface/safetensors, "Format".
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace segnets {

struct TensorView {
  std::string dtype;  // "U8", "I16" or "F32"
  std::vector<std::int64_t> shape;
  std::string_view data;  // as many bytes as shape and dtype imply
};

// Return views into `bytes`. Throws Error, prefixed by `what`, for anything incomplete or inconsistent.
std::map<std::string, TensorView> read_safetensors(std::string_view bytes, const std::string& what);

}  // namespace segnets
