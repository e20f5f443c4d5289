// Matrices times 5 to 16 tokens by tensor cores, 16 rows by 8 tokens: every weight is read once for all
// tokens of the step.
//
// A block takes some rows of one job and splits their columns over its 8 warps; the host gives every
// job its number of blocks:
//
//   rows of a block   16 * (8 / split); half of that in pairs (kind 1)
//   split             a power of two up to 8; where the output is quantised (kind 2) the rows of a block
//                     must be 32: split = 4
//   job[0].first      0
//   job[j].first      the sum of ceil(rows / rows of a block) over the jobs before j
//   grid              the same sum over all jobs
//
// Jobs that read most bytes per block should come first, but for the router's, whose end goes on
// with the choice of experts while other blocks are at work. Static shared memory only.
#pragma once

#include "mv_walk.cuh"

// --- where a warp works

// Rows and columns of one warp: slot i of its R slots is a row of w, or, in pairs, slots of the
// lower half are rows of the gate and those of the upper half the same rows of up.
struct MvPlace {
    int row;         // of slot 0
    int shift, part; // the warp's part of the columns, of 1 << shift
    int x_at;        // first column of x
};

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

__device__ __forceinline__ int mv_job(const MvJobs& jobs) {
    int j = 0;
#pragma unroll
    for (int i = 1; i < 8; i++)
        if (i < jobs.n && (int)blockIdx.x >= jobs.job[i].first) j = i;
    return j;
}

// --- products

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
        const MvIn in = {xf, xq, xd, x_stride, tokens};
#pragma unroll 1
        for (int slot = 0; slot < 16; slot++) {
            float sums[T] = {};
            int row;
            const Mat& w = mv_slot<16>(job, pl, slot, row);
            if (pl.part == 0) mv_dot_any<T>(w, row, in, mv_x_at(job, row), sums);
#pragma unroll
            for (int t = 0; t < T; t++) {
                const float v = warp_sum(sums[t]);
                if (lane == 0) mine[slot * TP + t] = v;
            }
        }
    }
    __syncthreads();
    if (job.kind == 2) mv_write_q8<WARPS, 16, TP>(job, block, part, tokens);
    else mv_write<WARPS, 16, TP>(job, block, part, tokens);
    if (job.kind == 3) mv_route(jobs, job.out, tokens);
}
