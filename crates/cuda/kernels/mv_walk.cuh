// Matrices times 1 to 4 tokens. A launch has about as many blocks as the device holds at once; each
// takes the same share of the launch's work, a piece of the rows of one job or more, and its warps
// stream them through rings of their own. Rings are full before the input is waited for.
#pragma once

#include "mv_jobs.cuh"
#include "mv_ring.cuh"

#define MV_Q8_ROWS 128  // most rows of a block in kind 2

// --- which rows a warp takes

// Items of every job that a warp takes, those of job j in lane j. All lanes take part.
struct MvShare {
    int lo, hi;
    uint32_t some;  // jobs that it has items of
    int first, end; // units of job 0 that its block takes
    __device__ __forceinline__ MvShare(const MvJobs& jobs, int block, int warps) {
        const int j = threadIdx.x & 31, warp = threadIdx.x >> 5;
        const bool is_job = j < jobs.n;
        const MvJob& job = jobs.job[is_job ? j : 0];
        int units[2];
#pragma unroll
        for (int i = 0; i < 2; i++) units[i] = is_job ? mv_unit(jobs, j, block + i) : 0;
        first = __shfl_sync(FULL, units[0], 0), end = __shfl_sync(FULL, units[1], 0);
        const int work = (units[1] - units[0]) << job.shift;
        int to = work;
#pragma unroll
        for (int o = 1; o < 8; o *= 2) {
            const int other = __shfl_up_sync(FULL, to, o);
            if (j >= o) to += other;
        }
        const int all = __shfl_sync(FULL, to, 7), before = to - work;
        const int n = (units[1] - units[0]) * job.unit_items, round = (1 << job.item_shift) - 1;
        const int base = units[0] * job.unit_items;
        lo = base + min(max(all * warp / warps - before + round, 0) >> job.item_shift, n);
        hi = base + min(max(all * (warp + 1) / warps - before + round, 0) >> job.item_shift, n);
        some = __ballot_sync(FULL, lo < hi);
    }
};

// Fills a warp's ring: of every item the parts of its rows, in pairs first the gate's, then those of up.
template <int STAGES> struct MvFeed {
    const MvJobs& jobs;
    const MvShare& share;
    uint32_t some;
    int items, item_bytes, at;
    bool pair, up, scales;
    int64_t from;
    const char *q, *d, *q2, *d2;

    __device__ __forceinline__ MvFeed(const MvJobs& jobs, const MvShare& share)
        : jobs(jobs), share(share), some(share.some), items(0) {}
    __device__ __forceinline__ void push(MvRing<STAGES>& ring, int slot) {
        if (items == 0) {
            if (some == 0) {
                ring.skip();
                return;
            }
            const int j = __ffs(some) - 1;
            some &= some - 1;
            const MvJob& job = jobs.job[j];
            const int lo = __shfl_sync(FULL, share.lo, j);
            items = __shfl_sync(FULL, share.hi, j) - lo;
            item_bytes = job.item_rows * job.row_bytes;
            from = (int64_t)lo * item_bytes;
            q = (const char*)job.w.q, d = (const char*)job.w.d;
            q2 = (const char*)job.w2.q, d2 = (const char*)job.w2.d;
            pair = job.kind == 1, scales = job.w.type == TY_Q8_0;
            at = 0, up = false;
        }
        const int64_t place = from + at;
        ring.fill(slot, (up ? q2 : q) + place, (up ? d2 : d) + (place >> 4), min(item_bytes - at, MV_STAGE_Q), scales);
        at += MV_STAGE_Q;
        if (at < item_bytes) return;
        at = 0;
        up = pair && !up;
        if (up) return;
        from += item_bytes;
        items--;
    }
};

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
        float4 w[K];
#pragma unroll
        for (int k = 0; k < K; k++) w[k] = *(const float4*)(weight + min((k * WARPS * 32 + (int)threadIdx.x) * 4, Q_RANK - 4));
        pdl_wait();
#pragma unroll 1
        for (int t = 0; t < (T == 1 ? 1 : tokens); t++) {
            float square = 0.0f;
            float4 v[K];
#pragma unroll
            for (int k = 0; k < K; k++) {
                const int at = (k * WARPS * 32 + threadIdx.x) * 4;
                v[k] = make_float4(0, 0, 0, 0);
                if (at < Q_RANK) v[k] = *(const float4*)(raw + t * Q_RANK + at);
                square += v[k].x * v[k].x + v[k].y * v[k].y + v[k].z * v[k].z + v[k].w * v[k].w;
            }
            square = warp_sum(square);
            float* sums = space + (t & 1) * WARPS;
            if (lane == 0) sums[warp] = square;
            __syncthreads();
            square = 0.0f;
#pragma unroll
            for (int i = 0; i < WARPS; i++) square += sums[i];
            const float inv = 1.0f / sqrtf(square / (float)Q_RANK + RMS_EPS);
#pragma unroll
            for (int k = 0; k < K; k++) {
                const int at = (k * WARPS * 32 + threadIdx.x) * 4;
                const float4 y = make_float4(v[k].x * (inv * w[k].x), v[k].y * (inv * w[k].y), v[k].z * (inv * w[k].z), v[k].w * (inv * w[k].w));
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

// --- products of a stage with the tokens

// 16 bytes of a Q8_0 row of a stage, and their scale.
struct MvPiece {
    uint4 w;
    float s;
    __device__ __forceinline__ MvPiece(const unsigned char* stage, int at) {
        w = *(const uint4*)(stage + at);
        s = half_bits(*(const uint16_t*)(stage + MV_STAGE_Q + (at >> 5) * 2));
    }
};

// The input at one token's piece of 16 columns.
struct MvX {
    uint4 q;
    float d;
    __device__ __forceinline__ MvX() {}
    template <class In> __device__ __forceinline__ MvX(const In& in, int t, int col) {
        const int at = min(t, in.tokens - 1) * in.stride + col;
        q = *(const uint4*)(in.q + at);
        d = in.d[at >> 5];
    }
    __device__ __forceinline__ float dot(const MvPiece& p) const { return (float)dot16(p.w, q) * (p.s * d); }
};

// The pieces of one token that a lane needs again and again.
template <bool HOLDS> struct MvHeld {
    static constexpr bool holds = HOLDS;
    MvX x[HOLDS ? 8 : 1];
    int at;
    __device__ __forceinline__ MvHeld() : at(-1) {}
    template <int N, class In> __device__ __forceinline__ void load(const In& in, int col) {
        if (at == col) return;
        at = col;
#pragma unroll
        for (int k = 0; k < N; k++) x[k] = MvX(in, 0, col + k * 512 + (threadIdx.x & 31) * 16);
    }
};

// v[t] += the stage times token t from column `col` on, of one row of Q8_0.
template <int T, class In, class Held>
__device__ __forceinline__ void mv_dot_q8(const unsigned char* stage, int bytes, const In& in, int col, Held& held, float (&v)[T]) {
    const int lane16 = (threadIdx.x & 31) * 16;
    if (bytes == MV_STAGE_Q) {
        if constexpr (Held::holds) held.template load<8>(in, col);
#pragma unroll (T > 2 ? 2 : 8)
        for (int k = 0; k < 8; k++) {
            const MvPiece w(stage, k * 512 + lane16);
#pragma unroll
            for (int t = 0; t < T; t++) v[t] += (Held::holds ? held.x[Held::holds ? k : 0] : MvX(in, t, col + k * 512 + lane16)).dot(w);
        }
    } else {
#pragma unroll 1
        for (int at = lane16; at < bytes; at += 512) {
            const MvPiece w(stage, at);
#pragma unroll
            for (int t = 0; t < T; t++) v[t] += MvX(in, t, col + at).dot(w);
        }
    }
}

// a[r][t] = row r of the four rows of 1024 columns that a stage holds times token t.
template <int T, class In, class Held>
__device__ __forceinline__ void mv_dot_four(const unsigned char* stage, const In& in, int col, Held& held, float (&a)[4][T]) {
    const int lane16 = (threadIdx.x & 31) * 16;
    if constexpr (Held::holds) held.template load<2>(in, col);
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int t = 0; t < T; t++) {
            const MvX x = Held::holds ? held.x[Held::holds ? h : 0] : MvX(in, t, col + h * 512 + lane16);
#pragma unroll
            for (int r = 0; r < 4; r++) a[r][t] += x.dot(MvPiece(stage, r * 1024 + h * 512 + lane16));
        }
}

// The same of F16: a lane takes 4 columns at a time.
template <int T, class In>
__device__ __forceinline__ void mv_dot_f16(const unsigned char* stage, int bytes, const In& in, int col, float (&acc)[T]) {
    const int lane = threadIdx.x & 31;
#ifndef DS4_EMU
    // All lines of the input at once: the loads below go after one another.
    for (int i = lane * 64; i < bytes; i += 2048)
        asm volatile("{ .reg .f32 x; ld.global.f32 x, [%0]; }" :: "l"(in.f + col + (i >> 1)));
#endif
#pragma unroll (T > 2 ? 1 : 8)
    for (int at = lane * 8; at < bytes; at += 256) {
        const uint2 w = *(const uint2*)(stage + at);
        const float2 a = half2_bits(w.x), b = half2_bits(w.y);
#pragma unroll
        for (int t = 0; t < T; t++) {
            const float4 x = *(const float4*)(in.f + (min(t, in.tokens - 1) * in.stride + col + (at >> 1)));
            acc[t] = fmaf(b.y, x.w, fmaf(b.x, x.z, fmaf(a.y, x.y, fmaf(a.x, x.x, acc[t]))));
        }
    }
}

template <int T, class In>
__device__ __forceinline__ void mv_dot_f32(const unsigned char* stage, int bytes, const In& in, int col, float (&acc)[T]) {
    const int lane = threadIdx.x & 31;
#pragma unroll (T > 2 ? 1 : 4)
    for (int at = lane * 16; at < bytes; at += 512) {
        const float4 w = *(const float4*)(stage + at);
#pragma unroll
        for (int t = 0; t < T; t++) {
            const float4 x = *(const float4*)(in.f + (min(t, in.tokens - 1) * in.stride + col + (at >> 2)));
            acc[t] = fmaf(w.w, x.w, fmaf(w.z, x.z, fmaf(w.y, x.y, fmaf(w.x, x.x, acc[t]))));
        }
    }
}

// A whole row of any shape from memory: where rows or their scales do not begin at 16 bytes.
template <int T, class In>
__device__ __forceinline__ void mv_dot_any(const Mat& w, int row, const In& in, int col, float (&acc)[T]) {
#pragma unroll 1
    for (int c = threadIdx.x & 31; c < w.cols; c += WARP) {
        const int64_t at = (int64_t)row * w.cols + c;
#pragma unroll
        for (int t = 0; t < T; t++) {
            const int x = min(t, in.tokens - 1) * in.stride + col + c;
            if (w.type == TY_Q8_0) {
                const float scale = half_bits(((const uint16_t*)w.d)[at >> 5]) * in.d[x >> 5];
                acc[t] += (float)(((const int8_t*)w.q)[at] * in.q[x]) * scale;
            } else {
                const float v = w.type == TY_F16 ? half_bits(((const uint16_t*)w.q)[at]) : ((const float*)w.q)[at];
                acc[t] = fmaf(v, in.f[x], acc[t]);
            }
        }
    }
}

// --- ends

// Sums of 4 values each over the warp: lanes 8i to 8i + 7 receive the sum of the i-th.
__device__ __forceinline__ float warp_sums_4(float a, float b, float c, float d) {
    const bool upper = threadIdx.x & 16, odd = threadIdx.x & 8;
    const float x = (upper ? c : a) + __shfl_xor_sync(FULL, upper ? a : c, 16);
    const float y = (upper ? d : b) + __shfl_xor_sync(FULL, upper ? b : d, 16);
    float v = (odd ? y : x) + __shfl_xor_sync(FULL, odd ? x : y, 8);
#pragma unroll
    for (int o = 4; o; o >>= 1) v += __shfl_xor_sync(FULL, v, o);
    return v;
}

// Counts rows of the router as done; once all are, the warp that did the last of them chooses every token's experts.
__device__ __noinline__ void mv_route_warp(const MvJobs& jobs, int rows, int tokens) {
    const MvJob& job = jobs.job[0];
    int last = 0;
    __threadfence();
    __syncwarp();
    if ((threadIdx.x & 31) == 0) last = atomicAdd(jobs.done, (unsigned)rows) + rows == (unsigned)job.w.rows;
    if (!__shfl_sync(FULL, last, 0)) return;
    __threadfence();
    if ((threadIdx.x & 31) == 0) *jobs.done = 0;
    for (int t = 0; t < tokens; t++) route_token(jobs.route, job.out, t);
}

// Q8_0 form of a block's units of kind 2 from their sums, [T][MV_Q8_ROWS].
template <int WARPS>
__device__ __forceinline__ void mv_quantise(const MvJob& job, int first, int n, const float* sums, int tokens) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    for (int i = warp; i < n * tokens; i += WARPS) {
        const int unit = i % n, t = i / n;
        const float v = sums[t * MV_Q8_ROWS + unit * 32 + lane];
        const float scale = warp_max(fabsf(v)) / 127.0f, inv = scale == 0.0f ? 0.0f : 1.0f / scale;
        const int64_t to = (int64_t)t * job.out_stride + (first + unit) * 32 + lane;
        if (job.out) job.out[to] = v;
        job.q[to] = (int8_t)round_i8(v * inv);
        if (lane == 0) job.d[to >> 5] = scale;
    }
}

// --- the walk

// How a warp's items of one job are done.
struct MvTask {
    int row, end;    // the next row and the one after the last
    int bytes;       // of a row in the stage; 0: from memory
    int type, kind;
    int x_at, stride;  // columns of x begin there
    int group_end;     // up to this row
    bool four;
    float* out;
    __device__ __forceinline__ void start(const MvJobs& jobs, const MvShare& share, uint32_t& some, int& j) {
        j = __ffs(some) - 1;
        some &= some - 1;
        const MvJob& job = jobs.job[j];
        four = job.item_rows == 4;
        row = __shfl_sync(FULL, share.lo, j) << 2 * four, end = __shfl_sync(FULL, share.hi, j) << 2 * four;
        bytes = job.row_bytes, type = job.w.type, kind = job.kind;
        x_at = 0, group_end = 0x7fffffff;
        if (job.groups > 1) {
            const int rows = job.w.rows / job.groups, group = row / rows;
            x_at = group * job.w.cols, group_end = (group + 1) * rows;
        }
        out = job.out, stride = job.out_stride;
    }
};

template <int T, int WARPS, int STAGES, class In>
__device__ __forceinline__ void mv_walk(const MvJobs& jobs, const In& in, int block) {
    DS4_DYN_SMEM(unsigned char, space);
    __shared__ float sums[In::NORMS ? 1 : T * MV_Q8_ROWS];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    // With more tokens there are no registers for it.
    if constexpr (T == 1) fetch_ahead(jobs.ahead);
    MvRing<STAGES> ring(space + warp * STAGES * MV_STAGE);
    const MvShare share(jobs, block, WARPS);
    MvFeed<STAGES> feed(jobs, share);
#pragma unroll 1
    for (int s = 0; s < STAGES; s++) feed.push(ring, s);
    pdl_go();
    uint32_t some = share.some;
    MvTask task;
    int j = 0;
    task.row = task.end = 0;
    if (some) task.start(jobs, share, some, j);
    in.ready();
    float a[4][T] = {}, v[T] = {};
    MvHeld<T == 1> held;
    int at = 0, slot = 0, first_row = task.row, routed = 0;
#pragma unroll 1
    while (task.row < task.end) {
        if (task.row >= task.group_end) {
            task.x_at += jobs.job[j].w.cols;
            task.group_end += jobs.job[j].w.rows / jobs.job[j].groups;
        }
        const int x_at = task.x_at;
        const int bytes = min(task.bytes - at, MV_STAGE_Q);
        const unsigned char* stage = ring.wait();
        if (task.four) mv_dot_four<T>(stage, in, x_at, held, a);
        else if (task.bytes == 0) mv_dot_any<T>(task.kind == 1 && slot & 1 ? jobs.job[j].w2 : jobs.job[j].w, task.row, in, x_at, v);
        else if (task.type == TY_Q8_0) mv_dot_q8<T>(stage, bytes, in, x_at + at, held, v);
        else if (task.type == TY_F16) mv_dot_f16<T>(stage, bytes, in, x_at + (at >> 1), v);
        else mv_dot_f32<T>(stage, bytes, in, x_at + (at >> 2), v);
        __syncwarp();
        feed.push(ring, ring.slot);
        ring.next();
        at += MV_STAGE_Q;
        if (!task.four && at < task.bytes) continue;
        at = 0;
        if (task.four) {
            task.row += 4, slot = 4;
        } else {
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int t = 0; t < T; t++)
                    if (slot == r) a[r][t] = v[t];
#pragma unroll
            for (int t = 0; t < T; t++) v[t] = 0.0f;
            slot++;
            if (task.kind != 1 || (slot & 1) == 0) task.row++;
        }
        if (slot < 4 && task.row < task.end) continue;
        // Lane 8r writes row r, in pairs lane 16r.
        const int own = lane >> 3, n = slot;
        slot = 0;
#pragma unroll
        for (int t = 0; t < T; t++) {
            float y = warp_sums_4(a[0][t], a[1][t], a[2][t], a[3][t]);
            int row = first_row + own;
            bool writes = (lane & 7) == 0 && own < n && t < in.tokens;
            if (task.kind == 1) {
                y = swiglu(y, __shfl_down_sync(FULL, y, 8), jobs.job[j].clamp);
                row = first_row + (own >> 1);
                writes = writes && (own & 1) == 0;
            }
            if (writes) {
                if (In::NORMS || task.kind != 2) task.out[(int64_t)t * task.stride + row] = y;
                else sums[t * MV_Q8_ROWS + row - share.first * 32] = y;
            }
#pragma unroll
            for (int r = 0; r < 4; r++) a[r][t] = 0.0f;
        }
        if (!In::NORMS && task.kind == 3) routed += n;
        if (task.row == task.end && some) task.start(jobs, share, some, j);
        first_row = task.row;
    }
    if constexpr (!In::NORMS) {
        // One token's choice is the sooner made the fewer warps have to be done.
        if (T == 1 && routed) mv_route_warp(jobs, routed, in.tokens);
        if (T > 1 && jobs.job[0].kind == 3 && share.first < share.end) mv_route(jobs, jobs.job[0].out, in.tokens);
        if (jobs.job[0].kind == 2) {
            __syncthreads();
            mv_quantise<WARPS>(jobs.job[0], share.first, share.end - share.first, sums, in.tokens);
        }
    }
}

// One role of `rows`. A function of its own, so that it takes no registers from the products.
__device__ __noinline__ void mv_rows(const RowsArgs& a, int t, int role) {
    __shared__ float row[ROWS_WIDTH], space[32];
    pdl_go();
    pdl_wait();
    rows_role(a, t, role, row, space);
}

// Products with the query's low-rank form of T tokens at most. The blocks before the others take the
// other roles of `rows`, 1 and up, a token each: what attention needs besides the query.
template <int T, int WARPS, int STAGES>
__device__ __forceinline__ void mv_query(const MvJobs& jobs, const RowsArgs& rows, int tokens) {
    __shared__ __align__(16) float f[T * Q_RANK];
    __shared__ __align__(16) int8_t q[T * Q_RANK];
    __shared__ float d[T * Q_RANK / 32], space[2 * WARPS];
    const int block = blockIdx.x;
    if (block < jobs.lead) {
        mv_rows(rows, block % tokens, 1 + block / tokens);
        return;
    }
    const MvQuery<T, WARPS> in{f, q, d, tokens, rows.qr, rows.q_norm, space};
    mv_walk<T, WARPS, STAGES>(jobs, in, block - jobs.lead);
}
