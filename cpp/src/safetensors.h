// A reader of the small part of safetensors that a golden pair needs.
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
  std::string_view data;  // exactly as many bytes as shape and dtype say
};

// The views point into `bytes`. Throws Error, beginning with `what`, for anything that is not complete and consistent.
std::map<std::string, TensorView> read_safetensors(std::string_view bytes, const std::string& what);

}  // namespace segnets
