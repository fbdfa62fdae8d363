// The compiled network of a .pt2 file, and the small TorchScript program that prepares its images.
#include <ATen/ops/empty.h>
#include <sys/statvfs.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>

#include "bytes_module.h"
#include "program.h"

namespace segnets {
namespace {

constexpr std::size_t kMostRunners = 8;  // concurrent calls; further ones wait

std::int64_t images_at_once(std::int64_t height, std::int64_t width, std::int64_t pixels) {
  return std::max<std::int64_t>(1, pixels / std::max<std::int64_t>(1, height * width));
}

class Aoti : public Program {
 public:
  Aoti(std::unique_ptr<torch::inductor::AOTIModelPackageLoader> network, torch::jit::Module image,
       const Contract& contract)
      : network_(std::move(network)),
        image_(std::move(image)),
        bounds_(contract.bounds),
        pixels_at_once_(contract.pixels_at_once) {}

  at::Tensor preprocess(const at::Tensor& image) const override {
    return call_method(image_, "preprocess", {image}).toTensor();
  }

  at::Tensor forward(const at::Tensor& input) const override {
    check_bounds(input);
    const at::Tensor images = input.to(at::kFloat).contiguous();
    const std::int64_t count = images.size(0);
    const std::int64_t group = images_at_once(images.size(2), images.size(3), pixels_at_once_);
    if (count <= group) return logits_of(images);
    // Copy a group's logits while they are still in the caches.
    at::Tensor logits;
    for (std::int64_t start = 0; start < count; start += group) {
      const std::int64_t length = std::min(group, count - start);
      const at::Tensor part = logits_of(images.narrow(0, start, length));
      if (start == 0) logits = at::empty({count, part.size(1), part.size(2), part.size(3)}, part.options());
      logits.narrow(0, start, length).copy_(part);
    }
    return logits;
  }

  at::Tensor segment(const at::Tensor& image) const override {
    const at::Tensor logits = forward(preprocess(image));
    return call_method(image_, "mask", {logits, image.size(1), image.size(2)}).toTensor();
  }

 private:
  at::Tensor logits_of(const at::Tensor& images) const { return network_->run({images}).at(0); }

  void check_bounds(const at::Tensor& input) const {
    using Axis = std::pair<std::int64_t, const char*>;
    constexpr std::array kAxes = {Axis{0, "batch"}, Axis{2, "height"}, Axis{3, "width"}};
    for (const auto& [axis, name] : kAxes) {
      const auto found = bounds_.find(name);
      if (found == bounds_.end()) continue;
      const auto [low, high] = found->second;
      if (input.size(axis) < low || input.size(axis) > high)
        throw Error("input: a " + std::string(name) + " of " + std::to_string(input.size(axis)) +
                    ", but this file was compiled for " + std::to_string(low) + " to " + std::to_string(high) +
                    "; a TorchScript export takes every size");
    }
  }

  // Several calls may run at once; each takes a runner.
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> network_;
  torch::jit::Module image_;
  std::map<std::string, std::array<std::int64_t, 2>> bounds_;
  std::int64_t pixels_at_once_;
};

// The loader unpacks the compiled network into the folder of temporary files. Its own errors would blame the file.
void check_programs_may_run([[maybe_unused]] const std::string& folder) {
#ifdef ST_NOEXEC
  struct ::statvfs system{};
  if (::statvfs(folder.c_str(), &system) == 0 && (system.f_flag & ST_NOEXEC) != 0)
    throw Error(folder + ": the compiled network is unpacked there, where no program may run (noexec); set TMPDIR to" +
                " another folder");
#endif
}

// A temporary file for a loader that takes paths only. It holds the verified bytes and is removed after loading.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view bytes)
      : path_((std::filesystem::temp_directory_path() / "segnets-XXXXXX.pt2").string()) {
    check_programs_may_run(std::filesystem::temp_directory_path().string());
    const int file = ::mkstemps(path_.data(), 4);
    if (file < 0)
      throw Error(path_ +
                  ": can't be created. The compiled network is loaded from there; set TMPDIR to another folder.");
    std::size_t written = 0;
    while (written < bytes.size()) {
      const ::ssize_t count = ::write(file, bytes.data() + written, bytes.size() - written);
      if (count <= 0) break;
      written += static_cast<std::size_t>(count);
    }
    ::close(file);
    if (written == bytes.size()) return;
    ::unlink(path_.c_str());
    throw Error(path_ +
                ": can't be written. The compiled network is loaded from there; free some space or set TMPDIR.");
  }
  ~TemporaryFile() { ::unlink(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

std::unique_ptr<const Program> load_aoti(const Archive& archive, const Contract& contract, const std::string& path) {
  const std::string_view* image = archive.extra_file("image.ts");
  if (image == nullptr)
    throw Error(path + ": has no image.ts, the program that prepares images. Export the model again.");
  try {
    const TemporaryFile file(archive.bytes());
    const std::size_t runners = std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, kMostRunners);
    auto network = std::make_unique<torch::inductor::AOTIModelPackageLoader>(file.path(), "model",
                                                                             /*run_single_threaded=*/false, runners);
    return std::make_unique<const Aoti>(std::move(network), load_module(*image), contract);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& exception) {
    throw Error(path + ": LibTorch can't load it: " + reason(exception));
  }
}

}  // namespace segnets
