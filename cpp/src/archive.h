// The zip archive of an exported file. Unlike LibTorch, this class verifies its checksums.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace segnets {

// A deflated entry: name in the archive's folder, sizes in bytes before and after unpacking, checksum.
struct CompressedEntry {
  std::string name;
  std::uint64_t stored = 0;
  std::uint64_t size = 0;
  std::uint32_t crc = 0;
};

class Archive {
 public:
  // Read the whole file. Throws Error unless it is a complete, undamaged archive of TorchScript or AOTInductor.
  explicit Archive(const std::string& path);

  // Return the contents of an extra file, for example "segnets.json", or null if there is none.
  const std::string_view* extra_file(const std::string& name) const;

  std::string_view bytes() const { return bytes_; }

  // "torchscript" or "aoti".
  std::string kind() const { return entries_.contains("archive_format") ? "aoti" : "torchscript"; }

 private:
  void read_directory(const std::string& path);
  void read_entry(std::size_t& position, const std::string& path, std::vector<CompressedEntry>& compressed);
  void check_kind(const std::string& path) const;

  std::string bytes_;
  std::string folder_;                               // prefix of every entry's name: "model/"
  std::map<std::string, std::string_view> entries_;  // uncompressed entries, by their name in the folder
};

// Read a whole file. Throws Error if it can't be read, is empty, or is larger than `limit` bytes.
std::string read_file(const std::string& path, std::uint64_t limit);

}  // namespace segnets
