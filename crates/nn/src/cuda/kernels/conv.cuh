// Convolutions on [n, h, w, channels] with weights [kh, kw, in / groups, out].
//
// Dense ones are matrix products whose left factor is gathered from the image while it is copied to shared memory (implicit GEMM), on the
// tensor cores in TF32: the values are rounded to 10 bits of mantissa, products are summed in f32. EXACT splits each factor into two TF32
// numbers and sums three products, which is f32 but for the last bit or two.
#pragma once
#include "common.cuh"
#include "ptx.cuh"

struct Conv {
    int n, h, w, cin;    // channels of one group
    int ho, wo, cout;    // channels of one group
    int kh, kw, stride, padding, dilation;
    int x_channels, y_channels; // of all groups
};

// v between low and high; a NaN comes through.
__device__ __forceinline__ float clamp(float v, float low, float high) {
    v = v < low ? low : v;
    return v > high ? high : v;
}

const int STAGES = 3, K = 16;
// Pads rows of shared memory so that the 32 lanes of a fragment's load fall into 32 banks.
const int ROW = K + 4;

// The sums of one warp: MF x NF fragments of 16 x 8.
template <int MF, int NF> struct Sums {
    float c[MF][NF][4];

    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < MF; i++)
#pragma unroll
            for (int j = 0; j < NF; j++)
#pragma unroll
                for (int k = 0; k < 4; k++) c[i][j][k] = 0;
    }

    // a(m, k) and b(k, n) give elements of the two factors, relative to the warp's tile.
    template <bool EXACT, class A, class B> __device__ __forceinline__ void add(A a, B b) {
        int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
        for (int k = 0; k < K; k += 8) {
            unsigned ah[MF][4], al[MF][4], bh[NF][2], bl[NF][2];
#pragma unroll
            for (int i = 0; i < MF; i++) {
                float v[4] = {a(i * 16 + g, k + t), a(i * 16 + g + 8, k + t), a(i * 16 + g, k + t + 4), a(i * 16 + g + 8, k + t + 4)};
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    ah[i][q] = tf32(v[q]);
                    if (EXACT) al[i][q] = tf32(v[q] - __uint_as_float(ah[i][q]));
                }
            }
#pragma unroll
            for (int j = 0; j < NF; j++) {
                float v[2] = {b(k + t, j * 8 + g), b(k + t + 4, j * 8 + g)};
#pragma unroll
                for (int q = 0; q < 2; q++) {
                    bh[j][q] = tf32(v[q]);
                    if (EXACT) bl[j][q] = tf32(v[q] - __uint_as_float(bh[j][q]));
                }
            }
#pragma unroll
            for (int i = 0; i < MF; i++)
#pragma unroll
                for (int j = 0; j < NF; j++) {
                    if (EXACT) {
                        mma(c[i][j], al[i], bh[j]);
                        mma(c[i][j], ah[i], bl[j]);
                    }
                    mma(c[i][j], ah[i], bh[j]);
                }
        }
    }

    // f(m, n, value) for every element, relative to the warp's tile.
    template <class F> __device__ __forceinline__ void each(F f) const {
        int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
        for (int i = 0; i < MF; i++)
#pragma unroll
            for (int j = 0; j < NF; j++)
#pragma unroll
                for (int q = 0; q < 4; q++) f(i * 16 + g + (q >> 1) * 8, j * 8 + 2 * t + (q & 1), c[i][j][q]);
    }
};

const int M = 128;

// y = x * w: rows are output pixels, columns output channels, the sum runs over taps and input channels. VA, VB: floats of a copy, 4 if
// the channels of a group are a multiple of 4. bias may be null. blockIdx.z: the group.
template <int N, int VA, int VB, bool EXACT>
__device__ __forceinline__ void conv_forward(const float* x, const float* w, const float* bias, float* y, Conv g, float low, float high) {
    __shared__ __align__(16) float as[STAGES][M][ROW];
    __shared__ __align__(16) float bs[STAGES][K][N + 8];
    const int AROWS = M * K / VA / 256, BROWS = (K * N / VB + 255) / 256;
    x += blockIdx.z * g.cin;
    w += blockIdx.z * g.cout;
    y += blockIdx.z * g.cout;
    if (bias) bias += blockIdx.z * g.cout;
    int inner = g.kh * g.kw * g.cin, pixels = g.n * g.ho * g.wo;
    int m0 = blockIdx.x * M, n0 = blockIdx.y * N;
    int ak = threadIdx.x % (K / VA) * VA, arow = threadIdx.x / (K / VA);
    const int ASTEP = 256 / (K / VA);
    int iy[AROWS], ix[AROWS], base[AROWS];
#pragma unroll
    for (int i = 0; i < AROWS; i++) {
        int m = m0 + arow + i * ASTEP;
        int ox = m % g.wo, oy = m / g.wo % g.ho, image = m / (g.wo * g.ho);
        iy[i] = m < pixels ? oy * g.stride - g.padding : -(1 << 28);
        ix[i] = ox * g.stride - g.padding;
        base[i] = image * g.h * g.w;
    }
    auto load = [&](int stage, int k0) {
        int k = k0 + ak, tap = k / g.cin, c = k - tap * g.cin, ky = tap / g.kw;
        int dy = ky * g.dilation, dx = (tap - ky * g.kw) * g.dilation;
#pragma unroll
        for (int i = 0; i < AROWS; i++) {
            int yy = iy[i] + dy, xx = ix[i] + dx;
            bool real = k < inner && (unsigned)yy < (unsigned)g.h && (unsigned)xx < (unsigned)g.w;
            const float* from = real ? x + (long long)(base[i] + yy * g.w + xx) * g.x_channels + c : x;
            copy<VA>(&as[stage][arow + i * ASTEP][ak], from, real);
        }
#pragma unroll
        for (int i = 0; i < BROWS; i++) {
            int at = threadIdx.x + i * 256, bk = at / (N / VB), bn = at % (N / VB) * VB;
            if (bk < K) {
                bool real = k0 + bk < inner && n0 + bn < g.cout;
                copy<VB>(&bs[stage][bk][bn], real ? w + (long long)(k0 + bk) * g.y_channels + n0 + bn : w, real);
            }
        }
        commit();
    };
    const int WN = N / 32, MF = WN == 2 ? 2 : 1; // warps side by side: 4 x 2 of 32 x 32, or 8 x 1 of 16 x 32
    int warp = threadIdx.x / 32, wm = warp / WN * (16 * MF), wn = warp % WN * 32;
    Sums<MF, 4> sums;
    sums.clear();
    int steps = (inner + K - 1) / K;
    load(0, 0);
    if (steps > 1) load(1, K); else commit();
    for (int s = 0; s < steps; s++) {
        wait<1>();
        __syncthreads();
        if (s + 2 < steps) load((s + 2) % STAGES, (s + 2) * K); else commit();
        int stage = s % STAGES;
        sums.template add<EXACT>([&](int m, int k) { return as[stage][wm + m][k]; }, [&](int k, int n) { return bs[stage][k][wn + n]; });
    }
    sums.each([&](int m, int n, float v) {
        m += m0 + wm;
        n += n0 + wn;
        if (m < pixels && n < g.cout) y[(long long)m * g.y_channels + n] = clamp(v + (bias ? bias[n] : 0.0f), low, high);
    });
}

// dx: rows are input pixels, columns input channels, the sum runs over taps and output channels.
template <int N, int V, bool EXACT>
__device__ __forceinline__ void conv_dx(const float* dy, const float* w, float* dx, Conv g) {
    __shared__ __align__(16) float as[STAGES][M][ROW];
    __shared__ __align__(16) float bs[STAGES][N][ROW];
    const int STEP = 256 / (K / V), AROWS = M / STEP, BROWS = (N + STEP - 1) / STEP;
    dy += blockIdx.z * g.cout;
    w += blockIdx.z * g.cout;
    dx += blockIdx.z * g.cin;
    int inner = g.kh * g.kw * g.cout, pixels = g.n * g.h * g.w;
    int m0 = blockIdx.x * M, n0 = blockIdx.y * N;
    int ak = threadIdx.x % (K / V) * V, row = threadIdx.x / (K / V);
    int oy[AROWS], ox[AROWS], base[AROWS];
#pragma unroll
    for (int i = 0; i < AROWS; i++) {
        int m = m0 + row + i * STEP;
        int x = m % g.w, y = m / g.w % g.h, image = m / (g.w * g.h);
        oy[i] = m < pixels ? y + g.padding : -(1 << 28);
        ox[i] = x + g.padding;
        base[i] = image * g.ho * g.wo;
    }
    auto load = [&](int stage, int k0) {
        int k = k0 + ak, tap = k / g.cout, c = k - tap * g.cout, ky = tap / g.kw;
        int ty = ky * g.dilation, tx = (tap - ky * g.kw) * g.dilation;
#pragma unroll
        for (int i = 0; i < AROWS; i++) {
            int yy = oy[i] - ty, xx = ox[i] - tx;
            bool real = k < inner && yy >= 0 && xx >= 0;
            if (g.stride > 1) {
                int qy = yy / g.stride, qx = xx / g.stride;
                real = real && qy * g.stride == yy && qx * g.stride == xx;
                yy = qy;
                xx = qx;
            }
            real = real && yy < g.ho && xx < g.wo;
            const float* from = real ? dy + (long long)(base[i] + yy * g.wo + xx) * g.y_channels + c : dy;
            copy<V>(&as[stage][row + i * STEP][ak], from, real);
        }
#pragma unroll
        for (int i = 0; i < BROWS; i++) {
            int n = row + i * STEP;
            if (n < N) {
                bool real = k < inner && n0 + n < g.cin;
                copy<V>(&bs[stage][n][ak], real ? w + ((long long)tap * g.cin + n0 + n) * g.y_channels + c : w, real);
            }
        }
        commit();
    };
    const int WN = N / 32, MF = WN == 2 ? 2 : 1;
    int warp = threadIdx.x / 32, wm = warp / WN * (16 * MF), wn = warp % WN * 32;
    Sums<MF, 4> sums;
    sums.clear();
    int steps = (inner + K - 1) / K;
    load(0, 0);
    if (steps > 1) load(1, K); else commit();
    for (int s = 0; s < steps; s++) {
        wait<1>();
        __syncthreads();
        if (s + 2 < steps) load((s + 2) % STAGES, (s + 2) * K); else commit();
        int stage = s % STAGES;
        sums.template add<EXACT>([&](int m, int k) { return as[stage][wm + m][k]; }, [&](int k, int n) { return bs[stage][wn + n][k]; });
    }
    sums.each([&](int m, int n, float v) {
        m += m0 + wm;
        n += n0 + wn;
        if (m < pixels && n < g.cin) dx[(long long)m * g.x_channels + n] = v;
    });
}

// Parts of dw: rows are (tap, input channel), columns output channels, the sum runs over a share of the output pixels. blockIdx.z:
// group x splits + share. part [splits, kh kw cin, y_channels].
template <int N, int VA, int VB, bool EXACT>
__device__ __forceinline__ void conv_dw(const float* x, const float* dy, float* part, Conv g, int splits) {
    const int MT = 64;
    __shared__ __align__(16) float as[STAGES][K][MT + 8];
    __shared__ __align__(16) float bs[STAGES][K][N + 8];
    int group = blockIdx.z / splits, split = blockIdx.z % splits;
    x += group * g.cin;
    dy += group * g.cout;
    int rows = g.kh * g.kw * g.cin, pixels = g.n * g.ho * g.wo;
    int all = (pixels + K - 1) / K, each = (all + splits - 1) / splits;
    int first = split * each, steps = max(0, min(all, first + each) - first);
    int m0 = blockIdx.x * MT, n0 = blockIdx.y * N;
    const int ASTEP = 256 / (MT / VA), AROWS = K / ASTEP, BROWS = (K * N / VB + 255) / 256;
    int am = threadIdx.x % (MT / VA) * VA, arow = threadIdx.x / (MT / VA);
    int tap = (m0 + am) / g.cin, c = m0 + am - tap * g.cin, ky = tap / g.kw;
    int ty = ky * g.dilation - g.padding, tx = (tap - ky * g.kw) * g.dilation - g.padding;
    bool column = m0 + am < rows;
    auto load = [&](int stage, int step) {
        int p0 = (first + step) * K;
#pragma unroll
        for (int i = 0; i < AROWS; i++) {
            int p = p0 + arow + i * ASTEP;
            int ox = p % g.wo, q = p / g.wo, oy = q % g.ho, image = q / g.ho;
            int yy = oy * g.stride + ty, xx = ox * g.stride + tx;
            bool real = column && p < pixels && (unsigned)yy < (unsigned)g.h && (unsigned)xx < (unsigned)g.w;
            const float* from = real ? x + (long long)((image * g.h + yy) * g.w + xx) * g.x_channels + c : x;
            copy<VA>(&as[stage][arow + i * ASTEP][am], from, real);
        }
#pragma unroll
        for (int i = 0; i < BROWS; i++) {
            int at = threadIdx.x + i * 256, bk = at / (N / VB), bn = at % (N / VB) * VB;
            if (bk < K) {
                bool real = p0 + bk < pixels && n0 + bn < g.cout;
                copy<VB>(&bs[stage][bk][bn], real ? dy + (long long)(p0 + bk) * g.y_channels + n0 + bn : dy, real);
            }
        }
        commit();
    };
    // 2 x 4 warps of 32 x 16, or 4 x 2 of 16 x 16.
    const int WN = N / 16, MF = WN == 4 ? 2 : 1;
    int warp = threadIdx.x / 32, wm = warp / WN * (16 * MF), wn = warp % WN * 16;
    Sums<MF, 2> sums;
    sums.clear();
    if (steps > 0) load(0, 0); else commit();
    if (steps > 1) load(1, 1); else commit();
    for (int s = 0; s < steps; s++) {
        wait<1>();
        __syncthreads();
        if (s + 2 < steps) load((s + 2) % STAGES, s + 2); else commit();
        int stage = s % STAGES;
        sums.template add<EXACT>([&](int m, int k) { return as[stage][k][wm + m]; }, [&](int k, int n) { return bs[stage][k][wn + n]; });
    }
    part += (long long)split * rows * g.y_channels + group * g.cout;
    sums.each([&](int m, int n, float v) {
        m += m0 + wm;
        n += n0 + wn;
        if (m < rows && n < g.cout) part[(long long)m * g.y_channels + n] = v;
    });
}

#define FORWARD(N, VA, VB, E)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) conv_forward_##N##_##VA##_##VB##_##E(                                      \
        const float* x, const float* w, const float* bias, float* y, Conv g, float low, float high) {                                          \
        conv_forward<N, VA, VB, E>(x, w, bias, y, g, low, high);                                                                        \
    }
#define DX(N, V, E)                                                                                                               \
    extern "C" __global__ void __launch_bounds__(256) conv_dx_##N##_##V##_##E(const float* dy, const float* w, float* dx, Conv g) { \
        conv_dx<N, V, E>(dy, w, dx, g);                                                                                           \
    }
#define DW(N, VA, VB, E)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) conv_dw_##N##_##VA##_##VB##_##E(                                           \
        const float* x, const float* dy, float* part, Conv g, int splits) {                                                      \
        conv_dw<N, VA, VB, E>(x, dy, part, g, splits);                                                                            \
    }
#define BOTH(F, ...) F(__VA_ARGS__, 0) F(__VA_ARGS__, 1)
#define VECTORS(F, N) BOTH(F, N, 1, 1) BOTH(F, N, 4, 1) BOTH(F, N, 1, 4) BOTH(F, N, 4, 4)
VECTORS(FORWARD, 32)
VECTORS(FORWARD, 64)
VECTORS(DW, 32)
VECTORS(DW, 64)
BOTH(DX, 32, 1) BOTH(DX, 32, 4) BOTH(DX, 64, 1) BOTH(DX, 64, 4)

// Depthwise: w [kh, kw, channels]. A thread for V channels of a pixel.

template <int V> struct Lanes {
    float v[V];
    __device__ __forceinline__ static Lanes of(const float* p) {
        Lanes r;
        if (V == 4) *(float4*)r.v = *(const float4*)p; else r.v[0] = *p;
        return r;
    }
    __device__ __forceinline__ void store(float* p) const {
        if (V == 4) *(float4*)p = *(const float4*)v; else *p = v[0];
    }
    __device__ __forceinline__ void fma(const Lanes& a, const Lanes& b) {
#pragma unroll
        for (int i = 0; i < V; i++) v[i] += a.v[i] * b.v[i];
    }
};

template <int V>
__device__ __forceinline__ void depthwise(const float* x, const float* w, const float* bias, float* y, Conv g, float low, float high) {
    unsigned channels = g.x_channels, lanes = channels / V;
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (unsigned)g.n * g.ho * g.wo * lanes) return;
    unsigned c = i % lanes * V;
    int p = i / lanes;
    int ox = p % g.wo, q = p / g.wo, oy = q % g.ho, image = q / g.ho;
    Lanes<V> sum;
    for (int k = 0; k < V; k++) sum.v[k] = bias ? bias[c + k] : 0.0f;
    for (int ky = 0; ky < g.kh; ky++) {
        int iy = oy * g.stride - g.padding + ky * g.dilation;
        if ((unsigned)iy >= (unsigned)g.h) continue;
        for (int kx = 0; kx < g.kw; kx++) {
            int ix = ox * g.stride - g.padding + kx * g.dilation;
            if ((unsigned)ix >= (unsigned)g.w) continue;
            sum.fma(Lanes<V>::of(x + (long long)((image * g.h + iy) * g.w + ix) * channels + c), Lanes<V>::of(w + (ky * g.kw + kx) * channels + c));
        }
    }
    for (int k = 0; k < V; k++) sum.v[k] = clamp(sum.v[k], low, high);
    sum.store(y + (long long)p * channels + c);
}

template <int V> __device__ __forceinline__ void depthwise_dx(const float* dy, const float* w, float* dx, Conv g) {
    unsigned channels = g.x_channels, lanes = channels / V;
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (unsigned)g.n * g.h * g.w * lanes) return;
    unsigned c = i % lanes * V;
    int p = i / lanes;
    int x = p % g.w, q = p / g.w, y = q % g.h, image = q / g.h;
    Lanes<V> sum;
    for (int k = 0; k < V; k++) sum.v[k] = 0;
    for (int ky = 0; ky < g.kh; ky++) {
        int oy = y + g.padding - ky * g.dilation;
        if (oy < 0 || oy % g.stride) continue;
        oy /= g.stride;
        if (oy >= g.ho) continue;
        for (int kx = 0; kx < g.kw; kx++) {
            int ox = x + g.padding - kx * g.dilation;
            if (ox < 0 || ox % g.stride) continue;
            ox /= g.stride;
            if (ox >= g.wo) continue;
            sum.fma(Lanes<V>::of(dy + (long long)((image * g.ho + oy) * g.wo + ox) * channels + c), Lanes<V>::of(w + (ky * g.kw + kx) * channels + c));
        }
    }
    sum.store(dx + (long long)p * channels + c);
}

// Parts of dw: 32 channels x 8 lanes of pixels a block, `chunk` output pixels, KW taps of a filter row at a time.
// part [gridDim.y, kh, kw, channels].
template <int KW> __device__ __forceinline__ void depthwise_dw(const float* x, const float* dy, float* part, Conv g, int chunk) {
    __shared__ float lanes[KW][8][33];
    int channels = g.x_channels, c = blockIdx.x * 32 + threadIdx.x;
    int pixels = g.n * g.ho * g.wo, last = min(pixels, (int)(blockIdx.y + 1) * chunk);
    for (int ky = 0; ky < g.kh; ky++)
        for (int kx0 = 0; kx0 < g.kw; kx0 += KW) {
            float sum[KW];
#pragma unroll
            for (int k = 0; k < KW; k++) sum[k] = 0;
            if (c < channels)
                for (int p = blockIdx.y * chunk + threadIdx.y; p < last; p += 8) {
                    int ox = p % g.wo, q = p / g.wo, oy = q % g.ho, image = q / g.ho;
                    int iy = oy * g.stride - g.padding + ky * g.dilation;
                    if ((unsigned)iy >= (unsigned)g.h) continue;
                    float d = dy[(long long)p * channels + c];
                    const float* row = x + (long long)(image * g.h + iy) * g.w * channels + c;
#pragma unroll
                    for (int k = 0; k < KW; k++) {
                        int ix = ox * g.stride - g.padding + (kx0 + k) * g.dilation;
                        if ((unsigned)ix < (unsigned)g.w) sum[k] += d * row[(long long)ix * channels];
                    }
                }
#pragma unroll
            for (int k = 0; k < KW; k++) lanes[k][threadIdx.y][threadIdx.x] = sum[k];
            __syncthreads();
            for (int k = threadIdx.y; k < KW; k += 8) {
                float total = 0;
                for (int l = 0; l < 8; l++) total += lanes[k][l][threadIdx.x];
                if (c < channels) part[(((long long)blockIdx.y * g.kh + ky) * g.kw + kx0 + k) * channels + c] = total;
            }
            __syncthreads();
        }
}

extern "C" __global__ void depthwise_1(const float* x, const float* w, const float* bias, float* y, Conv g, float low, float high) { depthwise<1>(x, w, bias, y, g, low, high); }
extern "C" __global__ void depthwise_4(const float* x, const float* w, const float* bias, float* y, Conv g, float low, float high) { depthwise<4>(x, w, bias, y, g, low, high); }
extern "C" __global__ void depthwise_dx_1(const float* dy, const float* w, float* dx, Conv g) { depthwise_dx<1>(dy, w, dx, g); }
extern "C" __global__ void depthwise_dx_4(const float* dy, const float* w, float* dx, Conv g) { depthwise_dx<4>(dy, w, dx, g); }
extern "C" __global__ void depthwise_dw_1(const float* x, const float* dy, float* part, Conv g, int chunk) { depthwise_dw<1>(x, dy, part, g, chunk); }
extern "C" __global__ void depthwise_dw_3(const float* x, const float* dy, float* part, Conv g, int chunk) { depthwise_dw<3>(x, dy, part, g, chunk); }
extern "C" __global__ void depthwise_dw_5(const float* x, const float* dy, float* part, Conv g, int chunk) { depthwise_dw<5>(x, dy, part, g, chunk); }
