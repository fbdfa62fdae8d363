#include "bytes_module.h"

#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

namespace segnets {
namespace {

// LibTorch reads the bytes whose checksums were checked, and not the file once more.
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
  // The executor would watch the first call and compile again in the second, which makes the second call take up to
  // ten times as long as the third, and finds nothing: exports are folded, and nothing is fused on a CPU.
  // This is a setting of the thread, as InferenceMode is.
  const torch::jit::GraphOptimizerEnabledGuard without_profiling(false);
  return module.get_method(name)(std::move(inputs));
}

}  // namespace segnets
