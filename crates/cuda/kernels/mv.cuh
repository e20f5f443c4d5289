// Matrices times 1 to 16 tokens: every weight is read once for all tokens of the step.
//
// One launch takes up to eight jobs that share their input. A block takes some rows of one job and
// splits their columns over its warps; the host gives every job its number of blocks:
//
//   rows of a block   T <= 4: R * (4 / split), R = 4; 8 for Q8_0 in mv_wide_* and mv_query_*
//                     T > 4: 16 * (8 / split); half of that in pairs (kind 1)
//   split             a power of two up to 4 (T <= 4) or 8; where the output is quantised (kind 2) the
//                     rows of a block must be 32: split = 1 (T <= 4) or 4
//   job[0].first      0; in mv_query_* the blocks that go before the products
//   job[j].first      job[0].first + sum of ceil(rows / rows of a block) over the jobs before j
//   grid              the same sum over all jobs
//
// Jobs that read most bytes per block should come first, but for the router's, whose end goes on
// with the choice of experts while other blocks are at work. Static shared memory only.
#pragma once

#include "router.cuh"
#include "rows.cuh"
#include "tables.cuh"

struct MvJob {
    Mat w;
    float* out;      // out[t * out_stride + row]; may be null in kind 2
    int out_stride;
    int groups;      // > 1: row r reads columns [g * cols, (g + 1) * cols) of x, g = r / (rows / groups);
                     // rows / groups is a multiple of 16 for Q8_0, of 4 for F16 and F32
    Mat w2;          // kind 1: the up matrix, of the same type and shape as w, the gate
    int kind;        // 0: out = w x; 1: out = swiglu(w x, w2 x); 2: w x and its Q8_0 form, of a Q8_0 matrix
                     // whose rows are a multiple of 32; not in mv_1, mv_2 and mv_4; 3: the router's scores,
                     // and then the choice of experts; one job of a launch, not in mv_query_*
    float clamp;
    int first;       // first block of the job
    int shift;       // log2 of split: the warps that share a row
    int8_t* q;       // kind 2: int8 [T][out_stride], f32 [T][out_stride / 32]
    float* d;
};
struct MvJobs {
    MvJob job[8];
    int n;
    int blocks;      // blocks of the router's job
    int pad[2];
    unsigned* done;  // those of them that are done: 0 before and after the launch
    RouteArgs route;
    Ahead ahead;
};

// --- loads of weights: in program order with `pdl_wait`, past the first-level cache

#ifdef DS4_EMU
__device__ __forceinline__ uint2 load_stream8(const void* p) { return *(const uint2*)p; }
__device__ __forceinline__ uint32_t load_stream4(const void* p) { return *(const uint32_t*)p; }
__device__ __forceinline__ uint32_t load_stream2(const void* p) { return *(const uint16_t*)p; }
__device__ __forceinline__ uint32_t load_stream1(const void* p) { return *(const uint8_t*)p; }
#else
__device__ __forceinline__ uint2 load_stream8(const void* p) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}
__device__ __forceinline__ uint32_t load_stream4(const void* p) {
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
__device__ __forceinline__ uint32_t load_stream2(const void* p) {
    uint16_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(v) : "l"(p));
    return v;
}
__device__ __forceinline__ uint32_t load_stream1(const void* p) {
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u8 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
#endif

__device__ __forceinline__ float half_bits(uint32_t bits) {
    return __half2float(__ushort_as_half((unsigned short)bits));
}
__device__ __forceinline__ float2 half2_bits(uint32_t bits) {
    return make_float2(half_bits(bits & 0xffff), half_bits(bits >> 16));
}

__device__ __forceinline__ int dot16(const uint4& w, const uint4& x) {
    int s = __dp4a((int)w.x, (int)x.x, 0);
    s = __dp4a((int)w.y, (int)x.y, s);
    s = __dp4a((int)w.z, (int)x.z, s);
    return __dp4a((int)w.w, (int)x.w, s);
}

// silu(min(gate, clamp)) * clamp(up, +-clamp)
__device__ __forceinline__ float swiglu(float gate, float up, float clamp) {
    const float a = fminf(gate, clamp);
    return a / (1.0f + expf(-a)) * fminf(fmaxf(up, -clamp), clamp);
}

// --- where a warp works

// Rows and columns of one warp: slot i of its R slots is a row of w, or, in pairs, slots of the
// lower half are rows of the gate and those of the upper half the same rows of up.
struct MvPlace {
    int row;         // of slot 0
    int shift, part; // the warp's part of the columns, of 1 << shift
    int x_at;        // first column of x
};

// First column of x that a row reads.
__device__ __forceinline__ int mv_x_at(const MvJob& job, int row) {
    return job.groups > 1 ? row / (job.w.rows / job.groups) * job.w.cols : 0;
}

template <int WARPS, int R>
__device__ __forceinline__ MvPlace mv_place(const MvJob& job, int block) {
    const int warp = threadIdx.x >> 5, per = job.kind == 1 ? R / 2 : R;
    MvPlace p;
    p.shift = job.shift;
    p.part = warp & (1 << job.shift) - 1;
    p.row = (block * (WARPS >> job.shift) + (warp >> job.shift)) * per;
    p.x_at = mv_x_at(job, min(p.row, job.w.rows - 1));
    return p;
}

// Matrix and row of slot `i`; rows past the end repeat the last one and are not written.
template <int R> __device__ __forceinline__ const Mat& mv_slot(const MvJob& job, const MvPlace& p, int i, int& row) {
    const bool up = job.kind == 1 && i >= R / 2;
    row = min(p.row + (up ? i - R / 2 : i), job.w.rows - 1);
    return up ? job.w2 : job.w;
}

// Adds up the columns' parts and writes. part: [WARPS][R][TP] sums of the warps.
template <int WARPS, int R, int TP>
__device__ __forceinline__ void mv_write(const MvJob& job, int block, const float* part, int tokens) {
    const int per = job.kind == 1 ? R / 2 : R, slots = (WARPS >> job.shift) * per, split = 1 << job.shift;
    for (int i = threadIdx.x; i < slots * tokens; i += WARPS * 32) {
        const int t = i / slots, slot = i % slots, row = block * slots + slot;
        const float* at = part + (((slot / per) << job.shift) * R + slot % per) * TP + t;
        float v = 0.0f, up = 0.0f;
        for (int s = 0; s < split; s++, at += R * TP) {
            v += at[0];
            if (job.kind == 1) up += at[R / 2 * TP];
        }
        if (job.kind == 1) v = swiglu(v, up, job.clamp);
        if (row < job.w.rows) job.out[(int64_t)t * job.out_stride + row] = v;
    }
}

// The same of kind 2, whose block has 32 rows: a warp takes whole blocks of the Q8_0 form.
template <int WARPS, int R, int TP>
__device__ __forceinline__ void mv_write_q8(const MvJob& job, int block, const float* part, int tokens) {
    constexpr int SPLIT = WARPS * R / 32;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    for (int t = warp; t < tokens; t += WARPS) {
        const float* at = part + (lane / R * SPLIT * R + lane % R) * TP + t;
        float v = 0.0f;
#pragma unroll
        for (int s = 0; s < SPLIT; s++) v += at[s * R * TP];
        const float scale = warp_max(fabsf(v)) / 127.0f, inv = scale == 0.0f ? 0.0f : 1.0f / scale;
        const int64_t to = (int64_t)t * job.out_stride + block * 32 + lane;
        if (job.out) job.out[to] = v;
        job.q[to] = (int8_t)round_i8(v * inv);
        if (lane == 0) job.d[to >> 5] = scale;
    }
}

// --- the input

// Rows as an earlier kernel left them.
struct MvIn {
    const float* f;   // [T][stride]
    const int8_t* q;  // their Q8_0 form
    const float* d;
    int stride, tokens;
    static constexpr bool NORMS = false;
    // By all threads, once, before the input is read.
    __device__ __forceinline__ void ready() const { pdl_wait(); }
};

// The query's low-rank form, whose norm and Q8_0 form every block makes for itself.
template <int T, int WARPS> struct MvQuery {
    float* f;
    int8_t* q;
    float* d;
    int tokens;
    const float* raw;     // [T][Q_RANK]
    const float* weight;  // [Q_RANK]
    float* space;         // [2][WARPS]
    static constexpr int stride = Q_RANK;
    static constexpr bool NORMS = true;
    __device__ __forceinline__ void ready() const {
        constexpr int K = (Q_RANK + WARPS * 128 - 1) / (WARPS * 128);
        const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
        for (int k = 0; k < K; k++) prefetch_l2(weight + min((k * WARPS * 32 + (int)threadIdx.x) * 4, Q_RANK - 1));
        pdl_wait();
#pragma unroll 1
        for (int t = 0; t < (T == 1 ? 1 : tokens); t++) {
            float square = 0.0f;
#pragma unroll
            for (int k = 0; k < K; k++) {
                const int at = (k * WARPS * 32 + threadIdx.x) * 4;
                if (at >= Q_RANK) continue;
                const float4 v = *(const float4*)(raw + t * Q_RANK + at);
                square += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
            }
            square = warp_sum(square);
            float* sums = space + (t & 1) * WARPS;
            if (lane == 0) sums[warp] = square;
            __syncthreads();
            square = 0.0f;
#pragma unroll
            for (int i = 0; i < WARPS; i++) square += sums[i];
            const float inv = 1.0f / sqrtf(square / (float)Q_RANK + RMS_EPS);
            // Read again rather than kept: registers are full of weights under way.
#pragma unroll 1
            for (int k = 0; k < K; k++) {
                const int at = (k * WARPS * 32 + threadIdx.x) * 4, from = min(at, Q_RANK - 4);
                const float4 v = *(const float4*)(raw + t * Q_RANK + from), w = *(const float4*)(weight + from);
                const float4 y = make_float4(v.x * (inv * w.x), v.y * (inv * w.y), v.z * (inv * w.z), v.w * (inv * w.w));
                // 8 lanes hold a block of 32.
                float most = fmaxf(fmaxf(fabsf(y.x), fabsf(y.y)), fmaxf(fabsf(y.z), fabsf(y.w)));
#pragma unroll
                for (int o = 4; o; o >>= 1) most = fmaxf(most, __shfl_xor_sync(FULL, most, o));
                const float scale = most / 127.0f, by = scale == 0.0f ? 0.0f : 1.0f / scale;
                if (at >= Q_RANK) continue;
                *(float4*)(f + t * Q_RANK + at) = y;
                *(uint32_t*)(q + t * Q_RANK + at) =
                    (uint32_t)(round_i8(y.x * by) & 255) | (uint32_t)(round_i8(y.y * by) & 255) << 8 |
                    (uint32_t)(round_i8(y.z * by) & 255) << 16 | (uint32_t)(round_i8(y.w * by) & 255) << 24;
                if ((lane & 7) == 0) d[(t * Q_RANK + at) >> 5] = scale;
            }
        }
        __syncthreads();
    }
};

// --- up to 4 tokens: dot products of single lanes

// Slots slot0 .. slot0 + R of a warp's RT: the first half and the second lie in a row each.
template <int R, int RT> struct MvRows {
    static constexpr int H = (R + 1) / 2;
    const Mat* m[2];
    int row[2];  // of the first slot of each half
    int n[2];    // rows from there to the end of the matrix, which may be fewer than H or none
    __device__ __forceinline__ MvRows(const MvJob& job, const MvPlace& p, int slot0) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            m[h] = &mv_slot<RT>(job, p, slot0 + h * H, row[h]);
            const int slot = slot0 + h * H;
            n[h] = job.w.rows - p.row - (job.kind == 1 && slot >= RT / 2 ? slot - RT / 2 : slot);
        }
    }
    __device__ __forceinline__ bool has(int r) const { return r % H < n[r / H]; }
};

// R rows of Q8_0 times T tokens over pieces (of 16 columns) first..last; the first weights are on
// their way before the input is waited for.
template <int T, int R, int C, class In>
__device__ __forceinline__ void mv_q8(const MvJob& job, const MvPlace& pl, const In& in, float (&acc)[R][T]) {
    const int lane = threadIdx.x & 31, cols = job.w.cols, pieces = cols >> 4;
    const int per = (pieces + (32 << pl.shift) - 1) >> (5 + pl.shift) << 5;
    const int first = pl.part * per, last = min(first + per, pieces);
    const MvRows<R, R> rows(job, pl, 0);
    constexpr int H = rows.H;
    const int d_row = (cols >> 5) * 2;
    const char* q[2];
    const char* d[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        q[h] = (const char*)rows.m[h]->q + (int64_t)rows.row[h] * cols;
        d[h] = (const char*)rows.m[h]->d + (int64_t)rows.row[h] * d_row;
    }
    const int8_t* xq = in.q + pl.x_at;
    const float* xd = in.d + (pl.x_at >> 5);
    bool waited = false;
    int base = first;
    do {
        uint4 w[R][C];
        uint32_t s[R][C];
#pragma unroll
        for (int c = 0; c < C; c++) {
            const int p = base + c * 32 + lane;
#pragma unroll
            for (int r = 0; r < R; r++) {
                w[r][c] = make_uint4(0, 0, 0, 0), s[r][c] = 0;
                if (p < last && rows.has(r)) {
                    w[r][c] = load_stream(q[r / H] + (r % H * cols + p * 16));
                    s[r][c] = load_stream2(d[r / H] + (r % H * d_row + (p >> 1) * 2));
                }
            }
        }
        if (!waited) in.ready();
        waited = true;
#pragma unroll
        for (int c = 0; c < C; c++) {
            const int p = base + c * 32 + lane;
            if (p >= last) continue;
#pragma unroll
            for (int t = 0; t < T; t++) {
                const int at = min(t, in.tokens - 1) * in.stride;
                const uint4 x = *(const uint4*)(xq + at + p * 16);
                const float dx = xd[(at >> 5) + (p >> 1)];
#pragma unroll
                for (int r = 0; r < R; r++)
                    acc[r][t] += (float)dot16(w[r][c], x) * (half_bits(s[r][c]) * dx);
            }
        }
        base += C * 32;
    } while (base < last);
}

// The V values of a piece of a row of floats or halves.
template <int V> struct MvPiece;
template <> struct MvPiece<8> {  // 8 halves
    typedef uint4 W;
    static constexpr int BYTES = 16;
    static __device__ __forceinline__ W zero() { return make_uint4(0, 0, 0, 0); }
    static __device__ __forceinline__ W load(const char* p) { return load_stream(p); }
    static __device__ __forceinline__ float dot(const W& w, const float* x, float y) {
        const float4 a = *(const float4*)x, b = *(const float4*)(x + 4);
        const float2 w0 = half2_bits(w.x), w1 = half2_bits(w.y), w2 = half2_bits(w.z), w3 = half2_bits(w.w);
        y = fmaf(w0.x, a.x, y), y = fmaf(w0.y, a.y, y), y = fmaf(w1.x, a.z, y), y = fmaf(w1.y, a.w, y);
        y = fmaf(w2.x, b.x, y), y = fmaf(w2.y, b.y, y), y = fmaf(w3.x, b.z, y), y = fmaf(w3.y, b.w, y);
        return y;
    }
};
template <> struct MvPiece<2> {  // 4 halves, where rows are not aligned to 16 bytes
    typedef uint2 W;
    static constexpr int BYTES = 8;
    static __device__ __forceinline__ W zero() { return make_uint2(0, 0); }
    static __device__ __forceinline__ W load(const char* p) { return load_stream8(p); }
    static __device__ __forceinline__ float dot(const W& w, const float* x, float y) {
        const float4 a = *(const float4*)x;
        const float2 w0 = half2_bits(w.x), w1 = half2_bits(w.y);
        return fmaf(w1.y, a.w, fmaf(w1.x, a.z, fmaf(w0.y, a.y, fmaf(w0.x, a.x, y))));
    }
};
template <> struct MvPiece<4> {  // 4 floats
    typedef uint4 W;
    static constexpr int BYTES = 16;
    static __device__ __forceinline__ W zero() { return make_uint4(0, 0, 0, 0); }
    static __device__ __forceinline__ W load(const char* p) { return load_stream(p); }
    static __device__ __forceinline__ float dot(const W& w, const float* x, float y) {
        const float4 a = *(const float4*)x;
        y = fmaf(__uint_as_float(w.x), a.x, y), y = fmaf(__uint_as_float(w.y), a.y, y);
        return fmaf(__uint_as_float(w.w), a.w, fmaf(__uint_as_float(w.z), a.z, y));
    }
};

// The same of F16 (V = 8, or 2 for pieces of 4) and F32 (V = 4); slots slot0..slot0 + R of RT.
template <int V, int T, int R, int C, int RT, class In>
__device__ __forceinline__ void mv_f(const MvJob& job, const MvPlace& pl, int slot0, const In& in, bool waited,
                                     float (&acc)[R][T]) {
    typedef MvPiece<V> Piece;
    constexpr int N = V == 8 ? 8 : 4;
    const int lane = threadIdx.x & 31, pieces = job.w.cols / N;
    const int per = (pieces + (32 << pl.shift) - 1) >> (5 + pl.shift) << 5;
    const int first = pl.part * per, last = min(first + per, pieces);
    const MvRows<R, RT> rows(job, pl, slot0);
    constexpr int H = rows.H;
    const int q_row = pieces * Piece::BYTES;
    const char* q[2];
#pragma unroll
    for (int h = 0; h < 2; h++) q[h] = (const char*)rows.m[h]->q + (int64_t)rows.row[h] * q_row;
    const float* xf = in.f + mv_x_at(job, rows.row[0]);
    int base = first;
    do {
        typename Piece::W w[R][C];
#pragma unroll
        for (int c = 0; c < C; c++) {
            const int p = base + c * 32 + lane;
#pragma unroll
            for (int r = 0; r < R; r++) {
                w[r][c] = Piece::zero();
                if (p < last && rows.has(r)) w[r][c] = Piece::load(q[r / H] + (r % H * q_row + p * Piece::BYTES));
            }
        }
        if (!waited) in.ready();
        waited = true;
#pragma unroll
        for (int c = 0; c < C; c++) {
            const int p = base + c * 32 + lane;
            if (p >= last) continue;
#pragma unroll
            for (int t = 0; t < T; t++) {
                const float* x = xf + min(t, in.tokens - 1) * in.stride + p * N;
#pragma unroll
                for (int r = 0; r < R; r++) acc[r][t] = Piece::dot(w[r][c], x, acc[r][t]);
            }
        }
        base += C * 32;
    } while (base < last);
}

template <int T, int R, int RT>
__device__ __forceinline__ void mv_put(float (&acc)[R][T], float* part) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int t = 0; t < T; t++) {
            const float v = warp_sum(acc[r][t]);
            if (lane == 0) part[r * T + t] = v;
        }
}

__device__ __forceinline__ int mv_job(const MvJobs& jobs) {
    int j = 0;
#pragma unroll
    for (int i = 1; i < 8; i++)
        if (i < jobs.n && (int)blockIdx.x >= jobs.job[i].first) j = i;
    return j;
}

// Once all blocks of the router's job are done, the last of them chooses every token's experts.
__device__ __noinline__ void mv_route(const MvJobs& jobs, float* logits, int tokens) {
    __shared__ int last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(jobs.done, 1u) == (unsigned)jobs.blocks - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) *jobs.done = 0;
    for (int t = threadIdx.x >> 5; t < tokens; t += blockDim.x >> 5) route_token(jobs.route, logits, t);
}

// T tokens at most; RQ rows a warp of Q8_0 with CQ loads each in flight, RF and CF of F16 and F32.
template <int T, int WARPS, int RQ, int CQ, int RF, int CF, class In>
__device__ __forceinline__ void mv_small(const MvJobs& jobs, const In& in) {
    constexpr int RM = RQ > RF ? RQ : RF;
    __shared__ float part[WARPS * RM * T];
    fetch_ahead(jobs.ahead);
    const MvJob& job = jobs.job[mv_job(jobs)];
    const int block = blockIdx.x - job.first, warp = threadIdx.x >> 5, cols = job.w.cols;
    if (job.w.type == TY_Q8_0) {
        constexpr bool QUANTISES = WARPS * RQ >= 32;
        float acc[RQ][T] = {};
        const MvPlace pl = mv_place<WARPS, RQ>(job, block);
        mv_q8<T, RQ, CQ>(job, pl, in, acc);
        mv_put<T, RQ, RQ>(acc, part + warp * RQ * T);
        __syncthreads();
        if (!QUANTISES || job.kind != 2) mv_write<WARPS, RQ, T>(job, block, part, in.tokens);
        else if constexpr (QUANTISES) mv_write_q8<WARPS, RQ, T>(job, block, part, in.tokens);
    } else {
        float acc[RF][T] = {};
        const MvPlace pl = mv_place<WARPS, RF>(job, block);
        if (job.w.type == TY_F32) mv_f<4, T, RF, CF, RF>(job, pl, 0, in, false, acc);
        else if (cols % 8 == 0) mv_f<8, T, RF, CF, RF>(job, pl, 0, in, false, acc);
        else mv_f<2, T, RF, CF, RF>(job, pl, 0, in, false, acc);
        mv_put<T, RF, RF>(acc, part + warp * RF * T);
        __syncthreads();
        mv_write<WARPS, RF, T>(job, block, part, in.tokens);
    }
    if constexpr (!In::NORMS)
        if (job.kind == 3) mv_route(jobs, job.out, in.tokens);
}

// One role of `rows`. A function of its own, so that it takes no registers from the products.
__device__ __noinline__ void mv_rows(const RowsArgs& a, int t, int role) {
    __shared__ float row[ROWS_WIDTH], space[32];
    pdl_wait();
    rows_role(a, t, role, row, space);
}

// Products with the query's low-rank form of T tokens at most. The blocks before the first job's take
// the other roles of `rows`, 1 and up, a token each: what attention needs besides the query.
template <int T, int WARPS, int RQ, int CQ, int RF, int CF>
__device__ __forceinline__ void mv_query(const MvJobs& jobs, const RowsArgs& rows, int tokens) {
    __shared__ __align__(16) float f[T * Q_RANK];
    __shared__ __align__(16) int8_t q[T * Q_RANK];
    __shared__ float d[T * Q_RANK / 32], space[2 * WARPS];
    pdl_go();
    const int block = blockIdx.x;
    if (block < jobs.job[0].first) {
        mv_rows(rows, block % tokens, 1 + block / tokens);
        return;
    }
    mv_small<T, WARPS, RQ, CQ, RF, CF>(jobs, MvQuery<T, WARPS>{f, q, d, tokens, rows.qr, rows.q_norm, space});
}

// --- 8 or 16 tokens: tensor cores, 16 rows by 8 tokens

// 16 rows of Q8_0 times 8 * NT tokens over the warp's part of the blocks of 32. Lane 4g + c holds 8
// values of rows g and g + 8 and of token g; which 8 of the 32 is the same on both sides. G blocks
// (4 where rows are whole multiples of 128 columns, else 1) have their scales loaded together, U
// such groups are in flight.
template <int NT, int U, int G>
__device__ __forceinline__ void mv_q8_mma(const MvJob& job, const MvPlace& pl, const int8_t* xq, const float* xd,
                                          int x_stride, int tokens, float (&acc)[NT][4]) {
    const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
    const int cols = job.w.cols, blocks = cols >> 5, xb = x_stride >> 5;
    const int per = (blocks / G + (1 << pl.shift) - 1 >> pl.shift) * G;
    const int first = pl.part * per, last = min(first + per, blocks);
    const char* q[2];
    const char* d[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row;
        const Mat& m = mv_slot<16>(job, pl, g + 8 * h, row);
        q[h] = (const char*)m.q + (int64_t)row * cols + 8 * c;
        d[h] = (const char*)m.d + (int64_t)row * blocks * 2;
    }
    int x[NT], dx[NT][2];
    xq += pl.x_at + 8 * c, xd += pl.x_at >> 5;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        x[n] = min(n * 8 + g, tokens - 1) * x_stride;
#pragma unroll
        for (int i = 0; i < 2; i++) dx[n][i] = min(n * 8 + 2 * c + i, tokens - 1) * xb;
    }
    bool waited = false;
    int base = first;
    do {
        uint2 w[2][U * G], s[2][U];
#pragma unroll
        for (int u = 0; u < U; u++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int b = base + u * G;
                s[h][u] = make_uint2(0, 0);
#pragma unroll
                for (int i = 0; i < G; i++) {
                    w[h][u * G + i] = make_uint2(0, 0);
                    if (b < last) w[h][u * G + i] = load_stream8(q[h] + (b + i) * 32);
                }
                if (b < last && G == 4) s[h][u] = load_stream8(d[h] + b * 2);
                if (b < last && G == 1) s[h][u].x = load_stream2(d[h] + b * 2);
            }
        if (!waited) pdl_wait();
        waited = true;
#pragma unroll
        for (int u = 0; u < U; u++) {
            const int b = min(base + u * G, blocks - G);
            float dt[NT][2][4];
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const float* at = xd + dx[n][i] + b;
                    if (G == 4) {
                        const float4 v = *(const float4*)at;
                        dt[n][i][0] = v.x, dt[n][i][1] = v.y, dt[n][i][2] = v.z, dt[n][i][3] = v.w;
                    } else {
                        dt[n][i][0] = *at;
                    }
                }
#pragma unroll
            for (int k = 0; k < G; k++) {
                const uint2 w0 = w[0][u * G + k], w1 = w[1][u * G + k];
                const uint32_t a[4] = {w0.x, w1.x, w0.y, w1.y};
                const uint32_t half0 = k < 2 ? s[0][u].x : s[0][u].y, half1 = k < 2 ? s[1][u].x : s[1][u].y;
                const float s0 = half_bits(half0 >> (k & 1) * 16 & 0xffff), s1 = half_bits(half1 >> (k & 1) * 16 & 0xffff);
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    const uint2 xv = *(const uint2*)(xq + (x[n] + (b + k) * 32));
                    const uint32_t bf[2] = {xv.x, xv.y};
                    const int zero[4] = {0, 0, 0, 0};
                    int y[4];
                    mma_s8(y, a, bf, zero);
                    acc[n][0] += (float)y[0] * (s0 * dt[n][0][k]);
                    acc[n][1] += (float)y[1] * (s0 * dt[n][1][k]);
                    acc[n][2] += (float)y[2] * (s1 * dt[n][0][k]);
                    acc[n][3] += (float)y[3] * (s1 * dt[n][1][k]);
                }
            }
        }
        base += U * G;
    } while (base < last);
}

// Two floats as halves, and what those leave, times 2^11: together 22 bits.
__device__ __forceinline__ void mv_halves(float x, float y, uint32_t& hi, uint32_t& lo) {
    const __half a = __float2half_rn(x), b = __float2half_rn(y);
    const __half c = __float2half_rn((x - __half2float(a)) * 2048.0f), d = __float2half_rn((y - __half2float(b)) * 2048.0f);
    hi = __half_as_ushort(a) | (uint32_t)__half_as_ushort(b) << 16;
    lo = __half_as_ushort(c) | (uint32_t)__half_as_ushort(d) << 16;
}

// The same of F16 rows whose length is a multiple of 8; inputs must be below 65504.
template <int NT, int U>
__device__ __forceinline__ void mv_f16_mma(const MvJob& job, const MvPlace& pl, const float* xf, int x_stride,
                                           int tokens, float (&acc)[NT][4]) {
    const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
    const int pieces = job.w.cols >> 3, per = (pieces + (4 << pl.shift) - 1) >> (2 + pl.shift) << 2;
    const int first = pl.part * per, last = min(first + per, pieces);
    const char* q[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row;
        const Mat& m = mv_slot<16>(job, pl, g + 8 * h, row);
        q[h] = (const char*)m.q + (int64_t)row * pieces * 16;
    }
    int x[NT];
    xf += pl.x_at;
#pragma unroll
    for (int n = 0; n < NT; n++) x[n] = min(n * 8 + g, tokens - 1) * x_stride;
    bool waited = false;
    int base = first;
    do {
        uint4 w[2][U];
#pragma unroll
        for (int u = 0; u < U; u++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int p = base + 4 * u + c;
                w[h][u] = make_uint4(0, 0, 0, 0);
                if (p < last) w[h][u] = load_stream(q[h] + p * 16);
            }
        if (!waited) pdl_wait();
        waited = true;
#pragma unroll
        for (int u = 0; u < U; u++) {
            const int p = base + 4 * u + c;
            const uint32_t a0[4] = {w[0][u].x, w[1][u].x, w[0][u].y, w[1][u].y};
            const uint32_t a1[4] = {w[0][u].z, w[1][u].z, w[0][u].w, w[1][u].w};
#pragma unroll
            for (int n = 0; n < NT; n++) {
                float4 v0 = make_float4(0, 0, 0, 0), v1 = v0;
                if (p < last) v0 = *(const float4*)(xf + (x[n] + p * 8)), v1 = *(const float4*)(xf + (x[n] + p * 8 + 4));
                uint32_t h0[2], h1[2], l0[2], l1[2];
                mv_halves(v0.x, v0.y, h0[0], l0[0]);
                mv_halves(v0.z, v0.w, h0[1], l0[1]);
                mv_halves(v1.x, v1.y, h1[0], l1[0]);
                mv_halves(v1.z, v1.w, h1[1], l1[1]);
                const float zero[4] = {0, 0, 0, 0};
                float hi[4], lo[4];
                mma_f16(hi, a0, h0, zero);
                mma_f16(lo, a0, l0, zero);
                mma_f16(hi, a1, h1, hi);
                mma_f16(lo, a1, l1, lo);
#pragma unroll
                for (int i = 0; i < 4; i++) acc[n][i] += fmaf(lo[i], 1.0f / 2048.0f, hi[i]);
            }
        }
        base += 4 * U;
    } while (base < last);
}

// U: groups of four Q8_0 blocks of 2 * 8 rows that a lane has in flight, and half the F16 ones of 8 values.
template <int NT, int U>
__device__ __forceinline__ void mv_large(const MvJobs& jobs, const float* xf, const int8_t* xq, const float* xd,
                                         int x_stride, int tokens) {
    constexpr int WARPS = 8, T = 8 * NT, TP = T + 1;
    __shared__ float part[WARPS * 16 * TP];
    pdl_go();
    const MvJob& job = jobs.job[mv_job(jobs)];
    const int block = blockIdx.x - job.first, warp = threadIdx.x >> 5, lane = threadIdx.x & 31, cols = job.w.cols;
    const MvPlace pl = mv_place<WARPS, 16>(job, block);
    float* mine = part + warp * 16 * TP;
    // Rows of a tile must read the same columns.
    const bool whole = job.groups <= 1 || job.w.rows / job.groups % 16 == 0;
    if (job.w.type == TY_Q8_0 || (job.w.type == TY_F16 && cols % 8 == 0 && whole)) {
        float acc[NT][4] = {};
        if (job.w.type != TY_Q8_0) mv_f16_mma<NT, U * 2>(job, pl, xf, x_stride, tokens, acc);
        else if ((cols | x_stride) % 128 == 0) mv_q8_mma<NT, U, 4>(job, pl, xq, xd, x_stride, tokens, acc);
        else mv_q8_mma<NT, 1, 1>(job, pl, xq, xd, x_stride, tokens, acc);
        const int g = lane >> 2, c = lane & 3;
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) mine[(g + 8 * (i >> 1)) * TP + n * 8 + 2 * c + (i & 1)] = acc[n][i];
    } else {
        pdl_wait();
        for (int slot = 0; slot < 16; slot++) {
            float acc[1][T] = {};
            const MvIn in = {xf, xq, xd, x_stride, tokens};
            if (job.w.type == TY_F32) mv_f<4, T, 1, 1, 16>(job, pl, slot, in, true, acc);
            else mv_f<2, T, 1, 1, 16>(job, pl, slot, in, true, acc);
            mv_put<T, 1, 16>(acc, mine + slot * TP);
        }
    }
    __syncthreads();
    if (job.kind == 2) mv_write_q8<WARPS, 16, TP>(job, block, part, tokens);
    else mv_write<WARPS, 16, TP>(job, block, part, tokens);
    if (job.kind == 3) mv_route(jobs, job.out, tokens);
}

// xf: f32 [T][x_stride], read by F16 and F32 jobs; xq, xd: the same in Q8_0 form, int8 [T][x_stride]
// and f32 [T][x_stride / 32], read by Q8_0 jobs. 1 <= T <= the kernel's number. Block: 128 threads
// (mv_1, mv_2, mv_4, mv_wide_*) or 256 (mv_8, mv_16); grid: see the head of this file.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
#define MV_BLOCKS(n) n  // blocks on a multiprocessor, as many as fit without spills
#else
#define MV_BLOCKS(n) 1
#endif
#define MV_KERNEL(name, threads, blocks, ...)                                                                        \
    extern "C" __global__ void __launch_bounds__(threads, MV_BLOCKS(blocks))                                         \
        name(const __grid_constant__ MvJobs jobs, const float* xf, const int8_t* xq, const float* xd, int x_stride, int T) { \
        __VA_ARGS__;                                                                                                 \
    }                                                                                                                \
    DS4_REGISTER(name)
#define MV_SMALL(name, blocks, ...) \
    MV_KERNEL(name, 128, blocks, pdl_go(); mv_small<__VA_ARGS__>(jobs, MvIn{xf, xq, xd, x_stride, T}))
#define MV_LARGE(name, ...) MV_KERNEL(name, 256, 2, mv_large<__VA_ARGS__>(jobs, xf, xq, xd, x_stride, T))
MV_SMALL(mv_1, 8, 1, 4, 4, 2, 4, 2)
MV_SMALL(mv_2, 5, 2, 4, 4, 2, 4, 2)
MV_SMALL(mv_4, 4, 4, 4, 4, 2, 4, 2)
MV_SMALL(mv_wide_1, 4, 1, 4, 8, 2, 4, 2)
MV_SMALL(mv_wide_2, 5, 2, 4, 8, 1, 4, 2)
MV_SMALL(mv_wide_4, 4, 4, 4, 8, 1, 4, 2)
MV_LARGE(mv_8, 1, 2)
MV_LARGE(mv_16, 2, 2)

#if Q_RANK % 32 == 0 && Q_RANK <= 1536 && HEAD_DIM <= 1536
// The input is rows.qr before its norm by rows.q_norm; neither it nor its int8 form is written. Block:
// 128 threads; the roles of `rows` need job[0].first = (1 to 3 roles) * T blocks.
#define MV_QUERY(name, blocks, ...)                                                                 \
    extern "C" __global__ void __launch_bounds__(128, MV_BLOCKS(blocks))                            \
        name(const __grid_constant__ MvJobs jobs, const __grid_constant__ RowsArgs rows, int T) {   \
        mv_query<__VA_ARGS__>(jobs, rows, T);                                                       \
    }                                                                                               \
    DS4_REGISTER(name)
MV_QUERY(mv_query_1, 4, 1, 4, 8, 2, 4, 2)
MV_QUERY(mv_query_2, 5, 2, 4, 8, 1, 4, 2)
MV_QUERY(mv_query_4, 4, 4, 4, 8, 1, 4, 2)
#endif
