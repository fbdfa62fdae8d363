// The network of an export, whatever format its program has.
#pragma once

#include <ATen/core/Tensor.h>

#include <exception>
#include <memory>
#include <string>

#include "archive.h"
#include "segnets/model.h"

namespace segnets {

// Each of the three may be called from many threads at once, in inference mode.
// They may throw anything; Model makes an Error of it.
class Program {
 public:
  virtual ~Program() = default;

  // (N, H, W, 3) uint8 RGB of any strides -> (N, 3, h, w) float32.
  virtual at::Tensor preprocess(const at::Tensor& image) const = 0;

  // (N, 3, h, w) float32 -> (N, num_classes, h, w).
  virtual at::Tensor forward(const at::Tensor& input) const = 0;

  // (N, H, W, 3) uint8 RGB of any strides -> (N, H, W) class ids, uint8 up to 256 classes, else int16.
  virtual at::Tensor segment(const at::Tensor& image) const = 0;
};

// contract: its own. path: for messages. Throws Error if LibTorch can't load it, a method or the device is missing.
std::unique_ptr<const Program> load_torchscript(const Archive& archive, const Contract& contract,
                                                const std::string& path);

// The same for machine code by AOTInductor.
std::unique_ptr<const Program> load_aoti(const Archive& archive, const Contract& contract, const std::string& path);

// What LibTorch says went wrong, in one line.
std::string reason(const std::exception& exception);

}  // namespace segnets
