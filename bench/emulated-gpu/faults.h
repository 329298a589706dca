// Says in which kernel and thread an access went wrong.
#pragma once

namespace emulated {

// For the host's thread that calls: accesses that the host faults on, and what the compiler's checks trap, are described and end the process.
void catch_faults();

} // namespace emulated
