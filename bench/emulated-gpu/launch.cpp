#include "launch.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <unordered_map>

#include "counts.h"
#include "faults.h"
#include "random.h"

namespace emulated {

static std::unordered_map<std::string, Kernel>& kernels() {
    static std::unordered_map<std::string, Kernel> all;
    return all;
}

Registration::Registration(const Kernel& kernel) {
    if (!kernels().emplace(kernel.name, kernel).second) fail("two kernels are called %s", kernel.name);
}

const Kernel* find_kernel(const char* name) {
    auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

// Threads that wait for work until the process ends. One piece of work at a time, as the device has one queue.
class Workers {
public:
    Workers() {
        unsigned count = std::max(1u, std::thread::hardware_concurrency());
        for (unsigned i = 1; i < count; i++) std::thread([this] { serve(); }).detach();
    }

    void run(uint64_t n, const std::function<void(uint64_t)>& f) {
        std::lock_guard<std::mutex> turn(queue);
        {
            std::lock_guard<std::mutex> lock(mutex);
            work = &f;
            next = 0;
            count = n;
            generation++;
        }
        if (n > 1) begin.notify_all();
        take(f);
        std::unique_lock<std::mutex> lock(mutex);
        work = nullptr;
        end.wait(lock, [this] { return busy == 0; });
    }

private:
    void take(const std::function<void(uint64_t)>& f) {
        for (uint64_t i; (i = next.fetch_add(1)) < count;) f(i);
    }

    void serve() {
        catch_faults();
        uint64_t seen = 0;
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            begin.wait(lock, [&] { return work && generation != seen; });
            seen = generation;
            busy++;
            const auto& f = *work;
            lock.unlock();
            take(f);
            lock.lock();
            if (--busy == 0) end.notify_all();
        }
    }

    std::mutex queue, mutex;
    std::condition_variable begin, end;
    const std::function<void(uint64_t)>* work = nullptr;
    std::atomic<uint64_t> next{0};
    uint64_t count = 0, generation = 0;
    unsigned busy = 0;
};

void parallel(uint64_t count, const std::function<void(uint64_t)>& f) {
    // Never destroyed: its threads outlive main.
    static Workers* workers = new Workers;
    workers->run(count, f);
}

void run(const Kernel& kernel, uint3 grid, uint3 block, size_t dynamic_shared, void** arguments) {
    count(kernel.name);
    static std::atomic<uint64_t> launches{0};
    uint64_t number = ++launches, blocks = uint64_t(grid.x) * grid.y * grid.z;
    Launch launch = {&kernel, grid, block, dynamic_shared, arguments, seed() ? seed() + number : 0};
    // With a seed, blocks begin in steps of a number that has no divisor in common with their count, from anywhere on.
    uint64_t step = 1, first = 0;
    if (launch.seed) {
        Random random(launch.seed);
        first = random() % blocks;
        step = random() % blocks;
        while (std::gcd(step, blocks) != 1) step++;
    }
    catch_faults();
    parallel(blocks, [&](uint64_t i) {
        static thread_local Block* runner = new Block;
        runner->run(launch, (first + i * step) % blocks);
    });
}

} // namespace emulated
