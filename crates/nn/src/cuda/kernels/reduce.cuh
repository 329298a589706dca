// Sums over rows and columns: normalisations, softmax, losses.
#pragma once
#include "common.cuh"

// Sums of two functions of each element over the rows of each column. A block has blockDim.x columns and blockDim.y lanes of rows and takes
// `chunk` rows; part [gridDim.y, 2, width]. Sums of a chunk are in f32, those of chunks (in *_finish) in f64: the order is fixed.
template <class F>
__device__ __forceinline__ void columns(int rows, int width, int chunk, float* part, F f) {
    extern __shared__ float lanes[];
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    int end = min(rows, (int)(blockIdx.y + 1) * chunk);
    float s = 0, q = 0;
    if (c < width) {
#pragma unroll 4
        for (int r = blockIdx.y * chunk + threadIdx.y; r < end; r += blockDim.y) {
            float a, b;
            f((u64)r * width + c, c, a, b);
            s += a;
            q += b;
        }
    }
    int at = threadIdx.y * blockDim.x + threadIdx.x, size = blockDim.x * blockDim.y;
    lanes[at] = s;
    lanes[size + at] = q;
    __syncthreads();
    for (int live = blockDim.y; live > 1;) {
        int half = (live + 1) / 2;
        if (threadIdx.y + half < live) {
            lanes[at] += lanes[at + half * blockDim.x];
            lanes[size + at] += lanes[size + at + half * blockDim.x];
        }
        __syncthreads();
        live = half;
    }
    if (threadIdx.y == 0 && c < width) {
        part[(u64)blockIdx.y * 2 * width + c] = lanes[at];
        part[((u64)blockIdx.y * 2 + 1) * width + c] = lanes[size + at];
    }
}

// Both sums of column c over all chunks, by one warp.
__device__ __forceinline__ void finish(const float* part, int chunks, int width, int c, double& s, double& q) {
    s = q = 0;
    for (int k = threadIdx.x & 31; k < chunks; k += 32) {
        s += part[(u64)k * 2 * width + c];
        q += part[((u64)k * 2 + 1) * width + c];
    }
    s = warp_sum(s);
    q = warp_sum(q);
}

#define WARP_INDEX ((blockIdx.x * blockDim.x + threadIdx.x) >> 5)
#define LANE (threadIdx.x & 31)

extern "C" __global__ void column_sums(const float* x, int rows, int width, int chunk, float* part) {
    columns(rows, width, chunk, part, [=](u64 i, int, float& a, float& b) {
        a = x[i];
        b = 0;
    });
}

extern "C" __global__ void column_sums_finish(const float* part, int chunks, int width, float* out) {
    int c = WARP_INDEX;
    if (c >= width) return;
    double s, q;
    finish(part, chunks, width, c, s, q);
    if (LANE == 0) out[c] = s;
}

// About the first row, which is near the mean.
extern "C" __global__ void moments(const float* x, int rows, int width, int chunk, float* part) {
    columns(rows, width, chunk, part, [=](u64 i, int c, float& a, float& b) {
        a = x[i] - x[c];
        b = a * a;
    });
}

// stats [3, width]: mean, biased variance, 1 / sqrt(variance + eps)
extern "C" __global__ void moments_finish(const float* part, int chunks, int width, int rows, const float* x, float eps, float* stats) {
    int c = WARP_INDEX;
    if (c >= width) return;
    double s, q;
    finish(part, chunks, width, c, s, q);
    if (LANE) return;
    double mean = s / rows, var = q / rows - mean * mean;
    var = var < 0 ? 0 : var;
    stats[c] = mean + (double)x[c];
    stats[width + c] = var;
    stats[2 * width + c] = 1.0 / sqrt(var + (double)eps);
}

// stats of given mean and variance
extern "C" __global__ void given_stats(const float* mean, const float* var, float eps, float* stats, int width) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= width) return;
    stats[c] = mean[c];
    stats[width + c] = var[c];
    stats[2 * width + c] = 1.0 / sqrt((double)var[c] + (double)eps);
}

// out [2, width]: running mean and variance, moved towards the batch's by `momentum`; `unbiased` is what the batch's variance is multiplied by.
extern "C" __global__ void move_statistics(const float* mean, const float* var, const float* batch_mean, const float* batch_var, float* out, int width, float momentum, float unbiased) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= width) return;
    out[c] = (1.0f - momentum) * mean[c] + momentum * batch_mean[c];
    out[width + c] = (1.0f - momentum) * var[c] + momentum * unbiased * batch_var[c];
}

// gamma and beta may be null.
__device__ __forceinline__ void line(const float* stats, const float* gamma, const float* beta, int width, int c, float& scale, float& shift) {
    scale = stats[2 * width + c] * (gamma ? gamma[c] : 1.0f);
    shift = (beta ? beta[c] : 0.0f) - scale * stats[c];
}

extern "C" __global__ void batch_norm(const float* x, const float* stats, const float* gamma, const float* beta, float* y, u64 n, int width, int act) {
    const float* in[1] = {x};
    each<1>(in, y, n, [=](unsigned i, const float* v) {
        float scale, shift;
        line(stats, gamma, beta, width, i % (unsigned)width, scale, shift);
        return act_value(act, v[0] * scale + shift);
    });
}

// Sums of g and g (x - mean), g = dy f'(z).
extern "C" __global__ void batch_norm_sums(const float* x, const float* dy, const float* stats, const float* gamma, const float* beta, int rows, int width, int chunk, int act, float* part) {
    columns(rows, width, chunk, part, [=](u64 i, int c, float& a, float& b) {
        float scale, shift, v = x[i];
        line(stats, gamma, beta, width, c, scale, shift);
        a = dy[i] * act_slope(act, v * scale + shift);
        b = a * (v - stats[c]);
    });
}

// grads [4, width]: d gamma, d beta, and what x - mean and 1 are multiplied by in dx.
extern "C" __global__ void batch_norm_sums_finish(const float* part, int chunks, int width, int rows, const float* stats, const float* gamma, int from_batch, float* grads) {
    int c = WARP_INDEX;
    if (c >= width) return;
    double s, q;
    finish(part, chunks, width, c, s, q);
    if (LANE) return;
    double inv = stats[2 * width + c], scale = inv * (gamma ? gamma[c] : 1.0f), d_gamma = q * inv;
    grads[c] = d_gamma;
    grads[width + c] = s;
    grads[2 * width + c] = from_batch ? -scale * inv * d_gamma / rows : 0.0;
    grads[3 * width + c] = from_batch ? -scale * s / rows : 0.0;
}

extern "C" __global__ void batch_norm_dx(const float* x, const float* dy, const float* stats, const float* gamma, const float* beta, const float* grads, float* dx, u64 n, int width, int act) {
    const float* in[2] = {x, dy};
    each<2>(in, dx, n, [=](unsigned i, const float* v) {
        int c = i % (unsigned)width;
        float scale, shift;
        line(stats, gamma, beta, width, c, scale, shift);
        float g = v[1] * act_slope(act, v[0] * scale + shift);
        return scale * g + grads[2 * width + c] * (v[0] - stats[c]) + grads[3 * width + c];
    });
}

// Rows: a warp each.

__device__ __forceinline__ void row_moments(const float* x, int width, float eps, float& mean, float& inv) {
    float s = 0, q = 0;
    for (int i = LANE; i < width; i += 32) s += x[i];
    mean = warp_sum(s) / width;
    for (int i = LANE; i < width; i += 32) q += (x[i] - mean) * (x[i] - mean);
    inv = 1.0f / sqrtf(warp_sum(q) / width + eps);
}

extern "C" __global__ void layer_norm(const float* x, const float* gamma, const float* beta, float eps, float* y, int rows, int width) {
    int r = WARP_INDEX;
    if (r >= rows) return;
    x += (u64)r * width;
    y += (u64)r * width;
    float mean, inv;
    row_moments(x, width, eps, mean, inv);
    for (int i = LANE; i < width; i += 32) y[i] = (x[i] - mean) * inv * (gamma ? gamma[i] : 1.0f) + (beta ? beta[i] : 0.0f);
}

// Also writes stats [rows, 2]: mean and 1 / deviation of each row, for the gradients of gamma and beta.
extern "C" __global__ void layer_norm_dx(const float* x, const float* dy, const float* gamma, float eps, float* dx, float* stats, int rows, int width) {
    int r = WARP_INDEX;
    if (r >= rows) return;
    x += (u64)r * width;
    dy += (u64)r * width;
    dx += (u64)r * width;
    float mean, inv, h = 0, hx = 0;
    row_moments(x, width, eps, mean, inv);
    for (int i = LANE; i < width; i += 32) {
        float g = dy[i] * (gamma ? gamma[i] : 1.0f);
        h += g;
        hx += g * (x[i] - mean) * inv;
    }
    h = warp_sum(h) / width;
    hx = warp_sum(hx) / width;
    for (int i = LANE; i < width; i += 32) {
        float g = dy[i] * (gamma ? gamma[i] : 1.0f);
        dx[i] = (g - h - (x[i] - mean) * inv * hx) * inv;
    }
    if (LANE == 0) {
        stats[2 * r] = mean;
        stats[2 * r + 1] = inv;
    }
}

// Sums of dy xhat and dy.
extern "C" __global__ void layer_norm_sums(const float* x, const float* dy, const float* stats, int rows, int width, int chunk, float* part) {
    columns(rows, width, chunk, part, [=](u64 i, int, float& a, float& b) {
        u64 r = i / width;
        b = dy[i];
        a = b * (x[i] - stats[2 * r]) * stats[2 * r + 1];
    });
}

// sums [2, width]
extern "C" __global__ void both_sums_finish(const float* part, int chunks, int width, float* sums) {
    int c = WARP_INDEX;
    if (c >= width) return;
    double s, q;
    finish(part, chunks, width, c, s, q);
    if (LANE) return;
    sums[c] = s;
    sums[width + c] = q;
}

extern "C" __global__ void softmax(const float* x, float* y, int rows, int width) {
    int r = WARP_INDEX;
    if (r >= rows) return;
    x += (u64)r * width;
    y += (u64)r * width;
    float most = -INFINITY, sum = 0;
    for (int i = LANE; i < width; i += 32) most = x[i] > most || x[i] != x[i] ? x[i] : most;
    most = warp_max(most);
    for (int i = LANE; i < width; i += 32) sum += expf(x[i] - most);
    float scale = 1.0f / warp_sum(sum);
    for (int i = LANE; i < width; i += 32) y[i] = expf(x[i] - most) * scale;
}

extern "C" __global__ void softmax_dx(const float* y, const float* dy, float* dx, int rows, int width) {
    int r = WARP_INDEX;
    if (r >= rows) return;
    y += (u64)r * width;
    dy += (u64)r * width;
    dx += (u64)r * width;
    float dot = 0;
    for (int i = LANE; i < width; i += 32) dot += y[i] * dy[i];
    dot = warp_sum(dot);
    for (int i = LANE; i < width; i += 32) dx[i] = y[i] * (dy[i] - dot);
}

// Each row's loss, and the gradient of their weighted mean. weights may be null.
extern "C" __global__ void cross_entropy(const float* x, const float* t, const float* weights, float* grad, float* losses, int rows, int width) {
    int r = WARP_INDEX;
    if (r >= rows) return;
    x += (u64)r * width;
    t += (u64)r * width;
    grad += (u64)r * width;
    float most = -INFINITY;
    for (int i = LANE; i < width; i += 32) most = x[i] > most || x[i] != x[i] ? x[i] : most;
    most = warp_max(most);
    double sum = 0, t_sum = 0, loss = 0;
    for (int i = LANE; i < width; i += 32) {
        sum += exp((double)(x[i] - most));
        t_sum += t[i];
    }
    double log_sum = log(warp_sum(sum));
    t_sum = warp_sum(t_sum);
    float weight = weights ? weights[r] : 1.0f;
    for (int i = LANE; i < width; i += 32) {
        double log_p = (double)(x[i] - most) - log_sum;
        if (t[i] != 0) loss -= t[i] * log_p;
        grad[i] = (exp(log_p) * t_sum - t[i]) * (weight / rows);
    }
    loss = warp_sum(loss);
    if (LANE == 0) losses[r] = loss * weight;
}

// factor times the sum of n numbers, by one block.
extern "C" __global__ void sum_all(const float* x, unsigned n, float factor, float* out) {
    double s = 0;
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) s += x[i];
    s = block_sum(s);
    if (threadIdx.x == 0) out[0] = s * factor;
}

// part[block] = sum of w (a - b)^2; `sample` elements share a weight; weights may be null.
extern "C" __global__ void squares(const float* a, const float* b, const float* weights, u64 n, unsigned sample, float* part) {
    float s = 0;
    for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (u64)blockDim.x) {
        float d = a[i] - b[i];
        s += d * d * (weights ? weights[i / sample] : 1.0f);
    }
    s = block_sum(s);
    if (threadIdx.x == 0) part[blockIdx.x] = s;
}

// factor upstream w (a - b)
extern "C" __global__ void squares_dx(const float* a, const float* b, const float* weights, const float* upstream, float factor, float* out, u64 n, unsigned sample) {
    const float* in[2] = {a, b};
    float s = upstream[0] * factor;
    each<2>(in, out, n, [=](unsigned i, const float* v) { return s * (weights ? weights[i / sample] : 1.0f) * (v[0] - v[1]); });
}

// out[i] = sum over splits of part[split, i]; blockDim (32, 8).
extern "C" __global__ void sum_splits(const float* part, float* out, unsigned len, int splits) {
    __shared__ float lanes[8][33];
    unsigned i = blockIdx.x * 32 + threadIdx.x;
    float s = 0;
    if (i < len)
        for (int k = threadIdx.y; k < splits; k += 8) s += part[(u64)k * len + i];
    lanes[threadIdx.y][threadIdx.x] = s;
    __syncthreads();
    if (threadIdx.y || i >= len) return;
    for (int k = 1; k < 8; k++) s += lanes[k][threadIdx.x];
    out[i] = s;
}
