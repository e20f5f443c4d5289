// Barriers, shuffles, votes and reductions.
#pragma once

#include "intrinsics.h"
#include "runtime.h"

namespace ds4_emu __attribute__((visibility("hidden"))) {

template <class F>
inline void each_lane(uint32_t lanes, F f) {
    for (; lanes; lanes &= lanes - 1) f(static_cast<unsigned>(__builtin_ctz(lanes)));
}

template <class Args>
inline void meet(uint32_t mask, const Op* op, Args& args) {
    worker->meet(mask, op, &args);
}

// --- shuffles

enum class Shuffle { index, up, down, exclusive_or };

// The lane that PTX's shfl reads; the calling lane itself where that lies outside its segment.
inline unsigned source_lane(Shuffle kind, unsigned lane, unsigned b, unsigned width) {
    unsigned first = lane & ~(width - 1), last = first + width - 1, j = 0;
    switch (kind) {
    case Shuffle::index: return first | (b & (width - 1));
    case Shuffle::up: return lane < first + b ? lane : lane - b;
    case Shuffle::down: j = lane + b; break;
    case Shuffle::exclusive_or: j = lane ^ b; break;
    }
    return j > last || j >= WARP ? lane : j;
}

template <class T>
struct ShuffleArgs {
    T in, out;
    unsigned b, width;
};

// A lane that reads one that takes no part gets bytes 0xff, a NaN; the device leaves that undefined.
template <class T, Shuffle kind>
void run_shuffle(void* const* args, uint32_t lanes) {
    each_lane(lanes, [&](unsigned l) {
        auto* a = static_cast<ShuffleArgs<T>*>(args[l]);
        unsigned from = source_lane(kind, l, a->b, a->width);
        if (lanes >> from & 1) a->out = static_cast<ShuffleArgs<T>*>(args[from])->in;
        else memset(static_cast<void*>(&a->out), 0xff, sizeof(T));
    });
}

constexpr const char* shuffle_name(Shuffle kind) {
    switch (kind) {
    case Shuffle::index: return "__shfl_sync";
    case Shuffle::up: return "__shfl_up_sync";
    case Shuffle::down: return "__shfl_down_sync";
    default: return "__shfl_xor_sync";
    }
}

template <class T, Shuffle kind>
inline constexpr Op shuffle_op{shuffle_name(kind), run_shuffle<T, kind>};

template <Shuffle kind, class T>
T shuffle(unsigned mask, T v, unsigned b, int width) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "the device shuffles 2, 4 or 8 bytes");
    ShuffleArgs<T> args{v, v, b, static_cast<unsigned>(width)};
    meet(mask, &shuffle_op<T, kind>, args);
    return args.out;
}

// --- votes and reductions: every lane gets one result

template <class T>
struct ReduceArgs {
    T in, out;
};

// `Start{}(value)` begins a total, `F{}(total, value, lane)` takes in one lane's value.
template <class T, class F, class Start>
void run_reduce(void* const* args, uint32_t lanes) {
    auto at = [&](unsigned l) { return static_cast<ReduceArgs<T>*>(args[l]); };
    T total = Start{}(at(static_cast<unsigned>(__builtin_ctz(lanes)))->in);
    each_lane(lanes, [&](unsigned l) { total = F{}(total, at(l)->in, l); });
    each_lane(lanes, [&](unsigned l) { at(l)->out = total; });
}

struct Zero {
    template <class T> T operator()(T) const { return 0; }
};
struct First {
    template <class T> T operator()(T v) const { return v; }
};
struct Ballot {
    unsigned operator()(unsigned t, unsigned v, unsigned l) const { return t | (v ? 1u << l : 0); }
};
struct Sum {
    template <class T> T operator()(T t, T v, unsigned) const {
        return static_cast<T>(static_cast<unsigned>(t) + static_cast<unsigned>(v));
    }
};
struct Least {
    template <class T> T operator()(T t, T v, unsigned) const { return v < t ? v : t; }
};
struct Greatest {
    template <class T> T operator()(T t, T v, unsigned) const { return t < v ? v : t; }
};
struct And {
    unsigned operator()(unsigned t, unsigned v, unsigned) const { return t & v; }
};
struct Or {
    unsigned operator()(unsigned t, unsigned v, unsigned) const { return t | v; }
};
struct Xor {
    unsigned operator()(unsigned t, unsigned v, unsigned) const { return t ^ v; }
};

template <class T>
T reduce(unsigned mask, T v, const Op* op) {
    ReduceArgs<T> args{v, v};
    meet(mask, op, args);
    return args.out;
}

inline constexpr Op ballot_op{"__ballot_sync, __any_sync or __all_sync", run_reduce<unsigned, Ballot, Zero>};
inline constexpr Op syncwarp_op{"__syncwarp", nullptr};

}  // namespace ds4_emu

// --- barriers

inline void __syncthreads() { ds4_emu::worker->wait_at(0, 0, false); }
inline int __syncthreads_count(int v) { return static_cast<int>(ds4_emu::worker->wait_at(0, 0, v != 0).last_votes); }
inline int __syncthreads_or(int v) { return ds4_emu::worker->wait_at(0, 0, v != 0).last_votes != 0; }
inline int __syncthreads_and(int v) {
    const auto& b = ds4_emu::worker->wait_at(0, 0, v != 0);
    return b.last_votes == b.last_arrived;
}
inline void __syncwarp(unsigned mask = ~0u) { ds4_emu::worker->meet(mask, &ds4_emu::syncwarp_op, nullptr); }
// PTX's bar.sync and bar.arrive with a number and a count of threads.
inline void emu_bar_sync(unsigned id, unsigned threads) { ds4_emu::worker->wait_at(id, threads, false); }
inline void emu_bar_arrive(unsigned id, unsigned threads) { ds4_emu::worker->arrive_only(id, threads); }

// --- shuffles

template <class T>
inline T __shfl_sync(unsigned mask, T v, int lane, int width = 32) {
    return ds4_emu::shuffle<ds4_emu::Shuffle::index>(mask, v, static_cast<unsigned>(lane), width);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    return ds4_emu::shuffle<ds4_emu::Shuffle::up>(mask, v, delta, width);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    return ds4_emu::shuffle<ds4_emu::Shuffle::down>(mask, v, delta, width);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T v, int lane_mask, int width = 32) {
    return ds4_emu::shuffle<ds4_emu::Shuffle::exclusive_or>(mask, v, static_cast<unsigned>(lane_mask), width);
}

// --- votes

inline unsigned __activemask() { return ds4_emu::worker->lane->warp->alive; }
inline unsigned __ballot_sync(unsigned mask, int v) {
    return ds4_emu::reduce<unsigned>(mask, v != 0, &ds4_emu::ballot_op);
}
inline int __any_sync(unsigned mask, int v) { return __ballot_sync(mask, v) != 0; }
inline int __all_sync(unsigned mask, int v) { return __ballot_sync(mask, !v) == 0; }

// --- reductions

#define DS4_EMU_REDUCE(name, type, function, start)                                                            \
    inline type name(unsigned mask, type v) {                                                                   \
        static constexpr ds4_emu::Op op{#name, ds4_emu::run_reduce<type, ds4_emu::function, ds4_emu::start>};   \
        return ds4_emu::reduce(mask, v, &op);                                                                   \
    }
DS4_EMU_REDUCE(__reduce_add_sync, unsigned, Sum, Zero)
DS4_EMU_REDUCE(__reduce_add_sync, int, Sum, Zero)
DS4_EMU_REDUCE(__reduce_min_sync, unsigned, Least, First)
DS4_EMU_REDUCE(__reduce_min_sync, int, Least, First)
DS4_EMU_REDUCE(__reduce_max_sync, unsigned, Greatest, First)
DS4_EMU_REDUCE(__reduce_max_sync, int, Greatest, First)
DS4_EMU_REDUCE(__reduce_and_sync, unsigned, And, First)
DS4_EMU_REDUCE(__reduce_or_sync, unsigned, Or, First)
DS4_EMU_REDUCE(__reduce_xor_sync, unsigned, Xor, Zero)
#undef DS4_EMU_REDUCE
