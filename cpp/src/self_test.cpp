#include "self_test.h"

#include <ATen/TensorIndexing.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>

#include "safetensors.h"

namespace segnets {
namespace {

at::Tensor to_tensor(const std::map<std::string, TensorView>& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw Error("the golden pair has no '" + name + "'; export the model again");
  const TensorView& view = found->second;
  const auto type = view.dtype == "U8" ? at::kByte : view.dtype == "I16" ? at::kShort : at::kFloat;
  at::Tensor tensor = at::empty(view.shape, type);
  std::memcpy(tensor.data_ptr(), view.data.data(), view.data.size());
  return tensor;
}

// A NaN counts as an infinite difference.
double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) throw Error("the golden pair and the model differ in shape; export the model again");
  const auto difference = (a - b).abs().max().item<double>();
  return std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
}

}  // namespace

SelfTest replay(const Program& program, const Contract& contract, std::string_view golden) {
  const auto tensors = read_safetensors(golden, "golden.safetensors");
  const at::Tensor image = to_tensor(tensors, "image");
  const at::Tensor expected = to_tensor(tensors, "logits"), expected_mask = to_tensor(tensors, "mask");
  const at::indexing::Slice step(at::indexing::None, at::indexing::None, contract.sample_step);
  const at::indexing::Slice all;

  const at::Tensor sample = program.preprocess(image).index({all, all, step, step});
  const at::Tensor logits = program.forward(to_tensor(tensors, "input"));
  const at::Tensor mask = program.segment(image);

  SelfTest result;
  if (sample.size(1) != contract.in_channels())
    throw Error("the preprocessed image and the contract differ in their number of channels; export the model again");
  for (std::int64_t c = 0; c < contract.in_channels(); ++c) {
    const double levels = largest_difference(sample.select(1, c), to_tensor(tensors, "sample").select(1, c)) *
                          contract.std_deviation[static_cast<std::size_t>(c)] * 255;
    result.sample_difference = std::max(result.sample_difference, levels);
  }
  const double largest = std::max(expected.abs().max().item<double>(), 1e-38);
  result.logits_difference = largest_difference(logits, expected) / largest;
  result.tolerance = contract.tolerance;
  if (mask.sizes() != expected_mask.sizes()) throw Error("the golden mask has the wrong shape; export the model again");
  at::Tensor differs = mask != expected_mask;
  at::Tensor clear = differs.logical_and(to_tensor(tensors, "margin") > 2 * contract.tolerance);
  if (mask.dim() == 4) {  // a pixel differs if any of its planes does
    differs = differs.any(1);
    clear = clear.any(1);
  }
  result.pixels = differs.numel();
  result.disagreements = differs.sum().item<std::int64_t>();
  result.near_ties = result.disagreements - clear.sum().item<std::int64_t>();
  result.passed = result.sample_difference <= 1.01 && result.logits_difference <= result.tolerance &&
                  result.disagreements == result.near_ties;
  return result;
}

}  // namespace segnets
