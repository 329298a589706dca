// What the kernels share: activations, reductions within a warp, vectorised loops.
#pragma once

typedef unsigned char u8;
typedef unsigned long long u64;

enum Act { IDENTITY, RELU, RELU6, GELU };

// f(z). Not fmaxf: a NaN must come through.
__device__ __forceinline__ float act_value(int act, float z) {
    if (act == IDENTITY) return z;
    if (act == GELU) return 0.5f * z * (1.0f + erff(z * 0.70710678118654752f));
    z = z < 0.0f ? 0.0f : z;
    return act == RELU6 && z > 6.0f ? 6.0f : z;
}

// f'(z); 0 at a kink.
__device__ __forceinline__ float act_slope(int act, float z) {
    if (act == IDENTITY) return 1.0f;
    if (act == GELU) {
        float density = 0.3989422804014327f * expf(-0.5f * z * z);
        return 0.5f * (1.0f + erff(z * 0.70710678118654752f)) + z * density;
    }
    return z > 0.0f && (act == RELU || z < 6.0f) ? 1.0f : 0.0f;
}

template <class T> __device__ __forceinline__ T warp_sum(T v) {
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
    for (int step = 16; step > 0; step /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, v, step);
        v = other > v || other != other ? other : v;
    }
    return v;
}

// The sum over a block of up to 1024 threads, in thread 0.
template <class T> __device__ __forceinline__ T block_sum(T v) {
    __shared__ T sums[32];
    v = warp_sum(v);
    if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = v;
    __syncthreads();
    if (threadIdx.x >= 32) return v;
    v = threadIdx.x < (blockDim.x + 31) / 32 ? sums[threadIdx.x] : T(0);
    return warp_sum(v);
}

__device__ __forceinline__ bool aligned(const void* p) { return ((u64)p & 15) == 0; }

// y[i] = f(i, x[i]..) for all i < n, which is below 2^32 (64-bit remainders are slow); four elements at a time where the pointers allow it.
template <int N, class F>
__device__ __forceinline__ void each(const float* const (&in)[N], float* out, u64 n, F f) {
    u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x, step = gridDim.x * (u64)blockDim.x;
    bool wide = aligned(out);
    for (int k = 0; k < N; k++) wide = wide && aligned(in[k]);
    u64 done = 0;
    if (wide) {
        for (u64 q = i; q < n / 4; q += step) {
            float4 v[N];
            float r[4];
            for (int k = 0; k < N; k++) v[k] = ((const float4*)in[k])[q];
            for (int j = 0; j < 4; j++) {
                float a[N];
                for (int k = 0; k < N; k++) a[k] = ((const float*)&v[k])[j];
                r[j] = f((unsigned)(q * 4 + j), a);
            }
            ((float4*)out)[q] = make_float4(r[0], r[1], r[2], r[3]);
        }
        done = n / 4 * 4;
    }
    for (u64 q = done + i; q < n; q += step) {
        float a[N];
        for (int k = 0; k < N; k++) a[k] = in[k][q];
        out[q] = f((unsigned)q, a);
    }
}
