#include "contract.h"

#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include "json.h"

namespace segnets {
namespace {

constexpr std::int64_t kFormatVersion = 2;  // the newest
constexpr std::int64_t kMaxClasses = 32767;

Colour read_colour(const Json& json) {
  const Json::Array& values = json.array();
  if (values.size() != 3) throw Error("a colour doesn't have three numbers");
  Colour colour{};
  for (std::size_t i = 0; i < 3; ++i) {
    const std::int64_t value = values[i].integer();
    if (value < 0 || value > 255) throw Error("a colour is outside 0..255");
    colour[i] = static_cast<std::uint8_t>(value);
  }
  return colour;
}

// Refuse what this library can't run before LibTorch reads it.
std::string read_choice(const Json& json, const std::string& key, const std::vector<std::string>& known,
                        const std::string& advice) {
  const std::string& value = json.at(key).string();
  for (const std::string& choice : known)
    if (value == choice) return value;
  std::string allowed;
  for (const std::string& choice : known) allowed += (allowed.empty() ? "'" : ", '") + choice + "'";
  throw Error(key + " is '" + value + "', but this program runs " + allowed + "; " + advice);
}

Decoding read_decoding(const Json& json, std::int64_t channels) {
  Decoding decoding;
  decoding.rule = read_choice(json, "rule", {"argmax", "threshold", "multilabel"}, "take a newer C++ program");
  if (const Json* threshold = json.find("threshold")) decoding.threshold = threshold->number();
  const bool inside = decoding.threshold > 0 && decoding.threshold < 1;
  if (!inside) throw Error("decoding.threshold is outside 0..1");
  if (decoding.rule == "threshold" && channels != 1)
    throw Error("decoding.rule is 'threshold', which needs one channel, but num_classes is " +
                std::to_string(channels));
  return decoding;
}

// For planes, the first colour is not a background's.
std::vector<Colour> default_palette(const Contract& contract) {
  if (contract.decoding.rule != "multilabel") return voc_palette(contract.num_ids());
  std::vector<Colour> palette = voc_palette(contract.num_classes + 1);
  palette.erase(palette.begin());
  return palette;
}

std::map<std::string, std::array<std::int64_t, 2>> read_bounds(const Json& json) {
  std::map<std::string, std::array<std::int64_t, 2>> bounds;
  for (const auto& [name, values] : json.object()) {
    if (name != "batch" && name != "height" && name != "width") throw Error("bounds of an unknown '" + name + "'");
    if (values.array().size() != 2) throw Error("bounds." + name + " is not a smallest and a largest number");
    bounds[name] = {values.array()[0].integer(), values.array()[1].integer()};
  }
  return bounds;
}

// Check the CPU first: an unknown instruction in compiled code ends the process.
void check_processor(const Json& json) {
  const Json* instructions = json.find("instructions");
  std::ifstream file("/proc/cpuinfo");
  std::set<std::string> here;
  for (std::string line; here.empty() && std::getline(file, line);)
    if (line.starts_with("flags") || line.starts_with("Features")) {
      std::istringstream words(line.substr(line.find(':') + 1));
      here = {std::istream_iterator<std::string>(words), std::istream_iterator<std::string>()};
    }
  if (instructions == nullptr || here.empty()) return;  // unknown to the file or the system
  for (const Json& instruction : instructions->array())
    if (!here.contains(instruction.string()))
      throw Error("it uses instructions that this CPU lacks: " + instruction.string() +
                  "; export the model on a machine like this one, or with format='torchscript'");
}

Contract read_fields(const Json& json) {
  Contract contract;
  contract.kind =
      read_choice(json, "kind", {"torchscript", "aoti"}, "take the C++ program of the segnets that exported it");
  contract.device = read_choice(json, "device", {"cpu", "cuda"}, "export for one of these");
  contract.dtype = read_choice(json, "dtype", {"float32", "bfloat16", "float16"}, "export in one of these");
  contract.model_name = json.at("model").at("name").string();
  contract.num_classes = json.at("num_classes").integer();
  if (contract.num_classes < 1 || contract.num_classes > kMaxClasses) throw Error("num_classes is outside 1..32767");
  // Files written before this key existed use argmax.
  if (const Json* decoding = json.find("decoding")) contract.decoding = read_decoding(*decoding, contract.num_classes);
  const auto classes = static_cast<std::size_t>(contract.num_ids());
  for (const Json& name : json.at("classes").array()) contract.classes.push_back(name.string());
  for (const Json& colour : json.at("palette").array()) contract.palette.push_back(read_colour(colour));
  if (!contract.classes.empty() && contract.classes.size() != classes) throw Error("classes has a wrong length");
  if (contract.palette.empty()) contract.palette = default_palette(contract);
  if (contract.palette.size() != classes) throw Error("palette has a wrong length");
  const std::string mask = contract.num_classes <= 256 || contract.decoding.rule != "argmax" ? "uint8" : "int16";
  if (json.at("mask_dtype").string() != mask)
    throw Error("mask_dtype is not " + mask + ", the type for " + std::to_string(contract.num_classes) + " classes");
  contract.output = json.at("output").string();
  if (contract.output != "tensor" && contract.output != "dict") throw Error("output is neither tensor nor dict");
  contract.tolerance = json.at("golden").at("tolerance").number();
  contract.sample_step = json.at("golden").at("sample_step").integer();
  if (contract.sample_step < 1) throw Error("golden.sample_step is below 1");
  const Json& preprocessing = json.at("preprocessing");
  if (preprocessing.at("resize").string() == "scale") {
    contract.scale = preprocessing.at("size").number();
    if (!(contract.scale > 0)) throw Error("preprocessing.size is not a factor above 0");
  }
  const Json::Array& std_deviation = preprocessing.at("std").array();
  if (std_deviation.empty()) throw Error("preprocessing.std has no numbers");
  for (const Json& value : std_deviation) contract.std_deviation.push_back(value.number());
  if (const Json* bounds = json.find("bounds")) contract.bounds = read_bounds(*bounds);
  if (const Json* pixels = json.find("pixels_at_once")) contract.pixels_at_once = pixels->integer();
  if (contract.pixels_at_once < 1) throw Error("pixels_at_once is below 1");
  if (const Json* processor = json.find("processor")) check_processor(*processor);
  contract.segnets_version = json.at("versions").at("segnets").string();
  contract.torch_version = json.at("versions").at("torch").string();
  return contract;
}

}  // namespace

Contract read_contract(std::string_view text, const std::string& path) {
  const std::string what = "segnets.json";
  try {
    const Json json = Json::parse(text, what);
    if (json.at("format").string() != "segnets-export") throw Error("it is not a contract of segnets");
    const std::int64_t version = json.at("format_version").integer();
    if (version < 1 || version > kFormatVersion)
      throw Error("it has version " + std::to_string(version) + ", but this program reads 1 to " +
                  std::to_string(kFormatVersion) + " (take the C++ program of the segnets that exported it)");
    Contract contract = read_fields(json);
    contract.json = text;
    return contract;
  } catch (const Error& error) {
    throw Error(path + ": its contract can't be used: " + error.what() + "; export the model again");
  }
}

}  // namespace segnets
