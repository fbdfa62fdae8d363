// An exported model: load it once, call it from any number of threads.
//
//   segnets::Model model("model.ts");  // or a .pt2, compiled for CPUs like the one that exported it
//   segnets::Mask mask = model.segment({pixels, height, width, row_stride});
//
// Calls run in InferenceMode and without TorchScript's profiling, which would slow down the first two calls. Both are
// set for the calling thread during the call, and affect no other user of LibTorch in the process.
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

// Rule that turns logits into the ids of a mask.
struct Decoding {
  // "argmax": the class of the largest logit. "threshold": 1 where the sigmoid of the only channel exceeds `threshold`,
  // else 0. "multilabel": a threshold for every channel, with a plane for each class.
  std::string rule = "argmax";
  double threshold = 0.5;
};

// The description in an exported file (its segnets.json).
struct Contract {
  std::string model_name;
  std::string kind;    // format of the program: "torchscript" or "aoti"
  std::string device;  // device of the network: "cpu" or "cuda"; images and results are in CPU memory
  std::string dtype;   // precision of the network: "float32", "bfloat16" or "float16"; logits are float32
  // Smallest and largest "batch", "height" and "width" of the network's input; empty for any.
  std::map<std::string, std::array<std::int64_t, 2>> bounds;
  // Pixels that a compiled model computes together; larger batches are split. Older files have the default.
  std::int64_t pixels_at_once = std::int64_t{520} * 520;
  std::int64_t num_classes = 0;  // channels of the logits
  Decoding decoding;
  std::vector<std::string> classes;   // one name per id, or empty
  std::vector<Colour> palette;        // one colour per id; the VOC colour map if the file has none
  std::string output;                 // result of forward: "tensor" or "dict"
  double tolerance = 0;               // allowed difference of the golden logits, relative to the largest logit
  std::int64_t sample_step = 0;       // step between the rows, and columns, that the golden pair keeps
  std::vector<double> std_deviation;  // one per channel of the image
  double scale = 0;  // factor by which the preprocessing multiplies an image's sides; 0 for other resize rules
  std::string segnets_version;
  std::string torch_version;
  std::string json;  // the whole text of segnets.json (UTF-8)

  // Return the number of ids in a mask, or of planes: 2 for a threshold, else num_classes.
  std::int64_t num_ids() const { return decoding.rule == "threshold" ? 2 : num_classes; }

  // Return the number of channels of an image.
  std::int64_t in_channels() const { return static_cast<std::int64_t>(std_deviation.size()); }
};

// Logits before argmax, at the network's input resolution, which follows from the preprocessing.
struct Logits {
  std::int64_t num_classes = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<float> values;  // (num_classes, height, width), the last index fastest
};

// Masks in the network's own memory, not copied. Copies of this struct share the memory; the last one frees it.
struct MaskBatch {
  std::int64_t count = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t num_classes = 0;  // number of ids, or of planes
  // Contiguous, in one of the two: ids (count, height, width) in `narrow` for up to 256 classes, else in `wide`;
  // planes (count, planes, height, width) in `narrow`.
  std::shared_ptr<const std::uint8_t> narrow;
  std::shared_ptr<const std::int16_t> wide;
  std::int64_t planes = 0;  // 0 for class ids, else num_classes

  // Copy the mask of one image. Throws Error unless 0 <= index < count.
  Mask mask(std::int64_t index) const;
};

// Logits in the network's own memory, like MaskBatch: (count, num_classes, height, width), contiguous.
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

// Result of replaying the golden pair.
struct SelfTest {
  double sample_difference = 0;  // largest difference of the preprocessed image, in gray levels of 0..255
  double logits_difference = 0;  // largest difference, relative to the largest logit
  double tolerance = 0;
  std::int64_t pixels = 0;
  std::int64_t disagreements = 0;  // pixels whose class differs
  std::int64_t near_ties = 0;      // disagreements whose two largest logits were within the tolerance
  bool passed = false;
};

struct LoadOptions {
  // Ask the C library (glibc) to keep memory that a call frees for the next call. Returning it to the system and
  // waiting for new pages takes up to a third of a batch's time. This changes malloc for the whole process
  // (mallopt), which stays as large as its largest call; malloc_trim(0) returns the memory. Models on GPUs never change
  // it.
  bool keep_memory = true;
};

// A loaded model. Any number of threads may call the const members of one model at once. They throw Error only.
class Model {
 public:
  // Load a file that segnets.export wrote. Checks that it is complete, undamaged and supported by this library.
  // The file is a program: load only files that you trust. Throws Error.
  explicit Model(const std::string& path, const LoadOptions& options = {});
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  // Return the class of every pixel, or a plane for each class, at the image's own size. The file's preprocessing is
  // applied to the image.
  Mask segment(const ImageView& image) const;

  // Segment one or more images of one size as a batch, without copying the masks. Images at equal distances in memory,
  // as in a NumPy batch, are not copied either. LibTorch may round the last bits of a batch differently, so a pixel
  // whose two largest logits are nearly equal may get either class.
  MaskBatch segment_batch(const std::vector<ImageView>& images) const;

  // Return the logits that the mask is computed from.
  Logits logits(const ImageView& image) const;
  LogitsBatch logits_batch(const std::vector<ImageView>& images) const;

  // Segment a gray image of this size `calls` times, so that later calls reuse what the first calls set up: compiled
  // graphs, kernels for this size, and memory. Other sizes still work; their first call sets up kernels of its own.
  void warm_up(std::int64_t height, std::int64_t width, int calls = 2) const;

  // Run the image stored in the file and compare with its reference output. Throws Error if the file stores none.
  SelfTest self_test() const;

  const Contract& contract() const;

 private:
  struct State;
  std::unique_ptr<const State> state_;
};

// Set how many threads one operator may use (1..1024), in the whole process. Call it before the first call of a model.
// If many threads call one model, 1 is fastest. Throws Error.
void set_threads(int count);

}  // namespace segnets
