#include "bytes_module.h"

#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

namespace segnets {
namespace {

// Gives LibTorch the bytes whose checksums were verified, instead of reading the file again.
class BytesReader : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit BytesReader(std::string_view bytes) : bytes_(bytes) {}
  size_t size() const override { return bytes_.size(); }
  size_t read(uint64_t position, void* buffer, size_t count, const char*) const override {
    if (position >= bytes_.size()) return 0;
    count = std::min(count, bytes_.size() - static_cast<size_t>(position));
    std::memcpy(buffer, bytes_.data() + position, count);
    return count;
  }

 private:
  std::string_view bytes_;
};

}  // namespace

torch::jit::Module load_module(std::string_view bytes, c10::Device device) {
  torch::jit::Module module = torch::jit::load(std::make_shared<BytesReader>(bytes), device);
  module.eval();
  return module;
}

c10::IValue call_method(const torch::jit::Module& module, const char* name, std::vector<c10::IValue> inputs) {
  // The profiling executor would compile again in the second call, which then takes up to ten times as long as the
  // third. It gains nothing: exports are folded already, and nothing is fused on a CPU. The guard is per thread.
  const torch::jit::GraphOptimizerEnabledGuard without_profiling(false);
  return module.get_method(name)(std::move(inputs));
}

}  // namespace segnets
