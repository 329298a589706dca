// The compiled kernels by name, and their execution on the cores of the host.
#pragma once

#include <cstdint>
#include <functional>

#include "block.h"

namespace emulated {

// Each KERNEL of a compiled source makes one before the program begins.
struct Registration {
    explicit Registration(const Kernel& kernel);
};

// Null if there is none of this name.
const Kernel* find_kernel(const char* name);

// Runs all blocks of a kernel; returns when they have ended.
void run(const Kernel& kernel, uint3 grid, uint3 block, size_t dynamic_shared, void** arguments);

// f(0) to f(count - 1) on all cores, in any order.
void parallel(uint64_t count, const std::function<void(uint64_t)>& f);

} // namespace emulated
