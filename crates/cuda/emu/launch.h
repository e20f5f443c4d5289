// Finding kernels by name and running their grids; the library's C interface.
//
// Blocks are spread over host threads (DS4_EMU_THREADS, all processors if unset), so a launch may not
// count on any order among them. Launches of one library run one after another.
#pragma once

#include "runtime.h"

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>
#include <type_traits>

#define DS4_EMU_EXPORT extern "C" __attribute__((visibility("default"), used)) inline

namespace ds4_emu __attribute__((visibility("hidden"))) {

// --- kernels by name

inline std::map<std::string, Invoke>& kernels() {
    static std::map<std::string, Invoke> all;
    return all;
}

struct Registration {
    Registration(const char* name, Invoke invoke) { kernels()[name] = invoke; }
};

// A parameter's value; the caller's pointer need not be aligned.
template <class T>
T load(const void* p) {
    static_assert(std::is_trivially_copyable_v<T>, "a kernel's parameters are copied byte by byte");
    T v;
    memcpy(&v, p, sizeof v);
    return v;
}

template <auto kernel, class... P, size_t... I>
void call(void (*)(P...), void** args, std::index_sequence<I...>) {
    kernel(load<std::remove_const_t<P>>(args[I])...);
}
template <class... P>
constexpr auto indices(void (*)(P...)) {
    return std::index_sequence_for<P...>{};
}
template <auto kernel>
void invoke(void** args) {
    call<kernel>(kernel, args, indices(kernel));
}

// --- one launch

struct Launch {
    const char* name;
    Invoke invoke;
    void** args;
    dim3 grid, block;
    unsigned smem_bytes;
    uint64_t blocks;
    std::atomic<uint64_t> next{0};
    std::mutex lock;
    std::string error;

    void report(const std::string& message) {
        std::lock_guard guard(lock);
        if (error.empty()) error = message;
        next = blocks;  // nobody starts another block
    }
};

// Runs blocks until none is left.
inline void work(Launch& launch) {
    if (!worker) worker = new Worker;
    Worker& w = *worker;
    w.kernel = launch.name;
    w.invoke = launch.invoke;
    w.args = launch.args;
    w.smem_bytes = launch.smem_bytes;
    w.error.clear();
    w.set_shape(launch.grid, launch.block);
    for (;;) {
        uint64_t i = launch.next.fetch_add(1);
        if (i >= launch.blocks) break;
        if (w.reversed) i = launch.blocks - 1 - i;
        dim3 idx(static_cast<unsigned>(i % launch.grid.x), static_cast<unsigned>(i / launch.grid.x % launch.grid.y),
                 static_cast<unsigned>(i / launch.grid.x / launch.grid.y));
        if (!w.run_block(idx)) {
            launch.report(w.error);
            break;
        }
    }
    w.lane = nullptr;
}

// --- host threads

// Helpers sleep between launches and live as long as the process.
class Pool {
    std::mutex lock;
    std::condition_variable wake, idle;
    Launch* current = nullptr;
    uint64_t generation = 0;
    unsigned active = 0;

    void help() {
        uint64_t seen = 0;
        std::unique_lock guard(lock);
        for (;;) {
            wake.wait(guard, [&] { return current && generation != seen; });
            seen = generation;
            Launch* launch = current;
            active++;
            guard.unlock();
            work(*launch);
            guard.lock();
            if (--active == 0) idle.notify_one();
        }
    }

    static unsigned threads() {
#ifdef DS4_EMU_SINGLE
        return 1;
#endif
        const char* set = getenv("DS4_EMU_THREADS");
        unsigned n = set ? static_cast<unsigned>(atoi(set)) : std::thread::hardware_concurrency();
        return n ? n : 1;
    }

    // Helpers run this library's code, so it must never be unloaded.
    static void pin_library() {
        Dl_info info;
        if (dladdr(reinterpret_cast<void*>(&pin_library), &info) && info.dli_fname)
            dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
    }

    Pool() {
        pin_library();
        for (unsigned i = 1; i < threads(); i++) std::thread([this] { help(); }).detach();
    }

  public:
    static Pool& get() {
        static Pool* pool = new Pool;
        return *pool;
    }
    void run(Launch& launch) {
        if (launch.blocks > 1) {
            std::lock_guard guard(lock);
            current = &launch;
            generation++;
            wake.notify_all();
        }
        work(launch);
        std::unique_lock guard(lock);
        current = nullptr;
        idle.wait(guard, [&] { return active == 0; });
    }
};

inline thread_local std::string last_error;

inline int refuse(const std::string& message) {
    last_error = message;
    return 1;
}

// What the driver would refuse; null if it would launch.
inline const char* bad_shape(dim3 grid, dim3 block, unsigned smem_bytes) {
    if (!grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z) return "a dimension is zero";
    if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return "the grid is too large";
    if (block.x > 1024 || block.y > 1024 || block.z > 64) return "the block is too large in a dimension";
    if (uint64_t{block.x} * block.y * block.z > MAX_THREADS) return "the block has more than 1024 threads";
    if (smem_bytes > MAX_SMEM) return "more than 227 KiB of dynamic shared memory";
    return nullptr;
}

}  // namespace ds4_emu

// Runs a kernel to its end. `args` points to each parameter's value, as for cuLaunchKernel; 0 or an error.
DS4_EMU_EXPORT int ds4_emu_launch(const char* name, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                  unsigned bz, unsigned smem_bytes, void** args) {
    using namespace ds4_emu;
    if (worker && worker->lane) return refuse("a kernel cannot launch a kernel");
    auto found = kernels().find(name);
    if (found == kernels().end())
        return refuse(std::string("no kernel named ") + name + ": is it registered with DS4_REGISTER?");
    dim3 grid(gx, gy, gz), block(bx, by, bz);
    if (const char* bad = bad_shape(grid, block, smem_bytes)) return refuse(std::string("kernel ") + name + ": " + bad);

    static std::mutex one_at_a_time;
    std::lock_guard guard(one_at_a_time);
    Launch launch{.name = name, .invoke = found->second, .args = args, .grid = grid, .block = block,
                  .smem_bytes = smem_bytes, .blocks = uint64_t{gx} * gy * gz, .lock = {}, .error = {}};
    Pool::get().run(launch);
    return launch.error.empty() ? 0 : refuse(launch.error);
}

// The calling thread's last error.
DS4_EMU_EXPORT const char* ds4_emu_error() { return ds4_emu::last_error.c_str(); }

DS4_EMU_EXPORT int ds4_emu_has(const char* name) { return ds4_emu::kernels().count(name) != 0; }

// The i-th kernel's name, in order of the alphabet; null behind the last.
DS4_EMU_EXPORT const char* ds4_emu_kernel(unsigned i) {
    auto& all = ds4_emu::kernels();
    if (i >= all.size()) return nullptr;
    return std::next(all.begin(), i)->first.c_str();
}
