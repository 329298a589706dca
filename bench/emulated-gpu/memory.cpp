#include "memory.h"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <sys/mman.h>

#include "block.h"
#include "random.h"

namespace emulated {

static const size_t PAGE = 4096, ALIGN = 16;

struct Allocation {
    size_t size;
    char* mapping; // a page that faults, `pages` bytes, another such page
    size_t pages;
};

// By the first byte.
static std::map<const char*, Allocation> allocations;
static std::mutex mutex;
static size_t in_use = 0;

void* allocate(size_t size) {
    std::lock_guard<std::mutex> lock(mutex);
    if (size == 0 || size > TOTAL_MEMORY - in_use) return nullptr;
    size_t pages = (size + PAGE - 1) / PAGE * PAGE;
    void* mapped = mmap(nullptr, pages + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    char* mapping = static_cast<char*>(mapped);
    if (mprotect(mapping + PAGE, pages, PROT_READ | PROT_WRITE)) {
        munmap(mapped, pages + 2 * PAGE);
        return nullptr;
    }
    memset(mapping + PAGE, 0xff, pages);
    // At the end of the pages, so that what lies behind faults; with a seed, at their beginning half of the time.
    static Random random(seed());
    char* at = mapping + PAGE;
    if (!seed() || random() % 2) at += (pages - size) / ALIGN * ALIGN;
    allocations[at] = {size, mapping, pages};
    in_use += size;
    return at;
}

static void check_margin(const char* from, const char* to, const char* at, size_t size) {
    for (; from < to; from++)
        if (*from != char(0xff)) fail("something was written %td bytes from the beginning of an allocation of %zu", from - at, size);
}

bool release(void* pointer) {
    std::lock_guard<std::mutex> lock(mutex);
    char* at = static_cast<char*>(pointer);
    auto found = allocations.find(at);
    if (found == allocations.end()) return false;
    Allocation a = found->second;
    char* first = a.mapping + PAGE;
    check_margin(first, at, at, a.size);
    check_margin(at + a.size, first + a.pages, at, a.size);
    munmap(a.mapping, a.pages + 2 * PAGE);
    allocations.erase(found);
    in_use -= a.size;
    return true;
}

bool within(const void* pointer, size_t size) {
    if (size == 0) return true;
    std::lock_guard<std::mutex> lock(mutex);
    const char* at = static_cast<const char*>(pointer);
    auto next = allocations.upper_bound(at);
    if (next == allocations.begin()) return false;
    auto a = std::prev(next);
    size_t offset = at - a->first;
    return offset <= a->second.size && size <= a->second.size - offset;
}

size_t free_memory() {
    std::lock_guard<std::mutex> lock(mutex);
    return TOTAL_MEMORY - in_use;
}

void describe_address(const void* pointer, char* text, size_t size) {
    const char* at = static_cast<const char*>(pointer);
    for (const auto& [first, a] : allocations)
        if (at >= a.mapping && at < a.mapping + a.pages + 2 * PAGE) {
            bool before = at < first;
            snprintf(text, size, "touches a byte %td %s an allocation of %zu bytes", before ? first - at : at - first - ptrdiff_t(a.size),
                     before ? "before" : "behind", a.size);
            return;
        }
    snprintf(text, size, "touches %p, which is not the device's memory, or is freed", pointer);
}

} // namespace emulated
