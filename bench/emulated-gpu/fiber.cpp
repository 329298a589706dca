#include "fiber.h"

#include <cstdint>
#include <new>
#include <sys/mman.h>

#ifndef __x86_64__
#error "the switch between stacks is written for x86-64"
#endif

asm(R"(
.text
.globl emulated_switch
.hidden emulated_switch
.type emulated_switch, @function
emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulated_switch, . - emulated_switch
)");

namespace emulated {

static const int PAGE = 4096, SIZE = 128 * 1024;

void* fresh(char* end, void (*entry)()) {
    // Six registers, the address that `ret` takes, and a word that leaves the stack aligned as after a call.
    uintptr_t* top = reinterpret_cast<uintptr_t*>(end) - 8;
    for (int i = 0; i < 8; i++) top[i] = 0;
    top[6] = reinterpret_cast<uintptr_t>(entry);
    return top;
}

char* Stacks::take() {
    if (!idle.empty()) {
        char* end = idle.back();
        idle.pop_back();
        return end;
    }
    void* at = mmap(nullptr, PAGE + SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    mprotect(at, PAGE, PROT_NONE);
    return static_cast<char*>(at) + PAGE + SIZE;
}

} // namespace emulated
