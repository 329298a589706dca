// Updates of many tensors by one launch. A block takes one chunk (tensor, first element); tables of pointers and lengths lie on the device.
#pragma once
#include "common.cuh"

#define CHUNK 4096

struct Chunk {
    unsigned tensor, first;
};

#define FOR_CHUNK(i)                                                            \
    Chunk chunk = chunks[blockIdx.x];                                           \
    unsigned last = min(chunk.first + CHUNK, lengths[chunk.tensor]);            \
    for (unsigned i = chunk.first + threadIdx.x; i < last; i += blockDim.x)

// slots: the two means of all variables one after another; offsets: where a variable's begin. decays: 1 - lr x decay for each variable.
extern "C" __global__ void adamw(const Chunk* chunks, const unsigned* lengths, float* const* weights, const float* const* grads, float* means, float* squares, const unsigned* offsets, const u8* decays, float keep, float new_mean, float beta2, float new_square, float step, float inv_root, float eps) {
    FOR_CHUNK(i) {
        unsigned k = offsets[chunk.tensor] + i;
        float* w = weights[chunk.tensor] + i;
        float g = grads[chunk.tensor][i], m = means[k], v = squares[k];
        m += (g - m) * new_mean;
        v = beta2 * v + new_square * g * g;
        means[k] = m;
        squares[k] = v;
        *w = *w * (decays[chunk.tensor] ? keep : 1.0f) - step * m / (sqrtf(v) * inv_root + eps);
    }
}

extern "C" __global__ void sgd(const Chunk* chunks, const unsigned* lengths, float* const* weights, const float* const* grads, float* momenta, const unsigned* offsets, const u8* decays, float momentum, float decay, float lr, int nesterov) {
    FOR_CHUNK(i) {
        unsigned k = offsets[chunk.tensor] + i;
        float* w = weights[chunk.tensor] + i;
        float g = grads[chunk.tensor][i] + (decays[chunk.tensor] ? decay : 0.0f) * *w;
        float m = momentum * momenta[k] + g;
        momenta[k] = m;
        *w -= lr * (nesterov ? g + momentum * m : m);
    }
}

// shadow += share (x - shadow)
extern "C" __global__ void follow(const Chunk* chunks, const unsigned* lengths, const float* const* values, float* shadow, const unsigned* offsets, float share) {
    FOR_CHUNK(i) {
        float* s = shadow + offsets[chunk.tensor] + i;
        *s += share * (values[chunk.tensor][i] - *s);
    }
}

extern "C" __global__ void sum_of_squares(const Chunk* chunks, const unsigned* lengths, const float* const* grads, float* part) {
    float s = 0;
    FOR_CHUNK(i) {
        float g = grads[chunk.tensor][i];
        s += g * g;
    }
    s = block_sum(s);
    if (threadIdx.x == 0) part[blockIdx.x] = s;
}

// norm[0] = the norm, norm[1] = what gradients are to be multiplied by so that it is at most `most`; one block.
extern "C" __global__ void norm_finish(const float* part, unsigned n, float most, float* norm) {
    double s = 0;
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) s += part[i];
    s = block_sum(s);
    if (threadIdx.x) return;
    float length = sqrt(s);
    norm[0] = length;
    norm[1] = length > most ? most / length : 1.0f;
}

// One tensor after another into `flat`, multiplied by factor[0].
extern "C" __global__ void gather_scaled(const Chunk* chunks, const unsigned* lengths, const float* const* grads, float* flat, const unsigned* offsets, const float* factor) {
    float s = factor[0];
    FOR_CHUNK(i) flat[offsets[chunk.tensor] + i] = s * grads[chunk.tensor][i];
}
