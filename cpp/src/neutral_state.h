// Run a call independently of the LibTorch state that the caller has set.
#pragma once

#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace segnets {

// While it lives, this thread has neither gradients nor autocast, and oneDNN computes float32 in full precision in all
// threads: a setting that belongs to the process, as at::Context has it, returns when the last of them ends. A program
// in C++ rarely sets any of this. A Python program that also uses segnets_native does.
class NeutralState {
 public:
  NeutralState();
  ~NeutralState();
  NeutralState(const NeutralState&) = delete;
  NeutralState& operator=(const NeutralState&) = delete;

 private:
  c10::InferenceMode no_gradients_;
  c10::impl::ExcludeDispatchKeyGuard no_autocast_{c10::autocast_dispatch_keyset};
  bool raised_precision_ = false;
};

// Throw Error if this process was forked from one in which LibTorch used several threads. The forked process does not
// have these threads, and a call would wait for them forever.
void check_not_forked();

}  // namespace segnets
