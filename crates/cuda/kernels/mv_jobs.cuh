// What the products of 1 to 16 tokens share: the jobs of a launch, their input and their ends.
#pragma once

#include "loads.cuh"
#include "router.cuh"
#include "rows.cuh"

struct MvJob {
    Mat w;
    float* out;      // out[t * out_stride + row]; may be null in kind 2
    int out_stride;
    int groups;      // > 1: row r reads columns [g * cols, (g + 1) * cols) of x, g = r / (rows / groups);
                     // rows / groups is a multiple of 16 for Q8_0, of 4 for F16 and F32
    Mat w2;          // kind 1: the up matrix, of the same type and shape as w, the gate
    int kind;        // 0: out = w x; 1: out = swiglu(w x, w2 x); 2: w x and its Q8_0 form, of a Q8_0 matrix
                     // whose rows are a multiple of 32, the only job of its launch; 3: the router's scores,
                     // and then the choice of experts; the first job of a launch, not in mv_query_*
    float clamp;
    int first;       // where the job begins in the launch's work (mv_walk.cuh) or blocks (mv_mma.cuh)
    int shift;       // log2 of a unit's work; or of the warps that share a row
    int units;       // pieces of work that are not divided among blocks, of
    int unit_items;  // so many items, which are what a warp takes at a time:
    int item_rows;   // so many consecutive rows: 1, or 4 of 1024 Q8_0 values
    int item_shift;  // log2 of an item's work
    int row_bytes;   // of the plane q; 0: rows are read without the ring
    int pad;
    int8_t* q;       // kind 2: int8 [T][out_stride], f32 [T][out_stride / 32]
    float* d;
};
struct MvJobs {
    MvJob job[8];
    int n;
    int blocks;      // blocks that have some of the router's job; not in mv_1
    int lead;        // blocks before those that do the jobs
    int deal;        // units of job 0 that a block takes before all else; 0: it has no such turn
    int per, rest;   // work of a block; the first `rest` blocks have one more
    unsigned* done;  // rows (mv_1) or blocks of the router's job that are done: 0 before and after the launch
    RouteArgs route;
    Ahead ahead;     // (mv_walk.cuh)
};

// First unit of job `j` that block `block` takes.
__device__ __forceinline__ int mv_unit(const MvJobs& jobs, int j, int block) {
    const MvJob& job = jobs.job[j];
    const int dealt = min(block * jobs.deal, jobs.job[0].units);
    if (j == 0 && jobs.deal) return dealt;
    const int at = block * jobs.per + min(block, jobs.rest) - (dealt << jobs.job[0].shift) - job.first;
    return min(max(at + (1 << job.shift) - 1, 0) >> job.shift, job.units);
}

// First column of x that a row reads.
__device__ __forceinline__ int mv_x_at(const MvJob& job, int row) {
    return job.groups > 1 ? row / (job.w.rows / job.groups) * job.w.cols : 0;
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
