// The threads of one block on one host thread: fibers, barriers and warp collectives.
//
// A CUDA thread (`Lane`) runs on a `Fiber` (a stack) until it must wait; then the next lane that can
// run goes on. A lane that ends hands its stack to the next one, so kernels that never wait need a
// single stack and no switch at all. A collective is carried out once, by the last lane to arrive, on
// the arguments that lie on the stacks of all.
#pragma once

#include "context_switch.h"
#include "types.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#ifndef DS4_EMU_STACK
#define DS4_EMU_STACK (64u << 10)
#endif

// With DS4_EMU_SINGLE launches come one at a time and run on the calling thread alone: nothing is
// kept per thread.
#ifdef DS4_EMU_SINGLE
#define DS4_EMU_LOCAL
#else
#define DS4_EMU_LOCAL thread_local
#endif

namespace ds4_emu __attribute__((visibility("hidden"))) {

constexpr unsigned WARP = 32, MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / WARP, BARRIERS = 16;
constexpr unsigned MAX_SMEM = 227u << 10;  // what a block may have on compute capability 9.0
constexpr unsigned CANARY = 64;

// A kind of warp collective; lanes meet when kind and mask are equal, as PTX says of its instructions.
struct Op {
    const char* name;
    void (*run)(void* const* args, uint32_t lanes);  // args by lane; null: nothing to do but meet
};

struct Fiber {
    void* sp;
    char* top;
};

// An asynchronous copy that was issued and not yet waited for.
struct Copy {
    void* to;
    const void* from;
    unsigned bytes, source_bytes, group;
};

// What a lane waits for, to be told in an error.
struct Wait {
    const Op* op;  // null: a barrier
    uint32_t mask;
    unsigned barrier;
};

struct Warp;

struct Lane {
    uint3 tid;
    unsigned index, warp_index;  // within the warp, within the block
    uint32_t bit;
    Warp* warp;
    Fiber* fiber;  // null: not started
    Wait wait;
    unsigned copy_group;
    std::vector<Copy> copies;
};

// Lanes of a warp that meet in one collective.
struct Group {
    uint32_t mask, arrived;
    const Op* op;
};

struct Warp {
    uint32_t alive, runnable, sleeping;
    unsigned group_count;
    Group groups[WARP];
    void* args[WARP];

    Group& join(uint32_t mask, const Op* op) {
        for (unsigned i = 0; i < group_count; i++)
            if (groups[i].mask == mask && groups[i].op == op) return groups[i];
        groups[group_count] = Group{mask, 0, op};
        return groups[group_count++];
    }
    bool complete(const Group& g) const { return g.arrived == (g.mask & alive); }
    void finish(Group& g) {
        if (g.op->run) g.op->run(args, g.arrived);
        runnable |= g.arrived;
        g = groups[--group_count];
    }
};

struct Barrier {
    unsigned arrived, expected, votes;  // expected 0: every thread that has not ended
    unsigned last_arrived, last_votes;
    uint32_t waiting[MAX_WARPS];
};

struct Worker;
inline constinit DS4_EMU_LOCAL Worker* worker = nullptr;
[[noreturn]] inline void fail(const std::string& message);
inline void fiber_main();

inline std::string text(const char* name, unsigned x, unsigned y, unsigned z) {
    return std::string(name) + " (" + std::to_string(x) + ", " + std::to_string(y) + ", " + std::to_string(z) + ")";
}
inline std::string hex(uint32_t v) {
    char s[16];
    snprintf(s, sizeof s, "0x%08x", v);
    return s;
}

using Invoke = void (*)(void** args);

// One host thread's view of a launch, and the stacks it keeps between launches.
struct Worker {
    Lane* lane = nullptr;
    dim3 block_idx, block_dim, grid_dim;
    Invoke invoke = nullptr;
    void** args = nullptr;
    const char* kernel = "";
    char* smem = nullptr;
    unsigned smem_bytes = 0, warp_count = 0, cursor = 0, alive = 0;
    bool reversed = false;
    std::string error;
    void* main_sp = nullptr;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Fiber*> free_fibers;
    Warp warps[MAX_WARPS]{};
    Barrier barriers[BARRIERS]{};
    Lane lanes[MAX_THREADS]{};

    Worker() {
        smem = static_cast<char*>(aligned_alloc(1024, MAX_SMEM + 1024));
        const char* order = getenv("DS4_EMU_ORDER");
        reversed = order && std::string(order) == "reverse";
    }

    // --- stacks

    // The top is shifted from stack to stack: equal offsets would share a few sets of the cache.
    Fiber* new_fiber() {
        size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        size_t bytes = page + DS4_EMU_STACK + 4096;
        void* low = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (low == MAP_FAILED) fail("no memory for the stack of a thread");
        mprotect(low, page, PROT_NONE);
        char* top = static_cast<char*>(low) + bytes - (fibers.size() * 320) % 4096;
        fibers.push_back(std::make_unique<Fiber>(Fiber{nullptr, top}));
        reset_fiber(*fibers.back());
        return fibers.back().get();
    }
    void reset_fiber(Fiber& f) { f.sp = first_context(f.top, DS4_EMU_STACK, fiber_main); }

    Fiber* take_fiber() {
        if (free_fibers.empty()) return new_fiber();
        Fiber* f = free_fibers.back();
        free_fibers.pop_back();
        return f;
    }

    // After a failure the stacks hold threads that will never go on.
    void abandon_fibers() {
        for (Lane& l : lanes) {
            l.fiber = nullptr;
            l.copies.clear();
            l.copy_group = 0;
        }
        memset(barriers, 0, sizeof barriers);
        free_fibers.clear();
        for (auto& f : fibers) {
            reset_fiber(*f);
            free_fibers.push_back(f.get());
        }
    }

    // --- scheduling

    Lane* pick_runnable() {
        for (unsigned i = 0; i < warp_count; i++) {
            Warp& w = warps[cursor];
            if (w.runnable) {
                unsigned l = reversed ? 31u - static_cast<unsigned>(__builtin_clz(w.runnable))
                                      : static_cast<unsigned>(__builtin_ctz(w.runnable));
                w.runnable &= ~(1u << l);
                return &lanes[cursor * WARP + l];
            }
            cursor = reversed ? (cursor ? cursor : warp_count) - 1 : (cursor + 1 == warp_count ? 0 : cursor + 1);
        }
        return nullptr;
    }

    Lane* pick() {
        if (Lane* l = pick_runnable()) return l;
        for (unsigned i = 0; i < warp_count; i++) {
            warps[i].runnable = warps[i].sleeping;
            warps[i].sleeping = 0;
        }
        Lane* l = pick_runnable();
        if (!l) fail_deadlock();
        return l;
    }

    // Lets others run until somebody makes the current lane runnable.
    void suspend() {
        Fiber* from = lane->fiber;
        Lane* next = pick();
        if (next->fiber == from) return;
        if (!next->fiber) next->fiber = take_fiber();
        lane = next;
        ds4_emu_switch(&from->sp, next->fiber->sp);
    }

    // Lets all others run first; for loops that wait for another thread's store.
    void yield() {
        lane->warp->sleeping |= lane->bit;
        suspend();
    }

    // --- meeting points

    void meet(uint32_t mask, const Op* op, void* args) {
        Lane& me = *lane;
        Warp& w = *me.warp;
        if (!(mask & me.bit)) fail(std::string(op->name) + ": mask " + hex(mask) + " does not name the calling lane");
        w.args[me.index] = args;
        Group& g = w.join(mask, op);
        g.arrived |= me.bit;
        if (w.complete(g)) {
            w.finish(g);
            w.runnable &= ~me.bit;
            return;
        }
        me.wait = Wait{op, mask, 0};
        suspend();
    }

    bool full(const Barrier& b) const { return b.arrived == (b.expected ? b.expected : alive); }

    void release(Barrier& b) {
        b.last_arrived = b.arrived;
        b.last_votes = b.votes;
        b.arrived = b.votes = 0;
        for (unsigned i = 0; i < warp_count; i++) {
            warps[i].runnable |= b.waiting[i];
            b.waiting[i] = 0;
        }
    }

    Barrier& arrive(unsigned id, unsigned expected, bool vote) {
        if (id >= BARRIERS) fail("barrier " + std::to_string(id) + ": there are only 16");
        Barrier& b = barriers[id];
        b.expected = expected;
        b.arrived++;
        b.votes += vote;
        return b;
    }

    // Waits at a barrier of `expected` threads; answers what the threads there voted.
    const Barrier& wait_at(unsigned id, unsigned expected, bool vote) {
        Barrier& b = arrive(id, expected, vote);
        Lane& me = *lane;
        if (full(b)) {
            release(b);
            return b;
        }
        b.waiting[me.warp_index] |= me.bit;
        me.wait = Wait{nullptr, 0, id};
        suspend();
        return b;
    }

    void arrive_only(unsigned id, unsigned expected) {
        Barrier& b = arrive(id, expected, false);
        if (full(b)) release(b);
    }

    // --- asynchronous copies

    // Carries out the copies of all groups but the newest `keep`.
    void wait_copies(unsigned keep) {
        auto& q = lane->copies;
        size_t done = 0;
        while (done < q.size() && q[done].group + keep < lane->copy_group) run_copy(q[done++]);
        q.erase(q.begin(), q.begin() + static_cast<ptrdiff_t>(done));
    }
    static void run_copy(const Copy& c) {
        memcpy(c.to, c.from, c.source_bytes);
        memset(static_cast<char*>(c.to) + c.source_bytes, 0, c.bytes - c.source_bytes);
    }
    // The hardware completes what nobody waited for, too.
    void drain_copies() {
        for (const Copy& c : lane->copies) run_copy(c);
        lane->copies.clear();
        lane->copy_group = 0;
    }

    // --- the life of a lane and of a block

    // Those who wait for the ended lane may now be complete.
    void end_lane() {
        Lane& me = *lane;
        Warp& w = *me.warp;
        if (!me.copies.empty() || me.copy_group) drain_copies();
        w.alive &= ~me.bit;
        alive--;
        for (unsigned i = w.group_count; i-- > 0;)
            if (w.groups[i].arrived && w.complete(w.groups[i])) w.finish(w.groups[i]);
        if (barriers[0].arrived && full(barriers[0])) release(barriers[0]);
    }

    // Finds the ended lane's fiber something to do; returns when `lane` is one to start on it.
    void reuse_fiber() {
        Fiber* mine = lane->fiber;
        lane->fiber = nullptr;
        if (alive) {
            Lane* next = pick();
            lane = next;
            if (!next->fiber) {
                next->fiber = mine;
                return;
            }
            free_fibers.push_back(mine);
            ds4_emu_switch(&mine->sp, next->fiber->sp);
        } else {
            free_fibers.push_back(mine);
            ds4_emu_switch(&mine->sp, main_sp);
        }
    }

    // Names the threads of a launch; the same for all its blocks.
    void set_shape(dim3 grid, dim3 block) {
        grid_dim = grid;
        block_dim = block;
        unsigned n = block.x * block.y * block.z;
        warp_count = (n + WARP - 1) / WARP;
        for (unsigned i = 0; i < n; i++) {
            Lane& l = lanes[i];
            l.tid = uint3{i % block.x, i / block.x % block.y, i / (block.x * block.y)};
            l.index = i % WARP;
            l.warp_index = i / WARP;
            l.bit = 1u << l.index;
            l.warp = &warps[l.warp_index];
        }
    }

    void reset_block() {
        alive = block_dim.x * block_dim.y * block_dim.z;
        for (unsigned i = 0; i < warp_count; i++) {
            unsigned n = alive - i * WARP;
            warps[i].alive = warps[i].runnable = n >= WARP ? ~0u : (1u << n) - 1;
            warps[i].sleeping = warps[i].group_count = 0;
        }
        for (Barrier& b : barriers) b.arrived = b.votes = 0;
        cursor = reversed ? warp_count - 1 : 0;
        // Uninitialised shared memory reads as NaN or -1; the canary behind it tells of writes past its end.
        memset(smem, 0xff, smem_bytes);
        memset(smem + smem_bytes, 0xa5, CANARY);
    }

    bool canary_intact() const {
        for (unsigned i = 0; i < CANARY; i++)
            if (smem[smem_bytes + i] != static_cast<char>(0xa5)) return false;
        return true;
    }

    // Runs one block; false: `error` says why it was given up.
    bool run_block(dim3 idx) {
        block_idx = idx;
        reset_block();
        lane = pick();
        lane->fiber = take_fiber();
        ds4_emu_switch(&main_sp, lane->fiber->sp);
        if (error.empty() && !canary_intact())
            error = std::string("kernel ") + kernel + ", " + text("block", idx.x, idx.y, idx.z) +
                    ": wrote past the end of its " + std::to_string(smem_bytes) + " bytes of dynamic shared memory";
        if (error.empty()) return true;
        abandon_fibers();
        return false;
    }

    // --- errors

    std::string describe(const Lane& l) const {
        std::string who = text("thread", l.tid.x, l.tid.y, l.tid.z);
        if (l.wait.op) {
            uint32_t arrived = 0;
            for (unsigned i = 0; i < l.warp->group_count; i++) {
                const Group& g = l.warp->groups[i];
                if (g.op == l.wait.op && g.mask == l.wait.mask) arrived = g.arrived;
            }
            return who + " waits at " + l.wait.op->name + " with mask " + hex(l.wait.mask) + ", where lanes " +
                   hex(arrived) + " are";
        }
        const Barrier& b = barriers[l.wait.barrier];
        unsigned expected = b.expected ? b.expected : alive;
        std::string name = l.wait.barrier ? "barrier " + std::to_string(l.wait.barrier) : "__syncthreads";
        return who + " waits at " + name + ", where " + std::to_string(b.arrived) + " of " +
               std::to_string(expected) + " threads are";
    }

    static bool same_wait(const Lane& a, const Lane& b) {
        if (a.wait.op != b.wait.op) return false;
        return a.wait.op ? a.warp == b.warp && a.wait.mask == b.wait.mask : a.wait.barrier == b.wait.barrier;
    }

    // All threads wait: names the first and the first that waits for something else.
    [[noreturn]] void fail_deadlock() {
        const Lane* first = nullptr;
        for (unsigned i = 0; i < warp_count * WARP; i++) {
            const Lane& l = lanes[i];
            if (!(warps[i / WARP].alive >> (i % WARP) & 1)) continue;
            if (!first) first = &l;
            if (!same_wait(l, *first)) fail("deadlock: " + describe(*first) + "; " + describe(l));
        }
        fail("deadlock: " + describe(*first));
    }
};

// Gives up the launch, with an error that says where; the process lives on.
[[noreturn]] inline void fail(const std::string& message) {
    Worker* w = worker;
    if (!w || !w->lane) {
        fprintf(stderr, "ds4_emu: %s, outside a launch\n", message.c_str());
        abort();
    }
    const uint3 t = w->lane->tid;
    const dim3 b = w->block_idx;
    w->error = std::string("kernel ") + w->kernel + ", " + text("block", b.x, b.y, b.z) + ", " +
               text("thread", t.x, t.y, t.z) + ": " + message;
    void* dead;
    ds4_emu_switch(&dead, w->main_sp);
    __builtin_unreachable();
}

inline void fiber_main() {
    for (;;) {
        Worker& w = *worker;
        w.invoke(w.args);
        w.end_lane();
        w.reuse_fiber();
    }
}

template <class T>
inline void check_aligned(const T* p, size_t alignment) {
    if (reinterpret_cast<uintptr_t>(p) % alignment) [[unlikely]]
        fail("misaligned address: a multiple of " + std::to_string(alignment) + " bytes is needed");
}

}  // namespace ds4_emu
