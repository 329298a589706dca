// One block of a kernel: its threads take turns on one thread of the host, each until it waits for others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <vector_types.h>

#include "fiber.h"

// Trivial types and __thread, since kernels read these all the time.
extern __thread uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

const unsigned WARP = 32;
const size_t STATIC_SHARED = 48 << 10, MOST_SHARED = 227 << 10;

// A compiled kernel.
struct Kernel {
    const char* name;
    unsigned most_threads; // __launch_bounds__
    void (*call)(void** arguments);
};

struct Launch {
    const Kernel* kernel;
    uint3 grid, block;
    size_t dynamic_shared;
    void** arguments;
    uint64_t seed; // 0: everything in the order of its number
};

// What the lanes of a warp bring when they meet.
struct Meeting {
    unsigned active; // the lanes that are here
    void* lanes[WARP];
};

// Makes one step of what a warp does together.
typedef void (*Together)(Meeting&);

// Writes what went wrong and where in which kernel, and ends the process.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Where the host's thread is: "kernel softmax, block (0, 0, 0), thread (3, 0, 0)"; false outside of a kernel.
bool here(char* text, size_t size);

class Block {
public:
    Block();
    Block(const Block&) = delete;

    // Runs block number `index` of a launch.
    void run(const Launch& launch, uint64_t index);

    // The rest is called by kernels, through device.h.

    // Until all threads of the block that have not ended are here.
    void barrier();
    // Until all lanes named in `mask` that have not ended are here with the same `together`, which then runs once.
    void meet(unsigned mask, Together together, void* mine);
    // Room of the block for the variable known by `key`, full of NaN when first asked for.
    void* shared(const void* key, size_t size, size_t align);
    void* dynamic_shared() const { return dynamic; }
    // cp.async and its groups, as late as the rules allow: until a group is waited for, its destinations hold NaN.
    void copy_later(void* to, const void* from, size_t bytes, bool real);
    void commit_copies();
    void wait_copies(unsigned left);

    unsigned thread() const { return current; }

private:
    enum class State : unsigned char { Ready, Meeting, AtBarrier, Done };
    struct Copy {
        void* to;
        const void* from; // null: zeros
        size_t bytes;
        unsigned group;
    };
    struct Lane {
        State state;
        unsigned mask;
        Together together;
        void* mine;
        void* top;
        char* stack;
        unsigned groups;
        std::vector<Copy> copies;
    };
    struct Variable {
        const void* key;
        void* at;
    };

    static void enter();
    void resume(unsigned thread);
    void leave(State state);
    void run_warp(unsigned warp);
    bool complete(unsigned warp, unsigned thread);
    std::vector<unsigned> order(unsigned count, uint64_t salt) const;

    const Launch* launch = nullptr;
    uint64_t index = 0;
    unsigned threads = 0, current = 0;
    void* scheduler = nullptr;
    std::vector<Lane> lanes;
    Stacks stacks;
    std::vector<Variable> variables;
    char* arena; // static shared memory
    size_t used = 0, taken = 0;
    char* dynamic_end; // dynamic shared memory ends here, before a page that faults
    char* dynamic = nullptr;
};

// The block that this thread of the host runs, if any.
Block* current_block();

} // namespace emulated
