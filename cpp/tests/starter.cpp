// Start a program many times while loading its libraries once: LibTorch alone takes 0.3 s to start and to end.
//
// Preloaded by LD_PRELOAD, this library takes over before main() and serves requests on a socket, which is standard
// input. For each, it forks a child that runs main(). A request is its size (uint32), then the folder to run in and the
// arguments, each ended by a zero byte. The answer is the wait status (int32).
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

using Main = int (*)(int, char**, char**);
Main program_main;

bool read_all(char* data, std::size_t size) {
  for (std::size_t done = 0; done < size;) {
    const ssize_t count = read(STDIN_FILENO, data + done, size - done);
    if (count <= 0) return false;
    done += static_cast<std::size_t>(count);
  }
  return true;
}

[[noreturn]] void run(char* folder, std::string& request, char** environment) {
  std::vector<char*> arguments;
  for (char* word = folder + std::string(folder).size() + 1; word < request.data() + request.size();
       word += std::string(word).size() + 1)
    arguments.push_back(word);
  const auto count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (chdir(folder) != 0 || dup2(null, STDIN_FILENO) < 0) std::abort();
  unsetenv("LD_PRELOAD");
  const int code = program_main(count, arguments.data(), environment);
  std::fflush(nullptr);
  std::_Exit(code);
}

int serve(int /*argc*/, char** /*argv*/, char** environment) {
  std::uint32_t size = 0;
  while (read_all(reinterpret_cast<char*>(&size), sizeof size)) {
    std::string request(size, '\0');
    if (!read_all(request.data(), size)) break;
    const pid_t child = fork();
    if (child == 0) run(request.data(), request, environment);
    std::int32_t status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) std::abort();
    if (write(STDIN_FILENO, &status, sizeof status) != sizeof status) break;
  }
  return 0;
}

}  // namespace

// The C library's function that calls main(). NOLINTNEXTLINE(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)
extern "C" int __libc_start_main(Main main, int argc, char** argv, void (*init)(), void (*fini)(), void (*finish)(),
                                 void* stack_end) {
  program_main = main;
  const auto start = reinterpret_cast<decltype(&__libc_start_main)>(dlsym(RTLD_NEXT, "__libc_start_main"));
  return start(&serve, argc, argv, init, fini, finish, stack_end);
}
