#pragma once

namespace segnets {

// Ask the C library to keep freed memory for later calls, for the whole process. A network's maps are so large that
// glibc gives them back to the system one by one; the next call would wait for new pages, filled with zeros.
// Does nothing where the C library is another one.
void keep_freed_memory();

}  // namespace segnets
