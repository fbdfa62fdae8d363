// An exported model: load once, segment from as many threads as you like.
//
//   segnets::Model model("model.ts");  // or a .pt2, machine code for processors like the one that it was made on
//   segnets::Mask mask = model.segment({pixels, height, width, row_stride});
//
// Calls run without gradients (InferenceMode) and without TorchScript's profiling, which would make the first two calls
// slow; both are settings of the calling thread for the time of the call, and change nothing for other users of
// LibTorch in the process.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "segnets/error.h"
#include "segnets/image.h"

namespace segnets {

// What the file promises about itself (its segnets.json).
struct Contract {
  std::string model_name;
  std::string kind;    // of the program: "torchscript" or "aoti"
  std::string device;  // that the network runs on: "cpu" or "cuda"; images and answers are in the processor's memory
  std::string dtype;   // that it computes in: "float32", "bfloat16" or "float16"; logits are float32
  // Smallest and largest "batch", "height" and "width" of the network's input; empty for any.
  std::map<std::string, std::array<std::int64_t, 2>> bounds;
  std::int64_t num_classes = 0;
  std::vector<std::string> classes;  // one name per id, or empty
  std::vector<Colour> palette;       // one colour per id; the VOC colour map where the file names none
  std::string output;                // of forward: "tensor" or "dict"
  double tolerance = 0;              // of the golden logits, relative to the largest
  std::int64_t sample_step = 0;
  std::array<double, 3> std_deviation{};
  std::string segnets_version;
  std::string torch_version;
  std::string json;  // all of it, as it stands in the file (UTF-8)
};

// What the network answered before the best class was taken, at the size of its input, which preprocessing chose.
struct Logits {
  std::int64_t num_classes = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<float> values;  // (num_classes, height, width), the last index fastest
};

// Masks in the network's own memory: nothing was copied. Copies of this share the memory, and the last one frees it.
struct MaskBatch {
  std::int64_t count = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t num_classes = 0;
  // (count, height, width) without gaps, in one of the two: `narrow` up to 256 classes, `wide` above.
  std::shared_ptr<const std::uint8_t> narrow;
  std::shared_ptr<const std::int16_t> wide;

  // A copy of the mask of one image. Throws Error unless 0 <= index < count.
  Mask mask(std::int64_t index) const;
};

// As MaskBatch: (count, num_classes, height, width) without gaps, in the network's own memory.
struct LogitsBatch {
  std::int64_t count = 0;
  std::int64_t num_classes = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::shared_ptr<const float> values;
};

// Write logits as a NumPy array (.npy) of shape (1, num_classes, height, width), float32.
// The file appears complete or not at all. Throws Error.
void write_logits(const std::string& path, const Logits& logits);

// What a replay of the golden pair measured.
struct SelfTest {
  double sample_difference = 0;  // of the preprocessed image, in grey levels of 0..255
  double logits_difference = 0;  // relative to the largest logit
  double tolerance = 0;
  std::int64_t pixels = 0;
  std::int64_t disagreements = 0;  // pixels of another class
  std::int64_t near_ties = 0;      // those of them whose two best classes were within the tolerance
  bool passed = false;
};

struct LoadOptions {
  // Ask the C library (glibc) to keep the memory that a call frees for the next call, for the whole process, instead of
  // giving it back to the system and waiting for new pages: a tenth to a half of a call's time. The process stays as
  // large as its largest call was; malloc_trim(0) gives the memory back.
  bool keep_memory = true;
};

// All const members are safe to call from many threads at once, on one model. All throw Error and nothing else.
class Model {
 public:
  // Loads a file that segnets.export wrote, and checks that it is complete, undamaged, and something that this library
  // runs. The file is a program: load only what you trust. Throws Error.
  explicit Model(const std::string& path, const LoadOptions& options = {});
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  // The best class of every pixel, at the image's own size; the file's own preprocessing is applied.
  Mask segment(const ImageView& image) const;

  // The same for several images of one size as one batch (at least one image), without copying the masks.
  // Images that lie in memory at equal distances, as in a batch of NumPy, are read where they are. LibTorch may round
  // otherwise in a batch, in the last bits: a pixel whose two best classes are as good as equal may fall to the other.
  MaskBatch segment_batch(const std::vector<ImageView>& images) const;

  // The scores behind that answer.
  Logits logits(const ImageView& image) const;
  LogitsBatch logits_batch(const std::vector<ImageView>& images) const;

  // Segments a grey image of this size `calls` times. What is made in the first call (compiled graphs, kernels for this
  // size, memory) is there for the calls that follow. Other sizes work too; their first call makes their own kernels.
  void warm_up(std::int64_t height, std::int64_t width, int calls = 2) const;

  // Replays the image that the file carries with its expected answers. Throws Error if it carries none.
  SelfTest self_test() const;

  const Contract& contract() const;

 private:
  struct State;
  std::unique_ptr<const State> state_;
};

// How many threads one operator may use (1..1024), for the whole process; to be set before the first call.
// Where many threads call one model, 1 is the fastest. Throws Error.
void set_threads(int count);

}  // namespace segnets
