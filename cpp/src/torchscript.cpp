// The program of a .ts file.
#include <torch/cuda.h>

#include <string_view>
#include <utility>

#include "bytes_module.h"
#include "program.h"

namespace segnets {
namespace {

class TorchScript : public Program {
 public:
  explicit TorchScript(torch::jit::Module module) : module_(std::move(module)) {}

  at::Tensor preprocess(const at::Tensor& image) const override { return call("preprocess", image); }
  at::Tensor forward(const at::Tensor& input) const override { return call("forward", input); }
  at::Tensor segment(const at::Tensor& image) const override { return call("segment", image); }

 private:
  at::Tensor call(const char* method, const at::Tensor& input) const {
    const c10::IValue result = call_method(module_, method, {input});
    return result.isTensor() ? result.toTensor() : result.toGenericDict().at("out").toTensor();
  }

  torch::jit::Module module_;
};

}  // namespace

std::unique_ptr<const Program> load_torchscript(const Archive& archive, const Contract& contract,
                                                const std::string& path) {
  const bool on_gpu = contract.device == "cuda";
  if (on_gpu && !torch::cuda::is_available())
    throw Error(path + ": needs a CUDA GPU, and none was found. Export with device='cpu' to run without one.");
  try {
    torch::jit::Module module = load_module(archive.bytes(), on_gpu ? c10::kCUDA : c10::kCPU);
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
  // LibTorch's messages contain stack traces of two languages; show only the line of the exception.
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
