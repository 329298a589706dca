#include "counts.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace emulated {

struct Counts {
    std::mutex mutex;
    std::map<std::string, unsigned long> all;
    bool wanted = getenv("EMULATED_GPU_COUNTS");

    ~Counts() {
        if (!wanted) return;
        std::vector<std::pair<std::string, unsigned long>> rows(all.begin(), all.end());
        std::stable_sort(rows.begin(), rows.end(), [](auto& a, auto& b) { return a.second > b.second; });
        unsigned long total = 0;
        for (auto& [name, count] : rows) total += count;
        fprintf(stderr, "%8lu launches\n", total);
        for (auto& [name, count] : rows) fprintf(stderr, "%8lu %s\n", count, name.c_str());
    }
};

void count(const char* name) {
    static Counts counts;
    if (!counts.wanted) return;
    std::lock_guard<std::mutex> lock(counts.mutex);
    counts.all[name]++;
}

} // namespace emulated
