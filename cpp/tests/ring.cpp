// One side of a ring, for the tests: the other side is Python, or this program again.
// usage: segnets-test-ring create PATH ROLE TYPE SLOTS FLAGS SHAPE [STRIDES]   (numbers joined by x)
//        segnets-test-ring open PATH ROLE         what it is
//        segnets-test-ring write PATH COUNT       COUNT frames of which every int64 is the sequence; 0: without end
//        segnets-test-ring read PATH COUNT        checks such frames until COUNT came or the producer is gone
//        segnets-test-ring race PATH COUNT        both sides in two threads that never pause, COUNT frames
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "segnets/error.h"
#include "segnets/frame_ring.h"

namespace {

using segnets::FrameRing;
constexpr std::uint64_t kPasses = 20;
constexpr std::array kOutcomes = {"ready", "timeout", "closed", "died"};

std::vector<std::int64_t> numbers(const std::string& text) {
  std::vector<std::int64_t> result;
  std::stringstream stream(text);
  for (std::string word; std::getline(stream, word, 'x');) result.push_back(std::stoll(word));
  return result;
}

FrameRing::Role role(const std::string& name) {
  return name == "producer" ? FrameRing::Role::producer : FrameRing::Role::consumer;
}

int describe(const FrameRing& ring) {
  const segnets::FrameLayout& layout = ring.layout();
  std::printf("type %u, %lld bytes, %lld slots, checksum %d, peer %d, waiting %llu; shape",
              static_cast<unsigned>(layout.type), static_cast<long long>(layout.frame_size()),
              static_cast<long long>(layout.slots), layout.checksum, static_cast<int>(ring.peer()),
              static_cast<unsigned long long>(ring.waiting()));
  for (const std::int64_t n : layout.shape) std::printf(" %lld", static_cast<long long>(n));
  std::printf("; strides");
  for (const std::int64_t n : layout.strides) std::printf(" %lld", static_cast<long long>(n));
  std::printf("\n");
  return 0;
}

int write(FrameRing ring, std::uint64_t count) {
  const auto items = static_cast<std::size_t>(ring.layout().frame_size()) / 8;
  for (std::uint64_t i = 0; count == 0 || i < count; ++i) {
    const FrameRing::Slot slot = ring.acquire(FrameRing::forever);
    if (!slot) {
      std::printf("%s after %llu\n", kOutcomes[static_cast<int>(slot.outcome)], static_cast<unsigned long long>(i));
      return 0;
    }
    const std::span frame(reinterpret_cast<std::uint64_t*>(slot.data), items);
    // Write other values first, so that a kill most likely hits a half-filled slot.
    for (std::uint64_t wrong = kPasses; wrong > 0; --wrong) {
      std::ranges::fill(frame, slot.sequence + wrong);
      std::atomic_signal_fence(std::memory_order_seq_cst);  // keeps the compiler from dropping all but the last store
    }
    std::ranges::fill(frame, slot.sequence);
    ring.publish(3 * slot.sequence);
  }
  return 0;
}

int read(FrameRing ring, std::uint64_t count) {
  const auto items = static_cast<std::size_t>(ring.layout().frame_size()) / 8;
  std::uint64_t last = 0;
  for (std::uint64_t i = 0; count == 0 || i < count; ++i) {
    const FrameRing::Frame frame = ring.next(FrameRing::forever);
    if (!frame) {
      std::printf("%s after %llu\n", kOutcomes[static_cast<std::size_t>(frame.outcome)],
                  static_cast<unsigned long long>(last));
      return 0;
    }
    const std::span content(reinterpret_cast<const std::uint64_t*>(frame.data), items);
    const auto whole = std::ranges::all_of(content, [&](auto item) { return item == frame.sequence; });
    if (!whole || frame.tag != 3 * frame.sequence || frame.timestamp > FrameRing::now())
      throw segnets::Error("frame " + std::to_string(frame.sequence) + " is torn");
    if (last != 0 && (ring.layout().latest ? frame.sequence <= last : frame.sequence != last + 1))
      throw segnets::Error("frame " + std::to_string(frame.sequence) + " follows " + std::to_string(last));
    last = frame.sequence;
    ring.release();
    if (last >= count && count != 0) break;
  }
  std::printf("read up to %llu\n", static_cast<unsigned long long>(last));
  return 0;
}

// A wrong order of stores shows for nanoseconds only, so the other side reads without pauses.
int race(const std::string& path, std::uint64_t count) {
  FrameRing producer = FrameRing::create(path, {segnets::FrameType::int64, {1}, 1024}, FrameRing::Role::producer);
  FrameRing consumer = FrameRing::open(path, FrameRing::Role::consumer);
  std::thread writing([&] {
    for (std::uint64_t i = 1; i <= count; ++i) {
      FrameRing::Slot slot = producer.acquire({});
      while (!slot) slot = producer.acquire({});
      std::memcpy(slot.data, &i, sizeof i);
      producer.publish(3 * i, i);
    }
  });
  std::uint64_t wrong = 0;
  for (std::uint64_t i = 1; i <= count; ++i) {
    try {
      while (consumer.waiting() == 0) {
      }
      const FrameRing::Frame frame = consumer.next({});
      std::uint64_t content = 0;
      std::memcpy(&content, frame.data, sizeof content);
      wrong += frame.sequence != i || frame.tag != 3 * i || frame.timestamp != i || content != i;
      consumer.release();
    } catch (const segnets::Error&) {
      ++wrong;
    }
  }
  writing.join();
  std::printf("%llu wrong\n", static_cast<unsigned long long>(wrong));
  return wrong == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv, argv + argc);
  try {
    if (argc >= 8 && words[1] == "create") {
      const auto type = static_cast<segnets::FrameType>(std::stoi(words[4]));
      const auto strides = argc > 8 ? numbers(words[8]) : std::vector<std::int64_t>();
      const int flags = std::stoi(words[6]);
      return describe(FrameRing::create(
          words[2], {type, numbers(words[7]), std::stoll(words[5]), (flags & 1) != 0, strides, (flags & 2) != 0},
          role(words[3])));
    }
    if (argc == 4 && words[1] == "open") return describe(FrameRing::open(words[2], role(words[3])));
    if (argc == 4 && words[1] == "write")
      return write(FrameRing::open(words[2], FrameRing::Role::producer), std::strtoull(argv[3], nullptr, 10));
    if (argc == 4 && words[1] == "read")
      return read(FrameRing::open(words[2], FrameRing::Role::consumer), std::strtoull(argv[3], nullptr, 10));
    if (argc == 4 && words[1] == "race") return race(words[2], std::strtoull(argv[3], nullptr, 10));
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
