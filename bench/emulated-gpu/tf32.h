// TF32: a float with 10 bits of mantissa.
#pragma once

#include <cstdint>
#include <cstring>

namespace emulated {

// cvt.rna.tf32.f32: to the nearest, away from zero in the middle; what is infinite or no number stays so.
inline uint32_t to_tf32(float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
    return (bits + 0x1000u) & 0xffffe000u;
}

} // namespace emulated
