// The device's memory. Each allocation lies between pages that fault, filled with NaN, so that kernels that leave their tensors or read what
// nothing wrote are found.
#pragma once

#include <cstddef>

namespace emulated {

const size_t TOTAL_MEMORY = size_t(64) << 30;

// Null for 0 bytes or more than there is.
void* allocate(size_t size);
// False if `at` is not the beginning of an allocation.
bool release(void* at);
// Whether `size` bytes from `at` on are within one allocation.
bool within(const void* at, size_t size);
size_t free_memory();
// "reads or writes 4 bytes behind an allocation of 400"
void describe_address(const void* at, char* text, size_t size);

} // namespace emulated
