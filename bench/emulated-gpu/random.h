// Random numbers (splitmix64) for orders and places that programs must not depend on.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace emulated {

class Random {
public:
    typedef uint64_t result_type;

    explicit Random(uint64_t seed) : state(seed) {}
    static constexpr uint64_t min() { return 0; }
    static constexpr uint64_t max() { return UINT64_MAX; }
    uint64_t operator()() {
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }

private:
    uint64_t state;
};

// EMULATED_GPU_SEED; 0 without it.
inline uint64_t seed() {
    static const char* text = getenv("EMULATED_GPU_SEED");
    return text ? strtoull(text, nullptr, 10) : 0;
}

} // namespace emulated
