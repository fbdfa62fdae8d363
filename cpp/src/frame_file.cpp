#include "frame_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "frame_layout.h"
#include "output_file.h"

namespace segnets::ring {
namespace {

struct flock byte_of(FrameRing::Role role, short type) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = role == FrameRing::Role::producer ? 0 : 1;
  lock.l_len = 1;
  return lock;
}

// Allocate the memory now, so that a full /dev/shm fails here and not with SIGBUS at a later frame.
void write_empty(int file, const FrameLayout& layout, const std::string& path) {
  const Header header = encode(layout);
  // Beyond a file size limit (ulimit -f), allocating would end the process with SIGXFSZ.
  struct rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && file_size(layout) > limit.rlim_cur)
    throw Error(path + ": can't get its " + std::to_string(file_size(layout)) + " bytes: " + std::strerror(EFBIG));
  const int number = ::posix_fallocate(file, 0, static_cast<off_t>(file_size(layout)));
  if (number != 0)
    throw Error(path + ": can't get its " + std::to_string(file_size(layout)) + " bytes: " + std::strerror(number));
  if (::pwrite(file, header.data(), header.size(), 0) != static_cast<ssize_t>(header.size()))
    throw failed(path, "written");
}

}  // namespace

const char* name_of(FrameRing::Role role) { return role == FrameRing::Role::producer ? "producer" : "consumer"; }

Error failed(const std::string& path, const char* what) {
  return Error(path + ": can't be " + what + ": " + std::strerror(errno));
}

bool exists(const std::string& path) {
  struct stat status{};
  return ::lstat(path.c_str(), &status) == 0;
}

Descriptor create_file(const std::string& path, const FrameLayout& layout, FrameRing::Role role) {
  check_writable_target(path);
  const std::string temporary = temporary_beside(path);
  Descriptor file(::open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (file < 0) throw failed(path, "created");
  try {
    write_empty(file, layout, path);
    take(file, role, path);
    if (::link(temporary.c_str(), path.c_str()) != 0) throw failed(path, "created");  // unlike a rename: never replaces
    ::unlink(temporary.c_str());
  } catch (const Error&) {
    ::unlink(temporary.c_str());
    throw;
  }
  return file;
}

Descriptor open_file(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) == 0) {  // before opening: a device could do something then
    if (S_ISDIR(status.st_mode)) throw Error(path + ": is a folder; pass the file that the other side created");
    if (!S_ISREG(status.st_mode)) throw Error(path + ": is a device, pipe or socket, not a frame ring");
  } else if (errno == ENOENT) {
    throw Error(path + ": does not exist; start the side that creates the ring first");
  }
  Descriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (file < 0) throw failed(path, "opened for reading and writing");
  return file;
}

FrameLayout read_layout(int file, const std::string& path) {
  struct stat status{};
  if (::fstat(file, &status) != 0) throw failed(path, "read");
  const auto size = static_cast<std::uint64_t>(status.st_size);
  Header header{};
  if (::pread(file, header.data(), header.size(), 0) < 0) throw failed(path, "read");
  return decode(header, size, path);
}

void take(int file, FrameRing::Role role, const std::string& path) {
  struct flock lock = byte_of(role, F_WRLCK);
  if (::fcntl(file, F_OFD_SETLK, &lock) == 0) return;
  if (errno != EAGAIN && errno != EACCES) throw failed(path, "locked");
  throw Error(path + ": already has a " + name_of(role) +
              ", and a ring has only one; close that one or choose another ring");
}

void give_up(int file, FrameRing::Role role) noexcept {
  struct flock lock = byte_of(role, F_UNLCK);
  ::fcntl(file, F_OFD_SETLK, &lock);
}

bool is_taken(int file, FrameRing::Role role, const std::string& path) {
  struct flock lock = byte_of(role, F_WRLCK);
  if (::fcntl(file, F_OFD_GETLK, &lock) != 0) throw failed(path, "asked for its locks");
  return lock.l_type != F_UNLCK;
}

}  // namespace segnets::ring
