// Stacks to run a GPU's threads on, and the switch from one to another.
#pragma once

#include <vector>

namespace emulated {

// Saves the registers that a call preserves on the current stack, leaves its top in *from, and goes on where `to` was left.
extern "C" void emulated_switch(void** from, void* to);

// What emulated_switch takes so as to begin with `entry`, which never returns, on the stack that ends at `end`.
void* fresh(char* end, void (*entry)());

// Stacks, each known by its end, above a page that faults. Those of threads that have ended are the first to be taken again, so that threads
// that never wait for others share one that is warm.
class Stacks {
public:
    char* take();
    void give_back(char* end) { idle.push_back(end); }

private:
    std::vector<char*> idle;
};

} // namespace emulated
