#pragma once

namespace segnets {

// Ask glibc to keep freed memory for later calls, in the whole process. Feature maps are so large that glibc returns
// each of them to the system, and the next call waits for new pages filled with zeros.
// Does nothing with other C libraries.
void keep_freed_memory();

}  // namespace segnets
