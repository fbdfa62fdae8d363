// Decode images, preprocess them into a ring in shared memory, and read the masks from a second ring.
//
//   segnets-frame-producer MODEL FRAMES MASKS FOLDER IMAGE...
//   python examples/frames/consumer.py WEIGHTS FRAMES MASKS
//
// MODEL is the export of WEIGHTS. Only its preprocessing is used; the network runs in Python. FRAMES and MASKS are
// names of rings that don't exist yet, such as /dev/shm/frames. All images must have one size. The mask of the n-th
// IMAGE is written to FOLDER/n.pgm, counted from 1.
#include <c10/core/InferenceMode.h>
#include <torch/script.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "segnets/error.h"
#include "segnets/frame_ring.h"
#include "segnets/image.h"
#include "segnets/model.h"

namespace {

using segnets::FrameRing;

torch::Tensor preprocess(const torch::jit::Module& model, const segnets::Image& image) {
  const torch::Tensor pixels =
      torch::from_blob(const_cast<std::uint8_t*>(image.data.data()), {1, image.height, image.width, 3}, torch::kUInt8);
  return model.get_method("preprocess")({pixels}).toTensor();
}

// A ring whose file is removed at the end. A process that has it mapped keeps the memory.
struct OwnRing {
  FrameRing ring;
  ~OwnRing() { ::unlink(ring.path().c_str()); }
};

// Waits for a slot or frame, and throws an Error if the Python program has ended. It may have opened only one of the
// two rings, so both are checked.
template <typename Wait>
auto expect(Wait wait, const FrameRing& frames, const FrameRing& masks) {
  for (;;) {
    if (const auto result = wait(std::chrono::milliseconds(200))) return result;
    for (const FrameRing* ring : {&masks, &frames}) {
      const FrameRing::Peer peer = ring->peer();
      if (peer != FrameRing::Peer::closed && peer != FrameRing::Peer::died) continue;
      if (const auto result = wait(std::chrono::milliseconds(0))) return result;  // published just before it ended
      throw segnets::Error(ring->path() + ": the Python program has ended. See its last lines.");
    }
  }
}

torch::jit::Module load(const std::string& path) {
  const segnets::Model whole(path);  // refuses a damaged file, or one that is not an export
  if (whole.contract().kind != "torchscript")
    throw segnets::Error(path + ": the format is " + whole.contract().kind +
                         ". Export with --format torchscript for this program.");
  return torch::jit::load(path, torch::kCPU);
}

void run(const std::string& model_path, const std::string& frames_path, const std::string& masks_path,
         const std::string& folder, const std::vector<std::string>& images) {
  const c10::InferenceMode no_gradients;
  if (!std::filesystem::is_directory(folder)) throw segnets::Error(folder + ": not a folder. Create it first.");
  const torch::jit::Module model = load(model_path);
  segnets::Image image = segnets::read_image(images.front());
  const std::vector<std::int64_t> input = preprocess(model, image).sizes().vec();  // (1, 3, h, w)
  const std::vector<std::int64_t> size = {image.height, image.width};

  // The ring of frames comes last, because the other side waits for it.
  OwnRing own_masks{FrameRing::create(masks_path, {segnets::FrameType::uint16, size}, FrameRing::Role::consumer)};
  OwnRing own_frames{FrameRing::create(frames_path, {segnets::FrameType::float32, input}, FrameRing::Role::producer)};
  FrameRing &masks = own_masks.ring, &frames = own_frames.ring;
  for (std::size_t i = 0; i < images.size(); ++i) {
    if (i > 0) image = segnets::read_image(images[i]);
    if (image.height != size[0] || image.width != size[1])
      throw segnets::Error(images[i] +
                           ": its size differs from the first image's. All frames of a ring have one size.");
    const auto slot = expect([&](auto timeout) { return frames.acquire(timeout); }, frames, masks);
    torch::from_blob(slot.data, input, torch::kFloat32).copy_(preprocess(model, image));
    frames.publish();

    const auto answer = expect([&](auto timeout) { return masks.next(timeout); }, frames, masks);
    const auto* ids = reinterpret_cast<const std::uint16_t*>(answer.data);
    const auto classes = static_cast<std::int64_t>(answer.tag);
    const segnets::Mask mask{size[0], size[1], classes, {ids, ids + size[0] * size[1]}};
    masks.release();
    segnets::write_mask(folder + "/" + std::to_string(i + 1) + ".pgm", mask);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) {
    std::fprintf(stderr, "usage: segnets-frame-producer MODEL FRAMES MASKS FOLDER IMAGE...\n");
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3], argv[4], {argv + 5, argv + argc});
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
