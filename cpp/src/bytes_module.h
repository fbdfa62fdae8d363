// TorchScript modules from bytes in memory, and calls of their methods.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include <string_view>
#include <vector>

namespace segnets {

// Load a module in eval mode on `device`; `bytes` are read during the call only. Throws what LibTorch throws.
torch::jit::Module load_module(std::string_view bytes, c10::Device device = c10::kCPU);

// Call a method without profiling, see model.h. Throws what LibTorch throws.
c10::IValue call_method(const torch::jit::Module& module, const char* name, std::vector<c10::IValue> inputs);

}  // namespace segnets
