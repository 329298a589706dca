// Takes the place of the kernels' ptx.cuh: the same functions, without PTX.
#pragma once

#include "device.h"
#include "tf32.h"

// Lands when it is waited for and not before.
template <int VEC> inline void copy(float* to, const float* from, bool real) {
    emulated::current_block()->copy_later(to, from, 4 * VEC, real);
}

inline void commit() { emulated::current_block()->commit_copies(); }
template <int LEFT> inline void wait() { emulated::current_block()->wait_copies(LEFT); }

inline unsigned tf32(float v) { return emulated::to_tf32(v); }

namespace emulated {

// Rows of four matrices on the way to the lanes.
struct Rows {
    unsigned* to;
    const float* row;
};

inline void deal_matrices(Meeting& meeting) {
    if (meeting.active != 0xffffffffu) fail("ldmatrix without all lanes of the warp");
    auto of = [&](int lane) { return static_cast<const Rows*>(meeting.lanes[lane]); };
    for (int lane = 0; lane < 32; lane++) {
        if (reinterpret_cast<uintptr_t>(of(lane)->row) % 16) fail("ldmatrix from an address that 16 does not divide");
        for (int m = 0; m < 4; m++) of(lane)->to[m] = __float_as_uint(of(8 * m + lane / 4)->row[lane % 4]);
    }
}

struct Fragments {
    float* c;
    const unsigned *a, *b;
};

// The layout is that of the PTX manual, "Matrix Fragments for mma.m16n8k8" with .tf32: lane 4 g + t.
inline void multiply(Meeting& meeting) {
    if (meeting.active != 0xffffffffu) fail("mma without all lanes of the warp");
    float a[16][8], b[8][8], c[16][8];
    // Tensor cores do not look at the lowest 13 bits of a factor.
    auto factor = [](unsigned v) { return __uint_as_float(v & 0xffffe000u); };
    for (int lane = 0; lane < 32; lane++) {
        int g = lane / 4, t = lane % 4;
        auto f = static_cast<const Fragments*>(meeting.lanes[lane]);
        for (int q = 0; q < 4; q++) a[g + q % 2 * 8][t + q / 2 * 4] = factor(f->a[q]);
        for (int q = 0; q < 2; q++) b[t + q * 4][g] = factor(f->b[q]);
        for (int q = 0; q < 4; q++) c[g + q / 2 * 8][2 * t + q % 2] = f->c[q];
    }
    // One rounding for the whole step, to the nearest. How the hardware rounds is not documented; it is a little worse.
    for (int m = 0; m < 16; m++) {
        double sums[8];
        for (int n = 0; n < 8; n++) sums[n] = c[m][n];
        for (int k = 0; k < 8; k++)
            for (int n = 0; n < 8; n++) sums[n] += double(a[m][k]) * b[k][n];
        for (int n = 0; n < 8; n++) c[m][n] = sums[n];
    }
    for (int lane = 0; lane < 32; lane++) {
        int g = lane / 4, t = lane % 4;
        auto f = static_cast<const Fragments*>(meeting.lanes[lane]);
        for (int q = 0; q < 4; q++) f->c[q] = c[g + q / 2 * 8][2 * t + q % 2];
    }
}

} // namespace emulated

inline void load_matrices(unsigned (&r)[4], const float* row) {
    emulated::Rows mine = {r, row};
    emulated::current_block()->meet(0xffffffffu, emulated::deal_matrices, &mine);
}

inline void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    emulated::Fragments mine = {c, a, b};
    emulated::current_block()->meet(0xffffffffu, emulated::multiply, &mine);
}
