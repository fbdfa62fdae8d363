// Frames from one process to another through shared memory: one producer, one consumer, nothing copied.
//
//   // camera process                                      // the other one
//   using segnets::FrameRing;
//   auto ring = FrameRing::create("/dev/shm/camera",       auto ring = FrameRing::open("/dev/shm/camera",
//       {segnets::FrameType::uint8, {480, 640, 3}},                                    FrameRing::Role::consumer);
//       FrameRing::Role::producer);                        while (auto frame = ring.next(std::chrono::seconds(1))) {
//   if (auto slot = ring.acquire({})) {                      use(frame.data, ring.layout());
//     fill(slot.data);                                       ring.release();
//     ring.publish();                                      }
//   }
//
// The ring is a file that both map. segnets.FrameRing is the same in Python. Every number is little-endian:
//
//   offset  bytes  what
//        0      8  magic: 89 's' 'e' 'g' 'r' 'i' 'n' 'g'
//        8      4  version: 1
//       12      4  header_size: 4096, where slot 0 begins
//       16      4  type: 1 uint8, 2 int16, 3 uint16, 4 int32, 5 int64, 6 float16, 7 float32, 8 float64
//       20      4  ndim: 1..8
//       24     64  shape: ndim numbers, each at least 1; then zeros
//       88     64  strides: ndim numbers of bytes, multiples of the item size, no two items in one place; then zeros
//      152      8  slot_count: 1..1048576
//      160      8  frame_size: bytes from the first item of a frame to the end of the last
//      168      8  slot_size: 64 + frame_size, rounded up to a multiple of 64; the file ends with the last slot
//      176      4  checksum: 0 none, 1 CRC-32 (that of zlib) of the frame_size bytes of each frame
//      180      4  CRC-32 of bytes 0..179
//      256      8  written: frames published since the ring was made             } the producer's cache line
//      264      8  producer's state: 0 never came, 1 came, 2 closed              }
//      320      8  read: frames released                                         } the consumer's
//      328      8  consumer's state                                              }
//     4096         the slots; every byte of the header not named above is zero
//
//   in a slot
//        0      8  sequence: 1 for the first frame of the ring, 2 for the next, also after the producer was restarted
//        8      8  timestamp, nanoseconds
//       16      8  tag: whatever the producer wants to say
//       24      4  CRC-32 of the frame, or 0
//       64         the frame
//
// Frame n lies in slot (n - 1) % slot_count. The producer fills a slot, then stores `written` with release order; the
// consumer loads it with acquire order and looks at frames read + 1 .. written alone; the producer writes to no slot of
// these. So a process can be killed anywhere: a frame is published whole or not at all, and one that was not released
// is given to the next consumer. A role is held by a lock (F_OFD_SETLK) on byte 0 (producer) or 1 (consumer) of the
// file, which ends with the process.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace segnets {

enum class FrameType : std::uint32_t { uint8 = 1, int16, uint16, int32, int64, float16, float32, float64 };

// What all frames of a ring are.
struct FrameLayout {
  FrameType type = FrameType::uint8;
  std::vector<std::int64_t> shape;
  std::int64_t slots = 4;
  bool checksum = false;  // costs a pass over the frame on both sides; protocol alone prevents torn frames
  std::vector<std::int64_t> strides = {};  // bytes from one index to the next, per dimension; empty means without gaps

  std::int64_t item_size() const;
  std::int64_t frame_size() const;  // bytes, gaps included; of a checked layout
  bool operator==(const FrameLayout&) const = default;
};

class FrameRing {
 public:
  enum class Role { producer, consumer };
  // The other side. `died`: it came, and its process ended without closing the ring.
  enum class Peer { never_came, alive, closed, died };
  // How a wait ended. `closed` and `died`: nothing is left to wait for unless somebody takes the peer's role again.
  enum class Outcome { ready, timeout, closed, died };

  // Room for the next frame, frame_size bytes at a multiple of 64; what it holds beforehand means nothing.
  struct Slot {
    Outcome outcome = Outcome::timeout;
    std::byte* data = nullptr;
    std::uint64_t sequence = 0;
    explicit operator bool() const { return outcome == Outcome::ready; }
  };

  // A published frame, frame_size bytes at a multiple of 64. Valid until release().
  struct Frame {
    Outcome outcome = Outcome::timeout;
    const std::byte* data = nullptr;
    std::uint64_t sequence = 0;
    std::uint64_t timestamp = 0;
    std::uint64_t tag = 0;
    explicit operator bool() const { return outcome == Outcome::ready; }
  };

  // Make a ring, with its memory, and take a role in it. The file appears complete, with the role taken.
  // reuse: where a ring of this very layout exists, open that. Otherwise a file that exists is refused. Throws Error.
  static FrameRing create(const std::string& path, const FrameLayout& layout, Role role, bool reuse = false);

  // Take a role in a ring that exists; a role that another process holds is refused. Throws Error.
  static FrameRing open(const std::string& path, Role role);

  ~FrameRing();  // closes; when an exception destroys the ring, the peer is told that this side died
  FrameRing(FrameRing&&) noexcept;
  FrameRing& operator=(FrameRing&&) noexcept;

  // Producer: wait up to `timeout` (0: don't wait) for a free slot. A slot that was acquired and not published is given
  // again. `closed` and `died` are said only of a full ring. Throws Error.
  Slot acquire(std::chrono::nanoseconds timeout);
  // The acquired slot becomes a frame; it's not ours to write to any more. Throws Error.
  void publish(std::uint64_t tag = 0);  // stamped with now()
  void publish(std::uint64_t tag, std::uint64_t timestamp);

  // Consumer: wait up to `timeout` (0: don't wait) for a frame. Frames that were published before the producer closed
  // or died come first. Throws Error for a frame whose sequence or checksum is wrong, which is passed over then; for
  // counters that can't be; and when the frame before was not released.
  Frame next(std::chrono::nanoseconds timeout);
  // The frame that next() gave is done with; the producer may overwrite it. Throws Error.
  void release();

  // Wait without end; closed() and died() of the peer end it all the same.
  static constexpr std::chrono::nanoseconds forever = std::chrono::nanoseconds::max();

  Peer peer() const;
  const FrameLayout& layout() const;
  const std::string& path() const;
  std::uint64_t waiting() const;  // frames published and not released

  // Tell the peer that no more comes, and give up the role. No slot or frame of this ring may be used any more.
  void close() noexcept;

  // Nanoseconds of the clock that all processes of this machine share (CLOCK_MONOTONIC, Python's time.monotonic_ns).
  static std::uint64_t now();

 private:
  struct State;
  explicit FrameRing(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace segnets
