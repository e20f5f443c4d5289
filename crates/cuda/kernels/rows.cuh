// What happens to the projections of a sublayer's input: the query's low-rank norm, the token's own
// row, and the rows that compressors complete (architecture.md 2.5 to 2.8).
#pragma once
#include "hc.cuh"
#include "packed.cuh"

// Cosines and sines of the angles of every token of the step, interleaved: [kind][T][ROPE_DIM].
// Kind 0 is window layers, kind 1 compressed ones, kind 2 + i the start of the window of ratio i
// that the token completes. grid (T, kinds), block 32..64 threads, one pair each.
struct Ropes {
    const float* single[2];   // f32 frequencies of window and compressed layers
    const double* exact[2];
    int ratios[4];            // ratio of kind 2 + i
    int f32_angle;            // the angle is the rounded product of position and frequency
    int pad;
};
DS4_KERNEL(rope_turns)(Ropes ropes, const Tok* toks, int n_tok, float* turns) {
    const int i = threadIdx.x, t = blockIdx.x, kind = blockIdx.y;
    pdl_wait();
    pdl_go();
    if (i >= ROPE_DIM / 2) return;
    int pos = toks[t].pos;
    if (kind >= 2) {
        const int ratio = ropes.ratios[kind - 2];
        if ((pos + 1) % ratio) return;
        pos += 1 - ratio;
    }
    const int which = kind != 0;
    const double angle = ropes.f32_angle ? (double)__fmul_rn((float)pos, ropes.single[which][i])
                                         : (double)pos * ropes.exact[which][i];
    double s, c;
    sincos(angle, &s, &c);
    float* to = turns + ((size_t)kind * n_tok + t) * ROPE_DIM + 2 * i;
    to[0] = (float)c;
    to[1] = (float)s;
}
DS4_REGISTER(rope_turns)

// x <- rms(x)·weight of `n` values in shared memory; the whole block takes part.
__device__ __forceinline__ void norm_row(float* x, int n, const float* weight, float* space) {
    float square = 0.0f;
    for (int d = threadIdx.x; d < n; d += blockDim.x) square += x[d] * x[d];
    const float inv = 1.0f / sqrtf(block_sum(square, space) / (float)n + RMS_EPS);
    for (int d = threadIdx.x; d < n; d += blockDim.x) x[d] = x[d] * (inv * weight[d]);
    __syncthreads();
}

// Rotates interleaved pairs of the last ROPE_DIM of `n` values in shared memory.
__device__ __forceinline__ void rotate_row(float* x, int n, const float* turns) {
    for (int i = threadIdx.x; i < ROPE_DIM / 2; i += blockDim.x) {
        float* pair = x + n - ROPE_DIM + 2 * i;
        const float a = pair[0], b = pair[1], c = turns[2 * i], s = turns[2 * i + 1];
        pair[0] = a * c - b * s;
        pair[1] = a * s + b * c;
    }
    __syncthreads();
}

// Rounds an index row, or a query of the indexer: Hadamard rotation, then the E2M1 grid (6.10).
__device__ __forceinline__ void fp4_row(float* x, int n) {
#if IDX_FP4
    for (int half_n = 1; half_n < n; half_n *= 2) {
        for (int i = threadIdx.x; i < n / 2; i += blockDim.x) {
            const int at = i / half_n * 2 * half_n + i % half_n;
            const float a = x[at], b = x[at + half_n];
            x[at] = a + b;
            x[at + half_n] = a - b;
        }
        __syncthreads();
    }
    const float scale = (float)(1.0 / sqrt((double)n));
    for (int d = threadIdx.x; d < n; d += blockDim.x) {
        const float v = x[d] * scale;
        x[d] = fp4_value(v, warp_max(fabsf(v)));
    }
    __syncthreads();
#endif
}

// A compressor: projections of the step's tokens, and where they and the rows they complete go.
struct Comp {
    const float* kv;     // [T][lanes·dim]
    const float* score;  // [T][lanes·dim]
    const float* ape;    // [ratio][lanes·dim]
    const float* norm;   // [dim]
};

// The value of channel `c` at position `p`: of the step's own tokens, or of the ring.
__device__ __forceinline__ float at_position(const float* chunk, const float* ring, const Tok& tok, int p,
                                             int slots, int width, int c) {
    return p >= tok.pos0 ? chunk[(size_t)(tok.start + p - tok.pos0) * width + c]
                         : ring[(size_t)(p % slots) * width + c];
}

// Pools the window that token `tok` completes into `row` in shared memory (2.7).
__device__ __forceinline__ void pool_window(float* row, const Comp& comp, const float* kv_ring,
                                            const float* sc_ring, const Tok& tok, int ratio, int dim) {
    const int lanes = comp_lanes(ratio), slots = comp_slots(ratio), width = lanes * dim;
    const int start = tok.pos + 1 - ratio;
    const int from = lanes == 2 && start > 0 ? start - ratio : start;
    for (int d = threadIdx.x; d < dim; d += blockDim.x) {
        float best = -INFINITY, sum = 0.0f, total = 0.0f;
        for (int p = from; p <= tok.pos; p++) {
            // Lane A of the tokens before the window, the last lane of its own.
            const int c = lanes == 2 && p >= start ? dim + d : d;
            float s = at_position(comp.score, sc_ring, tok, p, slots, width, c);
            if (p >= tok.pos0) s += comp.ape[(size_t)(p % ratio) * width + c];
            best = fmaxf(best, s);
        }
        for (int p = from; p <= tok.pos; p++) {
            const int c = lanes == 2 && p >= start ? dim + d : d;
            float s = at_position(comp.score, sc_ring, tok, p, slots, width, c);
            if (p >= tok.pos0) s += comp.ape[(size_t)(p % ratio) * width + c];
            const float e = expf(s - best);
            sum += e;
            total += e * at_position(comp.kv, kv_ring, tok, p, slots, width, c);
        }
        row[d] = total / sum;
    }
    __syncthreads();
}

// Keeps a token's projections in the rings.
__device__ __forceinline__ void keep(const Comp& comp, float* kv_ring, float* sc_ring, int t, int pos,
                                     int ratio, int dim) {
    const int width = comp_lanes(ratio) * dim, slot = pos % comp_slots(ratio);
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        kv_ring[(size_t)slot * width + c] = comp.kv[(size_t)t * width + c];
        sc_ring[(size_t)slot * width + c] = comp.score[(size_t)t * width + c] + comp.ape[(size_t)(pos % ratio) * width + c];
    }
}

struct RowsArgs {
    const Tok* toks;
    const SeqLayer* table;   // row [seq·places + place]
    int places, place;
    int ratio;               // 0: no compressor
    int indexed;             // there is an index compressor
    int store;               // rings are written at once; else by `keep_rows` after attention
    int forms;               // int8 forms of the query's low-rank form
    const float* turns;      // of the tokens, of this layer's kind
    const float* turns_start;
    float* qr;               // [T][Q_RANK], in place; null: no query
    const float* q_norm;
    int8_t* qr_q;
    float* qr_d;
    const float* kv;         // [T][HEAD_DIM]
    const float* kv_norm;
    uint8_t* raw;            // [T] rows
    Comp comp, idx;
    float* gates;            // [T][HC_GATES], to be completed; null: they are
};

// What follows the projections of a sublayer's input, by one block for one token: role 0 the query's
// low-rank form, 1 the raw row and the gates, 2 the compressor, 3 the index compressor. row, space: shared memory.
#define ROWS_WIDTH (HEAD_DIM > Q_RANK ? HEAD_DIM : Q_RANK)
__device__ __forceinline__ void rows_role(const RowsArgs& a, int t, int role, float* row, float* space) {
    const Tok tok = a.toks[t];
    const SeqLayer s = a.table[(size_t)tok.seq * a.places + a.place];
    if (role == 0) {
        if (!a.qr) return;
        float* qr = a.qr + (size_t)t * Q_RANK;
        for (int d = threadIdx.x; d < Q_RANK; d += blockDim.x) row[d] = qr[d];
        norm_row(row, Q_RANK, a.q_norm, space);
        for (int d = threadIdx.x; d < Q_RANK; d += blockDim.x) qr[d] = row[d];
        quantise_row(row, Q_RANK, a.forms, a.qr_q + (size_t)t * Q_RANK, a.qr_d + (size_t)t * (Q_RANK / 32), 0, 0, 0);
    } else if (role == 1) {
        for (int d = threadIdx.x; d < HEAD_DIM; d += blockDim.x) row[d] = a.kv[(size_t)t * HEAD_DIM + d];
        norm_row(row, HEAD_DIM, a.kv_norm, space);
        rotate_row(row, HEAD_DIM, a.turns + (size_t)t * ROPE_DIM);
        kv_store(row, a.raw + (size_t)t * KV_ROW_BYTES, a.store ? s.raw + (size_t)(tok.pos % RAW_SLOTS) * KV_ROW_BYTES : 0);
        if (a.gates && threadIdx.x < WARP) complete_gates(a.gates + (size_t)t * HC_GATES);
    } else if (role == 2) {
        if (!a.ratio) return;
        if (a.store) keep(a.comp, s.comp_kv, s.comp_sc, t, tok.pos, a.ratio, HEAD_DIM);
        if ((tok.pos + 1) % a.ratio) return;
        pool_window(row, a.comp, s.comp_kv, s.comp_sc, tok, a.ratio, HEAD_DIM);
        norm_row(row, HEAD_DIM, a.comp.norm, space);
        rotate_row(row, HEAD_DIM, a.turns_start + (size_t)t * ROPE_DIM);
        kv_store(row, s.comp + (size_t)(tok.pos / a.ratio) * KV_ROW_BYTES, 0);
    } else {
        if (!a.indexed) return;
        if (a.store) keep(a.idx, s.idx_kv, s.idx_sc, t, tok.pos, a.ratio, IDX_DIM);
        if ((tok.pos + 1) % a.ratio) return;
        pool_window(row, a.idx, s.idx_kv, s.idx_sc, tok, a.ratio, IDX_DIM);
        norm_row(row, IDX_DIM, a.idx.norm, space);
        rotate_row(row, IDX_DIM, a.turns_start + (size_t)t * ROPE_DIM);
        fp4_row(row, IDX_DIM);
        idx_store(row, s.idx + (size_t)(tok.pos / a.ratio) * IDX_ROW_BYTES);
    }
}

// Every role a block. grid (T, roles), block 256.
DS4_KERNEL(rows, 256, 4)(const __grid_constant__ RowsArgs a) {
    __shared__ float row[ROWS_WIDTH], space[32];
    pdl_wait();
    pdl_go();
    rows_role(a, blockIdx.x, blockIdx.y, row, space);
}
DS4_REGISTER(rows)

// Writes the step's rows into the rings when there are more than their margin: only the last ones
// that a ring has slots for. grid (T, roles 1..3 as in `rows`), block 128.
DS4_KERNEL(keep_rows, 128)(const __grid_constant__ RowsArgs a) {
    const int t = blockIdx.x, role = blockIdx.y + 1;
    pdl_wait();
    pdl_go();
    const Tok tok = a.toks[t];
    const SeqLayer s = a.table[(size_t)tok.seq * a.places + a.place];
    const int end = tok.pos0 + tok.n;
    if (role == 1) {
        if (tok.pos < end - RAW_SLOTS) return;
        const uint4* from = (const uint4*)(a.raw + (size_t)t * KV_ROW_BYTES);
        uint4* ring = (uint4*)(s.raw + (size_t)(tok.pos % RAW_SLOTS) * KV_ROW_BYTES);
        for (int i = threadIdx.x; i < KV_ROW_BYTES / 16; i += blockDim.x) ring[i] = from[i];
        return;
    }
    if (!a.ratio || tok.pos < end - comp_slots(a.ratio)) return;
    if (role == 2) keep(a.comp, s.comp_kv, s.comp_sc, t, tok.pos, a.ratio, HEAD_DIM);
    else if (a.indexed) keep(a.idx, s.idx_kv, s.idx_sc, t, tok.pos, a.ratio, IDX_DIM);
}
DS4_REGISTER(keep_rows)
