#include "segnets/model.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/script.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "archive.h"
#include "contract.h"
#include "safetensors.h"

namespace segnets {

Error::Error(const std::string& message) : std::runtime_error(message) {}

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

// LibTorch's messages carry stack traces of two languages; the line that was raised is the one to show.
std::string reason(const std::exception& exception) {
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

torch::jit::Module load(const Archive& archive, const std::string& path) {
  try {
    torch::jit::Module module = torch::jit::load(std::make_shared<BytesReader>(archive.bytes()), torch::kCPU);
    module.eval();
    for (const char* method : {"forward", "preprocess", "segment"})
      if (!module.find_method(method)) throw Error(path + ": has no method '" + method + "'; export the model again");
    return module;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& exception) {
    throw Error(path + ": LibTorch can't load it: " + reason(exception));
  }
}

Contract contract_of(const Archive& archive, const std::string& path) {
  const std::string_view* text = archive.extra_file("segnets.json");
  if (text == nullptr) throw Error(path + ": is TorchScript without a contract: it was not made by segnets.export");
  return read_contract(*text, path);
}

torch::Tensor to_tensor(const std::map<std::string, TensorView>& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw Error("the golden pair has no '" + name + "'; export the model again");
  const TensorView& view = found->second;
  const auto type = view.dtype == "U8" ? torch::kUInt8 : view.dtype == "I16" ? torch::kInt16 : torch::kFloat32;
  torch::Tensor tensor = torch::empty(view.shape, type);
  std::memcpy(tensor.data_ptr(), view.data.data(), view.data.size());
  return tensor;
}

// Not a number counts as infinitely far.
double largest_difference(const torch::Tensor& a, const torch::Tensor& b) {
  if (a.sizes() != b.sizes()) throw Error("the golden pair has other shapes than the model; export the model again");
  const double difference = (a - b).abs().max().item<double>();
  return std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
}

void check_view(const ImageView& image) {
  if (image.data == nullptr) throw Error("image: its data pointer is null");
  if (image.height < 1 || image.width < 1)
    throw Error("image: " + std::to_string(image.height) + "x" + std::to_string(image.width) + " holds no pixels");
  if (image.row_stride != 0 && image.row_stride / 3 < image.width)
    throw Error("image: a row stride of " + std::to_string(image.row_stride) + " bytes is less than 3 * width = " +
                std::to_string(3 * image.width));
}

}  // namespace

struct Model::State {
  torch::jit::Module module;
  Contract contract;
  std::string golden;

  torch::Tensor call(const char* method, const torch::Tensor& input) const {
    const c10::IValue result = module.get_method(method)({input});
    return result.isTensor() ? result.toTensor() : result.toGenericDict().at("out").toTensor();
  }
};

Model::Model(const std::string& path) {
  const Archive archive(path);
  Contract contract = contract_of(archive, path);
  const std::string_view* golden = archive.extra_file("golden.safetensors");
  state_ = std::make_unique<const State>(
      State{load(archive, path), std::move(contract), golden == nullptr ? std::string() : std::string(*golden)});
}

Model::~Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;

const Contract& Model::contract() const { return state_->contract; }

namespace {

// The pixels as (1, H, W, 3), without a copy. LibTorch only reads them; its interface has no const.
torch::Tensor pixels_of(const ImageView& image) {
  const std::int64_t stride = image.row_stride == 0 ? 3 * image.width : image.row_stride;
  return torch::from_blob(const_cast<std::uint8_t*>(image.data), {1, image.height, image.width, 3},
                          {image.height * stride, stride, 3, 1}, torch::kUInt8);
}

// Run `work` without gradients; whatever it throws becomes an Error.
template <typename Work>
auto on_image(const ImageView& image, Work work) {
  check_view(image);
  try {
    const c10::InferenceMode no_gradients;
    return work(pixels_of(image));
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw Error("not enough memory to segment an image of " + std::to_string(image.height) + "x" +
                std::to_string(image.width));
  } catch (const std::exception& exception) {
    throw Error(reason(exception));
  }
}

}  // namespace

Mask Model::segment(const ImageView& image) const {
  return on_image(image, [&](const torch::Tensor& pixels) {
    const torch::Tensor ids = state_->call("segment", pixels).contiguous();
    if (ids.sizes() != torch::IntArrayRef({1, image.height, image.width}))
      throw Error("the model's mask does not have the image's size; export the model again");
    Mask mask{image.height, image.width, state_->contract.num_classes, {}};
    mask.ids.resize(static_cast<std::size_t>(ids.numel()));
    if (ids.scalar_type() == torch::kUInt8)
      std::copy_n(ids.const_data_ptr<std::uint8_t>(), mask.ids.size(), mask.ids.begin());
    else
      std::copy_n(ids.const_data_ptr<std::int16_t>(), mask.ids.size(), mask.ids.begin());
    return mask;
  });
}

Logits Model::logits(const ImageView& image) const {
  return on_image(image, [&](const torch::Tensor& pixels) {
    const torch::Tensor scores =
        state_->call("forward", state_->call("preprocess", pixels)).to(torch::kFloat32).contiguous();
    Logits logits{scores.size(1), scores.size(2), scores.size(3), {}};
    logits.values.assign(scores.const_data_ptr<float>(), scores.const_data_ptr<float>() + scores.numel());
    return logits;
  });
}

SelfTest Model::self_test() const {
  const Contract& contract = state_->contract;
  if (state_->golden.empty()) throw Error("the model carries no golden pair; export it again");
  const auto golden = read_safetensors(state_->golden, "golden.safetensors");
  try {
    const c10::InferenceMode no_gradients;
    const torch::Tensor image = to_tensor(golden, "image");
    const torch::Tensor expected = to_tensor(golden, "logits"), expected_mask = to_tensor(golden, "mask");
    const torch::indexing::Slice step(torch::indexing::None, torch::indexing::None, contract.sample_step);
    const torch::indexing::Slice all;

    const torch::Tensor sample = state_->call("preprocess", image).index({all, all, step, step});
    const torch::Tensor logits = state_->call("forward", to_tensor(golden, "input"));
    const torch::Tensor mask = state_->call("segment", image);

    SelfTest result;
    for (std::int64_t c = 0; c < 3; ++c) {
      const double levels = largest_difference(sample.select(1, c), to_tensor(golden, "sample").select(1, c)) *
                            contract.std_deviation[static_cast<std::size_t>(c)] * 255;
      result.sample_difference = std::max(result.sample_difference, levels);
    }
    const double largest = std::max(expected.abs().max().item<double>(), 1e-38);
    result.logits_difference = largest_difference(logits, expected) / largest;
    result.tolerance = contract.tolerance;
    if (mask.sizes() != expected_mask.sizes()) throw Error("the golden mask has another shape; export the model again");
    const torch::Tensor differs = mask != expected_mask;
    const torch::Tensor tie = to_tensor(golden, "margin") <= 2 * contract.tolerance;
    result.pixels = mask.numel();
    result.disagreements = differs.sum().item<std::int64_t>();
    result.near_ties = differs.logical_and(tie).sum().item<std::int64_t>();
    result.passed = result.sample_difference <= 1.01 && result.logits_difference <= result.tolerance &&
                    result.disagreements == result.near_ties;
    return result;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& exception) {
    throw Error("the self-test can't run: " + reason(exception));
  }
}

void set_threads(int count) {
  if (count < 1) throw Error("threads: expected at least 1, got " + std::to_string(count));
  at::set_num_threads(count);
}

}  // namespace segnets
