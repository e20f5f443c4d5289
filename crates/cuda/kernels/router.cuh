// The choice of experts (architecture.md 2.9), and the order of tokens by expert for prefill.
#pragma once
#include "hc.cuh"

// ln(1 + e^z), without overflow and without losing small values.
__device__ __forceinline__ float softplus(float z) {
    return z > 20.0f ? z : z < -20.0f ? expf(z) : log1pf(expf(z));
}

// Experts and weights of every token. grid (tokens), block 32: lane l holds experts l, l + 32, ...
// logits: [T][N_EXPERT], replaced by the scores; hash: [N_VOCAB][N_USED] or null; bias: [N_EXPERT].
DS4_KERNEL(route, 32)(float* logits, const Tok* toks, const uint16_t* hash, const float* bias, float scale,
                  int* ids, float* weights) {
    constexpr int PER = (N_EXPERT + 31) / 32;
    const int t = blockIdx.x, lane = threadIdx.x;
    float b[PER];
#pragma unroll
    for (int i = 0; i < PER; i++) b[i] = !hash && lane + i * 32 < N_EXPERT ? bias[lane + i * 32] : 0.0f;
    pdl_wait();
    pdl_go();
    float s[PER];
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int e = lane + i * 32;
        s[i] = e < N_EXPERT ? sqrtf(softplus(logits[(size_t)t * N_EXPERT + e])) : 0.0f;
        if (e < N_EXPERT) logits[(size_t)t * N_EXPERT + e] = s[i];
    }
    int id[N_USED];
    float w[N_USED], sum = 0.0f;
    uint32_t taken = 0;
#pragma unroll
    for (int k = 0; k < N_USED; k++) {
        if (hash) {
            id[k] = hash[(size_t)toks[t].id * N_USED + k];
        } else {
            // The larger key wins, of equal values the lower expert. Not-a-number ranks highest, as
            // in a total order, so a damaged model never makes one expert out of two choices.
            uint64_t best = 0;
#pragma unroll
            for (int i = 0; i < PER; i++) {
                const int e = lane + i * 32;
                const uint32_t bits = __float_as_uint(s[i] + b[i]);
                const uint32_t key = bits >> 31 ? ~bits : bits | 0x80000000u;
                if (e < N_EXPERT && !(taken >> i & 1)) {
                    const uint64_t full = (uint64_t)key << 32 | (uint32_t)(0x7fffffff - e);
                    if (full > best) best = full;
                }
            }
#pragma unroll
            for (int o = 16; o; o >>= 1) {
                const uint64_t other = __shfl_xor_sync(FULL, best, o);
                if (other > best) best = other;
            }
            id[k] = 0x7fffffff - (int)(uint32_t)best;
            if ((id[k] & 31) == lane) taken |= 1u << (id[k] / 32);
        }
        // The score of the chosen one, from the lane that holds it.
        float own = 0.0f;
#pragma unroll
        for (int i = 0; i < PER; i++)
            if (id[k] / 32 == i) own = s[i];
        w[k] = __shfl_sync(FULL, own, id[k] & 31);
        sum += w[k];
    }
    const float factor = scale / fmaxf(sum, 1.0f / 16384.0f);
    if (lane < N_USED) {
        int mine = 0;
        float weight = 0.0f;
#pragma unroll
        for (int k = 0; k < N_USED; k++)
            if (k == lane) { mine = id[k]; weight = w[k] * factor; }
        ids[(size_t)t * N_USED + lane] = mine;
        weights[(size_t)t * N_USED + lane] = weight;
    }
}
DS4_REGISTER(route)

// Slots of the step's choices, expert by expert, tokens in order. One block of 1024 threads; a warp
// takes whole experts, so the order within one is that of the tokens.
// ids: [n] choices (token · N_USED + k); first: [N_EXPERT + 1]; token_of, weight_of: by slot;
// slot_of: by choice; tiles: {expert, first slot} of pieces of at most `tile` slots, n_tiles of them.
DS4_KERNEL(sort_experts, 1024)(const int* ids, const float* weights, int n, int tile, int* first, int* token_of,
                         float* weight_of, int* slot_of, int2* tiles, int* n_tiles) {
    __shared__ int count[N_EXPERT + 1], start[N_EXPERT + 1], tile_at[N_EXPERT + 1];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    pdl_wait();
    for (int e = threadIdx.x; e <= N_EXPERT; e += blockDim.x) count[e] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) atomicAdd(&count[ids[i]], 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        int at = 0, tiles_so_far = 0;
        for (int e = 0; e < N_EXPERT; e++) {
            start[e] = at;
            tile_at[e] = tiles_so_far;
            at += count[e];
            tiles_so_far += (count[e] + tile - 1) / tile;
        }
        start[N_EXPERT] = at;
        *n_tiles = tiles_so_far;
    }
    __syncthreads();
    for (int e = threadIdx.x; e <= N_EXPERT; e += blockDim.x) first[e] = start[e];
    for (int e = warp; e < N_EXPERT; e += warps) {
        for (int i = lane; i * tile < count[e]; i += 32) tiles[tile_at[e] + i] = make_int2(e, start[e] + i * tile);
        if (count[e] == 0) continue;
        int slot = start[e];
        for (int i0 = 0; i0 < n; i0 += 32) {
            const int i = i0 + lane;
            const bool mine = i < n && ids[i] == e;
            const uint32_t all = __ballot_sync(FULL, mine);
            if (mine) {
                const int at = slot + __popc(all & ((1u << lane) - 1));
                token_of[at] = i / N_USED;
                weight_of[at] = weights[i];
                slot_of[i] = at;
            }
            slot += __popc(all);
        }
    }
}
DS4_REGISTER(sort_experts)

// y[t] += sum of its experts' outputs, in the order of its choices. grid (T, pieces of 1024), block 256.
DS4_KERNEL(sum_experts)(const float* down, const int* slot_of, float* y) {
    const int t = blockIdx.x;
    pdl_wait();
    for (int d = blockIdx.y * 1024 + threadIdx.x; d < min(N_EMBD, (int)(blockIdx.y + 1) * 1024); d += blockDim.x) {
        float sum = y[(size_t)t * N_EMBD + d];
#pragma unroll
        for (int k = 0; k < N_USED; k++) sum += down[(size_t)slot_of[t * N_USED + k] * N_EMBD + d];
        y[(size_t)t * N_EMBD + d] = sum;
    }
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
