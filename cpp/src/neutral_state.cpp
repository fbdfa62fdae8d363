#include "neutral_state.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <mutex>
#include <string>

#include "segnets/error.h"

namespace segnets {
namespace {

using at::Float32Backend;
using at::Float32Op;
using at::Float32Precision;

constexpr std::array kOperations = {Float32Op::CONV, Float32Op::MATMUL};

Float32Precision precision_of(Float32Op operation) {
  return at::globalContext().float32Precision(Float32Backend::MKLDNN, operation);
}

void set_precision(Float32Op operation, Float32Precision precision) {
  at::globalContext().setFloat32Precision(Float32Backend::MKLDNN, operation, precision);
}

bool is_lower(Float32Precision precision) {
  return precision == Float32Precision::BF16 || precision == Float32Precision::TF32;
}

std::mutex precision_mutex;
int precision_users = 0;
std::array<Float32Precision, kOperations.size()> precisions_before;

// Return whether lower_again must be called.
bool raise_precision() {
  const std::scoped_lock lock(precision_mutex);
  if (precision_users == 0) {
    bool lower = false;
    for (std::size_t i = 0; i < kOperations.size(); ++i) {
      precisions_before[i] = precision_of(kOperations[i]);
      lower = lower || is_lower(precisions_before[i]);
    }
    if (!lower) return false;
    for (std::size_t i = 0; i < kOperations.size(); ++i)
      if (is_lower(precisions_before[i])) set_precision(kOperations[i], Float32Precision::IEEE);
  }
  ++precision_users;
  return true;
}

void lower_again() {
  const std::scoped_lock lock(precision_mutex);
  if (--precision_users > 0) return;
  for (std::size_t i = 0; i < kOperations.size(); ++i) {
    if (!is_lower(precisions_before[i])) continue;
    // NONE follows the setting for all operations, which may be the source of the precision.
    set_precision(kOperations[i], Float32Precision::NONE);
    if (precision_of(kOperations[i]) != precisions_before[i]) set_precision(kOperations[i], precisions_before[i]);
  }
}

std::atomic<::pid_t> process_with_threads = 0;

}  // namespace

NeutralState::NeutralState() : raised_precision_(raise_precision()) {}

NeutralState::~NeutralState() {
  if (raised_precision_) lower_again();
}

void check_not_forked() {
  if (at::get_num_threads() == 1) return;
  const ::pid_t here = ::getpid();
  ::pid_t first = 0;
  if (process_with_threads.compare_exchange_strong(first, here) || first == here) return;
  throw Error("this process was forked from process " + std::to_string(first) +
              ", which had already run a network in several threads: a call would wait for these threads forever. "
              "Fork before the first call, start processes with spawn, or call set_threads(1) in it");
}

}  // namespace segnets
