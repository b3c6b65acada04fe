// Switching from one stack to another: registers that a called function must keep, and the stack's pointer.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gpu_on_cpu {
#if defined(__x86_64__) || defined(__aarch64__)
#define SYMBOL_OF(prefix, name) #prefix name
#define SYMBOL_WITH(prefix, name) SYMBOL_OF(prefix, name)
#define SYMBOL SYMBOL_WITH(__USER_LABEL_PREFIX__, "gpu_on_cpu_switch")

using Context = void *;
extern "C" void gpu_on_cpu_switch(Context *from, Context to);
asm(".text\n.globl " SYMBOL "\n.p2align 4\n" SYMBOL ":\n"
#ifdef __x86_64__
    "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n"
#else
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp, #0]\n stp x21, x22, [sp, #16]\n stp x23, x24, [sp, #32]\n stp x25, x26, [sp, #48]\n"
    "stp x27, x28, [sp, #64]\n stp x29, x30, [sp, #80]\n"
    "stp d8, d9, [sp, #96]\n stp d10, d11, [sp, #112]\n stp d12, d13, [sp, #128]\n stp d14, d15, [sp, #144]\n"
    "mov x9, sp\n str x9, [x0]\n mov sp, x1\n"
    "ldp x19, x20, [sp, #0]\n ldp x21, x22, [sp, #16]\n ldp x23, x24, [sp, #32]\n ldp x25, x26, [sp, #48]\n"
    "ldp x27, x28, [sp, #64]\n ldp x29, x30, [sp, #80]\n"
    "ldp d8, d9, [sp, #96]\n ldp d10, d11, [sp, #112]\n ldp d12, d13, [sp, #128]\n ldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\n ret\n"
#endif
);

inline void switch_to(Context &from, Context &to) { gpu_on_cpu_switch(&from, to); }
// A stack on which `entry` begins; it never returns.
inline void prepare(Context &context, char *stack, size_t size, void (*entry)()) {
    uintptr_t top = ((uintptr_t)stack + size) & ~(uintptr_t)15;
#ifdef __x86_64__
    // Six registers and the address to return to; the function called so expects a stack of 16 n + 8.
    void **frame = (void **)(top - 8) - 7;
    for (int i = 0; i < 6; i++) frame[i] = nullptr;
    frame[6] = (void *)entry;
#else
    void **frame = (void **)(top - 160);
    for (int i = 0; i < 20; i++) frame[i] = nullptr;
    frame[11] = (void *)entry;
#endif
    context = frame;
}
#else
#include <ucontext.h>
using Context = ucontext_t;
inline void switch_to(Context &from, Context &to) { swapcontext(&from, &to); }
inline void prepare(Context &context, char *stack, size_t size, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = size;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}
#endif
}
