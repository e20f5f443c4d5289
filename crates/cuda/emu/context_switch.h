// Switching between stacks: the one piece of machine code in the emulator.
//
// ds4_emu_switch(save, to) stores the caller's stack pointer in *save and goes on where `to` was stored.
// Registers that a C++ call may destroy need no saving. The x86-64 version returns with `ret` on
// purpose: threads of a kernel switch at the same place, so the processor predicts the return.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

extern "C" void ds4_emu_switch(void** save, void* to);

#if defined(__x86_64__) && !defined(DS4_EMU_UCONTEXT)

asm(R"(
    .pushsection .text
    .weak ds4_emu_switch
    .hidden ds4_emu_switch
    .type ds4_emu_switch, @function
    .p2align 4
ds4_emu_switch:
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
    .size ds4_emu_switch, .-ds4_emu_switch
    .popsection
)");

namespace ds4_emu {
// A stack pointer from which the first switch enters `entry`; `top` is 16-byte aligned.
inline void* first_context(char* top, size_t, void (*entry)()) {
    void** frame = reinterpret_cast<void**>(top) - 8;  // six registers, the entry, a null return address
    memset(frame, 0, 8 * sizeof(void*));
    frame[6] = reinterpret_cast<void*>(entry);
    return frame;
}
}  // namespace ds4_emu

#elif defined(__aarch64__) && !defined(DS4_EMU_UCONTEXT)

asm(R"(
    .pushsection .text
    .weak ds4_emu_switch
    .hidden ds4_emu_switch
    .type ds4_emu_switch, %function
    .p2align 4
ds4_emu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size ds4_emu_switch, .-ds4_emu_switch
    .popsection
)");

namespace ds4_emu {
inline void* first_context(char* top, size_t, void (*entry)()) {
    void** frame = reinterpret_cast<void**>(top) - 20;
    memset(frame, 0, 20 * sizeof(void*));
    frame[11] = reinterpret_cast<void*>(entry);  // x30
    return frame;
}
}  // namespace ds4_emu

#else

#include <ucontext.h>

// Any other processor: the C library's contexts, slower by a system call each.
extern "C" __attribute__((visibility("hidden"))) inline void ds4_emu_switch(void** save, void* to) {
    ucontext_t here;  // lies on the stack that is put to sleep, so it lives as long as it must
    *save = &here;
    swapcontext(&here, static_cast<ucontext_t*>(to));
}

namespace ds4_emu {
inline void* first_context(char* top, size_t bytes, void (*entry)()) {
    char* low = top - bytes;
    auto* context = reinterpret_cast<ucontext_t*>((reinterpret_cast<uintptr_t>(top) - sizeof(ucontext_t)) & ~63ul);
    getcontext(context);
    context->uc_stack.ss_sp = low;
    context->uc_stack.ss_size = static_cast<size_t>(reinterpret_cast<char*>(context) - low);
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    return context;
}
}  // namespace ds4_emu

#endif
