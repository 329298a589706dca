// Dense convolutions of one group with many channels, in TF32: as in conv.cuh, but each warp multiplies tiles of 64 x 64, so that a value read from
// shared memory goes into 64 products instead of 32 or 16; warps of 32 x 32 wait for shared memory, not for the tensor cores.
// Channels are multiples of 4, tensors aligned to 16 bytes and below 2^31 elements.
#pragma once
#include "conv.cuh"

const int SIDE = 64;

// The sums of one warp: 4 x 8 fragments of 16 x 8.
struct Square {
    float c[4][8][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int q = 0; q < 4; q++) c[i][j][q] = 0;
    }

    __device__ __forceinline__ void add(unsigned (&a)[4][4], unsigned (&b)[8][2]) {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int q = 0; q < 4; q++) a[i][q] = tf32(__uint_as_float(a[i][q]));
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int q = 0; q < 2; q++) b[j][q] = tf32(__uint_as_float(b[j][q]));
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 8; j++) mma(c[i][j], a[i], b[j]);
    }
};

// Forward: y = x * w, rows are output pixels, columns output channels. BACK: dx of dy, rows are input pixels, columns input channels. The sum runs
// over taps and the channels of `from`, the image that is gathered from. w [taps, columns, channels of from]. bias may be null.
template <int WM, int WN, bool BACK>
__device__ __forceinline__ void conv_large(const float* from, const float* w, const float* bias, float* to, Conv g, float low, float high) {
    const int T = 32 * WM * WN, M = SIDE * WM, N = SIDE * WN, APART = T * 4 / K, AROWS = M / APART, BROWS = N / APART;
    extern __shared__ float4 dynamic[];
    float(*as)[M][ROW] = (float(*)[M][ROW])dynamic;
    float(*bs)[N][ROW] = (float(*)[N][ROW])(as + STAGES);
    int hs = BACK ? g.ho : g.h, ws = BACK ? g.wo : g.w, depth = BACK ? g.cout : g.cin;
    int ht = BACK ? g.h : g.ho, wt = BACK ? g.w : g.wo, columns = BACK ? g.cin : g.cout;
    int taps = g.kh * g.kw, pixels = g.n * ht * wt;
    int m0 = blockIdx.x * M, n0 = blockIdx.y * N;
    // This thread copies four channels from c on of tap (ky, kx), for the rows row + i APART.
    int row = threadIdx.x / (K / 4), ak = threadIdx.x % (K / 4) * 4, c = ak, tap = 0, ky = 0, kx = 0;
    int at_y[AROWS], at_x[AROWS], image[AROWS], offset[AROWS];
#pragma unroll
    for (int i = 0; i < AROWS; i++) {
        int m = m0 + row + i * APART;
        int px = m % wt, q = m / wt, py = q % ht;
        at_y[i] = BACK ? py + g.padding : py * g.stride - g.padding;
        at_x[i] = BACK ? px + g.padding : px * g.stride - g.padding;
        image[i] = m < pixels ? q / ht * hs : -1;
    }
    // Where the rows' pixels of the present tap begin; -1 outside of the image.
    auto point = [&] {
#pragma unroll
        for (int i = 0; i < AROWS; i++) {
            int ty = ky * g.dilation, tx = kx * g.dilation;
            int yy = BACK ? at_y[i] - ty : at_y[i] + ty, xx = BACK ? at_x[i] - tx : at_x[i] + tx;
            bool real = image[i] >= 0 && tap < taps && yy >= 0 && xx >= 0;
            if (BACK && g.stride > 1) {
                int qy = yy / g.stride, qx = xx / g.stride;
                real = real && qy * g.stride == yy && qx * g.stride == xx;
                yy = qy;
                xx = qx;
            }
            offset[i] = real && yy < hs && xx < ws ? ((image[i] + yy) * ws + xx) * depth : -1;
        }
    };
    auto load = [&](int stage) {
#pragma unroll
        for (int i = 0; i < AROWS; i++) {
            bool real = offset[i] >= 0;
            copy<4>(&as[stage][row + i * APART][ak], real ? from + offset[i] + c : from, real);
        }
#pragma unroll
        for (int i = 0; i < BROWS; i++) {
            int n = row + i * APART;
            bool real = tap < taps && n0 + n < columns;
            copy<4>(&bs[stage][n][ak], real ? w + ((tap * columns + n0 + n) * depth + c) : w, real);
        }
        commit();
        c += K;
        if (c >= depth) {
            c -= depth;
            tap++;
            if (++kx == g.kw) {
                kx = 0;
                ky++;
            }
            point();
        }
    };
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wm = warp / WN * SIDE, wn = warp % WN * SIDE;
    Square sums;
    sums.clear();
    point();
    int steps = (taps * depth + K - 1) / K;
    load(0);
    if (steps > 1) load(1); else commit();
    for (int s = 0; s < steps; s++) {
        wait<1>();
        __syncthreads();
        if (s + 2 < steps) load((s + 2) % STAGES); else commit();
        int stage = s % STAGES;
#pragma unroll
        for (int k = 0; k < K; k += 8) {
            unsigned a[4][4], b[8][2];
#pragma unroll
            for (int i = 0; i < 4; i++) load_matrices(a[i], &as[stage][wm + i * 16 + lane % 16][k + lane / 16 * 4]);
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                unsigned two[4];
                load_matrices(two, &bs[stage][wn + j * 8 + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 4]);
                b[j][0] = two[0];
                b[j][1] = two[1];
                b[j + 1][0] = two[2];
                b[j + 1][1] = two[3];
            }
            sums.add(a, b);
        }
    }
#pragma unroll
    for (int j = 0; j < 8; j++) {
        int n = n0 + wn + j * 8 + lane % 4 * 2;
        if (n >= columns) continue;
        float b0 = bias ? bias[n] : 0.0f, b1 = bias ? bias[n + 1] : 0.0f;
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int m = m0 + wm + i * 16 + half * 8 + lane / 4;
                const float* v = sums.c[i][j] + 2 * half;
                if (m < pixels) *(float2*)(to + (long long)m * columns + n) = make_float2(clamp(v[0] + b0, low, high), clamp(v[1] + b1, low, high));
            }
    }
}

// Parts of dw: rows are (tap, input channel), columns output channels, the sum runs over a share of the output pixels. part [splits, kh kw cin, cout].
// Fragments take rows and columns in an order in which a lane reads four neighbours at once; the sums are put back in place at the end.
template <int WM, int WN>
__device__ __forceinline__ void conv_dw_large(const float* x, const float* dy, float* part, Conv g, int splits) {
    const int T = 32 * WM * WN, M = SIDE * WM, N = SIDE * WN, AROWS = K * M / 4 / T, BPARTS = (K * N / 4 + T - 1) / T;
    extern __shared__ float4 dynamic[];
    float(*as)[K][M + 8] = (float(*)[K][M + 8])dynamic;
    float(*bs)[K][N + 8] = (float(*)[K][N + 8])(as + STAGES);
    int rows = g.kh * g.kw * g.cin, pixels = g.n * g.ho * g.wo;
    int all = (pixels + K - 1) / K, each = (all + splits - 1) / splits;
    int first = blockIdx.z * each, steps = max(0, min(all, first + each) - first);
    int m0 = blockIdx.x * M, n0 = blockIdx.y * N;
    // This thread copies four channels of one tap for AROWS pixels in a row, of which the first is p, at (oy, ox) of an image.
    int am = threadIdx.x % (M / 4) * 4, arow = threadIdx.x / (M / 4) * AROWS, p = first * K + arow;
    int tap = (m0 + am) / g.cin, c = m0 + am - tap * g.cin, ky = tap / g.kw;
    int ty = ky * g.dilation - g.padding, tx = (tap - ky * g.kw) * g.dilation - g.padding;
    bool column = m0 + am < rows;
    int ox = p % g.wo, oy = p / g.wo % g.ho, image = p / (g.wo * g.ho);
    const int on_x = K % g.wo, on_y = K / g.wo % g.ho, on_image = K / (g.wo * g.ho);
    int done = first * K;
    auto load = [&](int stage) {
        int px = ox, py = oy, pi = image;
#pragma unroll
        for (int i = 0; i < AROWS; i++) {
            int yy = py * g.stride + ty, xx = px * g.stride + tx;
            bool real = column && p + i < pixels && (unsigned)yy < (unsigned)g.h && (unsigned)xx < (unsigned)g.w;
            copy<4>(&as[stage][arow + i][am], real ? x + (((pi * g.h + yy) * g.w + xx) * g.cin + c) : x, real);
            if (++px == g.wo) {
                px = 0;
                if (++py == g.ho) {
                    py = 0;
                    pi++;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < BPARTS; i++) {
            int at = threadIdx.x + i * T, bk = at / (N / 4), bn = at % (N / 4) * 4;
            if (bk < K) {
                bool real = done + bk < pixels && n0 + bn < g.cout;
                copy<4>(&bs[stage][bk][bn], real ? dy + ((long long)(done + bk) * g.cout + n0 + bn) : dy, real);
            }
        }
        commit();
        done += K;
        p += K;
        ox += on_x;
        if (ox >= g.wo) {
            ox -= g.wo;
            oy++;
        }
        oy += on_y;
        if (oy >= g.ho) {
            oy -= g.ho;
            image++;
        }
        image += on_image;
    };
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wm = warp / WN * SIDE, wn = warp % WN * SIDE;
    int lg = lane / 4, lt = lane % 4;
    Square sums;
    sums.clear();
    if (steps > 0) load(0); else commit();
    if (steps > 1) load(1); else commit();
    for (int s = 0; s < steps; s++) {
        wait<1>();
        __syncthreads();
        if (s + 2 < steps) load((s + 2) % STAGES); else commit();
        int stage = s % STAGES;
#pragma unroll
        for (int k = 0; k < K; k += 8) {
            unsigned a[4][4], b[8][2];
#pragma unroll
            for (int q = 0; q < 2; q++) {
                float va[8], vb[8];
                const float *ra = &as[stage][k + lt + 4 * q][wm + 4 * lg], *rb = &bs[stage][k + lt + 4 * q][wn + 4 * lg];
                *(float4*)va = *(const float4*)ra;
                *(float4*)(va + 4) = *(const float4*)(ra + 32);
                *(float4*)vb = *(const float4*)rb;
                *(float4*)(vb + 4) = *(const float4*)(rb + 32);
#pragma unroll
                for (int r = 0; r < 8; r++) {
                    a[r / 2][r % 2 + 2 * q] = __float_as_uint(va[r]);
                    b[r][q] = __float_as_uint(vb[r]);
                }
            }
            sums.add(a, b);
        }
    }
    part += (long long)blockIdx.z * rows * g.cout;
#pragma unroll
    for (int r = 0; r < 8; r++) {
        int m = m0 + wm + 4 * lg + r % 4 + r / 4 * 32;
        if (m >= rows) continue;
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int n = n0 + wn + 32 * h + 4 * (2 * lt + e), q = r % 2 * 2 + e;
                float(*v)[4] = sums.c[r / 2] + 4 * h;
                if (n < g.cout) *(float4*)(part + (long long)m * g.cout + n) = make_float4(v[0][q], v[1][q], v[2][q], v[3][q]);
            }
    }
}

// Tiles of M x N: 256 x 64 and 128 x 128 pixels x channels; 192 x 64 and 128 x 128 of a weight's gradient.
extern "C" __global__ void __launch_bounds__(128, 2) conv_large_64(const float* x, const float* w, const float* bias, float* y, Conv g, float low, float high) {
    conv_large<4, 1, false>(x, w, bias, y, g, low, high);
}
extern "C" __global__ void __launch_bounds__(128, 2) conv_large_128(const float* x, const float* w, const float* bias, float* y, Conv g, float low, float high) {
    conv_large<2, 2, false>(x, w, bias, y, g, low, high);
}
extern "C" __global__ void __launch_bounds__(128, 2) conv_large_dx_64(const float* dy, const float* w, float* dx, Conv g) {
    conv_large<4, 1, true>(dy, w, 0, dx, g, -INFINITY, INFINITY);
}
extern "C" __global__ void __launch_bounds__(128, 2) conv_large_dx_128(const float* dy, const float* w, float* dx, Conv g) {
    conv_large<2, 2, true>(dy, w, 0, dx, g, -INFINITY, INFINITY);
}
extern "C" __global__ void __launch_bounds__(96, 2) conv_large_dw_64(const float* x, const float* dy, float* part, Conv g, int splits) {
    conv_dw_large<3, 1>(x, dy, part, g, splits);
}
extern "C" __global__ void __launch_bounds__(128, 2) conv_large_dw_128(const float* x, const float* dy, float* part, Conv g, int splits) {
    conv_dw_large<2, 2>(x, dy, part, g, splits);
}

// out[tap, column, row] = w[tap, row, column]; blockDim (32, 8), blockIdx.z: the tap.
extern "C" __global__ void transpose_taps(const float* w, float* out, int rows, int columns) {
    __shared__ float tile[32][33];
    w += (long long)blockIdx.z * rows * columns;
    out += (long long)blockIdx.z * rows * columns;
    int r0 = blockIdx.y * 32, c0 = blockIdx.x * 32;
    for (int i = threadIdx.y; i < 32; i += 8)
        if (r0 + i < rows && c0 + threadIdx.x < columns) tile[i][threadIdx.x] = w[(long long)(r0 + i) * columns + c0 + threadIdx.x];
    __syncthreads();
    for (int i = threadIdx.y; i < 32; i += 8)
        if (c0 + i < columns && r0 + threadIdx.x < rows) out[(long long)(c0 + i) * rows + r0 + threadIdx.x] = tile[threadIdx.x][i];
}
