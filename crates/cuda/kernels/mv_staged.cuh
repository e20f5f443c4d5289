// Matrices of Q8_0 times 5 to 16 tokens, where rows are whole multiples of 256 columns: as mv_mma.cuh,
// but weights come through rings of shared memory and each warp keeps its part of the input.
//
// A stage is 16 rows by 256 columns. `split` warps lie side by side along a row; if that is not enough
// for its columns, a row takes several passes. A unit of work is the rows that the 16 warps of a block
// have at a time: `item_rows` tiles of 16 for each warp. One block on a multiprocessor.
#pragma once

#include "mv_jobs.cuh"
#include "mv_ring.cuh"

#define MV_ST_WARPS 16
#define MV_ST_STAGES 2
#define MV_ST_TILES 2   // most tiles of a unit that a warp has
#define MV_ST_PART (16 * 17)
#define MV_ST_SMEM (MV_ST_WARPS * (MV_ST_STAGES * MV_STAGE + MV_ST_TILES * MV_ST_PART * 4 + 8 * 16 * 4))

// A block's stages of one warp in their order: of every unit the passes, of every pass the tiles.
struct MvStagedCursor {
    int j, unit, end, pass, tile;   // unit: the next of job j
    int passes, tiles, split;
    __device__ __forceinline__ MvStagedCursor(const MvJobs& jobs, int block) : j(-1), unit(0), end(0) { seek(jobs, block); }
    __device__ __forceinline__ bool done(const MvJobs& jobs) const { return j >= jobs.n; }
    __device__ __forceinline__ void seek(const MvJobs& jobs, int block) {
        pass = tile = 0;
        while (unit >= end && ++j < jobs.n) {
            const MvJob& job = jobs.job[j];
            unit = mv_unit(jobs, j, block), end = mv_unit(jobs, j, block + 1);
            const int slices = job.w.cols >> 8;
            split = min(slices, MV_ST_WARPS), passes = slices / split, tiles = job.item_rows;
        }
    }
    // True if that was the last of its unit.
    __device__ __forceinline__ bool next(const MvJobs& jobs, int block) {
        if (++tile < tiles) return false;
        tile = 0;
        if (++pass < passes) return false;
        pass = 0, unit++;
        seek(jobs, block);
        return true;
    }
    // Of the warp: the first row of its tile, and its first column.
    __device__ __forceinline__ int row() const {
        const int warp = threadIdx.x >> 5;
        return ((unit * (MV_ST_WARPS / split) + warp / split) * tiles + tile) * 16;
    }
    __device__ __forceinline__ int col() const { return (pass * split + (threadIdx.x >> 5) % split) * 256; }
};

// Rows of a stage are 256 bytes apart; their 16-byte pieces change places so that lanes of 4 rows meet
// different banks.
__device__ __forceinline__ int mv_st_at(int row, int piece) { return row * 256 + ((piece ^ ((row & 3) << 1)) << 4); }

__device__ __forceinline__ void mv_st_fill(const MvJobs& jobs, const MvStagedCursor& c, unsigned char* stage) {
    const Mat& w = jobs.job[c.j].w;
    const int lane = threadIdx.x & 31, row0 = c.row(), col = c.col();
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int r = 2 * i + (lane >> 4), row = min(row0 + r, w.rows - 1);
        cp_async16(stage + mv_st_at(r, lane & 15), (const char*)w.q + (int64_t)row * w.cols + col + (lane & 15) * 16);
    }
    const int row = min(row0 + lane, w.rows - 1);
    if (lane < 16) cp_async16(stage + MV_STAGE_Q + lane * 16, (const char*)w.d + ((int64_t)row * w.cols + col >> 4));
}

// A warp's 256 columns of the tokens: the quantised values in the order of its lanes, the scales in
// shared memory, [8][16].
template <int NT> struct MvStagedX {
    uint2 q[8][NT];
    float* d;
    int at;
    __device__ __forceinline__ void load(const int8_t* xq, const float* xd, int stride, int tokens, int col) {
        if (at == col) return;
        at = col;
        const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const int8_t* from = xq + (min(n * 8 + g, tokens - 1) * stride + col + c * 8);
#pragma unroll
            for (int k = 0; k < 8; k++) q[k][n] = *(const uint2*)(from + k * 32);
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int t = lane & 15, k = 2 * i + (lane >> 4);
            d[k * 16 + t] = xd[(min(t, tokens - 1) * stride + col >> 5) + k];
        }
        __syncwarp();
    }
};

template <int NT>
__device__ __forceinline__ void mv_st_dot(const unsigned char* stage, const MvStagedX<NT>& x, float (&acc)[NT][4]) {
    const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
    const uint4 d0 = *(const uint4*)(stage + MV_STAGE_Q + g * 16), d1 = *(const uint4*)(stage + MV_STAGE_Q + (g + 8) * 16);
    const uint32_t s0[4] = {d0.x, d0.y, d0.z, d0.w}, s1[4] = {d1.x, d1.y, d1.z, d1.w};
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const int at = mv_st_at(g, 2 * k + (c >> 1)) + (c & 1) * 8;
        const uint2 w0 = *(const uint2*)(stage + at), w1 = *(const uint2*)(stage + at + 8 * 256);
        const uint32_t a[4] = {w0.x, w1.x, w0.y, w1.y};
        const float f0 = half_bits(s0[k >> 1] >> (k & 1) * 16 & 0xffff), f1 = half_bits(s1[k >> 1] >> (k & 1) * 16 & 0xffff);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const uint32_t b[2] = {x.q[k][n].x, x.q[k][n].y};
            const float2 d = *(const float2*)(x.d + k * 16 + n * 8 + 2 * c);
            const int zero[4] = {0, 0, 0, 0};
            int y[4];
            mma_s8(y, a, b, zero);
            acc[n][0] += (float)y[0] * (f0 * d.x);
            acc[n][1] += (float)y[1] * (f0 * d.y);
            acc[n][2] += (float)y[2] * (f1 * d.x);
            acc[n][3] += (float)y[3] * (f1 * d.y);
        }
    }
}

// Adds up the warps' sums of a unit, [warp][tile][16][17], and writes them.
__device__ __forceinline__ void mv_st_write(const MvJob& job, int unit, int split, int tiles, const float* part, int tokens) {
    const int warp_rows = tiles * 16, rows = MV_ST_WARPS / split * warp_rows;
    for (int i = threadIdx.x; i < rows * tokens; i += MV_ST_WARPS * 32) {
        const int t = i / rows, r = i % rows, row = unit * rows + r;
        const float* at = part + (r / warp_rows * split * tiles + r % warp_rows / 16) * MV_ST_PART + (r & 15) * 17 + t;
        float v = 0.0f;
        for (int s = 0; s < split; s++) v += at[s * tiles * MV_ST_PART];
        const int64_t to = (int64_t)t * job.out_stride + row;
        if (job.out && row < job.w.rows) job.out[to] = v;
        if (job.kind == 2) {
            // Whole warps: rows are a multiple of 32 here.
            const float scale = warp_max(fabsf(v)) / 127.0f, inv = scale == 0.0f ? 0.0f : 1.0f / scale;
            if (row >= job.w.rows) continue;
            job.q[to] = (int8_t)round_i8(v * inv);
            if ((threadIdx.x & 31) == 0) job.d[to >> 5] = scale;
        }
    }
}

template <int NT>
__device__ __forceinline__ void mv_staged(const MvJobs& jobs, const int8_t* xq, const float* xd, int x_stride, int tokens) {
    DS4_DYN_SMEM(unsigned char, space);
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3, block = blockIdx.x;
    unsigned char* ring = space + warp * MV_ST_STAGES * MV_STAGE;
    float* part = (float*)(space + MV_ST_WARPS * MV_ST_STAGES * MV_STAGE);
    MvStagedX<NT> x;
    x.d = part + MV_ST_WARPS * MV_ST_TILES * MV_ST_PART + warp * 8 * 16;
    x.at = -1;
    MvStagedCursor now(jobs, block), ahead = now;
#pragma unroll 1
    for (int s = 0; s < MV_ST_STAGES; s++) {
        if (!ahead.done(jobs)) {
            mv_st_fill(jobs, ahead, ring + s * MV_STAGE);
            ahead.next(jobs, block);
        }
        cp_async_commit();
    }
    pdl_go();
    pdl_wait();
    float acc[MV_ST_TILES][NT][4] = {};
    int slot = 0;
#pragma unroll 1
    while (!now.done(jobs)) {
        const int j = now.j, unit = now.unit, split = now.split, tiles = now.tiles;
        const MvJob& job = jobs.job[j];
        unsigned char* stage = ring + slot * MV_STAGE;
        x.load(xq, xd, x_stride, tokens, mv_x_at(job, min(now.row(), job.w.rows - 1)) + now.col());
        cp_async_wait<MV_ST_STAGES - 1>();
        __syncwarp();
        if (now.tile == 0) mv_st_dot(stage, x, acc[0]);
        else mv_st_dot(stage, x, acc[1]);
        __syncwarp();
        if (!ahead.done(jobs)) {
            mv_st_fill(jobs, ahead, stage);
            ahead.next(jobs, block);
        }
        cp_async_commit();
        slot = slot + 1 == MV_ST_STAGES ? 0 : slot + 1;
        if (!now.next(jobs, block)) continue;
#pragma unroll
        for (int i = 0; i < MV_ST_TILES; i++) {
            float* mine = part + (warp * tiles + i) * MV_ST_PART;
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    if (i < tiles) mine[(g + 8 * (k >> 1)) * 17 + n * 8 + 2 * c + (k & 1)] = acc[i][n][k];
                    acc[i][n][k] = 0.0f;
                }
        }
        __syncthreads();
        mv_st_write(job, unit, split, tiles, part, tokens);
        __syncthreads();
    }
}
