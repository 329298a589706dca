// Element by element: activations, sums, conditioning, pools, views of images.
#pragma once
#include "common.cuh"

extern "C" __global__ void activate(const float* x, float* y, u64 n, int act) {
    const float* in[1] = {x};
    each<1>(in, y, n, [=](unsigned, const float* a) { return act_value(act, a[0]); });
}

extern "C" __global__ void slope_times(const float* z, const float* dy, float* dx, u64 n, int act) {
    const float* in[2] = {z, dy};
    each<2>(in, dx, n, [=](unsigned, const float* a) { return act_slope(act, a[0]) * a[1]; });
}

extern "C" __global__ void add_activate(const float* a, const float* b, float* y, u64 n, int act) {
    const float* in[2] = {a, b};
    each<2>(in, y, n, [=](unsigned, const float* v) { return act_value(act, v[0] + v[1]); });
}

extern "C" __global__ void add_slope_times(const float* a, const float* b, const float* dy, float* dx, u64 n, int act) {
    const float* in[3] = {a, b, dy};
    each<3>(in, dx, n, [=](unsigned, const float* v) { return act_slope(act, v[0] + v[1]) * v[2]; });
}

extern "C" __global__ void add3(const float* a, const float* b, const float* c, float* y, u64 n) {
    const float* in[3] = {a, b, c};
    each<3>(in, y, n, [](unsigned, const float* v) { return v[0] + v[1] + v[2]; });
}

// x times a number on the device.
extern "C" __global__ void scale_by(const float* x, const float* factor, float* out, u64 n) {
    const float* in[1] = {x};
    float s = factor[0];
    each<1>(in, out, n, [=](unsigned, const float* v) { return s * v[0]; });
}

// f(x + bias[column])
extern "C" __global__ void add_bias(const float* x, const float* bias, float* y, u64 n, unsigned width, int act) {
    const float* in[1] = {x};
    each<1>(in, y, n, [=](unsigned i, const float* v) { return act_value(act, v[0] + bias[i % width]); });
}

// x (1 + scale) + shift; c [n, 2 d].
extern "C" __global__ void modulate(const float* x, const float* c, float* y, u64 n, unsigned sample, unsigned d) {
    const float* in[1] = {x};
    each<1>(in, y, n, [=](unsigned i, const float* v) {
        const float* row = c + i / sample * (2 * d);
        unsigned column = i % d;
        return v[0] * (1.0f + row[column]) + row[d + column];
    });
}

extern "C" __global__ void modulate_dx(const float* dy, const float* c, float* dx, u64 n, unsigned sample, unsigned d) {
    const float* in[1] = {dy};
    each<1>(in, dx, n, [=](unsigned i, const float* v) { return v[0] * (1.0f + c[i / sample * (2 * d) + i % d]); });
}

// A thread for each column of a sample.
extern "C" __global__ void modulate_dc(const float* x, const float* dy, float* dc, unsigned n, unsigned t, unsigned d) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * d) return;
    unsigned sample = i / d, column = i % d;
    float scale = 0, shift = 0;
    for (unsigned k = 0; k < t; k++) {
        u64 at = ((u64)sample * t + k) * d + column;
        scale += x[at] * dy[at];
        shift += dy[at];
    }
    dc[(u64)sample * 2 * d + column] = scale;
    dc[(u64)sample * 2 * d + d + column] = shift;
}

// x + (1 + gate) branch
extern "C" __global__ void gated_add(const float* x, const float* b, const float* g, float* y, u64 n, unsigned sample, unsigned d) {
    const float* in[2] = {x, b};
    each<2>(in, y, n, [=](unsigned i, const float* v) { return v[0] + (1.0f + g[i / sample * d + i % d]) * v[1]; });
}

extern "C" __global__ void gated_db(const float* dy, const float* g, float* db, u64 n, unsigned sample, unsigned d) {
    const float* in[1] = {dy};
    each<1>(in, db, n, [=](unsigned i, const float* v) { return v[0] * (1.0f + g[i / sample * d + i % d]); });
}

extern "C" __global__ void gated_dg(const float* b, const float* dy, float* dg, unsigned n, unsigned t, unsigned d) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * d) return;
    unsigned sample = i / d, column = i % d;
    float sum = 0;
    for (unsigned k = 0; k < t; k++) {
        u64 at = ((u64)sample * t + k) * d + column;
        sum += b[at] * dy[at];
    }
    dg[i] = sum;
}

// Pools on [n, h, w, c].
struct Window {
    int kernel, stride, padding, n, h, w, c, oh, ow;
};

__device__ __forceinline__ void inside(const Window& k, int o, int len, int& from, int& to) {
    int start = o * k.stride - k.padding;
    from = max(start, 0);
    to = min(start + k.kernel, len);
}

__device__ __forceinline__ void covering(const Window& k, int i, int count, int& first, int& last) {
    int low = i + k.padding + 1 - k.kernel;
    first = low <= 0 ? 0 : (low + k.stride - 1) / k.stride;
    last = min((i + k.padding) / k.stride + 1, count);
}

struct Pixel {
    int n, y, x, c;
};

__device__ __forceinline__ Pixel pixel_of(unsigned i, unsigned h, unsigned w, unsigned c) {
    Pixel p;
    p.c = i % c;
    i /= c;
    p.x = i % w;
    i /= w;
    p.y = i % h;
    p.n = i / h;
    return p;
}

extern "C" __global__ void max_pool(const float* x, float* y, Window k) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (unsigned)k.n * k.oh * k.ow * k.c) return;
    Pixel o = pixel_of(i, k.oh, k.ow, k.c);
    int y0, y1, x0, x1;
    inside(k, o.y, k.h, y0, y1);
    inside(k, o.x, k.w, x0, x1);
    float best = -INFINITY;
    for (int iy = y0; iy < y1; iy++)
        for (int ix = x0; ix < x1; ix++) {
            float v = x[(((u64)o.n * k.h + iy) * k.w + ix) * k.c + o.c];
            best = v > best || v != v ? v : best;
        }
    y[i] = best;
}

// Gathered: an input pixel takes the gradient of those windows in which it is the first that equals the maximum.
extern "C" __global__ void max_pool_dx(const float* x, const float* y, const float* dy, float* dx, Window k) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (unsigned)k.n * k.h * k.w * k.c) return;
    Pixel p = pixel_of(i, k.h, k.w, k.c);
    float v = x[i], sum = 0;
    int oy0, oy1, ox0, ox1;
    covering(k, p.y, k.oh, oy0, oy1);
    covering(k, p.x, k.ow, ox0, ox1);
    const float* image = x + (u64)p.n * k.h * k.w * k.c + p.c;
    for (int oy = oy0; oy < oy1; oy++)
        for (int ox = ox0; ox < ox1; ox++) {
            u64 at = (((u64)p.n * k.oh + oy) * k.ow + ox) * k.c + p.c;
            if (y[at] != v) continue;
            int y0, y1, x0, x1;
            inside(k, oy, k.h, y0, y1);
            inside(k, ox, k.w, x0, x1);
            bool first = true;
            for (int iy = y0; iy <= p.y && first; iy++) {
                int end = iy == p.y ? p.x : x1;
                for (int ix = x0; ix < end; ix++)
                    if (image[((u64)iy * k.w + ix) * k.c] == v) first = false;
            }
            if (first) sum += dy[at];
        }
    dx[i] = sum;
}

extern "C" __global__ void avg_pool(const float* x, float* y, Window k) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (unsigned)k.n * k.oh * k.ow * k.c) return;
    Pixel o = pixel_of(i, k.oh, k.ow, k.c);
    int y0, y1, x0, x1;
    inside(k, o.y, k.h, y0, y1);
    inside(k, o.x, k.w, x0, x1);
    float sum = 0;
    for (int iy = y0; iy < y1; iy++)
        for (int ix = x0; ix < x1; ix++) sum += x[(((u64)o.n * k.h + iy) * k.w + ix) * k.c + o.c];
    y[i] = sum / ((y1 - y0) * (x1 - x0));
}

extern "C" __global__ void avg_pool_dx(const float* dy, float* dx, Window k) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (unsigned)k.n * k.h * k.w * k.c) return;
    Pixel p = pixel_of(i, k.h, k.w, k.c);
    int oy0, oy1, ox0, ox1;
    covering(k, p.y, k.oh, oy0, oy1);
    covering(k, p.x, k.ow, ox0, ox1);
    float sum = 0;
    for (int oy = oy0; oy < oy1; oy++)
        for (int ox = ox0; ox < ox1; ox++) {
            int y0, y1, x0, x1;
            inside(k, oy, k.h, y0, y1);
            inside(k, ox, k.w, x0, x1);
            sum += dy[(((u64)p.n * k.oh + oy) * k.ow + ox) * k.c + p.c] / ((y1 - y0) * (x1 - x0));
        }
    dx[i] = sum;
}

// [n, pixels, c] to [n, c]
extern "C" __global__ void global_avg(const float* x, float* y, unsigned n, unsigned pixels, unsigned c) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * c) return;
    const float* image = x + (u64)(i / c) * pixels * c + i % c;
    float sum = 0;
    for (unsigned p = 0; p < pixels; p++) sum += image[(u64)p * c];
    y[i] = sum / pixels;
}

extern "C" __global__ void global_avg_dx(const float* dy, float* dx, u64 n, unsigned pixels, unsigned c) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    dx[i] = dy[i / (pixels * c) * c + i % c] / pixels;
}

// Images through views: index, shift down and right, mirrored, and the erased rectangle (top, left, bottom, right); values through tables
// [channels, 256].
extern "C" __global__ void render_views(const u8* images, const int* views, const float* tables, float* out, unsigned n, int h, int w, int channels) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * h * w * channels) return;
    Pixel p = pixel_of(i, h, w, channels);
    const int* view = views + (u64)p.n * 8;
    int from_y = p.y + view[1];
    int from_x = (view[3] ? w - 1 - p.x : p.x) + view[2];
    bool within = from_y >= 0 && from_y < h && from_x >= 0 && from_x < w;
    bool erased = p.y >= view[4] && p.y < view[6] && p.x >= view[5] && p.x < view[7];
    u8 value = within && !erased ? images[(((u64)view[0] * h + from_y) * w + from_x) * channels + p.c] : 0;
    out[i] = tables[p.c * 256 + value];
}
