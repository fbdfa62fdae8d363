// A ring of frames in shared memory, from one producer process to one consumer process, without copies.
//
//   // camera process                                      // consumer process
//   using segnets::FrameRing;
//   auto ring = FrameRing::create("/dev/shm/camera",       auto ring = FrameRing::open("/dev/shm/camera",
//       {segnets::FrameType::uint8, {480, 640, 3}},                                    FrameRing::Role::consumer);
//       FrameRing::Role::producer);                        while (auto frame = ring.next(std::chrono::seconds(1))) {
//   if (auto slot = ring.acquire({})) {                      use(frame.data, ring.layout());
//     fill(slot.data);                                       ring.release();
//     ring.publish();                                      }
//   }
//
// The ring is a file that both processes map; segnets.FrameRing is its Python class. All numbers are little-endian:
//
//   offset  bytes  what
//        0      8  magic: 89 's' 'e' 'g' 'r' 'i' 'n' 'g'
//        8      4  version: 1
//       12      4  header_size: 4096, the offset of slot 0
//       16      4  type: 1 uint8, 2 int16, 3 uint16, 4 int32, 5 int64, 6 float16, 7 float32, 8 float64
//       20      4  ndim: 1..8
//       24     64  shape: ndim numbers, each at least 1, then zeros
//       88     64  strides: ndim numbers of bytes, multiples of the item size, without overlapping items, then zeros
//      152      8  slot_count: 1..1048576
//      160      8  frame_size: bytes from the first item of a frame to the end of the last
//      168      8  slot_size: 64 + frame_size, rounded up to a multiple of 64; the file ends with the last slot
//      176      4  flags: 1 each frame has a CRC-32 (as in zlib) of its frame_size bytes, 2 latest (see below)
//      180      4  CRC-32 of bytes 0..179
//      256      8  written: frames published since the ring was created          } the producer's cache line
//      264      8  producer's state: 0 never opened, 1 opened, 2 closed          }
//      320      8  read: sequence of the last frame that was released            } the consumer's
//      328      8  consumer's state                                              }
//     4096         the slots; all other bytes of the header are zero
//
//   in a slot
//        0      8  sequence: 1 for the first frame of the ring, 2 for the next; a restarted producer continues
//        8      8  timestamp, nanoseconds
//       16      8  tag: any number that the producer chooses
//       24      4  CRC-32 of the frame, or 0
//       64         the frame
//
// Frame n is in slot (n - 1) % slot_count. The producer fills a slot, then stores `written` with release order. The
// consumer loads it with acquire order and reads frames read + 1 .. written only; the producer never writes to their
// slots. A process can therefore be killed at any point: a frame is published completely or not at all, and a frame
// that was not released goes to the next consumer. A lock (F_OFD_SETLK) on byte 0 (producer) or 1 (consumer) of the
// file holds a role; the kernel drops it when the process ends.
//
// In a ring with the flag `latest`, the producer never waits: it fills the slots in turn, read or not. The consumer
// copies the newest frame, w = written, and then loads `written` again: the copy is whole if the result is less than
// w + slot_count - 1, because only then has the producer not begun to fill this slot again. Otherwise it copies again.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace segnets {

enum class FrameType : std::uint32_t { uint8 = 1, int16, uint16, int32, int64, float16, float32, float64 };

// Type and shape of all frames of a ring.
struct FrameLayout {
  FrameType type = FrameType::uint8;
  std::vector<std::int64_t> shape;
  std::int64_t slots = 4;
  bool checksum = false;  // costs a pass over the frame on both sides; frames are never torn, even without it
  std::vector<std::int64_t> strides = {};  // bytes from one index to the next, per dimension; empty means contiguous
  // The producer overwrites unread frames, and the consumer gets a copy of the newest. Needs at least two slots.
  bool latest = false;

  std::int64_t item_size() const;
  std::int64_t frame_size() const;  // bytes, gaps included; needs a checked layout
  bool operator==(const FrameLayout&) const = default;
};

class FrameRing {
 public:
  enum class Role { producer, consumer };
  // State of the other side. `died`: its process ended without closing the ring.
  enum class Peer { never_came, alive, closed, died };
  // Result of a wait. `closed` and `died`: waiting is pointless until another process takes the peer's role.
  enum class Outcome { ready, timeout, closed, died };

  // Memory for the next frame: frame_size bytes at a multiple of 64, with undefined contents.
  struct Slot {
    Outcome outcome = Outcome::timeout;
    std::byte* data = nullptr;
    std::uint64_t sequence = 0;
    explicit operator bool() const { return outcome == Outcome::ready; }
  };

  // A published frame: frame_size bytes at a multiple of 64, valid until release().
  struct Frame {
    Outcome outcome = Outcome::timeout;
    const std::byte* data = nullptr;
    std::uint64_t sequence = 0;
    std::uint64_t timestamp = 0;
    std::uint64_t tag = 0;
    explicit operator bool() const { return outcome == Outcome::ready; }
  };

  // Create a ring, allocate its memory, and take a role in it. The file appears complete, with the role taken.
  // With `reuse`, open an existing ring of the same layout; without it, any existing file is refused. Throws Error.
  static FrameRing create(const std::string& path, const FrameLayout& layout, Role role, bool reuse = false);

  // Take a role in an existing ring. Throws Error if another process holds the role.
  static FrameRing open(const std::string& path, Role role);

  ~FrameRing();  // closes the ring; if an exception destroys it, the peer sees `died`
  FrameRing(FrameRing&&) noexcept;
  FrameRing& operator=(FrameRing&&) noexcept;

  // Producer: wait up to `timeout` (0: don't wait) for a free slot. Returns an acquired slot again until it is
  // published. `closed` and `died` are only returned for a full ring; a ring with `latest` is never full. Throws
  // Error.
  Slot acquire(std::chrono::nanoseconds timeout);
  // Publish the acquired slot as a frame. The caller must not write to it any more. Throws Error.
  void publish(std::uint64_t tag = 0);  // stamped with now()
  void publish(std::uint64_t tag, std::uint64_t timestamp);

  // Consumer: wait up to `timeout` (0: don't wait) for a frame. Frames published before the producer closed or died
  // come first. Throws Error for a frame with a wrong sequence or checksum, which is then skipped, for impossible
  // counters, and if the previous frame was not released. With `latest`, waits until the newest frame is
  // one that was not returned before; `sequence` shows how many were skipped.
  Frame next(std::chrono::nanoseconds timeout);
  // Release the frame that next() returned, so that the producer may overwrite it. Throws Error.
  void release();

  // Wait without a limit. The wait still ends when the peer closes or dies.
  static constexpr std::chrono::nanoseconds forever = std::chrono::nanoseconds::max();

  Peer peer() const;
  const FrameLayout& layout() const;
  const std::string& path() const;
  std::uint64_t waiting() const;  // frames published and neither released nor skipped

  // Close this side and give up the role. Slots and frames of this ring become invalid.
  void close() noexcept;

  // Return nanoseconds of the clock that all processes share (CLOCK_MONOTONIC, Python's time.monotonic_ns).
  static std::uint64_t now();

 private:
  struct State;
  explicit FrameRing(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace segnets
