// The protocol of a ring; its bytes are in segnets/frame_ring.h, its file in frame_file.cpp.
#include "segnets/frame_ring.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <thread>
#include <utility>

#include "crc32.h"
#include "frame_file.h"
#include "frame_layout.h"
#include "segnets/error.h"

namespace segnets {
namespace {

static_assert(std::atomic_ref<std::uint64_t>::is_always_lock_free, "a lock would not reach into the other process");

constexpr std::uint64_t kCame = 1, kClosed = 2;
// Pauses while waiting: short for the first frames after a gap, longer later to leave the CPU idle.
constexpr std::chrono::nanoseconds kFirstPause = std::chrono::microseconds(50);
constexpr std::chrono::nanoseconds kLongestPause = std::chrono::milliseconds(1);
// Copies of the newest frame that a fast producer may overwrite before next() gives up.
constexpr int kMaxCopies = 1000;

}  // namespace

struct FrameRing::State {
  struct FreeAligned {
    void operator()(std::byte* bytes) const { ::operator delete(bytes, std::align_val_t(64)); }
  };

  std::string path;
  FrameLayout layout;
  Role role;
  ring::Descriptor file;
  std::byte* memory = nullptr;
  std::size_t size = ring::file_size(layout);
  std::size_t frame_size = static_cast<std::size_t>(layout.frame_size());
  std::size_t slot_size = ring::slot_size(layout);
  std::uint64_t frames = 0;  // this side's own counter: frames published, or released
  bool holds = false;        // whether a slot is acquired or a frame is in use
  bool closed = false;
  std::unique_ptr<std::byte, FreeAligned> copy;  // the consumer's slot in a ring with `latest`
  const pid_t process = ::getpid();
  const int exceptions = std::uncaught_exceptions();

  State(std::string path_, FrameLayout layout_, Role role_, ring::Descriptor file_)
      : path(std::move(path_)), layout(std::move(layout_)), role(role_), file(std::move(file_)) {
    void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) throw ring::failed(path, "mapped");
    memory = static_cast<std::byte*>(mapped);
    frames = load(role == Role::producer ? ring::kWritten : ring::kRead);
    try {
      if (layout.latest && role == Role::consumer)
        copy.reset(static_cast<std::byte*>(::operator new(slot_size, std::align_val_t(64))));
      available();
    } catch (...) {
      ::munmap(memory, size);
      throw;
    }
    store(role == Role::producer ? ring::kProducerState : ring::kConsumerState, kCame);
  }
  ~State() {
    // A ring that an exception destroys was not finished: the peer must see `died`, not `closed`.
    leave(std::uncaught_exceptions() > exceptions ? kCame : kClosed);
    ::munmap(memory, size);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  std::atomic_ref<std::uint64_t> number(std::size_t at) const {
    return std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(memory + at));
  }
  std::uint64_t load(std::size_t at) const { return number(at).load(std::memory_order_acquire); }
  void store(std::size_t at, std::uint64_t value) const { number(at).store(value, std::memory_order_release); }

  void require(Role needed, const char* call) const {
    if (closed) throw Error(path + ": " + call + "() after close(); open the ring again");
    if (role != needed) throw Error(path + ": " + call + "() is for the " + ring::name_of(needed) + " only");
  }

  // Return the number of frames published and not read. The peer's counter is not trusted.
  std::uint64_t waiting() const {
    const std::uint64_t theirs = load(role == Role::producer ? ring::kRead : ring::kWritten);
    const std::uint64_t written = role == Role::producer ? frames : theirs;
    const std::uint64_t read = role == Role::producer ? theirs : frames;
    const auto slots = static_cast<std::uint64_t>(layout.slots);
    if (layout.latest ? written < read : written - read > slots)  // if read > written, the difference is huge
      throw Error(path + ": its counters are invalid (" + std::to_string(written) + " frames written and " +
                  std::to_string(read) + " read, with " + std::to_string(slots) +
                  " slots); remove the file and create the ring again");
    return written - read;
  }

  // Return the number of frames to read, or slots to fill.
  std::uint64_t available() const {
    const std::uint64_t frames_waiting = waiting();
    if (role == Role::consumer) return frames_waiting;
    const auto slots = static_cast<std::uint64_t>(layout.slots);
    return layout.latest ? slots : slots - frames_waiting;
  }

  // Copy the newest frame, and return its sequence. The producer doesn't wait, so check that it stayed away meanwhile.
  std::uint64_t copy_newest() const {
    for (int attempt = 0; attempt < kMaxCopies; ++attempt) {
      const std::uint64_t sequence = load(ring::kWritten);
      std::memcpy(copy.get(), slot(sequence), slot_size);
      std::atomic_thread_fence(std::memory_order_acquire);
      if (load(ring::kWritten) - sequence < static_cast<std::uint64_t>(layout.slots) - 1) return sequence;
    }
    throw Error(path +
                ": the producer overwrites frames faster than they can be copied; create the ring with more slots");
  }

  Peer peer() const {
    const Role peer = role == Role::producer ? Role::consumer : Role::producer;
    if (ring::is_taken(file, peer, path)) return Peer::alive;
    const std::uint64_t state = load(peer == Role::producer ? ring::kProducerState : ring::kConsumerState);
    return state == 0 ? Peer::never_came : state == kClosed ? Peer::closed : Peer::died;
  }

  // Poll with growing pauses until there is something available.
  Outcome wait(std::chrono::nanoseconds timeout) const {
    using Clock = std::chrono::steady_clock;
    if (available() > 0) return Outcome::ready;
    const Clock::time_point start = Clock::now();
    for (auto pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
      const Peer now = peer();
      // Count again after asking for the peer, whose last frames precede the end of its lock.
      if (available() > 0) return Outcome::ready;
      if (now == Peer::closed) return Outcome::closed;
      if (now == Peer::died) return Outcome::died;
      const auto left = timeout - (Clock::now() - start);
      if (left <= std::chrono::nanoseconds::zero()) return Outcome::timeout;
      std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(pause, left));
      if (available() > 0) return Outcome::ready;
    }
  }

  // Return the slot of frame `sequence`, with its header.
  std::byte* slot(std::uint64_t sequence) const {
    return memory + ring::kHeaderSize + (sequence - 1) % static_cast<std::uint64_t>(layout.slots) * slot_size;
  }

  std::uint32_t checksum(const std::byte* slot) const {
    return crc32({reinterpret_cast<const char*>(slot + ring::kSlotHeader), frame_size});
  }

  void release() {
    holds = false;
    store(ring::kRead, ++frames);
  }

  void leave(std::uint64_t state) noexcept {
    if (closed) return;
    closed = true;
    if (::getpid() != process) return;  // in a forked child, while the parent continues
    store(role == Role::producer ? ring::kProducerState : ring::kConsumerState, state);
    // Closing the file would not unlock it, as the mapping, and perhaps a forked child, keep it open.
    ring::give_up(file, role);
  }
};

FrameRing::FrameRing(std::unique_ptr<State> state) : state_(std::move(state)) {}
FrameRing::~FrameRing() = default;
FrameRing::FrameRing(FrameRing&&) noexcept = default;
FrameRing& FrameRing::operator=(FrameRing&&) noexcept = default;

FrameRing FrameRing::open(const std::string& path, Role role) {
  ring::Descriptor file = ring::open_file(path);
  FrameLayout layout = ring::read_layout(file, path);
  ring::take(file, role, path);
  return FrameRing(std::make_unique<State>(path, std::move(layout), role, std::move(file)));
}

FrameRing FrameRing::create(const std::string& path, const FrameLayout& wanted, Role role, bool reuse) {
  const FrameLayout layout = ring::checked(wanted, path, "");
  if (!ring::exists(path))
    return FrameRing(std::make_unique<State>(path, layout, role, ring::create_file(path, layout, role)));
  if (!reuse) throw Error(path + ": exists already; remove it, call open(), or pass reuse = true");
  FrameRing ring = open(path, role);
  if (ring.layout() != layout)
    throw Error(path + ": is a ring of " + ring::describe(ring.layout()) + ", not of " + ring::describe(layout) +
                "; remove it or choose another");
  return ring;
}

FrameRing::Slot FrameRing::acquire(std::chrono::nanoseconds timeout) {
  state_->require(Role::producer, "acquire");
  Slot slot{state_->wait(timeout)};
  if (!slot) return slot;
  state_->holds = true;
  // In a ring with `latest`, the consumer must see the last count before the oldest slot is overwritten.
  std::atomic_thread_fence(std::memory_order_release);
  slot.sequence = state_->frames + 1;
  slot.data = state_->slot(slot.sequence) + ring::kSlotHeader;
  return slot;
}

void FrameRing::publish(std::uint64_t tag) { publish(tag, now()); }

void FrameRing::publish(std::uint64_t tag, std::uint64_t timestamp) {
  state_->require(Role::producer, "publish");
  if (!state_->holds) throw Error(state_->path + ": publish() without a slot; acquire() one first");
  const std::uint64_t sequence = state_->frames + 1;
  std::byte* slot = state_->slot(sequence);
  const std::uint64_t checksum = state_->layout.checksum ? state_->checksum(slot) : 0;
  const std::array<std::uint64_t, 4> numbers = {sequence, timestamp, tag, checksum};
  std::memcpy(slot, numbers.data(), sizeof numbers);
  state_->holds = false;
  state_->frames = sequence;
  state_->store(ring::kWritten, sequence);
}

FrameRing::Frame FrameRing::next(std::chrono::nanoseconds timeout) {
  state_->require(Role::consumer, "next");
  if (state_->holds)
    throw Error(state_->path + ": next() before frame " + std::to_string(state_->frames + 1) + " was released");
  Frame frame{state_->wait(timeout)};
  if (!frame) return frame;
  const bool latest = state_->layout.latest;
  const std::uint64_t expected = latest ? state_->copy_newest() : state_->frames + 1;
  const std::byte* slot = latest ? state_->copy.get() : state_->slot(expected);
  state_->frames = expected - 1;
  std::array<std::uint64_t, 4> numbers{};
  std::memcpy(numbers.data(), slot, sizeof numbers);
  std::string damage;
  if (numbers[0] != expected) damage = "its slot has sequence " + std::to_string(numbers[0]);
  else if (state_->layout.checksum && (numbers[3] & 0xFFFFFFFF) != state_->checksum(slot)) damage = "wrong checksum";
  if (!damage.empty()) {
    state_->release();
    throw Error(state_->path + ": frame " + std::to_string(expected) + " is damaged (" + damage +
                "): another process is writing to the ring; the frame was skipped");
  }
  state_->holds = true;
  frame.data = slot + ring::kSlotHeader;
  frame.sequence = expected;
  frame.timestamp = numbers[1];
  frame.tag = numbers[2];
  return frame;
}

void FrameRing::release() {
  state_->require(Role::consumer, "release");
  if (!state_->holds) throw Error(state_->path + ": release() without a frame; next() gives one");
  state_->release();
}

FrameRing::Peer FrameRing::peer() const {
  if (state_->closed) throw Error(state_->path + ": peer() after close(); open the ring again");
  return state_->peer();
}

std::uint64_t FrameRing::waiting() const { return state_->waiting(); }

const FrameLayout& FrameRing::layout() const { return state_->layout; }
const std::string& FrameRing::path() const { return state_->path; }
void FrameRing::close() noexcept { state_->leave(kClosed); }

std::uint64_t FrameRing::now() {  // steady_clock is CLOCK_MONOTONIC in libstdc++ and libc++ on Linux
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1));
}

}  // namespace segnets
