#include "output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>

#include "segnets/error.h"

namespace segnets {
namespace {

Error cannot_write(const std::string& path, int number) {
  return Error(path + ": can't be written: " + std::strerror(number));
}

// Returns 0 or the error number.
int write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno;
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return ::fsync(descriptor) == 0 ? 0 : errno;
}

}  // namespace

std::string temporary_beside(const std::string& path) {
  std::random_device random;
  std::array<char, 48> name{};
  std::snprintf(name.data(), name.size(), ".segnets-%08x%08x.tmp", random(), random());
  return (std::filesystem::path(path).parent_path() / name.data()).string();
}

void check_writable_target(const std::string& path) {
  if (path.empty()) throw Error("the output has no name");
  struct stat status{};
  if (::lstat(path.c_str(), &status) == 0) {
    if (S_ISLNK(status.st_mode)) throw Error(path + ": is a symbolic link, which would be replaced; pass its target");
    if (S_ISDIR(status.st_mode)) throw Error(path + ": is a folder; pass a file in it");
    if (!S_ISREG(status.st_mode)) throw Error(path + ": is a device, pipe or socket, not a regular file");
    if (status.st_nlink > 1)
      throw Error(path + ": has several hard links, which a replacement would separate; remove it first");
    return;
  }
  if (errno != ENOENT) throw cannot_write(path, errno);
  const auto folder = std::filesystem::path(path).parent_path();
  std::error_code ignored;
  if (!folder.empty() && !std::filesystem::is_directory(folder, ignored))
    throw Error(path + ": the folder " + folder.string() + " does not exist; create it first");
}

void write_file(const std::string& path, std::string_view bytes) {
  check_writable_target(path);
  const std::string temporary = temporary_beside(path);
  const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor < 0) throw cannot_write(path, errno);
  int failure = write_all(descriptor, bytes);
  if (::close(descriptor) != 0 && failure == 0) failure = errno;
  if (failure == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) failure = errno;
  if (failure != 0) {
    ::unlink(temporary.c_str());
    throw cannot_write(path, failure);
  }
}

}  // namespace segnets
