// One model, many threads: every thread must get the mask that a single thread gets, by itself and in a batch.
// usage: segnets-test-threads MODEL THREADS CALLS
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "segnets/model.h"

namespace {

segnets::Image pattern(std::int64_t height, std::int64_t width, unsigned seed) {
  segnets::Image image{height, width, std::vector<std::uint8_t>(static_cast<std::size_t>(3 * height * width))};
  for (std::uint8_t& value : image.data) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<std::uint8_t>(seed >> 24);
  }
  return image;
}

// What one thread does with the model that all of them share.
struct Worker {
  const segnets::Model& model;
  const segnets::Image& image;
  const segnets::Mask& expected;
  std::atomic<int>& wrong;

  void call() const {
    if (model.segment(image.view()).ids != expected.ids) ++wrong;
    const segnets::MaskBatch batch = model.segment_batch({image.view(), image.view()});
    if (batch.mask(1).ids != batch.mask(0).ids) ++wrong;
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  try {
    const int threads = std::stoi(argv[2]), calls = std::stoi(argv[3]);
    segnets::set_threads(1);
    const segnets::Model model(argv[1]);
    const segnets::Model fresh(argv[1]);  // its first calls come from all threads at once
    std::vector<segnets::Image> images;
    std::vector<segnets::Mask> expected;
    for (int t = 0; t < threads; ++t) {
      images.push_back(pattern(40 + 7 * t, 51 + 3 * t, static_cast<unsigned>(t)));
      expected.push_back(model.segment(images.back().view()));
    }
    std::atomic<int> wrong{0};
    std::atomic<int> failed{0};
    std::vector<std::thread> running;
    running.reserve(static_cast<std::size_t>(threads));
    for (int t = 0; t < threads; ++t)
      running.emplace_back([&, t] {
        const auto i = static_cast<std::size_t>(t);
        const Worker worker{fresh, images[i], expected[i], wrong};
        try {
          for (int call = 0; call < calls; ++call) worker.call();
          fresh.warm_up(8, 9, 1);
          if (!fresh.self_test().passed) ++wrong;
        } catch (const std::exception& error) {
          std::fprintf(stderr, "%s\n", error.what());
          ++failed;
        }
      });
    for (std::thread& thread : running) thread.join();
    std::printf("%d threads, %d calls each: %d wrong masks, %d failures\n", threads, calls, wrong.load(),
                failed.load());
    return wrong == 0 && failed == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
