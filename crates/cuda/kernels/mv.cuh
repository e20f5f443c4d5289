// The kernels of products of 1 to 16 tokens. One launch takes up to eight jobs that share their input.
#pragma once

#include "mv_mma.cuh"
#include "mv_staged.cuh"
#include "mv_walk.cuh"

#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 900 || __CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 1000)
#define MV_BLOCKS(n) n  // blocks on a multiprocessor, where their shared memory fits
#else
#define MV_BLOCKS(n) 1
#endif
#define MV_WARPS 8
#define MV_STAGES 2

// xf: f32 [T][x_stride], read by F16 and F32 jobs; xq, xd: the same in Q8_0 form, int8 [T][x_stride]
// and f32 [T][x_stride / 32], read by Q8_0 jobs. 1 <= T <= the kernel's number. Block: 256 threads.
// mv_1 and mv_2: any number of blocks, MV_WARPS * MV_STAGES * MV_STAGE bytes of dynamic shared
// memory; mv_8 and mv_16: see mv_mma.cuh.
#define MV_KERNEL(name, blocks, ...)                                                                                 \
    extern "C" __global__ void __launch_bounds__(256, MV_BLOCKS(blocks))                                             \
        name(const __grid_constant__ MvJobs jobs, const float* xf, const int8_t* xq, const float* xd, int x_stride, int T) { \
        __VA_ARGS__;                                                                                                 \
    }                                                                                                                \
    DS4_REGISTER(name)
#define MV_SMALL(name, T_) \
    MV_KERNEL(name, 2, (mv_walk<T_, MV_WARPS, MV_STAGES>(jobs, MvIn{xf, xq, xd, x_stride, T}, blockIdx.x)))
#define MV_LARGE(name, ...) MV_KERNEL(name, 2, mv_large<__VA_ARGS__>(jobs, xf, xq, xd, x_stride, T))
MV_SMALL(mv_1, 1)
MV_SMALL(mv_2, 2)
MV_LARGE(mv_8, 1, 2)
MV_LARGE(mv_16, 2, 2)

// Q8_0 only, rows a multiple of 256 columns: up to 16 times 256 by a power of two, or a multiple of 4096;
// kinds 0 and 2. One block of 512 threads on a multiprocessor, MV_ST_SMEM bytes of dynamic shared memory.
#define MV_STAGED(name, NT)                                                                                          \
    extern "C" __global__ void __launch_bounds__(512, 1)                                                             \
        name(const __grid_constant__ MvJobs jobs, const float*, const int8_t* xq, const float* xd, int x_stride, int T) { \
        mv_staged<NT>(jobs, xq, xd, x_stride, T);                                                                    \
    }                                                                                                                \
    DS4_REGISTER(name)
MV_STAGED(mv_staged_8, 1)
MV_STAGED(mv_staged_16, 2)

#if Q_RANK % 32 == 0 && Q_RANK <= 1536 && HEAD_DIM <= 1536
// The input is rows.qr before its norm by rows.q_norm; neither it nor its int8 form is written. Block
// and shared memory as of mv_1; the roles of `rows` need jobs.lead = (1 to 3 roles) * T more blocks.
#define MV_QUERY(name, T_)                                                                          \
    extern "C" __global__ void __launch_bounds__(256, MV_BLOCKS(2))                                 \
        name(const __grid_constant__ MvJobs jobs, const __grid_constant__ RowsArgs rows, int T) {   \
        mv_query<T_, MV_WARPS, MV_STAGES>(jobs, rows, T);                                           \
    }                                                                                               \
    DS4_REGISTER(name)
MV_QUERY(mv_query_1, 1)
MV_QUERY(mv_query_2, 2)
MV_QUERY(mv_query_4, 4)
#endif
