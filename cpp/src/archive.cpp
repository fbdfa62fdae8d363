#include "archive.h"

#include <caffe2/serialize/in_memory_adapter.h>
#include <caffe2/serialize/inline_container.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <utility>

#include "crc32.h"
#include "segnets/error.h"

namespace segnets {
namespace {

constexpr std::uint64_t kMaxArchiveBytes = std::uint64_t{16} << 30;
constexpr std::string_view kAgain = "; copy or export it again";

// PKWARE's APPNOTE.TXT, sections 4.3.6 to 4.3.16: signatures and sizes of the records.
constexpr std::uint32_t kLocalHeader = 0x04034b50, kDirectoryEntry = 0x02014b50, kEnd = 0x06054b50;
constexpr std::uint32_t kEnd64 = 0x06064b50, kEnd64Locator = 0x07064b50;
constexpr std::size_t kLocalSize = 30, kEntrySize = 46, kEndSize = 22, kEnd64Size = 56, kLocatorSize = 20;
constexpr std::uint64_t kMaxInflation = 1032;                    // of the deflate format
constexpr std::uint64_t kMaxUnpacked = std::uint64_t{64} << 20;  // compressed entries are program text
constexpr std::uint32_t kIn64 = 0xFFFFFFFF;                      // "see the zip64 record"

std::uint64_t little_endian(std::string_view bytes, std::size_t position, std::size_t count) {
  if (position > bytes.size() || bytes.size() - position < count) throw Error("it ends too early");
  std::uint64_t result = 0;
  for (std::size_t i = count; i-- > 0;) result = result << 8 | static_cast<unsigned char>(bytes[position + i]);
  return result;
}

std::string what_it_is(std::string_view bytes) {
  if (bytes.starts_with("version https://git-lfs")) return " but a Git LFS pointer (run git lfs pull)";
  if (bytes.starts_with("<!") || bytes.starts_with("<html")) return " but a web page (the download failed)";
  if (bytes.starts_with("\x80\x02") || bytes.starts_with("\x80\x04")) return " but a pickle (an old Python checkpoint)";
  if (bytes.size() > 8 && bytes[8] == '{') return " but a safetensors file (weights without a program)";
  // ONNX begins with its version, a small number, followed by the producer's name or the graph.
  if (bytes.size() > 2 && bytes[0] == '\x08' && (bytes[2] == '\x12' || bytes[2] == '\x3a'))
    return " but an ONNX network (for ONNX Runtime; this program takes the formats torchscript and aoti)";
  return "";
}

// Compare the checksums of compressed entries. LibTorch unpacks them, but does not compare checksums.
void check_compressed(const std::string& bytes, const std::string& folder, const std::vector<CompressedEntry>& entries,
                      const std::string& path) {
  if (entries.empty()) return;
  for (const CompressedEntry& entry : entries)
    if (entry.size > kMaxUnpacked || entry.size / kMaxInflation > entry.stored) throw Error("a damaged entry");
  // One reader for all: it reads the whole directory.
  std::unique_ptr<caffe2::serialize::PyTorchStreamReader> reader;
  for (const CompressedEntry& entry : entries) {
    std::uint32_t found = 0;
    try {
      if (reader == nullptr)
        reader = std::make_unique<caffe2::serialize::PyTorchStreamReader>(
            std::make_shared<caffe2::serialize::MemoryReadAdapter>(bytes.data(), static_cast<off_t>(bytes.size())));
      const auto [data, count] = reader->getRecord(entry.name);
      found = crc32({static_cast<const char*>(data.get()), count});
    } catch (const std::exception&) {
      throw Error("a damaged entry");
    }
    if (found != entry.crc)
      throw Error(path + ": is damaged: the checksum of '" + folder + entry.name + "' is wrong" + std::string(kAgain));
  }
}

}  // namespace

std::string read_file(const std::string& path, std::uint64_t limit) {
  std::error_code failure;
  const auto status = std::filesystem::status(path, failure);
  if (status.type() == std::filesystem::file_type::not_found) throw Error(path + ": does not exist");
  if (failure) throw Error(path + ": can't be read: " + failure.message());
  if (std::filesystem::is_directory(status)) throw Error(path + ": is a folder, not a file");
  if (!std::filesystem::is_regular_file(status)) throw Error(path + ": is a device, pipe or socket, not a file");
  const std::uint64_t size = std::filesystem::file_size(path, failure);
  if (failure) throw Error(path + ": can't be read: " + failure.message());
  if (size == 0) throw Error(path + ": is empty");
  if (size > limit) throw Error(path + ": is larger than the " + std::to_string(limit >> 20) + " MiB that are read");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path + ": can't be read: " + std::strerror(errno));
  std::string bytes(size, '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(size));
  if (std::cmp_not_equal(file.gcount(), size)) throw Error(path + ": changed or failed while it was read");
  return bytes;
}

Archive::Archive(const std::string& path) : bytes_(read_file(path, kMaxArchiveBytes)) {
  if (!bytes_.starts_with("PK\x03\x04"))
    throw Error(path + ": is not a TorchScript archive" + what_it_is(bytes_) + "; export a model with segnets.export");
  try {
    read_directory(path);
  } catch (const Error& error) {
    const std::string reason = error.what();
    if (reason.starts_with(path)) throw;
    throw Error(path + ": is truncated or damaged (" + reason + ")" + std::string(kAgain));
  }
  check_kind(path);
}

const std::string_view* Archive::extra_file(const std::string& name) const {
  // torch's own .pt2 loader reads everything below extra/ as text.
  const auto found = entries_.find((kind() == "aoti" ? "segnets/" : "extra/") + name);
  return found == entries_.end() ? nullptr : &found->second;
}

void Archive::read_directory(const std::string& path) {
  // The end record ends the file; PyTorch writes no archive comment.
  if (bytes_.size() < kEndSize) throw Error("no end record");
  const std::size_t end = bytes_.size() - kEndSize;
  if (little_endian(bytes_, end, 4) != kEnd) throw Error("no end record");
  std::uint64_t count = little_endian(bytes_, end + 10, 2);
  std::uint64_t position = little_endian(bytes_, end + 16, 4);
  if ((count == 0xFFFF || position == kIn64) && end >= kLocatorSize &&
      little_endian(bytes_, end - kLocatorSize, 4) == kEnd64Locator) {
    const std::uint64_t end64 = little_endian(bytes_, end - kLocatorSize + 8, 8);
    if (end64 > end || end - end64 < kEnd64Size || little_endian(bytes_, end64, 4) != kEnd64)
      throw Error("no zip64 end record");
    count = little_endian(bytes_, end64 + 32, 8);
    position = little_endian(bytes_, end64 + 48, 8);
  }
  if (count == 0 || count > bytes_.size() / kEntrySize) throw Error("a wrong number of entries");
  auto where = static_cast<std::size_t>(position);
  std::vector<CompressedEntry> compressed;
  for (std::uint64_t i = 0; i < count; ++i) read_entry(where, path, compressed);
  check_compressed(bytes_, folder_, compressed, path);
}

void Archive::read_entry(std::size_t& position, const std::string& path, std::vector<CompressedEntry>& compressed) {
  if (little_endian(bytes_, position, 4) != kDirectoryEntry) throw Error("a damaged directory");
  const std::uint64_t method = little_endian(bytes_, position + 10, 2);
  const auto expected_crc = static_cast<std::uint32_t>(little_endian(bytes_, position + 16, 4));
  std::uint64_t stored = little_endian(bytes_, position + 20, 4), size = little_endian(bytes_, position + 24, 4);
  const std::uint64_t name_size = little_endian(bytes_, position + 28, 2);
  const std::uint64_t extra_size = little_endian(bytes_, position + 30, 2);
  const std::uint64_t comment_size = little_endian(bytes_, position + 32, 2);
  std::uint64_t offset = little_endian(bytes_, position + 42, 4);
  const std::size_t extra = position + kEntrySize + name_size;
  little_endian(bytes_, extra + extra_size + comment_size, 0);  // throws if the entry is cut off
  const std::string name = bytes_.substr(position + kEntrySize, name_size);
  for (std::size_t field = extra; field + 4 <= extra + extra_size;) {
    std::size_t value = field + 4;
    if (little_endian(bytes_, field, 2) == 1)  // the zip64 field: those of the three that didn't fit, in this order
      for (std::uint64_t* number : {&size, &stored, &offset})
        if (*number == kIn64) *number = little_endian(bytes_, value, 8), value += 8;
    field += 4 + little_endian(bytes_, field + 2, 2);
  }
  position = extra + extra_size + comment_size;

  if (offset > bytes_.size() || little_endian(bytes_, offset, 4) != kLocalHeader) throw Error("a damaged entry");
  const std::uint64_t data =
      offset + kLocalSize + little_endian(bytes_, offset + 26, 2) + little_endian(bytes_, offset + 28, 2);
  if (data > bytes_.size() || bytes_.size() - data < stored) throw Error("a damaged entry");
  const auto slash = name.find('/');
  if (slash == std::string::npos) throw Error("an entry outside the folder");
  if (folder_.empty()) folder_ = name.substr(0, slash + 1);
  if (!name.starts_with(folder_)) throw Error("an entry outside the folder");
  const std::string_view contents(bytes_.data() + data, stored);
  const bool plain = method == 0;
  if (plain && (stored != size || crc32(contents) != expected_crc))
    throw Error(path + ": is damaged: the checksum of '" + name + "' is wrong" + std::string(kAgain));
  if (!plain) compressed.push_back({name.substr(folder_.size()), stored, size, expected_crc});
  if (!entries_.emplace(name.substr(folder_.size()), plain ? contents : std::string_view()).second)
    throw Error(path + ": has two entries named '" + name + "', so it is ambiguous" + std::string(kAgain));
}

void Archive::check_kind(const std::string& path) const {
  if (kind() == "aoti" || entries_.contains("constants.pkl")) return;
  if (entries_.contains("data.pkl"))
    throw Error(path + ": is a Python checkpoint (torch.save); load it in Python and export it with segnets.export");
  throw Error(path + ": is a zip file, but not a TorchScript archive; export a model with segnets.export");
}

}  // namespace segnets
