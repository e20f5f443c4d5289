// Second half of the routed experts of Q2_K for 1 to 16 tokens, with several turns of weights on their
// way through a ring in shared memory: for devices with enough of it; exp_down_q2k needs little.
#pragma once

#include "experts_mv.cuh"

#if EV_BLOCKS && EV_DOWN_GROUPS == 2
#define EV_RING_TURNS 4  // turns whose sums are collected before a block adds them up

// As exp_down_q2k: groups of 4 warps on the columns of the shared expert and one on each routed one, 4 rows
// a turn. The two groups of a block have the token in common, and then rows of their own, or the
// rows, and then a token each; then each reads half of the shared expert's rows, for both tokens.
struct EvRing {
    typedef EvDown<TY_Q2_K, 2> Acts;
    typedef EvType<TY_Q2_K> E;
    static constexpr int SH = Acts::SH, OF = Acts::OF, R = Acts::R, UNITS = N_EMBD / R, BLOCKS = N_FF / 256;
    static constexpr int PIECES = N_FF / E::VALUES, STEPS = (PIECES + 31) / 32, SH_STEPS = EvShared::STEPS;
    static constexpr int S_AT = R * BLOCKS * 64, D_AT = S_AT + R * BLOCKS * 16, ROUTED = D_AT + R * BLOCKS * 4;  // bytes of a turn
    static constexpr int SH_ROW = SH_STEPS * 512, SH_D = SH_STEPS * 32, PART = 2 * EV_RING_TURNS * OF * R * 4;
    static_assert(ROUTED % 16 == 0 && PART % 16 == 0 && sizeof(Acts) % 16 == 0, "rows are read as vectors");
};

// Four sums over the warp, in the order of `warp_sum`: sum i in lanes 8i to 8i + 7.
__device__ __forceinline__ float ev_sum4(const float (&v)[4]) {
    const bool high = threadIdx.x & 16, odd = threadIdx.x & 8;
    const float a = (high ? v[2] : v[0]) + __shfl_xor_sync(FULL, high ? v[0] : v[2], 16);
    const float b = (high ? v[3] : v[1]) + __shfl_xor_sync(FULL, high ? v[1] : v[3], 16);
    float y = (odd ? b : a) + __shfl_xor_sync(FULL, odd ? a : b, 8);
#pragma unroll
    for (int o = 4; o; o >>= 1) y += __shfl_xor_sync(FULL, y, o);
    return y;
}

// N pieces of 16 bytes that follow one another, by a warp.
template <int N>
__device__ __forceinline__ void ev_ring_copy(unsigned char* to, const char* from) {
#pragma unroll
    for (int i = 0; i < (N + 31) / 32; i++) {
        const int p = i * 32 + (threadIdx.x & 31);
        if (N % 32 == 0 || p < N) cp_async16(to + p * 16, from + p * 16);
    }
}

// Until the oldest of `stages` turns is there.
__device__ __forceinline__ void ev_ring_wait(int stages) {
    if (stages >= 4) cp_async_wait<3>();
    else if (stages == 3) cp_async_wait<2>();
    else if (stages == 2) cp_async_wait<1>();
    else cp_async_wait<0>();
    __syncwarp();
}

// Four rows of a routed expert.
struct EvRingRouted {
    static __device__ __forceinline__ void copy(unsigned char* to, const Mat& m, int64_t row0) {
        constexpr int B = EvRing::BLOCKS;
        ev_ring_copy<EvRing::R * B * 4>(to, (const char*)m.q + row0 * (B * 64));
        ev_ring_copy<EvRing::R * B>(to + EvRing::S_AT, (const char*)m.s + row0 * (B * 16));
        ev_ring_copy<EvRing::R * B / 4>(to + EvRing::D_AT, (const char*)m.d + row0 * (B * 4));
    }
    static __device__ __forceinline__ void dot(const unsigned char* from, int p, const EvRing::E::X& x, float (&y)[4]) {
#pragma unroll
        for (int r = 0; r < EvRing::R; r++) {
            const int row = r * EvRing::BLOCKS;
            const uint2 s = *(const uint2*)(from + EvRing::S_AT + row * 16 + (p >> 1) * 8);
            const EvRing::E::W w = {*(const uint4*)(from + row * 64 + p * 16), EvRing::E::scales(s, p),
                                    *(const uint32_t*)(from + EvRing::D_AT + row * 4 + (p >> 2) * 4)};
            y[r] = EvRing::E::dot(w, x, y[r]);
        }
    }
};

// A fourth of the columns of some rows of the shared expert, of Q8_0.
struct EvRingShared {
    static __device__ __forceinline__ void copy(unsigned char* to, const Mat& m, int row0, int rows, int part) {
        const int lane = threadIdx.x & 31, half = lane & 1, r_of = lane >> 1;
#pragma unroll
        for (int i = 0; i < EvRing::SH_STEPS; i++) {
            const int p0 = i * 128 + part * 32, p = p0 + lane;
            const char* q = (const char*)m.q + (int64_t)row0 * N_FF + p * 16;
#pragma unroll
            for (int r = 0; r < EvRing::R; r++)
                if (r < rows && p < N_FF / 16) cp_async16(to + r * EvRing::SH_ROW + i * 512 + lane * 16, q + r * N_FF);
            const char* d = (const char*)m.d + ((int64_t)row0 + r_of) * (N_FF / 16) + p0 + half * 16;
            if (r_of < rows && p0 + half * 16 < N_FF / 16) cp_async16(to + rows * EvRing::SH_ROW + r_of * EvRing::SH_D + i * 32 + half * 16, d);
        }
    }
    // Sum i is of row i or, of two tokens, of row i % 2 and token i / 2.
    static __device__ __forceinline__ void dot(const unsigned char* from, int rows, int part, const EvRing::Acts* acts, float (&y)[4]) {
        const int lane = threadIdx.x & 31;
#pragma unroll
        for (int i = 0; i < EvRing::SH_STEPS; i++) {
            const int p = i * 128 + part * 32 + lane;
            if (N_FF % 2048 != 0 && p >= N_FF / 16) continue;
            const EvType<TY_Q8_0>::X x = {*(const uint4*)(acts->sq + p * 16), acts->sd[p >> 1]};
            EvType<TY_Q8_0>::X other = x;
            if (rows == 2) other = {*(const uint4*)(acts[1].sq + p * 16), acts[1].sd[p >> 1]};
#pragma unroll
            for (int r = 0; r < EvRing::R; r++) {
                const int row = rows == 2 ? r & 1 : r;
                const unsigned char* d = from + rows * EvRing::SH_ROW + row * EvRing::SH_D + i * 32 + (lane >> 1) * 2;
                const EvType<TY_Q8_0>::W w = {*(const uint4*)(from + row * EvRing::SH_ROW + i * 512 + lane * 16), *(const uint16_t*)d};
                y[r] = EvType<TY_Q8_0>::dot(w, r < 2 ? x : other, y[r]);
            }
        }
    }
};

// What a block of exp_down_ring_q2k works on, and where.
struct EvRingBlock {
    int groups, group, warp, tokens, t0, turns, first, step, stages;
    bool is_shared, ints;
    EvRing::Acts* acts;  // of each token
    float* part;         // [2][EV_RING_TURNS][groups * OF][R]
    unsigned char* ring;
    int stage;  // bytes

    __device__ __forceinline__ EvRingBlock(unsigned char* space, const Mat& shared, int T, int n_stages) {
        typedef EvRing D;
        stages = n_stages;
        groups = (blockDim.x >> 5) / D::OF, group = (threadIdx.x >> 5) / D::OF, warp = (threadIdx.x >> 5) % D::OF;
        tokens = gridDim.y < T ? 2 : 1, t0 = blockIdx.y * tokens;
        const int sets = tokens == 2 ? 1 : groups;  // of rows
        first = blockIdx.x * sets + (tokens == 2 ? 0 : group), step = gridDim.x * sets;
        turns = (D::UNITS - (int)blockIdx.x * sets + step - 1) / step;
        is_shared = warp < D::SH, ints = shared.type == TY_Q8_0;
        acts = (D::Acts*)space;
        part = (float*)(space + tokens * sizeof(D::Acts));
        const int of_shared = rows() * (D::SH_ROW + D::SH_D), of_group = D::SH * of_shared + N_USED * D::ROUTED;
        stage = is_shared ? of_shared : D::ROUTED;
        ring = (unsigned char*)part + groups * D::PART +
               stages * (group * of_group + (is_shared ? warp * of_shared : D::SH * of_shared + (warp - D::SH) * D::ROUTED));
    }
    // Of the shared expert in a turn of a warp.
    __device__ __forceinline__ int rows() const { return tokens == 2 ? 2 : 4; }
    __device__ __forceinline__ unsigned char* after(unsigned char* at) const {
        return at == ring + (stages - 1) * stage ? ring : at + stage;
    }
    __device__ __forceinline__ int unit(int turn) const { return first + turn * step; }
    // The token of the warp, one that exists.
    __device__ __forceinline__ int token(int T) const { return min(t0 + (tokens == 2 ? group : 0), T - 1); }
    __device__ __forceinline__ float* sums(int turn, int slot) const {
        return part + (turn % (2 * EV_RING_TURNS) * groups * EvRing::OF + slot) * EvRing::R;
    }
    // Adds up the last turns, `turn` the very last: the shared expert, then the routed ones in their order.
    __device__ __forceinline__ void finish(int turn, int T, float* y) const {
        __syncthreads();
        const int i = threadIdx.x, r = i % EvRing::R, g = i / EvRing::R % groups, at = turn / EV_RING_TURNS * EV_RING_TURNS + i / EvRing::R / groups;
        if (i >= EV_RING_TURNS * groups * EvRing::R || at > turn) return;
        const int u = (tokens == 2 ? first : first - group + g) + at * step, t = t0 + (tokens == 2 ? g : 0);
        if (u >= EvRing::UNITS || t >= T) return;
        const float* from = sums(at, g * EvRing::OF) + r;
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < EvRing::OF; k++) sum += from[k * EvRing::R];
        y[(int64_t)t * N_EMBD + u * EvRing::R + r] = sum;
    }
};

__device__ __forceinline__ void ev_ring_shared(const EvRingBlock& b, const Mat& shared, const float* shared_mid, int T, float* y) {
    typedef EvRing D;
    const int lane = threadIdx.x & 31, part = b.warp, rows = b.rows(), more = b.tokens == 2 ? 2 * b.group : 0;
    const EvActs a = {0, 0, 0, shared_mid + (int64_t)b.token(T) * N_FF};
    unsigned char* at = b.ring;
    for (int turn = 0; turn < b.turns; turn++) {
        const int u = b.unit(turn), later = b.unit(turn + b.stages), i = lane >> 3;
        int slot = b.group * D::OF + part, r = i;
        float v[4] = {};
        if (b.ints) {
            ev_ring_wait(b.stages);
            if (u < D::UNITS) EvRingShared::dot(at, rows, part, b.acts, v);
            if (b.tokens == 2) slot = (i >> 1) * D::OF + part, r = more + (i & 1);
            __syncwarp();
            if (later < D::UNITS) EvRingShared::copy(at, shared, later * D::R + more, rows, part);
            cp_async_commit();
            at = b.after(at);
        } else if (u < D::UNITS && shared.type == TY_F16) {
            EvRows<TY_F16, N_FF, D::SH, 4> f;
            f.load(shared, u * D::R, part);
            f.dot(shared, u * D::R, part, a, v);
        } else if (u < D::UNITS) {
            EvRows<TY_F32, N_FF, D::SH, 4> f;
            f.load(shared, u * D::R, part);
            f.dot(shared, u * D::R, part, a, v);
        }
        const float sum = ev_sum4(v);
        if (lane % 8 == 0) b.sums(turn, slot)[r] = sum;
        if ((turn + 1) % EV_RING_TURNS == 0 || turn + 1 == b.turns) b.finish(turn, T, y);
    }
}

__device__ __forceinline__ void ev_ring_routed(const EvRingBlock& b, const Mat& down, int64_t base, int T, float* y) {
    typedef EvRing D;
    const int lane = threadIdx.x & 31, k = b.warp - D::SH;
    const D::Acts& s = b.acts[b.tokens == 2 ? b.group : 0];
    const EvActs a = {s.q[k], s.d[k], s.sums[k], 0};
    D::E::X x = {};
    if (D::STEPS == 1 && lane < D::PIECES) x = D::E::acts(a, lane);
    unsigned char* at = b.ring;
#pragma unroll 1
    for (int turn = 0; turn < b.turns; turn++) {
        const int later = b.unit(turn + b.stages);
        float v[4] = {};
        ev_ring_wait(b.stages);
        if (b.unit(turn) < D::UNITS) {
#pragma unroll
            for (int i = 0; i < D::STEPS; i++) {
                const int p = i * 32 + lane;
                if (D::PIECES % 32 != 0 && p >= D::PIECES) continue;
                EvRingRouted::dot(at, p, D::STEPS == 1 ? x : D::E::acts(a, p), v);
            }
        }
        __syncwarp();
        if (later < D::UNITS) EvRingRouted::copy(at, down, base + later * D::R);
        cp_async_commit();
        at = b.after(at);
        const float sum = ev_sum4(v);
        if (lane % 8 == 0) b.sums(turn, b.group * D::OF + b.warp)[lane >> 3] = sum;
        if ((turn + 1) % EV_RING_TURNS == 0 || turn + 1 == b.turns) b.finish(turn, T, y);
    }
}

// As exp_down_q2k. Block: g * 32 * (4 + N_USED) threads, g = 1 or 2. Grid: (n, T), or of g = 2 also
// (n, ceil(T / 2)) for two tokens a block, for T > 1. Shared memory: see `Ring` in experts.rs; `stages`, of 1 to
// 4, are the turns that it holds.
extern "C" __global__ void __launch_bounds__(64 * EvRing::OF)
    exp_down_ring_q2k(const __grid_constant__ Mat down, const int* ids, const float* mid, const __grid_constant__ Mat shared,
                      const float* shared_mid, float* y, int T, int early, const __grid_constant__ Ahead ahead, int stages) {
    typedef EvRing D;
    DS4_DYN_SMEM(unsigned char, space);
    const EvRingBlock b(space, shared, T, stages);
    pdl_go();
    fetch_ahead(ahead);
    int64_t base = 0;
    if (!b.is_shared) {
        if (!early) pdl_wait();
        base = ev_id(ids + b.token(T) * N_USED + b.warp - D::SH) * N_EMBD;
    }
    const auto fill = [&](int from, int to) {
        for (int i = from; i < to; i++) {
            const int u = b.unit(i);
            unsigned char* at = b.ring + i * b.stage;
            if (u < D::UNITS && !b.is_shared) EvRingRouted::copy(at, down, base + u * D::R);
            if (u < D::UNITS && b.is_shared && b.ints)
                EvRingShared::copy(at, shared, u * D::R + (b.tokens == 2 ? 2 * b.group : 0), b.rows(), b.warp);
            cp_async_commit();
        }
    };
    // Not all: the activations arrive behind the weights that were asked for before them.
    const int before = stages / 2;
    fill(0, before);
    pdl_wait();
    for (int i = 0; i < b.tokens; i++) {
        const int64_t t = min(b.t0 + i, T - 1);
        b.acts[i].quantise(mid + t * N_USED * N_FF, shared_mid + t * N_FF, b.ints);
    }
    fill(before, stages);
    __syncthreads();
    if (b.is_shared) ev_ring_shared(b, shared, shared_mid, T, y);
    else ev_ring_routed(b, down, base, T, y);
}
DS4_REGISTER(exp_down_ring_q2k)
#endif
