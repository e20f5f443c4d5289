// Attention of all heads of a token over raw rows of the window and compressed rows, with sinks
// (architecture.md 2.6). Every head reads the same rows, as keys and as values.
//
// A block has 16·HG heads of one token, and one of n_splits parts of its rows. Warp (hg, ks) holds
// the queries of 16 heads, and later the sums of their outputs, for one of KSPLIT parts of the
// channels, in registers; the scores of a tile of rows are added over the parts through shared
// memory, after which each warp has the probabilities as operands of the second product.
#pragma once
#include "mm.cuh"
#include "packed.cuh"
#include "tables.cuh"

#define ATTN_ROWS 32                                   // rows of a tile
#define ATTN_ROW_BYTES ((HEAD_DIM + 63) / 64 * 128)    // of a stored row in shared memory
#define ATTN_SMEM(hg, ksplit) (2 * ATTN_ROWS * ATTN_ROW_BYTES + (hg) * (ksplit) * (2048 + 64) + 2 * ATTN_ROWS * 8)

// Probabilities are scaled up by this power of two, so that small ones keep their digits in f16.
#define ATTN_P_BITS 10.0f
#define LOG2E 1.44269504088896340736f

// What the token sees.
struct AttnSeen {
    const uint8_t *raw, *chunk, *comp;  // ring, this step's rows from position pos0 on, compressed rows
    const int* chosen;               // numbers of the compressed rows, or null: the first ones
    int from, n_raw, n, pos0;        // first raw position, raw rows, all rows

    // Row `j`: raw ones come first.
    __device__ __forceinline__ const uint8_t* row(int j) const {
        if (j < n_raw) {
            const int p = from + j;
            return p >= pos0 ? chunk + (int64_t)(p - pos0) * KV_ROW_BYTES : raw + (int64_t)(p % RAW_SLOTS) * KV_ROW_BYTES;
        }
        const int w = j - n_raw;
        return comp + (int64_t)(chosen ? chosen[w] : w) * KV_ROW_BYTES;
    }
};

__device__ __forceinline__ AttnSeen attn_seen(const Tok& tok, const SeqLayer& layer, const uint8_t* raw_chunk, const int* chosen, int t, int ratio) {
    AttnSeen s;
    s.raw = layer.raw, s.comp = layer.comp;
    s.chunk = raw_chunk + (int64_t)tok.start * KV_ROW_BYTES;
    s.pos0 = tok.pos0;
    s.from = max(max(0, tok.from), tok.pos - WINDOW + 1);
    s.n_raw = tok.pos + 1 - s.from;
    const int n_comp = ratio ? (tok.pos + 1) / ratio : 0;
    const bool some = ratio == 4 && n_comp > IDX_TOPK;
    s.chosen = some ? chosen + (int64_t)t * IDX_TOPK : nullptr;
    s.n = s.n_raw + (some ? IDX_TOPK : n_comp);
    return s;
}

template <int HG, int KSPLIT, bool SPLIT_Q, bool SPLIT_P> struct Attn {
    static constexpr int WARPS = HG * KSPLIT, THREADS = WARPS * 32, STEPS = HEAD_DIM / 16;
    static constexpr int KS = (STEPS + KSPLIT - 1) / KSPLIT;  // steps of 16 channels of a warp
    static constexpr bool EVEN = STEPS % KSPLIT == 0;
    static constexpr bool WHOLE_32 = EVEN && KS % 2 == 0;  // a warp has whole blocks of 32 channels
    static constexpr int CHUNKS = HEAD_DIM / 8, TAIL = HEAD_DIM - ROPE_DIM, NT = ATTN_ROWS / 8;

    // The queries' operands, high and low parts.
    struct Query {
        uint32_t hi[KS][4], lo[SPLIT_Q ? KS : 1][4];
    };

    static __device__ __forceinline__ bool has(int ks, int s) { return EVEN || ks * KS + s < STEPS; }

    // Queries as they are: rows g, g + 8 at channels 2·tig, then at 2·tig + 8, of every step.
    static __device__ __forceinline__ void fetch(float2 v[KS][4], const float* q, int head0, int ks) {
        const int lane = threadIdx.x & 31, g = lane >> 2, tig = lane & 3;
#pragma unroll
        for (int s = 0; s < KS; s++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int head = head0 + g + i % 2 * 8, c = (ks * KS + s) * 16 + 2 * tig + i / 2 * 8;
                v[s][i] = make_float2(0.0f, 0.0f);
                if (has(ks, s) && head < N_HEAD) v[s][i] = *(const float2*)(q + head * HEAD_DIM + c);
            }
    }

    // Normalised, rotated queries. `norms` has WARPS·16 floats.
    static __device__ __forceinline__ void prepare(Query& out, const float2 v[KS][4], const float* turns, int hg, int ks, float* norms) {
        const int lane = threadIdx.x & 31, g = lane >> 2, tig = lane & 3;
        float sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int s = 0; s < KS; s++)
#pragma unroll
            for (int i = 0; i < 4; i++) sum[i % 2] += v[s][i].x * v[s][i].x + v[s][i].y * v[s][i].y;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            sum[i] += __shfl_xor_sync(FULL, sum[i], 1);
            sum[i] += __shfl_xor_sync(FULL, sum[i], 2);
            if (tig == 0) norms[(ks * HG + hg) * 16 + g + 8 * i] = sum[i];
        }
        __syncthreads();
        float scale[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float all = 0.0f;
#pragma unroll
            for (int k = 0; k < KSPLIT; k++) all += norms[(k * HG + hg) * 16 + g + 8 * i];
            scale[i] = 1.0f / sqrtf(all / HEAD_DIM + RMS_EPS);
        }
#pragma unroll
        for (int s = 0; s < KS; s++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int c = (ks * KS + s) * 16 + 2 * tig + i / 2 * 8;
                float a = v[s][i].x * scale[i % 2], b = v[s][i].y * scale[i % 2];
                if (c >= TAIL && has(ks, s)) {
                    const float2 turn = *(const float2*)(turns + c - TAIL);
                    const float r = a * turn.x - b * turn.y;
                    b = a * turn.y + b * turn.x, a = r;
                }
                if (SPLIT_Q) split_f16(a, b, &out.hi[s][i], &out.lo[SPLIT_Q ? s : 0][i]);
                else out.hi[s][i] = pack_half2(__float2half_rn(a), __float2half_rn(b));
            }
    }

    // Starts the copy of a tile's rows, whose addresses are `rows`; rows from `n` on become zero. A warp
    // has every WARPS-th row.
    static __device__ __forceinline__ void copy(unsigned char* s, const uint8_t* const* rows, int n) {
#if KV_PACKED
        const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
#pragma unroll
        for (int i = 0; i < (ATTN_ROWS + WARPS - 1) / WARPS; i++) {
            const int r = i * WARPS + warp;
            if (r >= ATTN_ROWS) break;
            for (int c = lane; c < KV_ROW_BYTES / 16; c += 32) cp_async16(s + r * ATTN_ROW_BYTES + c * 16, rows[r] + c * 16, r < n);
        }
#else
        for (int i = threadIdx.x; i < ATTN_ROWS * CHUNKS; i += THREADS) {
            const int r = i / CHUNKS, c = i % CHUNKS;
            cp_async16(s + r * ATTN_ROW_BYTES + (c ^ (r & 7)) * 16, rows[r] + c * 16, r < n);
        }
#endif
    }
    // Unpacks what this warp has copied.
    static __device__ __forceinline__ void unpack(unsigned char* s) {
#if KV_PACKED
        constexpr int OWN = ATTN_ROWS / WARPS, AT_ONCE = OWN < 4 ? OWN : 4;
        static_assert(ATTN_ROWS % WARPS == 0 && OWN % AT_ONCE == 0, "warps have as many rows");
        __syncwarp();
#pragma unroll 1
        for (int r = threadIdx.x >> 5; r < ATTN_ROWS; r += WARPS * AT_ONCE) kv_unpack<AT_ONCE, WARPS, ATTN_ROW_BYTES>(s, r);
#endif
    }

    // This warp's part of the scores of 16 heads and a tile of rows.
    static __device__ __forceinline__ void scores(float sc[NT][4], const Query& q, const unsigned char* s, int ks) {
        const int lane = threadIdx.x & 31;
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sc[j][e] = 0.0f;
#pragma unroll
        for (int k = 0; k < KS; k++) {
            if (!has(ks, k)) continue;
#pragma unroll
            for (int j = 0; j < NT; j += 2) {
                const int row = j * 8 + (lane >> 4) * 8 + (lane & 7), c = 2 * (ks * KS + k) + ((lane >> 3) & 1);
                uint32_t b[4];
                ldmatrix_x4(b, s + row * ATTN_ROW_BYTES + (c ^ (row & 7)) * 16);
                mma_f16(sc[j], q.hi[k], b, sc[j]);
                mma_f16(sc[j + 1], q.hi[k], b + 2, sc[j + 1]);
                if (SPLIT_Q) {
                    mma_f16(sc[j], q.lo[SPLIT_Q ? k : 0], b, sc[j]);
                    mma_f16(sc[j + 1], q.lo[SPLIT_Q ? k : 0], b + 2, sc[j + 1]);
                }
            }
        }
    }

    // Adds the other parts' scores. `space` has 512 floats a warp; the block must have met since the
    // last call's end.
    static __device__ __forceinline__ void add_parts(float sc[NT][4], float4* space, int hg, int ks) {
        const int lane = threadIdx.x & 31;
        if (KSPLIT == 1) return;
#pragma unroll
        for (int j = 0; j < NT; j++) space[((ks * HG + hg) * NT + j) * 32 + lane] = make_float4(sc[j][0], sc[j][1], sc[j][2], sc[j][3]);
        __syncthreads();
        // In the same order in all warps: they must agree on the probabilities.
#pragma unroll
        for (int j = 0; j < NT; j++) {
            float4 sum = space[(hg * NT + j) * 32 + lane];
#pragma unroll
            for (int k = 1; k < KSPLIT; k++) {
                const float4 v = space[((k * HG + hg) * NT + j) * 32 + lane];
                sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
            }
            sc[j][0] = sum.x, sc[j][1] = sum.y, sc[j][2] = sum.z, sc[j][3] = sum.w;
        }
    }

    // Scores to scaled probabilities relative to the running maxima `m`; sums and outputs so far are
    // adapted. `n` rows are left from the tile's first.
    static __device__ __forceinline__ void soften(float sc[NT][4], float o[2 * KS][4], float m[2], float l[2], int n) {
        const int tig = threadIdx.x & 3;
        const float scale = LOG2E / sqrtf((float)HEAD_DIM);
        float best[2] = {m[0], m[1]};
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                sc[j][e] = j * 8 + tig * 2 + e % 2 < n ? sc[j][e] * scale : -INFINITY;
                best[e / 2] = fmaxf(best[e / 2], sc[j][e]);
            }
        float by[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            best[i] = fmaxf(best[i], __shfl_xor_sync(FULL, best[i], 1));
            best[i] = fmaxf(best[i], __shfl_xor_sync(FULL, best[i], 2));
            by[i] = exp2f(m[i] - best[i]);
            m[i] = best[i];
            l[i] *= by[i];
        }
        if (__any_sync(FULL, by[0] != 1.0f || by[1] != 1.0f)) {
#pragma unroll
            for (int j = 0; j < 2 * KS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) o[j][e] *= by[e / 2];
        }
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sc[j][e] = exp2f(sc[j][e] - m[e / 2] + ATTN_P_BITS);
    }

    // o += probabilities × rows, l += probabilities.
    static __device__ __forceinline__ void outputs(float o[2 * KS][4], float l[2], const float p[NT][4], const unsigned char* s, int ks) {
        const int lane = threadIdx.x & 31;
#pragma unroll
        for (int k = 0; k < ATTN_ROWS / 16; k++) {
            uint32_t hi[4], lo[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float a = p[2 * k + i / 2][i % 2 * 2], b = p[2 * k + i / 2][i % 2 * 2 + 1];
                split_f16(a, b, hi + i, lo + i);
                if (SPLIT_P) {
                    l[i % 2] += a + b;
                } else {
                    const half2 v = *(const half2*)(hi + i);
                    l[i % 2] += __low2float(v) + __high2float(v);
                }
            }
#pragma unroll
            for (int d = 0; d < KS; d++) {
                if (!has(ks, d)) continue;
                const int row = k * 16 + ((lane >> 3) & 1) * 8 + (lane & 7), c = 2 * (ks * KS + d) + (lane >> 4);
                uint32_t b[4];
                ldmatrix_x4_trans(b, s + row * ATTN_ROW_BYTES + (c ^ (row & 7)) * 16);
                mma_f16(o[2 * d], hi, b, o[2 * d]);
                mma_f16(o[2 * d + 1], hi, b + 2, o[2 * d + 1]);
                if (SPLIT_P) {
                    mma_f16(o[2 * d], lo, b, o[2 * d]);
                    mma_f16(o[2 * d + 1], lo, b + 2, o[2 * d + 1]);
                }
            }
        }
    }

    static __device__ __forceinline__ void run(const float* q, const float* turns, const float* sinks, const Tok* toks, const SeqLayer* table,
                                               int places, int place, const uint8_t* raw_chunk, const int* chosen, int ratio, int n_splits,
                                               float* part_o, float* part_ml, float* out, int8_t* q8, float* d8) {
        DS4_DYN_SMEM(unsigned char, smem);
        float4* space = (float4*)(smem + 2 * ATTN_ROWS * ATTN_ROW_BYTES);
        float* norms = (float*)(space + WARPS * NT * 32);
        const uint8_t** rows = (const uint8_t**)(norms + WARPS * 16);  // of two tiles
        const int t = blockIdx.x, split = blockIdx.y, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
        const int hg = warp % HG, ks = warp / HG, head0 = (blockIdx.z * HG + hg) * 16, g = lane >> 2, tig = lane & 3;

        pdl_wait();
        float2 raw_query[KS][4];
        fetch(raw_query, q + (int64_t)t * N_HEAD * HEAD_DIM, head0, ks);
        const Tok tok = toks[t];
        const AttnSeen seen = attn_seen(tok, table[(int64_t)tok.seq * places + place], raw_chunk, chosen, t, ratio);
        const int per = (seen.n + n_splits - 1) / n_splits, begin = min(split * per, seen.n), end = min(begin + per, seen.n);
        const int tiles = (end - begin + ATTN_ROWS - 1) / ATTN_ROWS;
        // Row addresses of the first two tiles; the loop brings those of a tile two tiles ahead.
        for (int i = threadIdx.x; i < 2 * ATTN_ROWS; i += THREADS) rows[i] = begin + i < end ? seen.row(begin + i) : raw_chunk;
        __syncthreads();
        copy(smem, rows, end - begin);
        cp_async_commit();

        Query query;
        turns += (int64_t)t * ROPE_DIM;
        prepare(query, raw_query, turns, hg, ks, norms);
        float o[2 * KS][4] = {}, m[2] = {-INFINITY, -INFINITY}, l[2] = {0.0f, 0.0f};
#pragma unroll 1
        for (int i = 0; i < tiles; i++) {
            unsigned char* s = smem + i % 2 * ATTN_ROWS * ATTN_ROW_BYTES;
            const int first = begin + i * ATTN_ROWS, later = first + 2 * ATTN_ROWS + threadIdx.x;
            cp_async_wait<0>();
            unpack(s);
            __syncthreads();
            if (i + 1 < tiles) copy(smem + (i + 1) % 2 * ATTN_ROWS * ATTN_ROW_BYTES, rows + (i + 1) % 2 * ATTN_ROWS, end - first - ATTN_ROWS);
            cp_async_commit();
            const uint8_t* ahead = threadIdx.x < ATTN_ROWS && later < end ? seen.row(later) : raw_chunk;
            float sc[NT][4];
            scores(sc, query, s, ks);
            add_parts(sc, space, hg, ks);
            if (threadIdx.x < ATTN_ROWS) rows[i % 2 * ATTN_ROWS + threadIdx.x] = ahead;
            soften(sc, o, m, l, end - first);
            outputs(o, l, sc, s, ks);
        }
        pdl_go();
#pragma unroll
        for (int i = 0; i < 2; i++) {
            l[i] += __shfl_xor_sync(FULL, l[i], 1);
            l[i] += __shfl_xor_sync(FULL, l[i], 2);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int head = head0 + g + 8 * i;
            if (n_splits == 1) {
                // All lanes: those of a quad share their blocks' scales.
                const float by = 1.0f / (l[i] + exp2f(sinks[min(head, N_HEAD - 1)] * LOG2E - m[i] + ATTN_P_BITS));
                const int64_t at = ((int64_t)t * N_HEAD + head) * HEAD_DIM;
                finish(o, i, ks, by, turns, head < N_HEAD, out ? out + at : nullptr, q8 ? q8 + at : nullptr, d8 + at / 32);
            } else if (head < N_HEAD) {
                const int64_t at = ((int64_t)t * n_splits + split) * N_HEAD + head;
                if (ks == 0 && tig == 0) ((float2*)part_ml)[at] = make_float2(m[i], l[i]);
                store(o, i, ks, part_o + at * HEAD_DIM);
            }
        }
    }

    // A row of outputs, as it is.
    static __device__ __forceinline__ void store(const float o[2 * KS][4], int i, int ks, float* to) {
        const int tig = threadIdx.x & 3;
#pragma unroll
        for (int j = 0; j < 2 * KS; j++)
            if (has(ks, j / 2)) *(float2*)(to + ks * KS * 16 + j * 8 + 2 * tig) = make_float2(o[j][2 * i], o[j][2 * i + 1]);
    }
    // A row of outputs, scaled and turned back: f32 values, int8 forms, each where it is wanted.
    static __device__ __forceinline__ void finish(float o[2 * KS][4], int i, int ks, float by, const float* turns, bool in, float* to, int8_t* q8, float* d8) {
        const int tig = threadIdx.x & 3;
#pragma unroll
        for (int j = 0; j < 2 * KS; j++) {
            if (!has(ks, j / 2)) continue;
            const int c = ks * KS * 16 + j * 8 + 2 * tig;
            float a = o[j][2 * i] * by, b = o[j][2 * i + 1] * by;
            if (c >= TAIL) {
                const float2 turn = *(const float2*)(turns + c - TAIL);
                const float r = a * turn.x + b * turn.y;
                b = b * turn.x - a * turn.y, a = r;
            }
            o[j][2 * i] = a, o[j][2 * i + 1] = b;
            if (to && in) *(float2*)(to + c) = make_float2(a, b);
        }
        if (!WHOLE_32 || !q8) return;
#pragma unroll
        for (int j = 0; j + 4 <= 2 * KS; j += 4) {
            float most = 0.0f;
#pragma unroll
            for (int k = 0; k < 4; k++) most = fmaxf(most, fmaxf(fabsf(o[j + k][2 * i]), fabsf(o[j + k][2 * i + 1])));
            most = fmaxf(most, __shfl_xor_sync(FULL, most, 1));
            most = fmaxf(most, __shfl_xor_sync(FULL, most, 2));
            const float scale = most / 127.0f, inv = scale == 0.0f ? 0.0f : 1.0f / scale;
            // Two values of each of four groups of 8; a lane wants all of group tig.
            uint32_t two[4];
#pragma unroll
            for (int k = 0; k < 4; k++) two[k] = (uint32_t)(round_i8(o[j + k][2 * i] * inv) & 255) | (uint32_t)(round_i8(o[j + k][2 * i + 1] * inv) & 255) << 8;
            const uint32_t low = two[0] | two[1] << 16, high = two[2] | two[3] << 16;
            const uint32_t far = __shfl_xor_sync(FULL, tig & 2 ? low : high, 2), own = tig & 2 ? high : low;
            const uint32_t first = tig & 2 ? far : own, second = tig & 2 ? own : far;  // of lanes tig % 2 and tig % 2 + 2
            const uint32_t even = prmt(first, second, 0x5410), odd = prmt(first, second, 0x7632);
            const uint32_t near = __shfl_xor_sync(FULL, tig & 1 ? even : odd, 1), mine = tig & 1 ? odd : even;
            const uint32_t a = tig & 1 ? near : mine, b = tig & 1 ? mine : near;
            const int c = ks * KS * 16 + j * 8;
            if (in) *(uint2*)(q8 + c + tig * 8) = make_uint2(prmt(a, b, 0x5410), prmt(a, b, 0x7632));
            if (in && tig == 0) d8[c / 32] = scale;
        }
    }
};

// Grid (T, n_splits, ⌈N_HEAD/16/hg⌉), hg·ksplit·32 threads, ATTN_SMEM(hg, ksplit) bytes. With one
// part, the outputs: f32 values to `out` unless it is null, Q8_0 forms to q8 and d8 unless those are.
#define ATTN_KERNEL(name, hg, ksplit, split_q, split_p)                                                                               \
    DS4_KERNEL(name, (hg) * (ksplit) * 32, 1)                                                                                         \
    (const float* q, const float* turns, const float* sinks, const Tok* toks, const SeqLayer* table, int places, int place,           \
     const uint8_t* raw_chunk, const int* chosen, int ratio, int n_splits, float* part_o, float* part_ml, float* out, int8_t* q8,      \
     float* d8) {                                                                                                                     \
        Attn<hg, ksplit, split_q, split_p>::run(q, turns, sinks, toks, table, places, place, raw_chunk, chosen, ratio, n_splits,       \
                                               part_o, part_ml, out, q8, d8);                                                         \
    }                                                                                                                                 \
    DS4_REGISTER(name)

// Many tokens: a block has up to 32 heads. Queries and probabilities are split: one plain f16 factor
// already moves enough of the outputs over a step of their int8 form to be seen in the layer's output.
#define ATTN_HG (N_HEAD > 16 ? 2 : 1)
#define ATTN_KSPLIT (HEAD_DIM % 128 == 0 ? 4 : HEAD_DIM % 64 == 0 || HEAD_DIM % 32 ? 2 : 1)
ATTN_KERNEL(attn, ATTN_HG, ATTN_KSPLIT, true, true)
// Few tokens: 16 heads a block, always in parts.
#define ATTN_FEW_HG 1
#define ATTN_FEW_KSPLIT 4
ATTN_KERNEL(attn_few, ATTN_FEW_HG, ATTN_FEW_KSPLIT, true, true)

// Parts to outputs, at most 32: f32 values to `out` and Q8_0 forms to q8 and d8, unless null.
// Grid (T, N_HEAD), 128 threads.
#define ATTN_COMBINE_THREADS 128
DS4_KERNEL(attn_combine, ATTN_COMBINE_THREADS, 4)
(const float* part_o, const float* part_ml, const float* sinks, const float* turns, int n_splits, float* out, int8_t* q8, float* d8) {
    constexpr int AT_ONCE = 20;  // loads under way
    const int t = blockIdx.x, head = blockIdx.y, lane = threadIdx.x & 31;
    const float sink = sinks[head] * LOG2E + ATTN_P_BITS;
    pdl_wait();
    // Lane s has part s.
    const int64_t first = (int64_t)t * n_splits * N_HEAD + head, at = ((int64_t)t * N_HEAD + head) * HEAD_DIM;
    const float2 part = lane < n_splits ? ((const float2*)part_ml)[first + lane * N_HEAD] : make_float2(-INFINITY, 0.0f);
    pdl_go();
    float by = 0.0f;
    for (int c0 = 0; c0 < HEAD_DIM; c0 += ATTN_COMBINE_THREADS * 4) {
        const int c = c0 + threadIdx.x * 4;
        const bool in = c < HEAD_DIM;
        const float* from = part_o + first * HEAD_DIM + (in ? c : 0);
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        for (int s0 = 0; s0 < n_splits; s0 += AT_ONCE) {
            float4 v[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
                if (s0 + i < n_splits) v[i] = *(const float4*)(from + (int64_t)(s0 + i) * N_HEAD * HEAD_DIM);
            if (c0 == 0 && s0 == 0) {
                const float m = warp_max(part.x), own = exp2f(part.x - m), l = warp_sum(part.y * own);
                by = own / (l + exp2f(sink - m));
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const float w = __shfl_sync(FULL, by, (s0 + i) & 31);
                if (s0 + i < n_splits) sum.x += v[i].x * w, sum.y += v[i].y * w, sum.z += v[i].z * w, sum.w += v[i].w * w;
            }
        }
        if (in && c >= HEAD_DIM - ROPE_DIM) {
            const float4 turn = *(const float4*)(turns + (int64_t)t * ROPE_DIM + c - (HEAD_DIM - ROPE_DIM));
            sum = make_float4(sum.x * turn.x + sum.y * turn.y, sum.y * turn.x - sum.x * turn.y, sum.z * turn.z + sum.w * turn.w,
                              sum.w * turn.z - sum.z * turn.w);
        }
        if (in && out) *(float4*)(out + at + c) = sum;
        if (HEAD_DIM % 32 || !q8) continue;
        // Eight lanes have a block of 32.
        float most = fmaxf(fmaxf(fabsf(sum.x), fabsf(sum.y)), fmaxf(fabsf(sum.z), fabsf(sum.w)));
#pragma unroll
        for (int o = 1; o < 8; o *= 2) most = fmaxf(most, __shfl_xor_sync(FULL, most, o));
        const float scale = most / 127.0f, inv = scale == 0.0f ? 0.0f : 1.0f / scale;
        if (in) {
            *(uint32_t*)(q8 + at + c) = (uint32_t)(round_i8(sum.x * inv) & 255) | (uint32_t)(round_i8(sum.y * inv) & 255) << 8 |
                                        (uint32_t)(round_i8(sum.z * inv) & 255) << 16 | (uint32_t)(round_i8(sum.w * inv) & 255) << 24;
            if (threadIdx.x % 8 == 0) d8[(at + c) / 32] = scale;
        }
    }
}
DS4_REGISTER(attn_combine)
