// A ring of stages in shared memory through which one warp streams weights: copies on their way take no
// registers, and a warp waits for no other.
#pragma once

#include "common.cuh"

#define MV_STAGE_Q 4096                          // bytes of weights of a stage
#define MV_STAGE (MV_STAGE_Q + MV_STAGE_Q / 16)  // and the scales of as many Q8_0 values

template <int STAGES> struct MvRing {
    unsigned char* space;  // [STAGES][MV_STAGE] of the warp
    int slot;              // of the oldest stage

    __device__ __forceinline__ MvRing(unsigned char* space) : space(space), slot(0) {}
    // Starts to fill stage `s` with `bytes` of q and, with scales, a 16th of that of d; both in whole 16 bytes.
    __device__ __forceinline__ void fill(int s, const char* q, const char* d, int bytes, bool scales) {
        const int lane = threadIdx.x & 31;
        unsigned char* to = space + s * MV_STAGE + lane * 16;
        q += lane * 16;
        if (bytes == MV_STAGE_Q) {
#pragma unroll
            for (int k = 0; k < MV_STAGE_Q / 512; k++) cp_async16(to + k * 512, q + k * 512);
        } else {
#pragma unroll 1
            for (int k = 0; k * 512 + lane * 16 < bytes; k++) cp_async16(to + k * 512, q + k * 512);
        }
        if (scales && lane * 256 < bytes) cp_async16(to + MV_STAGE_Q, d + lane * 16);
        cp_async_commit();
    }
    // In place of a fill that is not needed: stages are counted.
    __device__ __forceinline__ void skip() { cp_async_commit(); }
    // The oldest stage, once it is full.
    __device__ __forceinline__ const unsigned char* wait() {
        cp_async_wait<STAGES - 1>();
        __syncwarp();
        return space + slot * MV_STAGE;
    }
    // Past it, after all lanes have read it and its successor is on its way.
    __device__ __forceinline__ void next() { slot = slot + 1 == STAGES ? 0 : slot + 1; }
};
