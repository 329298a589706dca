#include "faults.h"

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <mutex>
#include <ucontext.h>

#include "block.h"
#include "memory.h"

namespace emulated {

static const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
static struct sigaction before[sizeof SIGNALS / sizeof *SIGNALS];

static void describe(int signal, siginfo_t* info, void* context) {
    char place[256], target[256];
    if (!here(place, sizeof place)) {
        // Not of a kernel: for whoever was asked before.
        for (size_t i = 0; i < sizeof SIGNALS / sizeof *SIGNALS; i++)
            if (SIGNALS[i] == signal) sigaction(signal, &before[i], nullptr);
        return;
    }
    const char* what = target;
    switch (signal) {
    case SIGILL: what = "an index, a shift, an alignment or a sum out of its bounds"; break;
    case SIGFPE: what = "division by zero"; break;
    default: describe_address(info->si_addr, target, sizeof target);
    }
    fprintf(stderr, "emulated GPU: %s: %s\n", place, what);
    unsigned long at = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
    Dl_info library;
    if (dladdr(reinterpret_cast<void*>(at), &library))
        fprintf(stderr, "  source line: addr2line -ipfCe %s %#lx\n", library.dli_fname, at - reinterpret_cast<uintptr_t>(library.dli_fbase));
    abort();
}

void catch_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = describe;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        for (size_t i = 0; i < sizeof SIGNALS / sizeof *SIGNALS; i++) sigaction(SIGNALS[i], &action, &before[i]);
    });
    // Kernels' stacks are small, and one of them may be what overflowed.
    static thread_local bool ready = false;
    if (ready) return;
    ready = true;
    stack_t stack = {}, own = {};
    if (sigaltstack(nullptr, &stack) == 0 && !(stack.ss_flags & SS_DISABLE) && stack.ss_size >= 64 * 1024) return;
    own.ss_size = 64 * 1024;
    own.ss_sp = malloc(own.ss_size);
    sigaltstack(&own, nullptr);
}

} // namespace emulated
