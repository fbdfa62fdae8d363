// segnets-run: segment one image with an exported model, or run the model's self-test.
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "memory.h"
#include "output_file.h"
#include "segnets/model.h"

namespace {

constexpr const char* kUsage =
    "usage: segnets-run MODEL IMAGE OUT [--overlay FILE] [--logits FILE] [--repeat N] [--warm-up] [--threads N]\n"
    "       segnets-run --self-test MODEL [--threads N]\n"
    "       segnets-run --version\n"
    "\n"
    "MODEL    a file that segnets.export wrote\n"
    "IMAGE    a PPM (P6, 8 bit) or PGM (P5, 8 bit); JPEG and PNG if the build reads them, see the last line\n"
    "OUT      the mask: *.png in the classes' colours, *.pgm with class ids as gray values, or *.npy, a NumPy array,\n"
    "         which can also hold the planes of a multi-label model\n"
    "\n"
    "--overlay FILE  also write the image with the classes' colours: *.ppm, or *.png\n"
    "--logits FILE   also write the logits, as a NumPy array: *.npy\n"
    "--repeat N      segment N times (1..1000000); print the time of calls 1, 2, 3 and later ones, and memory use\n"
    "--warm-up       segment a gray image of IMAGE's size first\n"
    "--threads N     number of threads per operator (1..1024)\n"
    "--version       print the version\n"
    "--self-test     run the image stored in MODEL and compare with its reference output\n"
    "\n"
    "Exit status: 0 success, 1 bad input, 2 wrong usage.\n";

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Arguments {
  std::vector<std::string> positional;
  std::optional<std::string> overlay;
  std::optional<std::string> logits;
  int repeat = 0;
  int threads = 0;
  bool warm_up = false;
  bool self_test = false;
  bool help = false;
  bool version = false;
};

int whole_number(const std::string& option, const std::string& text, int maximum) {
  int value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || stop != text.data() + text.size() || value < 1 || value > maximum)
    throw UsageError{option + " " + text + ": expected an integer, 1.." + std::to_string(maximum)};
  return value;
}

Arguments parse(const std::vector<std::string>& words) {
  Arguments arguments;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    const auto value = [&]() -> const std::string& {
      if (i + 1 >= words.size()) throw UsageError{word + ": expected a value"};
      return words[++i];
    };
    if (word == "--help" || word == "-h") arguments.help = true;
    else if (word == "--version") arguments.version = true;
    else if (word == "--self-test") arguments.self_test = true;
    else if (word == "--warm-up") arguments.warm_up = true;
    else if (word == "--overlay") arguments.overlay = value();
    else if (word == "--logits") arguments.logits = value();
    else if (word == "--repeat") arguments.repeat = whole_number(word, value(), 1000000);
    else if (word == "--threads") arguments.threads = whole_number(word, value(), 1024);
    else if (word.size() > 1 && word[0] == '-') throw UsageError{word + ": unknown option"};
    else arguments.positional.push_back(word);
  }
  const std::size_t wanted = arguments.self_test ? 1 : 3;
  if (!arguments.help && !arguments.version && arguments.positional.size() != wanted)
    throw UsageError{"expected " + std::string(arguments.self_test ? "MODEL" : "MODEL IMAGE OUT") + ", got " +
                     std::to_string(arguments.positional.size()) + " names"};
  if (arguments.self_test && (arguments.overlay || arguments.logits || arguments.repeat != 0 || arguments.warm_up))
    throw UsageError{"--self-test takes --threads alone"};
  return arguments;
}

int self_test(const std::string& path) {
  const segnets::Model model(path);
  const segnets::SelfTest result = model.self_test();
  std::printf("%s: %s, %lld classes, exported with torch %s\n", path.c_str(), model.contract().model_name.c_str(),
              static_cast<long long>(model.contract().num_classes), model.contract().torch_version.c_str());
  std::printf("preprocessing differs by %.1g of 255 levels (allowed 1)\n", result.sample_difference);
  std::printf("logits differ by %.1e of the largest (allowed %.1e)\n", result.logits_difference, result.tolerance);
  std::printf("classes of %lld of %lld pixels differ, %lld of them near-ties\n",
              static_cast<long long>(result.disagreements), static_cast<long long>(result.pixels),
              static_cast<long long>(result.near_ties));
  std::printf("%s\n", result.passed ? "passed" : "FAILED");
  if (!result.passed) throw segnets::Error(path + ": its outputs differ from the exported model's");
  return 0;
}

bool same_file(const std::string& a, const std::string& b) {
  std::error_code ignored;
  return std::filesystem::weakly_canonical(a, ignored) == std::filesystem::weakly_canonical(b, ignored);
}

void check_outputs(const Arguments& arguments) {
  const std::string &model = arguments.positional[0], &image = arguments.positional[1], &out = arguments.positional[2];
  segnets::check_mask_path(out);
  if (same_file(out, image) || same_file(out, model))
    throw segnets::Error(out + ": is also the input; choose another file");
  std::vector<std::string> taken = {model, image, out};
  for (const std::optional<std::string>& extra : {arguments.overlay, arguments.logits}) {
    if (!extra) continue;
    const std::string& path = *extra;
    for (const std::string& other : taken)
      if (same_file(path, other)) throw segnets::Error(path + ": is given twice; each output needs a file of its own");
    taken.push_back(path);
  }
  if (arguments.overlay) segnets::check_image_path(*arguments.overlay);
  if (arguments.logits && !arguments.logits->ends_with(".npy"))
    throw segnets::Error(*arguments.logits + ": logits are written as .npy; choose a name that ends in .npy");
  if (arguments.logits) segnets::check_writable_target(*arguments.logits);
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// The first three calls are listed separately, because each may do work that later calls don't repeat.
void print_times(const std::vector<double>& milliseconds) {
  constexpr std::size_t kFirst = 3;
  for (std::size_t call = 0; call < std::min(kFirst, milliseconds.size()); ++call)
    std::printf("call %zu: %.1f ms\n", call + 1, milliseconds[call]);
  if (milliseconds.size() > kFirst)
    std::printf("steady: %.1f ms, the median of calls %zu to %zu\n",
                median({milliseconds.begin() + kFirst, milliseconds.end()}), kFirst + 1, milliseconds.size());
}

void print_memory(const segnets::Memory& loaded) {
  const auto mebibytes = [](std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  const segnets::Memory now = segnets::memory();
  std::printf("memory: %.0f MiB after loading, %.0f MiB after the calls, %.0f MiB at most\n",
              mebibytes(loaded.resident), mebibytes(now.resident), mebibytes(now.peak));
}

segnets::Mask segment_repeatedly(const segnets::Model& model, const segnets::Image& image, const Arguments& arguments) {
  const segnets::Memory loaded = segnets::memory();
  if (arguments.warm_up) model.warm_up(image.height, image.width);
  segnets::MaskBatch result;
  std::vector<double> milliseconds;
  for (int call = 0; call < std::max(arguments.repeat, 1); ++call) {
    const auto start = std::chrono::steady_clock::now();
    result = model.segment_batch({image.view()});
    milliseconds.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  if (arguments.repeat > 0) {
    print_times(milliseconds);
    print_memory(loaded);
  }
  return result.mask(0);
}

void print_classes(const segnets::Mask& mask, const segnets::Contract& contract) {
  std::vector<std::size_t> counts(static_cast<std::size_t>(contract.num_ids()));
  const auto pixels = static_cast<std::size_t>(mask.height * mask.width);
  for (std::size_t i = 0; i < mask.ids.size(); ++i) {
    const std::uint16_t value = mask.ids[i];
    if (value >= counts.size())
      throw segnets::Error("the mask has class " + std::to_string(value) + ", beyond its contract");
    if (mask.planes == 0) ++counts[value];
    else if (value != 0) ++counts[i / pixels];
  }
  for (std::size_t id = 0; id < counts.size(); ++id)
    if (counts[id] > 0)
      std::printf("%5.1f %%  %zu%s%s\n", 100.0 * static_cast<double>(counts[id]) / static_cast<double>(pixels), id,
                  contract.classes.empty() ? "" : " ", contract.classes.empty() ? "" : contract.classes[id].c_str());
}

bool is_gray(const segnets::Image& image) {
  for (std::size_t i = 0; i < image.data.size(); i += 3)
    if (image.data[i] != image.data[i + 1] || image.data[i] != image.data[i + 2]) return false;
  return true;
}

// Convert an RGB file whose pixels are all gray to gray, or a gray file to RGB, if the model takes that.
segnets::Image with_channels(segnets::Image image, std::int64_t channels, const std::string& path) {
  if (image.channels == channels) return image;
  segnets::Image result{image.height, image.width, {}, channels};
  if (image.channels == 1 && channels == 3) {
    for (const std::uint8_t value : image.data) result.data.insert(result.data.end(), 3, value);
  } else if (image.channels == 3 && channels == 1 && is_gray(image)) {
    for (std::size_t i = 0; i < image.data.size(); i += 3) result.data.push_back(image.data[i]);
  } else if (channels == 1) {
    throw segnets::Error(path + ": is in colour, but this model takes gray images; convert it to a gray one");
  } else {
    throw segnets::Error(path + ": this model takes " + std::to_string(channels) +
                         " channels, but segnets-run reads files as gray or RGB; use the library");
  }
  return result;
}

void check_form(const std::string& path, const segnets::Contract& contract) {
  if (contract.decoding.rule == "multilabel" && !path.ends_with(".npy"))
    throw segnets::Error(path + ": this model gives a plane for each class, which no picture can hold; write a .npy");
}

int segment(const Arguments& arguments) {
  check_outputs(arguments);
  segnets::Image image = segnets::read_image(arguments.positional[1]);
  const segnets::Model model(arguments.positional[0]);
  check_form(arguments.positional[2], model.contract());
  image = with_channels(std::move(image), model.contract().in_channels(), arguments.positional[1]);
  segnets::Mask mask;
  try {
    mask = segment_repeatedly(model, image, arguments);
  } catch (const segnets::Error& error) {
    throw segnets::Error(arguments.positional[1] + ": " + error.what());
  }
  segnets::write_mask(arguments.positional[2], mask, model.contract().palette);
  if (arguments.overlay)
    segnets::write_image(*arguments.overlay, segnets::overlay(image.view(), mask, model.contract().palette));
  if (arguments.logits) segnets::write_logits(*arguments.logits, model.logits(image.view()));
  std::printf(mask.planes == 0 ? "%s: %lldx%lld (height x width), %lld classes\n"
                               : "%s: %lldx%lld (height x width), %lld planes\n",
              arguments.positional[2].c_str(), static_cast<long long>(mask.height), static_cast<long long>(mask.width),
              static_cast<long long>(mask.num_classes));
  print_classes(mask, model.contract());
  return 0;
}

int help() {
  std::fputs(kUsage, stdout);
  std::printf("This build %s OpenCV, and reads %s.\n", segnets::has_opencv() ? "has" : "is without",
              segnets::image_formats().c_str());
  return 0;
}

int run(const Arguments& arguments) {
  if (arguments.help) return help();
  if (arguments.version) {
    std::puts("segnets-run " SEGNETS_VERSION);
    return 0;
  }
  if (arguments.threads > 0) segnets::set_threads(arguments.threads);
  return arguments.self_test ? self_test(arguments.positional[0]) : segment(arguments);
}

// Replace control characters, which names and contents of files may hold, so that a message stays one line.
std::string one_line(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  return text;
}

}  // namespace

int main(int argc, char** argv) {
#ifdef SIGXFSZ
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of write(), not the end of the process
#endif
  try {
    const Arguments arguments = parse({argv + 1, argv + argc});
    const int code = run(arguments);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      throw segnets::Error(std::string("standard output: can't be written: ") + std::strerror(errno));
    return code;
  } catch (const UsageError& error) {
    std::fprintf(stderr, "segnets-run: %s\n%s", one_line(error.what()).c_str(), kUsage);
    return 2;
  } catch (const std::bad_alloc&) {
    std::fputs("segnets-run: not enough memory for this input\n", stderr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "segnets-run: %s\n", one_line(error.what()).c_str());
  }
  return 1;
}
