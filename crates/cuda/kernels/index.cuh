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
                    idx_fragments(v, r < exist ? idx + (size_t)r * IDX_ROW_BYTES : nullptr, in_quad);
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

// --- The same scores for few tokens, whose rows are read once.
#define IDX_FEW_OK (IDX_DIM == 32 || IDX_DIM == 64 || IDX_DIM == 128)
#define IDX_FEW_THREADS 256
#if IDX_FEW_OK

// 16 rows as a warp reads them: rows quad and quad + 8, of every 32 columns the 8 from 8·in_quad on.
// Products do not care which columns a fragment names, as long as the queries' do the same.
struct IndexTile {
    static constexpr int N = IDX_DIM / 32;
    IdxQuad v[2];

    __device__ __forceinline__ void load(const uint8_t* idx, int r0, int exist) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = r0 + ((threadIdx.x & 31) >> 2) + 8 * half;
            if (r < exist) v[half].load(idx + (size_t)r * IDX_ROW_BYTES, threadIdx.x & 3);
            else v[half].clear();
        }
    }
    // Fragments of steps 2j and 2j + 1.
    __device__ __forceinline__ void fragments(uint32_t a[2 * N][4]) const {
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int p = 0; p < 4; p++)
#pragma unroll
                for (int half = 0; half < 2; half++) a[2 * j + p / 2][half + 2 * (p % 2)] = v[half].pair(j, p);
    }
};

// A token's queries in shared memory; the pitch keeps reads of 16 bytes of 8 heads, 4 of each, free
// of bank conflicts.
struct IndexFewShared {
    static constexpr int PITCH = IDX_DIM % 64 ? IDX_DIM : IDX_DIM + 32;
    __nv_bfloat16 q[IDX_HEADS_8][PITCH];
    float weight[IDX_HEADS_8];

    __device__ __forceinline__ void copy(const __nv_bfloat16* from, const float* weights) {
        constexpr int CHUNKS = IDX_DIM / 8;
        for (int i = threadIdx.x; i < IDX_HEADS_8 * CHUNKS; i += IDX_FEW_THREADS) {
            const int h = i / CHUNKS, c = i % CHUNKS * 8;
            cp_async16(&q[h][c], from + (h < IDX_HEADS ? h * IDX_DIM + c : 0), h < IDX_HEADS);
        }
        cp_async_commit();
        const float scale = (float)(1.0 / sqrt((double)IDX_HEADS * IDX_DIM));
        for (int h = threadIdx.x; h < IDX_HEADS_8; h += IDX_FEW_THREADS) weight[h] = h < IDX_HEADS ? weights[h] * scale : 0.0f;
        cp_async_wait<0>();
    }
};

// `index_scores` of tokens that are few; a warp has 16 rows at a time. grid (blocks of a token,
// tokens).
DS4_KERNEL(index_few, IDX_FEW_THREADS, 2)(const __nv_bfloat16* q, const float* weights, const Tok* toks, const SeqLayer* table,
                         int places, int place, int all, float* scores, int64_t stride) {
    __shared__ __align__(16) IndexFewShared s;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, t = blockIdx.y;
    const int quad = lane >> 2, in_quad = lane & 3;
    const Tok tok = toks[t];
    const int rows = (tok.pos + 1) / 4, exist = (tok.pos0 + tok.n) / 4;  // with this step's
    // Of few rows, two blocks a multiprocessor would only keep the next kernel from starting early.
    const int blocks = rows <= 32 * gridDim.x ? max(1, (int)gridDim.x / 2) : gridDim.x;
    if ((rows <= IDX_TOPK && !all) || blockIdx.x * 16 >= rows || blockIdx.x >= blocks) {
        pdl_wait();
        pdl_go();
        return;
    }
    const uint8_t* idx = table[(size_t)tok.seq * places + place].idx;
    const int step = blocks * (IDX_FEW_THREADS / 2);
    int r0 = (warp * blocks + blockIdx.x) * 16;
    IndexTile tile;
    // Rows of earlier steps are there already.
    const bool early = r0 + 16 <= tok.pos0 / 4;
    if (early) tile.load(idx, r0, exist);
    pdl_wait();
    pdl_go();
    if (!early && r0 < rows) tile.load(idx, r0, exist);
    s.copy(q + (size_t)t * IDX_HEADS * IDX_DIM, weights + (size_t)t * IDX_HEADS);
    scores += (int64_t)t * stride;
    __syncthreads();
    for (; r0 < rows; r0 += step) {
        uint32_t a[IDX_DIM / 16][4];
        tile.fragments(a);
        if (r0 + step < rows) tile.load(idx, r0 + step, exist);
        float sum[2] = {0.0f, 0.0f};
#pragma unroll 2
        for (int h0 = 0; h0 < IDX_HEADS_8; h0 += 8) {
            // Two chains of sums, of even and of odd steps.
            float c[2][4] = {};
#pragma unroll
            for (int j = 0; j < IDX_DIM / 32; j++) {
                const uint4 b = *(const uint4*)&s.q[h0 + quad][32 * j + 8 * in_quad];
                const uint32_t even[2] = {b.x, b.y}, odd[2] = {b.z, b.w};
                mma_bf16(c[0], a[2 * j], even, c[0]);
                mma_bf16(c[1], a[2 * j + 1], odd, c[1]);
            }
            const float w0 = s.weight[h0 + in_quad * 2], w1 = s.weight[h0 + in_quad * 2 + 1];
            sum[0] += w0 * fmaxf(c[0][0] + c[1][0], 0.0f) + w1 * fmaxf(c[0][1] + c[1][1], 0.0f);
            sum[1] += w0 * fmaxf(c[0][2] + c[1][2], 0.0f) + w1 * fmaxf(c[0][3] + c[1][3], 0.0f);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            sum[i] += __shfl_xor_sync(FULL, sum[i], 1);
            sum[i] += __shfl_xor_sync(FULL, sum[i], 2);
            const int r = r0 + quad + i * 8;
            if (in_quad == 0 && r < rows) scores[r] = sum[i];
        }
    }
}
DS4_REGISTER(index_few)
#endif

// Unsigned numbers in the order of the floats; both zeros are one.
__device__ __forceinline__ uint32_t ascending(float x) {
    const uint32_t bits = __float_as_uint(x + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float of_ascending(uint32_t key) {
    return __uint_as_float(key >> 31 ? key ^ 0x80000000u : ~key);
}

#define TOPK_THREADS 1024
// Items that a thread holds: in fours that lie together.
#define TOPK_FOURS 4
#define TOPK_SLOTS (TOPK_THREADS * 4 * TOPK_FOURS)
#define TOPK_BINS 2048
// Items that are compared one with another.
#define TOPK_NEAR 64
// Rows of a block, where several choose for one token, and the most of such blocks (`TOPK_PARTS` of
// layer.rs).
#define TOPK_PART 4096
#define TOPK_PARTS 16
static_assert(IDX_TOPK * TOPK_PARTS <= TOPK_SLOTS, "all parts' choices fit");
static_assert(2 * IDX_TOPK < TOPK_PART - 8 * TOPK_PARTS, "the shortest part has rows enough");

// An item: the key of its score, and its row.
struct TopkItem {
    uint32_t key;
    int row;
};

struct TopkShared {
    int count[TOPK_BINS];
    uint32_t low[32], high[32];
    int sums[32];
    int near, is_last;
    TopkItem near_item[TOPK_NEAR];
    TopkItem last;  // the last of the chosen; instead of the row, the slot
    TopkItem kept[2][IDX_TOPK];
};

// Up to TOPK_SLOTS items, in slots of ascending rows: a warp has consecutive slots, its lanes four at
// a time. Of what follows, everything is to be called by the whole block of TOPK_THREADS.
template <int FOURS> struct Topk {
    TopkShared& s;
    static constexpr int ITEMS = 4 * FOURS;
    uint32_t key[ITEMS];
    int n, fours, slot0;  // `fours` of FOURS are in use

    __device__ __forceinline__ explicit Topk(TopkShared& shared) : s(shared) {}

    // The slot of item i.
    __device__ __forceinline__ int slot(int i) const { return slot0 + i / 4 * 128 + i % 4; }
    // Calls f(i) of every item; some are past the end.
    template <class F> __device__ __forceinline__ void each(const F& f) const {
#pragma unroll
        for (int j = 0; j < FOURS; j++)
            if (FOURS == 1 || j < fours)
#pragma unroll
                for (int i = 4 * j; i < 4 * j + 4; i++) f(i);
    }

    // Takes `carried` items and the scores of `m` rows.
    __device__ __forceinline__ void load(const TopkItem* items, int carried, const float* scores, int m) {
        n = carried + m;
        fours = FOURS == 1 ? 1 : (n + 4 * TOPK_THREADS - 1) / (4 * TOPK_THREADS);
        slot0 = (threadIdx.x >> 5) * 128 * fours + 4 * (threadIdx.x & 31);
        scores -= carried;
        const bool aligned = (uint64_t)scores % 16 == 0;
#pragma unroll
        for (int i = 0; i < ITEMS; i += 4) {
            const int at = slot(i);
            if (i < 4 * fours && aligned && at >= carried && at + 4 <= n) {
                const float4 v = *(const float4*)(scores + at);
                key[i] = __float_as_uint(v.x), key[i + 1] = __float_as_uint(v.y);
                key[i + 2] = __float_as_uint(v.z), key[i + 3] = __float_as_uint(v.w);
            } else {
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    float v = 0.0f;
                    if (at + k < n) v = at + k < carried ? of_ascending(items[at + k].key) : scores[at + k];
                    key[i + k] = __float_as_uint(v);
                }
            }
        }
        each([&](int i) { key[i] = ascending(__uint_as_float(key[i])); });
    }

    // Smallest and largest of the block, from those of the threads. One barrier.
    __device__ __forceinline__ void range(uint32_t& low, uint32_t& high) {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        low = __reduce_min_sync(FULL, low), high = __reduce_max_sync(FULL, high);
        if (lane == 0) s.low[warp] = low, s.high[warp] = high;
        __syncthreads();
        low = __reduce_min_sync(FULL, s.low[lane]), high = __reduce_max_sync(FULL, s.high[lane]);
    }
    static __device__ __forceinline__ int sum_up_to(int v) {
        const int lane = threadIdx.x & 31;
#pragma unroll
        for (int o = 1; o < 32; o *= 2) {
            const int other = __shfl_up_sync(FULL, v, o);
            if (lane >= o) v += other;
        }
        return v;
    }
    // The bin at which the count from above reaches `left`; `left` becomes what is wanted of that
    // bin, `held` what it has. All warps do the same: there is nothing to tell one another.
    __device__ __forceinline__ int find(int& left, int& held) {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        const int top = TOPK_BINS - 1 - 2 * threadIdx.x;
        const int own = __reduce_add_sync(FULL, s.count[top] + s.count[top - 1]);
        if (lane == 0) s.sums[warp] = own;
        __syncthreads();
        const int of_warp = s.sums[lane], up_to_warp = sum_up_to(of_warp);
        const int which = __ffs(__ballot_sync(FULL, up_to_warp >= left)) - 1;
        left -= __shfl_sync(FULL, up_to_warp - of_warp, which);
        const int bin = TOPK_BINS - 1 - 64 * which - 2 * lane, a = s.count[bin], b = s.count[bin - 1];
        const int up_to = sum_up_to(a + b), at = __ffs(__ballot_sync(FULL, up_to >= left)) - 1;
        left -= __shfl_sync(FULL, up_to - a - b, at);
        const int upper = __shfl_sync(FULL, a, at), lower = __shfl_sync(FULL, b, at);
        const bool in_upper = upper >= left;
        held = in_upper ? upper : lower;
        if (!in_upper) left -= upper;
        return TOPK_BINS - 1 - 64 * which - 2 * at - !in_upper;
    }

    // Counts how many of the items with a bit in `open` fall into each bin, and closes all but those
    // of the bin in which the last one lies.
    template <class Bin> __device__ __forceinline__ void narrow(uint32_t& open, int& left, int& held, const Bin& bin) {
        each([&](int i) {
            if (open >> i & 1) atomicAdd(&s.count[bin(i)], 1);
        });
        __syncthreads();
        const int found = find(left, held);
        each([&](int i) {
            if ((open >> i & 1) && bin(i) != found) open &= ~(1u << i);
        });
    }

    // Narrows by bits of keys, then by slots where keys are equal: four times in the worst case.
    __device__ __forceinline__ void narrow_by_bits(uint32_t& open, int& left, int& held) {
        bool by_slot = false;
        while (held > TOPK_NEAR) {
            const auto value = [&](int i) { return by_slot ? ~(uint32_t)slot(i) : key[i]; };
            uint32_t low = 0xffffffffu, high = 0;
            each([&](int i) {
                if (open >> i & 1) low = min(low, value(i)), high = max(high, value(i));
            });
            range(low, high);
            for (int i = threadIdx.x; i < TOPK_BINS; i += TOPK_THREADS) s.count[i] = 0;
            __syncthreads();
            const int shift = max(0, 21 - __clz((int)(high - low)));
            if (low == high) by_slot = true;
            else narrow(open, left, held, [&](int i) { return (int)((value(i) - low) >> shift); });
        }
    }

    // Finds the last of the IDX_TOPK items of largest key; of equal keys the lower slots come first.
    // Counts how many items fall into equal parts of the range of scores; those of the part in which
    // the last one lies are mostly few and compared one with another. All bins are zero before.
    __device__ __forceinline__ void choose() {
        uint32_t open = 0;  // bits of the items among which the last one is
        int left = IDX_TOPK, held = n;
        uint32_t low = 0xffffffffu, high = 0;
        each([&](int i) {
            if (slot(i) < n) low = min(low, key[i]), high = max(high, key[i]), open |= 1u << i;
        });
        range(low, high);
        const float least = of_ascending(low), scale = (TOPK_BINS - 1) / (of_ascending(high) - least);
        if (scale > 0.0f && scale < INFINITY)
            narrow(open, left, held, [&](int i) { return min((int)((of_ascending(key[i]) - least) * scale), TOPK_BINS - 1); });
        narrow_by_bits(open, left, held);
        each([&](int i) {
            if (open >> i & 1) s.near_item[atomicAdd(&s.near, 1)] = TopkItem{key[i], slot(i)};
        });
        __syncthreads();
        if (threadIdx.x < held) {
            const TopkItem own = s.near_item[threadIdx.x];
            int before = 1;
            for (int i = 0; i < held; i++) {
                const TopkItem other = s.near_item[i];
                before += other.key > own.key || (other.key == own.key && other.row < own.row);
            }
            if (before == left) s.last = own;
        }
        __syncthreads();
    }

    // Calls put(rank, item) of the chosen items of this thread; ranks ascend with slots.
    template <class Put> __device__ __forceinline__ void place(const Put& put) {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        const TopkItem last = s.last;
        uint32_t taken = 0, counts = 0;  // a byte of counts is that of four items
        each([&](int i) {
            const int at = slot(i);
            const bool is = at < n && (key[i] > last.key || (key[i] == last.key && at <= last.row));
            taken |= (uint32_t)is << i;
            counts += (uint32_t)is << i / 4 * 8;
        });
        const uint32_t up_to = (uint32_t)sum_up_to((int)counts), all = __shfl_sync(FULL, up_to, 31);
        if (lane == 0) s.sums[warp] = (int)((all & 255) + (all >> 8 & 255) + (all >> 16 & 255) + (all >> 24));
        __syncthreads();
        const int of_warp = s.sums[lane];
        int first = __shfl_sync(FULL, sum_up_to(of_warp) - of_warp, warp), rank = 0;
        each([&](int i) {
            if (i % 4 == 0) {
                rank = first + (int)((up_to - counts) >> 2 * i & 255);
                first += (int)(all >> 2 * i & 255);
            }
            if (taken >> i & 1) put(rank++, i);
        });
    }
};
static_assert(TOPK_FOURS <= 4 && TOPK_THREADS == 1024, "counts in bytes, bins in pairs");

// Whether this block is the last of `parts` to come here. What all have written before is there.
__device__ __forceinline__ bool topk_is_last(TopkShared& s, unsigned* done, int parts) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        s.is_last = atomicAdd(done, 1u) == (unsigned)parts - 1;
        if (s.is_last) *done = 0;
        __threadfence();
    }
    __syncthreads();
    return s.is_last;
}

// What one of `blocks` blocks does for a token: it reads the scores of its rows in pieces that it
// holds, and takes the chosen ones of a piece to the next. If it is the last of several, it then
// chooses from the choices of all. `scores`, `chosen`, `parts`, `done`: of the token.
template <int FOURS>
__device__ __forceinline__ void topk_rows(TopkShared& s, const float* scores, int row, int end, int blocks, int* chosen,
                                          TopkItem* parts, unsigned* done) {
    Topk<FOURS> top(s);
    const TopkItem* items = parts;
    int carried = 0;
    for (int turn = 0;; turn++) {
        for (int i = threadIdx.x; i < TOPK_BINS; i += TOPK_THREADS) s.count[i] = 0;
        if (threadIdx.x == 0) s.near = 0;
        if (turn == 0) {
            pdl_wait();
            pdl_go();
        }
        const int m = min(end - row, 4 * FOURS * TOPK_THREADS - carried);
        top.load(items, carried, scores + row, m);
        top.choose();
        row += m;
        const bool is_last = row == end && (blocks == 1 || m == 0);
        TopkItem* to = row < end ? s.kept[turn & 1] : parts + blockIdx.y * IDX_TOPK;
        top.place([&](int rank, int i) {
            const int at = top.slot(i), own = at < carried ? items[at].row : row - m - carried + at;
            if (is_last) chosen[rank] = own;
            else to[rank] = TopkItem{top.key[i], own};
        });
        if (is_last) return;
        if (row < end) {
            items = to, carried = IDX_TOPK;
            __syncthreads();
        } else {
            if (!topk_is_last(s, done, blocks)) return;
            items = parts, carried = blocks * IDX_TOPK;
        }
    }
}

// The IDX_TOPK rows of largest score of each token, ascending; of equal scores the lower row. Tokens
// with no more rows than that are left out. grid (tokens, most blocks of a token).
//
// parts: [T][TOPK_PARTS][IDX_TOPK], done: [T] zeros, before and after; both for several blocks.
DS4_KERNEL(index_topk, TOPK_THREADS)(const float* scores, int64_t stride, const Tok* toks, int* chosen, TopkItem* parts,
                         unsigned* done) {
    __shared__ __align__(8) TopkShared s;
    const int t = blockIdx.x, n = (toks[t].pos + 1) / 4;
    const int blocks = min(min((int)gridDim.y, TOPK_PARTS), (n + TOPK_PART - 1) / TOPK_PART);
    if (n <= IDX_TOPK || blockIdx.y >= blocks) {
        pdl_wait();
        pdl_go();
        return;
    }
    const int length = ((n + blocks - 1) / blocks + 3) / 4 * 4, row = blockIdx.y * length, end = min(n, row + length);
    chosen += (size_t)t * IDX_TOPK;
    parts += (size_t)t * TOPK_PARTS * IDX_TOPK;
    scores += (int64_t)t * stride;
    // Short code for what is short.
    if (max(length, blocks * IDX_TOPK) <= 4 * TOPK_THREADS) topk_rows<1>(s, scores, row, end, blocks, chosen, parts, done + t);
    else topk_rows<TOPK_FOURS>(s, scores, row, end, blocks, chosen, parts, done + t);
}
DS4_REGISTER(index_topk)
