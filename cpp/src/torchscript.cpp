// The program of a .ts file.
#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/script.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "program.h"

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

class TorchScript : public Program {
 public:
  explicit TorchScript(torch::jit::Module module) : module_(std::move(module)) {}

  at::Tensor preprocess(const at::Tensor& image) const override { return call("preprocess", image); }
  at::Tensor forward(const at::Tensor& input) const override { return call("forward", input); }
  at::Tensor segment(const at::Tensor& image) const override { return call("segment", image); }

 private:
  at::Tensor call(const char* method, const at::Tensor& input) const {
    // The executor would watch the first call and compile again in the second, which makes the second call take up to
    // ten times as long as the third, and finds nothing: exports are folded, and nothing is fused on a CPU.
    // This is a setting of the thread, as InferenceMode is.
    const torch::jit::GraphOptimizerEnabledGuard without_profiling(false);
    const c10::IValue result = module_.get_method(method)({input});
    return result.isTensor() ? result.toTensor() : result.toGenericDict().at("out").toTensor();
  }

  torch::jit::Module module_;
};

}  // namespace

std::unique_ptr<const Program> load_torchscript(const Archive& archive, const std::string& path) {
  try {
    torch::jit::Module module = torch::jit::load(std::make_shared<BytesReader>(archive.bytes()), torch::kCPU);
    module.eval();
    for (const char* method : {"forward", "preprocess", "segment"})
      if (!module.find_method(method)) throw Error(path + ": has no method '" + method + "'; export the model again");
    return std::make_unique<const TorchScript>(std::move(module));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& exception) {
    throw Error(path + ": LibTorch can't load it: " + reason(exception));
  }
}

std::string reason(const std::exception& exception) {
  // LibTorch's messages carry stack traces of two languages; the line that was raised is the one to show.
  const std::string text = exception.what();
  for (const std::string_view kind : {"ValueError: ", "RuntimeError: "}) {
    const auto found = text.rfind(kind);
    if (found != std::string::npos) {
      const auto begin = found + kind.size();
      return text.substr(begin, text.find('\n', begin) - begin);
    }
  }
  return text.substr(0, text.find('\n'));
}

}  // namespace segnets
