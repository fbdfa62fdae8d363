// Every way to hand over pixels gives the mask of the plain way; anything else is refused.
// usage: segnets-test-views MODEL, or --available-memory ROOT
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "memory.h"
#include "pixels.h"
#include "segnets/model.h"

#ifdef SEGNETS_WITH_OPENCV
#include "segnets/opencv.h"
#endif

namespace {

using segnets::ChannelOrder;
using segnets::ImageView;
using segnets::Mask;
using segnets::Model;

int failures = 0;

void check(bool good, const std::string& what) {
  if (!good) std::fprintf(stderr, "FAILED: %s\n", what.c_str()), ++failures;
}

void refused(const std::string& what, const std::string& message, const std::function<void()>& call) {
  try {
    call();
  } catch (const segnets::Error& error) {
    const std::string text = error.what();
    check(text.find(message) != std::string::npos && text.find('\n') == std::string::npos, what + " says: " + text);
    return;
  }
  check(false, what + " is not refused");
}

constexpr std::int64_t kHeight = 45, kWidth = 61;

segnets::Image pattern(unsigned seed) {
  segnets::Image image{kHeight, kWidth, std::vector<std::uint8_t>(3 * kHeight * kWidth)};
  for (std::uint8_t& value : image.data) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<std::uint8_t>(seed >> 24);
  }
  return image;
}

// The same pixels in another layout: each byte of it at row, pixel and channel stride; 77 in between.
std::vector<std::uint8_t> laid_out(const segnets::Image& image, ImageView& view, std::int64_t row_stride,
                                   std::int64_t pixel_stride, std::int64_t channel_stride, ChannelOrder order) {
  std::vector<std::uint8_t> bytes(
      static_cast<std::size_t>(kHeight * row_stride + kWidth * pixel_stride + 3 * channel_stride), 77);
  view = {bytes.data(), kHeight, kWidth, row_stride, pixel_stride, channel_stride, order};
  for (std::int64_t i = 0; std::cmp_less(i, image.data.size()); ++i) {
    const std::int64_t channel = order == ChannelOrder::rgb ? i % 3 : 2 - i % 3;
    const std::int64_t at = i / 3 / kWidth * row_stride + i / 3 % kWidth * pixel_stride + channel * channel_stride;
    bytes[static_cast<std::size_t>(at)] = image.data[static_cast<std::size_t>(i)];
  }
  return bytes;
}

void layouts(const Model& model) {
  const segnets::Image image = pattern(1);
  const Mask expected = model.segment(image.view());
  const std::vector<segnets::Colour>& palette = model.contract().palette;
  const std::vector<std::uint8_t> coloured = segnets::overlay(image.view(), expected, palette).data;
  struct Layout {
    const char* name;
    std::int64_t row, pixel, channel;
  };
  const std::array all = {Layout{"gaps between rows", 3 * kWidth + 5, 3, 1}, Layout{"four channels", 4 * kWidth, 4, 1},
                          Layout{"planes", kWidth, 1, kHeight * kWidth},
                          Layout{"rows of channels", 3 * kWidth, 1, kWidth}};
  for (const auto& [name, row, pixel, channel] : all)
    for (const ChannelOrder order : {ChannelOrder::rgb, ChannelOrder::bgr}) {
      ImageView view;
      const std::vector<std::uint8_t> bytes = laid_out(image, view, row, pixel, channel, order);
      const std::string what = name + std::string(order == ChannelOrder::bgr ? ", BGR" : ", RGB");
      check(model.segment(view).ids == expected.ids, what);
      check(segnets::overlay(view, expected, palette).data == coloured, "overlay of " + what);
      const bool same_memory = segnets::pixels_of({view}).data_ptr() == bytes.data();
      check(same_memory == (order == ChannelOrder::rgb), "memory of " + what);
    }
}

// 255, PASCAL VOC's void, leaves the image as it is if it has no colour; any other id without one is an error.
void void_pixels() {
  const segnets::Image image{1, 3, {10, 20, 30, 40, 50, 60, 70, 80, 90}};
  const std::vector<segnets::Colour> palette = {{0, 0, 0}, {255, 255, 255}};
  const std::vector<std::uint8_t> expected = {10, 20, 30, 40, 50, 60, 163, 168, 173};
  check(segnets::overlay(image.view(), {1, 3, 2, {0, 255, 1}}, palette).data == expected, "overlay of void pixels");
  bool refused = false;
  try {
    segnets::overlay(image.view(), {1, 3, 2, {0, 2, 1}}, palette);
  } catch (const segnets::Error&) {
    refused = true;
  }
  check(refused, "overlay of an id without a colour");
}

// LibTorch takes other kernels for other batch sizes, which round otherwise, so that near-ties may fall otherwise.
bool nearly_equal(const std::vector<std::uint16_t>& a, const std::vector<std::uint16_t>& b) {
  std::size_t different = 0;
  for (std::size_t i = 0; i < a.size(); ++i) different += a[i] != b[i];
  return a.size() == b.size() && 100 * different <= a.size();
}

bool close(const std::vector<float>& a, const std::vector<float>& b) {
  float largest = 0, difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(a[i]));
    difference = std::max(difference, std::abs(a[i] - b[i]));
  }
  return a.size() == b.size() && difference <= 1e-4f * largest;
}

void batches(const Model& model) {
  const segnets::Image a = pattern(1), b = pattern(2), c = pattern(3);
  const auto agree = [&](const std::vector<ImageView>& images, const std::string& what) {
    const segnets::MaskBatch masks = model.segment_batch(images);
    const segnets::LogitsBatch logits = model.logits_batch(images);
    check(std::cmp_equal(masks.count, images.size()) && masks.narrow && !masks.wide, what);
    const std::int64_t size = logits.num_classes * logits.height * logits.width;
    for (std::size_t i = 0; i < images.size(); ++i) {
      check(nearly_equal(masks.mask(static_cast<std::int64_t>(i)).ids, model.segment(images[i]).ids), what);
      const std::vector<float> one = model.logits(images[i]).values;
      const float* mine = logits.values.get() + static_cast<std::int64_t>(i) * size;
      check(close(one, {mine, mine + size}), "logits of " + what);
    }
  };
  agree({a.view(), b.view(), c.view()}, "images apart");
  agree({a.view(), a.view()}, "one image twice");
  std::vector<std::uint8_t> block = a.data;
  block.insert(block.end(), b.data.begin(), b.data.end());
  block.insert(block.end(), c.data.begin(), c.data.end());
  const auto at = [&](std::int64_t i) {
    return ImageView{block.data() + i * 3 * kHeight * kWidth, kHeight, kWidth, 0};
  };
  agree({at(0), at(1), at(2)}, "images at equal distances");
  check(segnets::pixels_of({at(0), at(1), at(2)}).data_ptr() == block.data(), "images at equal distances: the memory");
  check(segnets::pixels_of({a.view(), b.view(), c.view()}).transpose(2, 3).transpose(1, 2).is_contiguous(),
        "images apart are gathered as planes");
  agree({at(2), at(1), at(0)}, "images backwards");
  ImageView wide;
  const auto bytes = laid_out(c, wide, 4 * kWidth, 4, 1, ChannelOrder::bgr);
  agree({a.view(), b.view(), wide}, "images of different layouts");

  segnets::MaskBatch kept;
  {
    const segnets::MaskBatch masks = model.segment_batch({a.view(), b.view()});
    kept = masks;
  }
  check(nearly_equal(kept.mask(1).ids, model.segment(b.view()).ids), "a copy that outlives the batch");
  refused("mask 2 of 2", "mask 2: the batch has 2", [&] { kept.mask(2); });
}

void bad_views(const Model& model) {
  const segnets::Image image = pattern(1);
  const auto fails = [&](const std::string& message, ImageView view) {
    refused(message, message, [&] { model.segment(view); });
  };
  const std::uint8_t* data = image.data.data();
  const std::vector<ImageView> million(1000000, image.view());
  for (const auto& call : {std::function<void()>([&] { model.segment_batch(million); }),
                           std::function<void()>([&] { model.logits_batch(million); })})
    refused("a million images", "batch: 1000000 images, 64x80 at the network's input, take at least", call);
  fails("its data pointer is null", {nullptr, 1, 1, 3});
  fails("image: 0x5 holds no pixels", {data, 0, 5, 15});
  fails("image: 5x-1 holds no pixels", {data, 5, -1, 15});
  fails("a side above 2^30 pixels", {data, 1, std::int64_t{1} << 40, 0});
  fails("a row stride of 182 bytes is less than the 183 that a row of 61 pixels takes", {data, kHeight, kWidth, 182});
  fails("a row stride of -183 bytes is less than", {data, kHeight, kWidth, -183});
  fails("is more than memory can hold", {data, kHeight, kWidth, std::int64_t{1} << 60});
  fails("a pixel or channel stride of 0 bytes", {data, kHeight, kWidth, 183, 0});
  fails("a pixel or channel stride of -1 bytes", {data, kHeight, kWidth, 183, 3, -1});
  fails("not enough memory", {data, std::int64_t{1} << 22, std::int64_t{1} << 22, 0});
  refused("no images", "batch: holds no images", [&] { model.segment_batch({}); });
  refused("two sizes", "image 1 of the batch: is 44x61, but image 0 is 45x61 (height x width)",
          [&] { model.segment_batch({image.view(), {data, kHeight - 1, kWidth, 0}}); });
  refused("no image in a batch", "image 1 of the batch: 0x61 holds no pixels",
          [&] { model.segment_batch({image.view(), {data, 0, kWidth, 0}}); });
  refused("warm-up", "warm-up: 2 calls at 0x5; expected at least one", [&] { model.warm_up(0, 5); });
  refused("threads", "threads: expected 1..1024, got 0", [] { segnets::set_threads(0); });
}

#ifdef SEGNETS_WITH_OPENCV

void matrices(const Model& model) {
  const segnets::Image image = pattern(1);
  cv::Mat whole(2 * kHeight, 2 * kWidth, CV_8UC3, cv::Scalar(9, 99, 199)), four;
  cv::Mat part = whole(cv::Rect(17, 23, kWidth, kHeight));  // x, y, width, height
  for (int y = 0; y < kHeight; ++y)
    for (int x = 0; x < kWidth; ++x)
      for (int c = 0; c < 3; ++c)
        part.at<cv::Vec3b>(y, x)[2 - c] = image.data[static_cast<std::size_t>(3 * (y * kWidth + x) + c)];
  const Mask expected = model.segment(image.view());
  check(segnets::view(part).data == part.data && !part.isContinuous(), "a region is not copied");
  check(model.segment(segnets::view(part)).ids == expected.ids, "a region");
  const cv::Mat both = segnets::to_mat(model.segment_batch({segnets::view(part), segnets::view(part)}), 1);
  check(both.type() == CV_8U &&
            std::vector<std::uint16_t>(both.begin<std::uint8_t>(), both.end<std::uint8_t>()) == expected.ids,
        "a mask as a matrix");
  four.create(kHeight, kWidth, CV_8UC4);
  const int channels[] = {0, 2, 1, 1, 2, 0};  // BGR to RGBx
  cv::mixChannels(&part, 1, &four, 1, channels, 3);
  check(model.segment(segnets::view(four, ChannelOrder::rgb)).ids == expected.ids, "RGBA");
  refused("floats", "expected two dimensions of CV_8UC1, CV_8UC3 or CV_8UC4, got 2 of CV_32FC3",
          [] { segnets::view(cv::Mat(2, 2, CV_32FC3)); });
  refused("gray", "has 1 channel, but this model takes 3 channels",
          [&] { model.segment(segnets::view(cv::Mat(2, 2, CV_8UC1))); });
  refused("two channels", "got 2 of CV_8UC2", [] { segnets::view(cv::Mat(2, 2, CV_8UC2)); });
  refused("nothing", "holds no pixels; was the file found", [] { segnets::view(cv::Mat(0, 3, CV_8UC3)); });
  std::printf("cv::Mat too\n");
}

#else

void matrices(const Model&) {}

#endif

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--available-memory") {
    const auto available = segnets::available_memory(argv[2]);
    std::printf("%s\n", available ? std::to_string(*available).c_str() : "unknown");
    return 0;
  }
  if (argc != 2) return 2;
  try {
    const Model model(argv[1]);
    layouts(model);
    void_pixels();
    batches(model);
    bad_views(model);
    matrices(model);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
