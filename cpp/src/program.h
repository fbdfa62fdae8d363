// The program of an export, behind one interface for all formats.
#pragma once

#include <ATen/core/Tensor.h>

#include <exception>
#include <memory>
#include <string>

#include "archive.h"
#include "segnets/model.h"

namespace segnets {

// A loaded program. Any number of threads may call its methods at once, in inference mode.
// They may throw anything; Model turns it into an Error.
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

// Load the program of an archive; `path` is for messages.
// Throws Error if LibTorch can't load it, or if a method or the device is missing.
std::unique_ptr<const Program> load_torchscript(const Archive& archive, const Contract& contract,
                                                const std::string& path);

// Load a program that AOTInductor compiled; otherwise like load_torchscript.
std::unique_ptr<const Program> load_aoti(const Archive& archive, const Contract& contract, const std::string& path);

// Return LibTorch's reason for a failure in one line.
std::string reason(const std::exception& exception);

}  // namespace segnets
