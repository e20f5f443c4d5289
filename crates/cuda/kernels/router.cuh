// The choice of experts (architecture.md 2.9), and the order of tokens by expert for prefill.
#pragma once
#include "hc.cuh"

// ln(1 + e^z), without overflow and without losing small values.
__device__ __forceinline__ float softplus(float z) {
    return z > 20.0f ? z : z < -20.0f ? expf(z) : log1pf(expf(z));
}

// How tokens choose their experts.
struct RouteArgs {
    const Tok* toks;
    const uint16_t* hash;  // [N_VOCAB][N_USED] or null: choices by token
    const float* bias;     // [N_EXPERT], where there is no hash
    int* ids;              // [T][N_USED]
    float* weights;        // [T][N_USED]
    float scale;
    int pad;
};

// Experts and weights of token `t` by one warp: lane l holds experts l, l + 32, ... Its logits are
// replaced by the scores; they are read past the first-level cache, as other blocks of the same
// kernel may have written them.
__device__ __forceinline__ void route_token(const RouteArgs& a, float* logits, int t) {
    constexpr int PER = (N_EXPERT + 31) / 32;
    const int lane = threadIdx.x & 31;
    logits += (size_t)t * N_EXPERT;
    // All loads first: the stores below would keep later ones waiting.
    const int named = a.hash && lane < N_USED ? a.hash[(size_t)a.toks[t].id * N_USED + lane] : 0;
    float s[PER], bias[PER];
    uint32_t key[PER];
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int e = min(lane + i * 32, N_EXPERT - 1);
        s[i] = __ldcg(logits + e);
        bias[i] = a.hash ? 0.0f : a.bias[e];
    }
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int e = lane + i * 32;
        key[i] = 0;
        if (e >= N_EXPERT) continue;
        s[i] = sqrtf(softplus(s[i]));
        logits[e] = s[i];
        // The larger key wins, of equal ones the lower expert. Not-a-number ranks highest, as in a
        // total order, so a damaged model never makes one expert out of two choices. A key of 0,
        // that of one not-a-number, is kept for experts already taken.
        const uint32_t bits = __float_as_uint(s[i] + bias[i]);
        key[i] = max(bits >> 31 ? ~bits : bits | 0x80000000u, 1u);
    }
    int mine = 0;
    float weight = 0.0f, sum = 0.0f;
#pragma unroll 1
    for (int k = 0; k < N_USED; k++) {
        int id;
        if (a.hash) {
            id = __shfl_sync(FULL, named, k);
        } else {
            uint32_t best = key[0];
            int at = 0;
#pragma unroll
            for (int i = 1; i < PER; i++)
                if (key[i] > best) best = key[i], at = i;
            const uint32_t most = __reduce_max_sync(FULL, best);
            id = (int)__reduce_min_sync(FULL, best == most ? (uint32_t)(at * 32 + lane) : 0x7fffffffu);
#pragma unroll
            for (int i = 0; i < PER; i++)
                if (id == lane + i * 32) key[i] = 0;
        }
        // The score of the chosen one, from the lane that holds it.
        float own = 0.0f;
#pragma unroll
        for (int i = 0; i < PER; i++)
            if (id / 32 == i) own = s[i];
        own = __shfl_sync(FULL, own, id & 31);
        if (lane == k) mine = id, weight = own;
        sum += own;
    }
    const float factor = a.scale / fmaxf(sum, 1.0f / 16384.0f);
    if (lane < N_USED) {
        a.ids[(size_t)t * N_USED + lane] = mine;
        a.weights[(size_t)t * N_USED + lane] = weight * factor;
    }
}

// Experts and weights of every token. grid (tokens), block 32. logits: [T][N_EXPERT].
DS4_KERNEL(route, 32)(const __grid_constant__ RouteArgs a, float* logits) {
    pdl_wait();
    pdl_go();
    route_token(a, logits, blockIdx.x);
}
DS4_REGISTER(route)

// Exclusive sums over a block of 1024 threads. `space` has 32 ints of shared memory.
__device__ __forceinline__ int block_before(int v, int* space) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int sum = v;
#pragma unroll
    for (int o = 1; o < WARP; o *= 2) {
        const int other = __shfl_up_sync(FULL, sum, o);
        if (lane >= o) sum += other;
    }
    __syncthreads();
    if (lane == 31) space[warp] = sum;
    __syncthreads();
    const int before = warp_sum_i(lane < warp ? space[lane] : 0);
    return before + sum - v;
}

// Slots of the step's choices, expert by expert, tokens in order. One block of 1024 threads: warps
// have consecutive pieces of the choices, count them by expert, and place them once it is known
// where each piece's choices of each expert begin.
// ids: [n] choices (token · N_USED + k); first: [N_EXPERT + 1]; token_of, weight_of: by slot;
// slot_of: by choice; tiles: {expert, first slot} of pieces of at most `tile` slots, n_tiles of them.
#define SORT_PIECES (8192 / N_EXPERT < 32 ? 8192 / N_EXPERT : 32)
DS4_KERNEL(sort_experts, 1024)(const int* ids, const float* weights, int n, int tile, int* first, int* token_of,
                         float* weight_of, int* slot_of, int2* tiles, int* n_tiles) {
    __shared__ int count[SORT_PIECES][N_EXPERT], space[32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, e = threadIdx.x;
    const int per = (n + SORT_PIECES * WARP - 1) / (SORT_PIECES * WARP) * WARP;
    const int begin = min(warp * per, n), end = warp < SORT_PIECES ? min(begin + per, n) : begin;
    for (int i = threadIdx.x; i < SORT_PIECES * N_EXPERT; i += blockDim.x) count[i / N_EXPERT][i % N_EXPERT] = 0;
    pdl_wait();
    __syncthreads();
#pragma unroll 4
    for (int i = begin + lane; i < end; i += WARP) atomicAdd(&count[warp][ids[i]], 1);
    __syncthreads();
    int all = 0;
    if (e < N_EXPERT)
        for (int p = 0; p < SORT_PIECES; p++) all += count[p][e];
    const int own_tiles = (all + tile - 1) / tile;
    const int start = block_before(all, space), tile_at = block_before(own_tiles, space);
    if (e < N_EXPERT) {
        first[e] = start;
        if (e == N_EXPERT - 1) first[N_EXPERT] = start + all, *n_tiles = tile_at + own_tiles;
        for (int i = 0; i < own_tiles; i++) tiles[tile_at + i] = make_int2(e, start + i * tile);
        int at = start;
        for (int p = 0; p < SORT_PIECES; p++) {
            const int own = count[p][e];
            count[p][e] = at;
            at += own;
        }
    }
    __syncthreads();
    // The next choices are on their way while some are placed.
    int next = begin + lane < end ? ids[begin + lane] : -1;
    for (int i0 = begin; i0 < end; i0 += WARP) {
        const int i = i0 + lane, id = next;
        next = i + WARP < end ? ids[i + WARP] : -1;
        const float weight = id >= 0 ? weights[i] : 0.0f;
        const uint32_t alike = lanes_alike(id);
        const int at = id >= 0 ? count[warp][id] + __popc(alike & ((1u << lane) - 1)) : 0;
        __syncwarp();
        if (id >= 0) {
            // The last of those alike knows where the next one comes.
            if (alike >> lane == 1) count[warp][id] = at + 1;
            token_of[at] = i / N_USED;
            weight_of[at] = weight;
            slot_of[i] = at;
        }
        __syncwarp();
    }
}
DS4_REGISTER(sort_experts)

// y[t] += sum of its experts' outputs, in the order of its choices. grid (T, pieces of 1024), block
// 256: a thread has four values, N_EMBD is a multiple of 4.
DS4_KERNEL(sum_experts, 256)(const float* down, const int* slot_of, float* y) {
    const int t = blockIdx.x, d = blockIdx.y * 1024 + threadIdx.x * 4;
    pdl_wait();
    pdl_go();
    if (d >= N_EMBD) return;
    float4* to = (float4*)(y + (size_t)t * N_EMBD + d);
    float4 sum = *to, v[N_USED];
#pragma unroll
    for (int k = 0; k < N_USED; k++) v[k] = *(const float4*)(down + (size_t)slot_of[t * N_USED + k] * N_EMBD + d);
#pragma unroll
    for (int k = 0; k < N_USED; k++) sum.x += v[k].x, sum.y += v[k].y, sum.z += v[k].z, sum.w += v[k].w;
    *to = sum;
}
DS4_REGISTER(sum_experts)

// mid = swiglu(gate, up) of the shared expert in prefill. grid-stride over n values.
DS4_KERNEL(swiglu_rows)(const float* gate, const float* up, float clamp, float* mid, int64_t n) {
    pdl_wait();
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const float a = fminf(gate[i], clamp), b = fminf(fmaxf(up[i], -clamp), clamp);
        mid[i] = a / (1.0f + expf(-a)) * b;
    }
}
DS4_REGISTER(swiglu_rows)
