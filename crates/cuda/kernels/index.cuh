// The choice of compressed rows in indexed layers (architecture.md 2.8).
#pragma once
#include "rows.cuh"

// Rotates and rounds the queries of the indexer. grid (T, IDX_HEADS), block IDX_DIM (64..128).
// q: [T][IDX_HEADS][IDX_DIM] f32 in; out: the same in bf16, which holds E2M1 values exactly (and
// f32 queries of numerics without that rounding to 8 bits).
DS4_KERNEL(index_query, 128)(const float* q, const float* turns, __nv_bfloat16* out) {
    __shared__ float row[IDX_DIM];
    const size_t at = ((size_t)blockIdx.x * IDX_HEADS + blockIdx.y) * IDX_DIM;
    pdl_wait();
    pdl_go();
    for (int d = threadIdx.x; d < IDX_DIM; d += blockDim.x) row[d] = q[at + d];
    __syncthreads();
    rotate_row(row, IDX_DIM, turns + (size_t)blockIdx.x * ROPE_DIM);
    fp4_row(row, IDX_DIM);
    for (int d = threadIdx.x; d < IDX_DIM; d += blockDim.x) out[at + d] = __float2bfloat16(row[d]);
}
DS4_REGISTER(index_query)

// Rows that one block of `index_scores` visits; a warp has 16 of them.
#define IDX_ROWS 64
// Heads are padded to whole tiles of 8.
#define IDX_HEADS_8 ((IDX_HEADS + 7) / 8 * 8)

// score[t][w] = scale · sum_h weight[t][h]·max(0, q_h·k_w) of every visible row w of a token; other
// scores are not written. Tokens that see all their rows anyway are left out unless `all` is set.
// grid (row tiles, token groups), block 128: four warps of 16 rows. Rows are the M dimension of the
// products, heads N, so the sum over heads stays in a thread and its quad.
DS4_KERNEL(index_scores, 128)(const __nv_bfloat16* q, const float* weights, const Tok* toks, const SeqLayer* table,
                         int places, int place, int n_tok, int all, float* scores, int64_t stride) {
    constexpr int STEPS = IDX_DIM / 16;
    __shared__ __align__(16) __nv_bfloat16 tile[IDX_HEADS_8][IDX_DIM + 8];
    __shared__ float w_head[IDX_HEADS_8];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int quad = lane >> 2, in_quad = lane & 3;
    const float scale = (float)(1.0 / sqrt((double)IDX_HEADS * IDX_DIM));
    pdl_wait();
    pdl_go();
    for (int t = blockIdx.y; t < n_tok; t += gridDim.y) {
        const Tok tok = toks[t];
        const int rows = (tok.pos + 1) / 4;
        if ((rows <= IDX_TOPK && !all) || (int)blockIdx.x * IDX_ROWS >= rows) continue;
        __syncthreads();
        for (int i = threadIdx.x; i < IDX_HEADS_8 * IDX_DIM / 8; i += blockDim.x) {
            const int h = i / (IDX_DIM / 8), c = i % (IDX_DIM / 8) * 8;
            uint4 v = make_uint4(0, 0, 0, 0);
            if (h < IDX_HEADS) v = *(const uint4*)(q + ((size_t)t * IDX_HEADS + h) * IDX_DIM + c);
            *(uint4*)&tile[h][c] = v;
        }
        for (int h = threadIdx.x; h < IDX_HEADS_8; h += blockDim.x)
            w_head[h] = h < IDX_HEADS ? weights[(size_t)t * IDX_HEADS + h] * scale : 0.0f;
        __syncthreads();
        const kv_t* idx = table[(size_t)tok.seq * places + place].idx;
        for (int r0 = blockIdx.x * IDX_ROWS + warp * 16; r0 < rows; r0 += gridDim.x * IDX_ROWS) {
            uint32_t a[STEPS][4];
#pragma unroll
            for (int k = 0; k < STEPS; k++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    // Fragment of m16n8k16: rows quad and quad + 8, columns 2·in_quad and + 8.
                    const int r = r0 + quad + (i & 1) * 8, c = k * 16 + in_quad * 2 + (i >> 1) * 8;
                    float2 v = make_float2(0.0f, 0.0f);
                    if (r < rows) v = __half22float2(*(const half2*)(idx + (size_t)r * IDX_DIM + c));
                    const __nv_bfloat162 b = __float22bfloat162_rn(v);
                    a[k][i] = *(const uint32_t*)&b;
                }
            float sum[2] = {0.0f, 0.0f};
            for (int h0 = 0; h0 < IDX_HEADS_8; h0 += 8) {
                float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
                for (int k = 0; k < STEPS; k++) {
                    uint32_t b[2];
                    b[0] = *(const uint32_t*)&tile[h0 + quad][k * 16 + in_quad * 2];
                    b[1] = *(const uint32_t*)&tile[h0 + quad][k * 16 + in_quad * 2 + 8];
                    mma_bf16(c, a[k], b, c);
                }
                const float w0 = w_head[h0 + in_quad * 2], w1 = w_head[h0 + in_quad * 2 + 1];
                sum[0] += w0 * fmaxf(c[0], 0.0f) + w1 * fmaxf(c[1], 0.0f);
                sum[1] += w0 * fmaxf(c[2], 0.0f) + w1 * fmaxf(c[3], 0.0f);
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                sum[i] += __shfl_xor_sync(FULL, sum[i], 1);
                sum[i] += __shfl_xor_sync(FULL, sum[i], 2);
                const int r = r0 + quad + i * 8;
                if (in_quad == 0 && r < rows) scores[(int64_t)t * stride + r] = sum[i];
            }
        }
    }
}
DS4_REGISTER(index_scores)

// Unsigned numbers in the order of the floats; both zeros are one.
__device__ __forceinline__ uint32_t ascending(float x) {
    const uint32_t bits = __float_as_uint(x + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The IDX_TOPK rows of largest score of each token, ascending; of equal scores the lower row. Tokens
// with no more rows than that are left out. One block a token, 1024 threads: the value of the last
// chosen score is found digit by digit, then rows are picked in order.
#define TOPK_THREADS 1024
DS4_KERNEL(index_topk, TOPK_THREADS)(const float* scores, int64_t stride, const Tok* toks, int* chosen) {
    __shared__ int count[256];
    __shared__ int found[2], total[32], base[2];
    const int t = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    pdl_wait();
    pdl_go();
    const int n = (toks[t].pos + 1) / 4;
    if (n <= IDX_TOPK) return;
    const float* s = scores + (int64_t)t * stride;
    uint32_t prefix = 0, mask = 0;
    int left = IDX_TOPK;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += TOPK_THREADS) count[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += TOPK_THREADS) {
            const uint32_t key = ascending(s[i]);
            if ((key & mask) == prefix) atomicAdd(&count[(key >> shift) & 255], 1);
        }
        __syncthreads();
        // The digit at which the count from above reaches what is left.
        if (warp == 0) {
            int own = 0, c[8];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                c[i] = count[255 - (lane * 8 + i)];
                own += c[i];
            }
            int before = own;
#pragma unroll
            for (int o = 1; o < 32; o *= 2) {
                const int v = __shfl_up_sync(FULL, before, o);
                if (lane >= o) before += v;
            }
            before -= own;
            if (before < left && before + own >= left) {
                int i = 0;
                while (before + c[i] < left) before += c[i++];
                found[0] = 255 - (lane * 8 + i);
                found[1] = left - before;
            }
        }
        __syncthreads();
        prefix |= (uint32_t)found[0] << shift;
        mask |= 255u << shift;
        left = found[1];
    }
    // All larger keys and the first `left` equal ones, in order of their rows.
    if (threadIdx.x < 2) base[threadIdx.x] = 0;
    __syncthreads();
    for (int i0 = 0; i0 < n; i0 += TOPK_THREADS) {
        const int i = i0 + threadIdx.x;
        const uint32_t key = i < n ? ascending(s[i]) : 0;
        const bool equal = i < n && key == prefix;
        const uint32_t equals = __ballot_sync(FULL, equal);
        if (lane == 0) total[warp] = __popc(equals);
        __syncthreads();
        int rank = base[0];
        for (int w = 0; w < warp; w++) rank += total[w];
        int all = base[0];
        for (int w = 0; w < TOPK_THREADS / 32; w++) all += total[w];
        rank += __popc(equals & ((1u << lane) - 1));
        const bool take = i < n && (key > prefix || (equal && rank < left));
        __syncthreads();
        const uint32_t takes = __ballot_sync(FULL, take);
        if (lane == 0) total[warp] = __popc(takes);
        if (threadIdx.x == 0) base[0] = all;
        __syncthreads();
        int at = base[1];
        for (int w = 0; w < warp; w++) at += total[w];
        int end = base[1];
        for (int w = 0; w < TOPK_THREADS / 32; w++) end += total[w];
        at += __popc(takes & ((1u << lane) - 1));
        if (take) chosen[(size_t)t * IDX_TOPK + at] = i;
        __syncthreads();
        if (threadIdx.x == 0) base[1] = end;
        __syncthreads();
    }
}
DS4_REGISTER(index_topk)
