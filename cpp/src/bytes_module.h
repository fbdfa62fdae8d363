// TorchScript from bytes in memory, and its methods called as exports need it.
#pragma once

#include <torch/script.h>

#include <string_view>
#include <vector>

namespace segnets {

// In eval mode, on `device`. `bytes` are read during the call only. Throws what LibTorch throws.
torch::jit::Module load_module(std::string_view bytes, c10::Device device = torch::kCPU);

// Calls it without profiling: see model.h. Throws what LibTorch throws.
c10::IValue call_method(const torch::jit::Module& module, const char* name, std::vector<c10::IValue> inputs);

}  // namespace segnets
