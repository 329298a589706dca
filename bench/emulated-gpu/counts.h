// How often what ran: with EMULATED_GPU_COUNTS set, a table on stderr when the process ends.
#pragma once

namespace emulated {

// Once more what is called `name`, which stays where it is.
void count(const char* name);

} // namespace emulated
