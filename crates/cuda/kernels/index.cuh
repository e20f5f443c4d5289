// The choice of compressed rows in indexed layers (architecture.md 2.8).
#pragma once
#include "rows.cuh"

// Heads that one block of `index_query` takes.
#define IDX_QUERY_HEADS 8

// A head's query by one warp: a lane has PER consecutive values.
template <int PER> __device__ __forceinline__ void index_query_head(const float* q, const float* turns, __nv_bfloat16* out) {
    static_assert(PER % 2 == 0 && PER * WARP == IDX_DIM, "whole pairs of all channels");
    const int lane = threadIdx.x & 31, c0 = lane * PER;
    float2 v[PER / 2];
#pragma unroll
    for (int i = 0; i < PER / 2; i++) {
        v[i] = ((const float2*)(q + c0))[i];
        const int c = c0 + 2 * i - (IDX_DIM - ROPE_DIM);
        if (c >= 0) {
            const float2 turn = *(const float2*)(turns + c);
            v[i] = make_float2(v[i].x * turn.x - v[i].y * turn.y, v[i].x * turn.y + v[i].y * turn.x);
        }
    }
#if IDX_FP4
    // Hadamard rotation: pairs, pairs of pairs, then over the lanes.
#pragma unroll
    for (int i = 0; i < PER / 2; i++) v[i] = make_float2(v[i].x + v[i].y, v[i].x - v[i].y);
    if (PER == 4) {
        const float2 a = v[0], b = v[PER / 2 - 1];
        v[0] = make_float2(a.x + b.x, a.y + b.y), v[PER / 2 - 1] = make_float2(a.x - b.x, a.y - b.y);
    }
    const float scale = (float)(1.0 / sqrt((double)IDX_DIM));
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < PER / 2; i++) {
#pragma unroll
        for (int o = 1; o < WARP; o *= 2) {
            const float2 other = make_float2(__shfl_xor_sync(FULL, v[i].x, o), __shfl_xor_sync(FULL, v[i].y, o));
            v[i] = lane & o ? make_float2(other.x - v[i].x, other.y - v[i].y) : make_float2(v[i].x + other.x, v[i].y + other.y);
        }
        v[i].x *= scale, v[i].y *= scale;
        most = fmaxf(most, fmaxf(fabsf(v[i].x), fabsf(v[i].y)));
    }
    // The largest of the 32 values that share a scale.
#pragma unroll
    for (int o = 1; o < 32 / PER; o *= 2) most = fmaxf(most, __shfl_xor_sync(FULL, most, o));
#pragma unroll
    for (int i = 0; i < PER / 2; i++) v[i] = make_float2(fp4_value(v[i].x, most), fp4_value(v[i].y, most));
#endif
#pragma unroll
    for (int i = 0; i < PER / 2; i++) ((__nv_bfloat162*)(out + c0))[i] = __float22bfloat162_rn(v[i]);
}

// Rotates and rounds the queries of the indexer. grid (T, ⌈IDX_HEADS/IDX_QUERY_HEADS⌉), 256 threads.
// q: [T][IDX_HEADS][IDX_DIM] f32 in; out: the same in bf16, which holds E2M1 values exactly (and
// f32 queries of numerics without that rounding to 8 bits).
DS4_KERNEL(index_query, 32 * IDX_QUERY_HEADS)(const float* q, const float* turns, __nv_bfloat16* out) {
    const int head0 = blockIdx.y * IDX_QUERY_HEADS;
    pdl_wait();
    pdl_go();
    turns += (size_t)blockIdx.x * ROPE_DIM;
#if IDX_DIM == 64 || IDX_DIM == 128
    const int head = head0 + (threadIdx.x >> 5);
    const size_t at = ((size_t)blockIdx.x * IDX_HEADS + head) * IDX_DIM;
    if (head < IDX_HEADS) index_query_head<IDX_DIM / WARP>(q + at, turns, out + at);
#else
    __shared__ float row[IDX_DIM];
    for (int head = head0; head < min(head0 + IDX_QUERY_HEADS, IDX_HEADS); head++) {
        const size_t at = ((size_t)blockIdx.x * IDX_HEADS + head) * IDX_DIM;
        __syncthreads();
        for (int d = threadIdx.x; d < IDX_DIM; d += blockDim.x) row[d] = q[at + d];
        __syncthreads();
        rotate_row(row, IDX_DIM, turns);
        fp4_row(row, IDX_DIM);
        for (int d = threadIdx.x; d < IDX_DIM; d += blockDim.x) out[at + d] = __float2bfloat16(row[d]);
    }
#endif
}
DS4_REGISTER(index_query)

// Rows that one block of `index_scores` visits at a time; a warp has 16 of them.
#define IDX_ROWS 64
// Heads are padded to whole tiles of 8.
#define IDX_HEADS_8 ((IDX_HEADS + 7) / 8 * 8)

// A token's queries in shared memory; the padding keeps ldmatrix free of bank conflicts.
struct IndexQueries {
    static constexpr int PITCH = (IDX_DIM + 15) / 16 * 16 + 8;
    __nv_bfloat16 q[IDX_HEADS_8][PITCH];
    float weight[IDX_HEADS_8];

    // Starts the copy of token t's.
    __device__ __forceinline__ void copy(const __nv_bfloat16* from, const float* weights, int t) {
        constexpr int CHUNKS = IDX_DIM / 8;
        from += (size_t)t * IDX_HEADS * IDX_DIM;
        for (int i = threadIdx.x; i < IDX_HEADS_8 * CHUNKS; i += blockDim.x) {
            const int h = i / CHUNKS, c = i % CHUNKS * 8;
            cp_async16(&q[h][c], from + (h < IDX_HEADS ? h * IDX_DIM + c : 0), h < IDX_HEADS);
        }
        const float scale = (float)(1.0 / sqrt((double)IDX_HEADS * IDX_DIM));
        for (int h = threadIdx.x; h < IDX_HEADS_8; h += blockDim.x) weight[h] = h < IDX_HEADS ? weights[(size_t)t * IDX_HEADS + h] * scale : 0.0f;
    }
};

// score[t][w] = scale · sum_h weight[t][h]·max(0, q_h·k_w) of every visible row w of a token; other
// scores are not written. Tokens that see all their rows anyway are left out unless `all` is set.
// grid (row tiles, token groups), block 128: four warps of 16 rows. Rows are the M dimension of the
// products, heads N, so the sum over heads stays in a thread and its quad. A warp keeps its rows in
// registers over the tokens of its group, whose queries come one ahead.
DS4_KERNEL(index_scores, 128)(const __nv_bfloat16* q, const float* weights, const Tok* toks, const SeqLayer* table,
                         int places, int place, int n_tok, int all, float* scores, int64_t stride) {
    constexpr int STEPS = IDX_DIM / 16;
    __shared__ __align__(16) IndexQueries queries[2];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int quad = lane >> 2, in_quad = lane & 3;
    pdl_wait();
    pdl_go();
    // The first token from t on whose rows from r on are wanted.
    const auto wanted = [&](int t, int r) {
        for (; t < n_tok; t += gridDim.y) {
            const int rows = (toks[t].pos + 1) / 4;
            if ((rows > IDX_TOPK || all) && r < rows) break;
        }
        return t;
    };
    int held = -1;  // the token in the first buffer
    for (int first = blockIdx.x * IDX_ROWS;; first += gridDim.x * IDX_ROWS) {
        int t = wanted(blockIdx.y, first), turn = 0, seq = -1;
        if (t >= n_tok) break;
        __syncthreads();
        if (held != t) queries[0].copy(q, weights, t);
        held = t;
        cp_async_commit();
        uint32_t a[STEPS][4];
        const int r0 = first + warp * 16;
        for (; t < n_tok; turn ^= 1) {
            const Tok tok = toks[t];
            const int rows = (tok.pos + 1) / 4, next = wanted(t + gridDim.y, first);
            cp_async_wait<0>();
            __syncthreads();
            if (next < n_tok) {
                queries[turn ^ 1].copy(q, weights, next);
                if (turn) held = next;
            }
            cp_async_commit();
            if (tok.seq != seq) {
                seq = tok.seq;
                const uint8_t* idx = table[(size_t)seq * places + place].idx;
                const int exist = (tok.pos0 + tok.n) / 4;  // with this step's
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    // Fragment of m16n8k16: rows quad and quad + 8, columns 2·in_quad and + 8.
                    const int r = r0 + quad + i * 8;
                    uint32_t v[STEPS][2];
                    idx_load(v, idx, r, in_quad, r < exist);
#pragma unroll
                    for (int k = 0; k < STEPS; k++) a[k][i] = v[k][0], a[k][2 + i] = v[k][1];
                }
            }
            const IndexQueries& tile = queries[turn];
            float sum[2] = {0.0f, 0.0f};
#pragma unroll 2
            for (int h0 = 0; h0 < IDX_HEADS_8; h0 += 8) {
                // Two chains of sums, of even and of odd steps.
                float c[2][4] = {};
#pragma unroll
                for (int k = 0; k < STEPS; k += 2) {
                    // Past the last step's columns there is padding.
                    uint32_t b[4];
                    ldmatrix_x4(b, &tile.q[h0 + (lane & 7)][k * 16 + (k + 1 < STEPS || lane < 16 ? lane >> 3 : 0) * 8]);
                    mma_bf16(c[0], a[k], b, c[0]);
                    if (k + 1 < STEPS) mma_bf16(c[1], a[k + 1 < STEPS ? k + 1 : k], b + 2, c[1]);
                }
                const float w0 = tile.weight[h0 + in_quad * 2], w1 = tile.weight[h0 + in_quad * 2 + 1];
                sum[0] += w0 * fmaxf(c[0][0] + c[1][0], 0.0f) + w1 * fmaxf(c[0][1] + c[1][1], 0.0f);
                sum[1] += w0 * fmaxf(c[0][2] + c[1][2], 0.0f) + w1 * fmaxf(c[0][3] + c[1][3], 0.0f);
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                sum[i] += __shfl_xor_sync(FULL, sum[i], 1);
                sum[i] += __shfl_xor_sync(FULL, sum[i], 2);
                const int r = r0 + quad + i * 8;
                if (in_quad == 0 && r < rows) scores[(int64_t)t * stride + r] = sum[i];
            }
            t = next;
        }
    }
}
DS4_REGISTER(index_scores)

// Unsigned numbers in the order of the floats; both zeros are one.
__device__ __forceinline__ uint32_t ascending(float x) {
    const uint32_t bits = __float_as_uint(x + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Sum of `v` over the threads before this one, of a block of TOPK_THREADS; `all` receives the sum over
// all. `space` has 32 ints.
#define TOPK_THREADS 1024
__device__ __forceinline__ int sum_before(int v, int* space, int& all) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int sum = v;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
        const int other = __shfl_up_sync(FULL, sum, o);
        if (lane >= o) sum += other;
    }
    __syncthreads();
    if (lane == 31) space[warp] = sum;
    __syncthreads();
    int before = space[lane];
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
        const int other = __shfl_up_sync(FULL, before, o);
        if (lane >= o) before += other;
    }
    all = __shfl_sync(FULL, before, 31);
    const int of_warps = __shfl_sync(FULL, before, warp > 0 ? warp - 1 : 0);
    return sum - v + (warp > 0 ? of_warps : 0);
}

// Keys a thread keeps in registers: with more rows they are read again in every pass.
#define TOPK_KEEP 16

// The IDX_TOPK rows of largest score of each token, ascending; of equal scores the lower row. Tokens
// with no more rows than that are left out. One block a token; a thread has consecutive rows. The key
// of the last chosen row is found digit by digit (11, 11 and 10 bits), then every thread knows from
// two sums how many rows before its own are taken.
DS4_KERNEL(index_topk, TOPK_THREADS)(const float* scores, int64_t stride, const Tok* toks, int* chosen) {
    constexpr int BINS = 2048;
    __shared__ int count[BINS], space[32], found[2];
    const int t = blockIdx.x, lane = threadIdx.x & 31;
    pdl_wait();
    pdl_go();
    const int n = (toks[t].pos + 1) / 4;
    if (n <= IDX_TOPK) return;
    const float* s = scores + (int64_t)t * stride;
    const int per = (n + TOPK_THREADS - 1) / TOPK_THREADS, first = threadIdx.x * per;
    const int own = max(0, min(per, n - first));
    const bool kept = per <= TOPK_KEEP;
    uint32_t keys[TOPK_KEEP];
#pragma unroll
    for (int i = 0; i < TOPK_KEEP; i++) keys[i] = kept && i < own ? ascending(s[first + i]) : 0;
    // Calls f(number, key, exists) of the rows of this thread, the same number of times in all of them.
#define TOPK_EACH(f)                                                              \
    if (kept) {                                                                   \
        _Pragma("unroll") for (int i = 0; i < TOPK_KEEP; i++) if (i < per) f(i, keys[i], i < own); \
    } else {                                                                      \
        for (int i = 0; i < per; i++) f(i, i < own ? ascending(s[first + i]) : 0u, i < own); \
    }
    uint32_t prefix = 0, mask = 0;
    int left = IDX_TOPK;
    for (int pass = 0; pass < 3; pass++) {
        const int shift = pass == 0 ? 21 : pass == 1 ? 10 : 0, digits = pass == 2 ? 1024 : BINS;
        for (int i = threadIdx.x; i < BINS; i += TOPK_THREADS) count[i] = 0;
        __syncthreads();
        auto add = [&](int, uint32_t key, bool exists) {
            const bool mine = exists && (key & mask) == prefix;
            const int bin = (int)(key >> shift) & (digits - 1);
            if (pass == 0) {
                // Scores have few exponents: lanes of one bin add together.
                const uint32_t same = lanes_alike(mine ? bin : BINS + lane);
                if (mine && (same & ((1u << lane) - 1)) == 0) atomicAdd(&count[bin], __popc(same));
            } else if (mine) {
                atomicAdd(&count[bin], 1);
            }
        };
        TOPK_EACH(add)
        __syncthreads();
        // The digit at which the count from above reaches what is left: two bins a thread.
        const int hi = BINS - 1 - 2 * threadIdx.x, a = count[hi], b = count[hi - 1];
        int all;
        const int before = sum_before(a + b, space, all);
        if (before < left && before + a + b >= left) {
            const bool upper = before + a >= left;
            found[0] = upper ? hi : hi - 1;
            found[1] = left - before - (upper ? 0 : a);
        }
        __syncthreads();
        prefix |= (uint32_t)found[0] << shift;
        mask |= (uint32_t)(digits - 1) << shift;
        left = found[1];
    }
    // All larger keys and the first `left` equal ones.
    int larger = 0, equal = 0, all;
    auto tally = [&](int, uint32_t key, bool exists) {
        larger += exists && key > prefix;
        equal += exists && key == prefix;
    };
    TOPK_EACH(tally)
    int rank = sum_before(equal, space, all);
    int at = sum_before(larger + max(0, min(equal, left - rank)), space, all);
    auto take = [&](int i, uint32_t key, bool exists) {
        if (!exists || key < prefix) return;
        if (key == prefix && rank++ >= left) return;
        chosen[(size_t)t * IDX_TOPK + at++] = first + i;
    };
    TOPK_EACH(take)
}
DS4_REGISTER(index_topk)
