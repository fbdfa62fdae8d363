#include "segnets/model.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iomanip>
#include <new>
#include <optional>
#include <sstream>
#include <utility>

#include "archive.h"
#include "contract.h"
#include "kept_memory.h"
#include "memory.h"
#include "neutral_state.h"
#include "pixels.h"
#include "program.h"
#include "self_test.h"

namespace segnets {

namespace {

Contract contract_of(const Archive& archive, const std::string& path) {
  const std::string_view* text = archive.extra_file("segnets.json");
  const std::string what = archive.kind() == "aoti" ? "an archive of torch.export" : "TorchScript";
  if (text == nullptr) throw Error(path + ": is " + what + " without a contract: it was not made by segnets.export");
  Contract contract = read_contract(*text, path);
  if (contract.kind != archive.kind())
    throw Error(path + ": segnets.json declares kind '" + contract.kind + "', but the file is " + archive.kind() +
                ". Export the model again.");
  return contract;
}

std::unique_ptr<const Program> load_program(const Archive& archive, const Contract& contract, const std::string& path) {
  return contract.kind == "aoti" ? load_aoti(archive, contract, path) : load_torchscript(archive, contract, path);
}

// Run `work` in a neutral state and turn any exception into an Error, prefixed by `what` unless it is one already.
template <typename Work>
auto run(const std::string& what, Work work) {
  try {
    const NeutralState neutral;
    at::get_num_threads();  // applies set_threads() to a new thread
    check_not_forked();
    return work();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw Error(what + "not enough memory");
  } catch (const std::exception& exception) {
    const std::string text = reason(exception);
    throw Error(what + (text.find("can't allocate memory") == std::string::npos ? text : "not enough memory"));
  }
}

// For fewer images, and smaller feature maps of scaled images, the system's files are not read.
constexpr std::size_t kCheckedFrom = 16;
constexpr double kScaledCheckedFrom = 1 << 30;  // bytes

// Return a side of an image at the network's input, as scaled_side in segnets/preprocessing.py does.
double scaled_side(std::int64_t side, double scale) {
  return std::max(1.0, std::floor(static_cast<double>(side) * scale + 0.5));
}

// Return height and width of images of this size at the network's input.
std::array<double, 2> input_size(const ImageView& image, const Program& program, const Contract& contract) {
  if (contract.scale > 0) return {scaled_side(image.height, contract.scale), scaled_side(image.width, contract.scale)};
  const at::Tensor input = program.preprocess(pixels_of({image}, contract.in_channels()));
  return {static_cast<double>(input.size(2)), static_cast<double>(input.size(3))};
}

// Check that a batch's feature maps fit into memory. Otherwise, the system might kill the process.
void check_batch_fits(const std::vector<ImageView>& images, const Program& program, const Contract& contract) {
  if (images.empty() || contract.device != "cpu") return;
  if (images.size() < kCheckedFrom && contract.scale <= 0) return;
  const auto [height, width] = input_size(images[0], program, contract);
  const auto count = static_cast<double>(images.size());
  const auto maps = static_cast<double>(contract.in_channels() + contract.num_classes);
  const double needed = 4 * count * maps * height * width;
  if (images.size() < kCheckedFrom && needed < kScaledCheckedFrom) return;
  const std::optional<std::int64_t> available = available_memory();
  if (!available || needed <= static_cast<double>(*available)) return;
  std::ostringstream text;
  text << std::fixed << std::setprecision(0) << "batch: " << images.size() << " images, " << height << "x" << width
       << " at the network's input, take at least " << std::setprecision(1) << needed / 1e9 << " GB, but "
       << static_cast<double>(*available) / 1e9 << " GB are free; segment fewer or smaller images at a time";
  throw Error(text.str());
}

// Return the elements of a contiguous tensor, and keep the tensor alive with them.
template <typename Element>
std::shared_ptr<const Element> elements(at::Tensor tensor) {
  const auto owner = std::make_shared<const at::Tensor>(std::move(tensor));
  return {owner, owner->const_data_ptr<Element>()};
}

}  // namespace

struct Model::State {
  Contract contract;
  std::string golden;
  std::unique_ptr<const Program> program;
};

Model::Model(const std::string& path, const LoadOptions& options) {
  const Archive archive(path);
  Contract contract = contract_of(archive, path);
  const std::string_view* golden = archive.extra_file("golden.safetensors");
  std::unique_ptr<const Program> program = load_program(archive, contract, path);
  state_ = std::make_unique<const State>(
      State{std::move(contract), golden == nullptr ? std::string() : std::string(*golden), std::move(program)});
  if (options.keep_memory && state_->contract.device == "cpu") keep_freed_memory();
}

Model::~Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;

const Contract& Model::contract() const { return state_->contract; }

MaskBatch Model::segment_batch(const std::vector<ImageView>& images) const {
  return run("", [&] {
    const Contract& contract = state_->contract;
    check_batch_fits(images, *state_->program, contract);
    const at::Tensor pixels = pixels_of(images, contract.in_channels());
    const at::Tensor ids = state_->program->segment(pixels).contiguous();
    const std::int64_t planes = contract.decoding.rule == "multilabel" ? contract.num_classes : 0;
    MaskBatch batch{pixels.size(0), pixels.size(1), pixels.size(2), contract.num_ids(), {}, {}, planes};
    std::vector<std::int64_t> expected = {batch.count, batch.height, batch.width};
    if (planes > 0) expected.insert(expected.begin() + 1, planes);
    if (ids.sizes() != at::IntArrayRef(expected))
      throw Error("the model's mask does not have the image's size; export the model again");
    const bool wide = batch.num_classes > 256 && planes == 0;
    if (ids.scalar_type() != (wide ? at::kShort : at::kByte))
      throw Error("the type of the model's mask differs from its contract; export the model again");
    if (wide) batch.wide = elements<std::int16_t>(ids);
    else batch.narrow = elements<std::uint8_t>(ids);
    return batch;
  });
}

Mask Model::segment(const ImageView& image) const { return segment_batch({image}).mask(0); }

LogitsBatch Model::logits_batch(const std::vector<ImageView>& images) const {
  return run("", [&] {
    const Program& program = *state_->program;
    check_batch_fits(images, program, state_->contract);
    const at::Tensor scores = program.forward(program.preprocess(pixels_of(images, state_->contract.in_channels())))
                                  .to(at::kFloat)
                                  .contiguous();
    if (scores.dim() != 4 || scores.size(1) != state_->contract.num_classes)
      throw Error("the model's logits don't have a channel per class; export the model again");
    return LogitsBatch{scores.size(0), scores.size(1), scores.size(2), scores.size(3), elements<float>(scores)};
  });
}

Logits Model::logits(const ImageView& image) const {
  const LogitsBatch batch = logits_batch({image});
  const float* values = batch.values.get();
  return {
      batch.num_classes, batch.height, batch.width, {values, values + batch.num_classes * batch.height * batch.width}};
}

void Model::warm_up(std::int64_t height, std::int64_t width, int calls) const {
  if (height < 1 || width < 1 || height > 65535 || width > 65535 || calls < 1)
    throw Error("warm-up: " + std::to_string(calls) + " calls at " + std::to_string(height) + "x" +
                std::to_string(width) + "; expected at least one, and sides of 1..65535 pixels");
  run("warm-up: ", [&] {
    const std::int64_t channels = state_->contract.in_channels();
    const std::vector<std::uint8_t> gray(static_cast<std::size_t>(channels * height * width), 127);
    for (int call = 0; call < calls; ++call) segment_batch({ImageView::of(gray.data(), height, width, channels)});
  });
}

SelfTest Model::self_test() const {
  if (state_->golden.empty()) throw Error("the model carries no golden pair; export it again");
  return run("the self-test can't run: ", [&] { return replay(*state_->program, state_->contract, state_->golden); });
}

void set_threads(int count) {
  if (count < 1 || count > 1024) throw Error("threads: expected 1..1024, got " + std::to_string(count));
  at::set_num_threads(count);
}

}  // namespace segnets
