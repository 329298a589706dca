// What CUDA C++ gives to kernels, for g++. The script writes `__shared__` variables as calls of shared() and dynamic_shared(), since a macro
// cannot see what it declares.
#pragma once

#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <vector_functions.h>

#include "launch.h"

#undef __align__
#undef __device__
#undef __forceinline__
#undef __global__
#undef __host__
#undef __launch_bounds__
#undef __restrict__
#undef __shared__
#define __align__(n) __attribute__((aligned(n)))
#define __device__
#define __forceinline__ inline
// Attributes that mean nothing to g++, and show list-kernels.sh what is a kernel.
#define __global__ __attribute__((emulated_kernel))
#define __host__
#define __launch_bounds__(...) __attribute__((emulated_bound(__VA_ARGS__)))
#define __restrict__

// A compiler that has all of the types that candle would otherwise add functions for.
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0

// Functions of half precision that the host's header lacks.
#define HALF(name, f) \
    inline __half name(__half v) { return __float2half(std::f(__half2float(v))); }
HALF(hcos, cos)
HALF(hexp, exp)
HALF(hlog, log)
HALF(hsin, sin)
HALF(hsqrt, sqrt)
#undef HALF

using std::isnan;
using std::signbit;

// Makes a kernel known; `threads`: its launch bound.
#define KERNEL(name, threads)                                   \
    static emulated::Registration name##_registration(          \
        {#name, threads, [](void** arguments) { emulated::call(name, arguments); }});

namespace emulated {

template <class... A, size_t... I> void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
}

template <class... A> void call(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>());
}

// A variable of the block: T is an array, ALIGN 0 unless the kernel asks for more than the elements do. L, the type of a lambda, tells
// declarations apart, also those of two instances of a template.
template <class T, size_t ALIGN, class L> T& shared(L) {
    static char key;
    return *static_cast<T*>(current_block()->shared(&key, sizeof(T), ALIGN ? ALIGN : alignof(T)));
}

template <class T> T* dynamic_shared() { return static_cast<T*>(current_block()->dynamic_shared()); }

// What a lane brings to a shuffle and takes from it.
template <class T> struct Shuffle {
    T value, result;
    unsigned from;
};

template <class T> T shuffle(unsigned mask, T value, unsigned from) {
    Shuffle<T> mine = {value, value, from};
    Together together = [](Meeting& meeting) {
        for (unsigned i = 0; i < WARP; i++) {
            if (!(meeting.active >> i & 1)) continue;
            auto lane = static_cast<Shuffle<T>*>(meeting.lanes[i]);
            if (meeting.active >> lane->from & 1)
                lane->result = static_cast<Shuffle<T>*>(meeting.lanes[lane->from])->value;
            else
                memset(&lane->result, 0xff, sizeof(T)); // from a lane that is not there: anything
        }
    };
    current_block()->meet(mask, together, &mine);
    return mine.result;
}

inline unsigned lane() { return current_block()->thread() % WARP; }

// T where it is not to be guessed from the argument.
template <class T> using Same = std::common_type_t<T>;

template <class T, class F> T atomic_update(T* at, F f) {
    T before, after;
    __atomic_load(at, &before, __ATOMIC_RELAXED);
    do after = f(before);
    while (!__atomic_compare_exchange(at, &before, &after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return before;
}

template <class To, class From> To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits stay as they are");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

} // namespace emulated

inline void __syncthreads() { emulated::current_block()->barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    emulated::current_block()->meet(mask, [](emulated::Meeting&) {}, nullptr);
}

template <class T> T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
    unsigned lane = emulated::lane();
    return emulated::shuffle(mask, v, (lane & ~(width - 1)) | (from & (width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32) {
    unsigned lane = emulated::lane(), from = lane ^ with;
    return emulated::shuffle(mask, v, from / width > lane / width ? lane : from);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
    unsigned lane = emulated::lane(), from = lane + by;
    return emulated::shuffle(mask, v, from / width != lane / width ? lane : from);
}

template <class T> T atomicAdd(T* at, emulated::Same<T> v) {
    return emulated::atomic_update(at, [v](T old) { return T(old + v); });
}
template <class T> T atomicMin(T* at, emulated::Same<T> v) {
    return emulated::atomic_update(at, [v](T old) { return v < old ? v : old; });
}
template <class T> T atomicMax(T* at, emulated::Same<T> v) {
    return emulated::atomic_update(at, [v](T old) { return v > old ? v : old; });
}
template <class T> T atomicCAS(T* at, emulated::Same<T> expected, emulated::Same<T> v) {
    return emulated::atomic_update(at, [=](T old) { return old == expected ? v : old; });
}

template <class A, class B> constexpr std::common_type_t<A, B> min(A a, B b) {
    std::common_type_t<A, B> x = a, y = b;
    return y < x ? y : x;
}
template <class A, class B> constexpr std::common_type_t<A, B> max(A a, B b) {
    std::common_type_t<A, B> x = a, y = b;
    return y > x ? y : x;
}

inline unsigned __float_as_uint(float v) { return emulated::bits<unsigned>(v); }
inline int __float_as_int(float v) { return emulated::bits<int>(v); }
inline float __uint_as_float(unsigned v) { return emulated::bits<float>(v); }
inline float __int_as_float(int v) { return emulated::bits<float>(v); }
inline long long __double_as_longlong(double v) { return emulated::bits<long long>(v); }
inline double __longlong_as_double(long long v) { return emulated::bits<double>(v); }

inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
inline double rsqrt(double v) { return 1.0 / sqrt(v); }
inline float normcdff(float v) { return 0.5f * erfcf(-v * 0.70710678118654752f); }
inline double normcdf(double v) { return 0.5 * erfc(-v * 0.70710678118654752); }
