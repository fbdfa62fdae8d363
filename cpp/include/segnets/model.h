// An exported model: load once, segment from as many threads as you like.
//
//   segnets::Model model("model.ts");
//   segnets::Mask mask = model.segment({pixels, height, width, row_stride});
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "segnets/error.h"
#include "segnets/image.h"

namespace segnets {

// What the file promises about itself (its segnets.json).
struct Contract {
  std::string model_name;
  std::int64_t num_classes = 0;
  std::vector<std::string> classes;  // one name per id, or empty
  std::vector<Colour> palette;       // one colour per id; the VOC colour map where the file names none
  std::string output;                // of forward: "tensor" or "dict"
  double tolerance = 0;              // of the golden logits, relative to the largest
  std::int64_t sample_step = 0;
  std::array<double, 3> std_deviation{};
  std::string segnets_version;
  std::string torch_version;
};

// What the network answered before the best class was taken, at the size of its input, which preprocessing chose.
struct Logits {
  std::int64_t num_classes = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<float> values;  // (num_classes, height, width), the last index fastest
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

class Model {
 public:
  // Loads a file that segnets.export wrote, and checks that it is complete and undamaged.
  // The file is a program: load only what you trust. Throws Error.
  explicit Model(const std::string& path);
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  // The best class of every pixel, at the image's own size; the file's own preprocessing is applied.
  // Safe to call from many threads at once. Throws Error.
  Mask segment(const ImageView& image) const;

  // The scores behind that answer. Safe to call from many threads at once. Throws Error.
  Logits logits(const ImageView& image) const;

  // Replays the image that the file carries with its expected answers. Throws Error if it carries none.
  SelfTest self_test() const;

  const Contract& contract() const;

 private:
  struct State;
  std::unique_ptr<const State> state_;
};

// How many threads one operator may use, for the whole process; to be set before the first call.
void set_threads(int count);

}  // namespace segnets
