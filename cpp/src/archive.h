// The zip archive that an exported file is. LibTorch never looks at its checksums; this does.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace segnets {

class Archive {
 public:
  // Reads the whole file. Throws Error unless it is a complete, undamaged archive of TorchScript or of AOTInductor.
  explicit Archive(const std::string& path);

  // The contents of an extra file such as "segnets.json", or nothing if there is none.
  const std::string_view* extra_file(const std::string& name) const;

  std::string_view bytes() const { return bytes_; }

  // "torchscript" or "aoti".
  std::string kind() const { return entries_.contains("archive_format") ? "aoti" : "torchscript"; }

 private:
  void read_directory(const std::string& path);
  void read_entry(std::size_t& position, const std::string& path);
  void check_kind(const std::string& path) const;

  std::string bytes_;
  std::string folder_;                               // every entry's name begins with it: "model/"
  std::map<std::string, std::string_view> entries_;  // those that are stored as they are, by their name in the folder
};

// Read a whole file. Throws Error if it can't be read, is empty, or is larger than `limit` bytes.
std::string read_file(const std::string& path, std::uint64_t limit);

}  // namespace segnets
