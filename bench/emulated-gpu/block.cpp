#include "block.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <sys/mman.h>

#include "random.h"

__thread uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

static __thread Block* running;
static __thread const char* running_kernel;

Block* current_block() { return running; }

bool here(char* text, size_t size) {
    if (!running) return false;
    snprintf(text, size, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u)", running_kernel, blockIdx.x, blockIdx.y, blockIdx.z,
             threadIdx.x, threadIdx.y, threadIdx.z);
    return true;
}

void fail(const char* format, ...) {
    char place[256], what[512];
    va_list list;
    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    fprintf(stderr, "emulated GPU: %s: %s\n", here(place, sizeof place) ? place : "outside of kernels", what);
    abort();
}

static const size_t PAGE = 4096;

static char* reserve(size_t size) {
    void* at = mmap(nullptr, size + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    mprotect(static_cast<char*>(at) + size, PAGE, PROT_NONE);
    return static_cast<char*>(at);
}

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

Block::Block() {
    arena = reserve(2 * STATIC_SHARED);
    dynamic_end = reserve(round_up(MOST_SHARED, PAGE)) + round_up(MOST_SHARED, PAGE);
}

std::vector<unsigned> Block::order(unsigned count, uint64_t salt) const {
    std::vector<unsigned> all(count);
    std::iota(all.begin(), all.end(), 0u);
    if (launch->seed) std::shuffle(all.begin(), all.end(), Random(launch->seed ^ salt));
    return all;
}

void Block::run(const Launch& l, uint64_t number) {
    launch = &l;
    index = number;
    blockDim = l.block;
    gridDim = l.grid;
    blockIdx = {unsigned(index % l.grid.x), unsigned(index / l.grid.x % l.grid.y), unsigned(index / l.grid.x / l.grid.y)};
    running = this;
    running_kernel = l.kernel->name;
    threads = l.block.x * l.block.y * l.block.z;
    if (lanes.size() < threads) lanes.resize(threads);
    for (unsigned t = 0; t < threads; t++) {
        lanes[t].state = State::Ready;
        lanes[t].stack = nullptr;
        lanes[t].groups = 0;
        lanes[t].copies.clear();
    }
    variables.clear();
    used = taken = 0;
    size_t room = round_up(l.dynamic_shared, 16);
    dynamic = dynamic_end - room;
    memset(dynamic, 0xff, room);

    unsigned warps = (threads + WARP - 1) / WARP;
    bool alive = true;
    for (uint64_t phase = 0; alive; phase++) {
        for (unsigned warp : order(warps, index << 20 ^ phase)) run_warp(warp);
        alive = false;
        for (unsigned t = 0; t < threads; t++)
            if (lanes[t].state == State::AtBarrier) {
                lanes[t].state = State::Ready;
                alive = true;
            }
    }
    running = nullptr;
}

// Until each lane of the warp has ended or waits at a barrier.
void Block::run_warp(unsigned warp) {
    unsigned first = warp * WARP, count = std::min(WARP, threads - first);
    for (uint64_t round = 0;; round++) {
        bool progress = false;
        for (unsigned lane : order(count, index << 32 ^ uint64_t(warp) << 24 ^ round)) {
            unsigned t = first + lane;
            // A meeting is complete when its last lane comes, or when those that it lacked have ended.
            if (lanes[t].state == State::Meeting) complete(warp, t);
            if (lanes[t].state != State::Ready) continue;
            resume(t);
            progress = true;
        }
        if (!progress) break;
    }
    for (unsigned t = first; t < first + count; t++)
        if (lanes[t].state == State::Meeting) {
            current = t;
            threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
            fail("waits for lanes of its warp (mask %08x) that wait for something else", lanes[t].mask);
        }
}

void Block::resume(unsigned t) {
    Lane& lane = lanes[t];
    current = t;
    threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
    if (!lane.stack) {
        lane.stack = stacks.take();
        lane.top = fresh(lane.stack, enter);
    }
    emulated_switch(&scheduler, lane.top);
    if (lane.state == State::Done) stacks.give_back(lane.stack);
}

void Block::enter() {
    Block* block = running;
    block->launch->kernel->call(block->launch->arguments);
    block->leave(State::Done);
}

void Block::leave(State state) {
    Lane& lane = lanes[current];
    lane.state = state;
    emulated_switch(&lane.top, scheduler);
}

void Block::barrier() { leave(State::AtBarrier); }

void Block::meet(unsigned mask, Together together, void* mine) {
    Lane& lane = lanes[current];
    if (!(mask >> current % WARP & 1)) fail("is not in its own mask %08x", mask);
    lane.mask = mask;
    lane.together = together;
    lane.mine = mine;
    lane.state = State::Meeting;
    if (!complete(current / WARP, current)) emulated_switch(&lane.top, scheduler);
}

// Whether all are there for whom thread t waits; they are then ready to go on.
bool Block::complete(unsigned warp, unsigned t) {
    const Lane& asks = lanes[t];
    unsigned first = warp * WARP, count = std::min(WARP, threads - first), active = 0;
    // From the last on, which is the one that comes last.
    for (unsigned i = count; i-- > 0;) {
        const Lane& lane = lanes[first + i];
        if (!(asks.mask >> i & 1) || lane.state == State::Done) continue;
        if (lane.state != State::Meeting || lane.mask != asks.mask || lane.together != asks.together) return false;
        active |= 1u << i;
    }
    Meeting meeting = {active, {}};
    for (unsigned i = 0; i < count; i++) {
        if (!(active >> i & 1)) continue;
        meeting.lanes[i] = lanes[first + i].mine;
        lanes[first + i].state = State::Ready;
    }
    asks.together(meeting);
    return true;
}

void* Block::shared(const void* key, size_t size, size_t align) {
    for (const Variable& v : variables)
        if (v.key == key) return v.at;
    taken += size;
    if (taken > STATIC_SHARED) fail("more than %zu KiB of static shared memory", STATIC_SHARED >> 10);
    // With room between variables; and what asks for no more than the alignment of its elements gets no more.
    size_t at = round_up(used, 128) + align % 128;
    used = at + size;
    memset(arena + at, 0xff, size);
    variables.push_back({key, arena + at});
    return arena + at;
}

void Block::copy_later(void* to, const void* from, size_t bytes, bool real) {
    char* at = static_cast<char*>(to);
    bool in_static = at >= arena && at + bytes <= arena + used, in_dynamic = at >= dynamic && at + bytes <= dynamic_end;
    if (!in_static && !in_dynamic) fail("an asynchronous copy goes to %p, which is not shared memory", to);
    if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes)
        fail("an asynchronous copy of %zu bytes from %p to %p is not aligned", bytes, from, to);
    memset(to, 0xff, bytes);
    Lane& lane = lanes[current];
    lane.copies.push_back({to, real ? from : nullptr, bytes, lane.groups});
}

void Block::commit_copies() { lanes[current].groups++; }

void Block::wait_copies(unsigned left) {
    Lane& lane = lanes[current];
    unsigned groups = lane.groups > left ? lane.groups - left : 0;
    auto waiting = lane.copies.begin();
    for (; waiting != lane.copies.end() && waiting->group < groups; ++waiting) {
        if (waiting->from)
            memcpy(waiting->to, waiting->from, waiting->bytes);
        else
            memset(waiting->to, 0, waiting->bytes);
    }
    lane.copies.erase(lane.copies.begin(), waiting);
}

} // namespace emulated
