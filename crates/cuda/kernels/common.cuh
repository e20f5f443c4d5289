// What every kernel shares: the model's numbers as macros, operand types, warp and block helpers,
// and thin wrappers of the few PTX instructions in use, each with its emulated twin.
//
// The host defines the shape (N_EMBD, HEAD_DIM, ...) on the compiler's command line; one translation
// unit, ds4.cu, holds all kernels of one shape and one kind of rounding.
#pragma once

#include "device.h"
#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#else
#include <stdint.h>
#endif

// Storage formats of matrices on the device; the planes of each are described beside `Mat`.
#define TY_F32 0
#define TY_F16 1
#define TY_Q8_0 2
#define TY_IQ2_XXS 3
#define TY_Q2_K 4
#define TY_Q4_K 5
#define TY_MXFP4 6

// A matrix, or a stack of them whose rows are counted through, as planes (row-major, no padding):
//   F32, F16   q: values [rows][cols]
//   Q8_0       q: int8 [rows][cols]; d: half [rows][cols/32]
//   IQ2_XXS    q: uint4 [rows/8][4][cols/32]: of a unit of 8 rows, uint4 j holds rows 2j and 2j+1
//                 of one block of 32: {codebook indices of row 2j (byte l: elements 8l..8l+7),
//                 its 32 signs (bit i set: element i is negative), the same of row 2j+1};
//              s: uint32 [rows/8][cols/32]: nibble r is the scale of row r of the unit;
//              d: half [rows/8][cols/256][8 rows]
//              value = d · (2·scale + 1)/8 · codebook · sign (the codebook has 8, 25, 43)
//   Q2_K       q: [rows][cols/256][64 bytes], s: [rows][cols/256][16 bytes], as in the file;
//              d: half2 {d, dmin} [rows][cols/256]
//   Q4_K       q: [rows][cols/256][128 bytes] as in the file; s: [rows][cols/256][8 scales, 8 minima]
//              bytes, unpacked; d: half2 {d, dmin} [rows][cols/256]
//   MXFP4      q: [rows][cols/32][16 bytes] as in the file; s: uint8 E8M0 [rows][cols/32]
struct Mat {
    const void* q;
    const void* s;
    const void* d;
    int type;
    int rows;  // of one matrix of the stack
    int cols;
    int pad;
};

// One token of a step.
struct Tok {
    int id;      // token id
    int pos;     // position in its sequence
    int seq;     // row of the sequence table
    int start;   // row of the step at which the sequence's part begins
    int pos0;    // position of that row
    int n;       // rows of the part
    int from;    // first position whose raw row exists: the window never begins before it
    int pad;
};

#define WARP 32
#define FULL 0xffffffffu

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(FULL, v, o);
    return v;
}
__device__ __forceinline__ int warp_sum_i(int v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(FULL, v, o);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(FULL, v, o));
    return v;
}

// Lanes of the warp that have this lane's value.
__device__ __forceinline__ uint32_t lanes_alike(int v) {
#ifdef DS4_EMU
    uint32_t all = 0;
    for (int l = 0; l < WARP; l++) all |= (uint32_t)(__shfl_sync(FULL, v, l) == v) << l;
    return all;
#else
    return __match_any_sync(FULL, v);
#endif
}

// Sum over the block, known to all threads. `space` has 32 floats of shared memory.
__device__ __forceinline__ float block_sum(float v, float* space) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n = (blockDim.x + 31) >> 5;
    v = warp_sum(v);
    __syncthreads();
    if (lane == 0) space[warp] = v;
    __syncthreads();
    v = lane < n ? space[lane] : 0.0f;
    return warp_sum(v);
}

// Largest value of the block, known to all threads.
__device__ __forceinline__ float block_max(float v, float* space) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n = (blockDim.x + 31) >> 5;
    v = warp_max(v);
    __syncthreads();
    if (lane == 0) space[warp] = v;
    __syncthreads();
    v = lane < n ? space[lane] : -INFINITY;
    return warp_max(v);
}

// Programmatic dependent launch: `pdl_wait` before the first read of what an earlier kernel wrote,
// `pdl_go` once the next kernel may start (it still waits for this one's end before it reads).
__device__ __forceinline__ void pdl_wait() {
#if !defined(DS4_EMU) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void pdl_go() {
#if !defined(DS4_EMU) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Brings a line of 128 bytes into the second-level cache.
__device__ __forceinline__ void prefetch_l2(const void* p) {
#ifdef DS4_EMU
    (void)p;
#else
    asm volatile("prefetch.global.L2 [%0];" :: "l"(p));
#endif
}

// What the next kernel but for its launch could already be reading: too little to keep the memory
// busy, so that only the time until it arrives counts.
struct Ahead {
    const char* at;
    int64_t bytes;
};
// Brings it into the second-level cache, a line a thread of the grid.
__device__ __forceinline__ void fetch_ahead(const Ahead& a) {
    const int64_t line = (int64_t)(blockIdx.x + gridDim.x * blockIdx.y) * blockDim.x + threadIdx.x;
    if (line * 128 < a.bytes) prefetch_l2(a.at + line * 128);
}

// 16 bytes that are read once: past the first-level cache.
__device__ __forceinline__ uint4 load_stream(const void* p) {
#ifdef DS4_EMU
    return *(const uint4*)p;
#else
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
#endif
}

// d += a · b of int8 tiles 16×32 by 32×8, 32-bit sums.
__device__ __forceinline__ void mma_s8(int d[4], const uint32_t a[4], const uint32_t b[2], const int c[4]) {
#ifdef DS4_EMU
    emu_mma_m16n8k32_s8(d, a, b, c);
#else
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]),
                   "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
#endif
}
// d = a · b + c of f16 tiles 16×16 by 16×8, f32 sums.
__device__ __forceinline__ void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4]) {
#ifdef DS4_EMU
    emu_mma_m16n8k16_f16(d, a, b, c);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]),
                   "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#endif
}
// The same of bf16 tiles.
__device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4]) {
#ifdef DS4_EMU
    emu_mma_m16n8k16_bf16(d, a, b, c);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]),
                   "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#endif
}
// Four 8×8 tiles of 2-byte values (or 8×16 of bytes): lane i gives the address of row i % 8 of
// tile i / 8.
__device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void* row) {
#ifdef DS4_EMU
    emu_ldmatrix_x4(r, row);
#else
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
#endif
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void* row) {
#ifdef DS4_EMU
    emu_ldmatrix_x4_trans(r, row);
#else
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
#endif
}
// 16 bytes from global to shared memory in the background; nothing is read when `ok` is false and
// zeros are written instead.
__device__ __forceinline__ void cp_async16(void* to, const void* from, bool ok = true) {
#ifdef DS4_EMU
    emu_cp_async16(to, from, ok ? 16 : 0);
#else
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    const int n = ok ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(at), "l"(from), "r"(n) : "memory");
#endif
}
__device__ __forceinline__ void cp_async_commit() {
#ifdef DS4_EMU
    emu_cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int N> __device__ __forceinline__ void cp_async_wait() {
#ifdef DS4_EMU
    emu_cp_async_wait<N>();
#else
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
#endif
}
