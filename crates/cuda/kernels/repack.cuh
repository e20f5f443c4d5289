// From blocks as they lie in the file to the planes of `Mat`. A launch takes a chunk of whole rows.
//
// raw: the chunk's rows, one after the other, from an address that is a multiple of 16; whole lines
// of 16 bytes are read, so the buffer's end is rounded up to one. q, s, d: the planes of the whole
// matrix or stack, of which rows first_row .. first_row + n_rows are written (multiples of 8 for
// IQ2_XXS, any numbers for the others). Block: 256 threads. Grid: any, each block strides; 8 to 32
// blocks per multiprocessor keep it busy.
#pragma once

#include "tables.cuh"

// Copies the 16-byte lines that hold `bytes` bytes from `raw` + `at` on to shared memory; where they begin there.
__device__ __forceinline__ const uint8_t* repack_stage(const uint8_t* raw, int64_t at, int bytes, uint4* to) {
    const int skip = (int)(at & 15), lines = (skip + bytes + 15) >> 4;
    const uint8_t* from = raw + (at - skip);
    __syncthreads();
    for (int i = threadIdx.x; i < lines; i += blockDim.x) to[i] = *(const uint4*)(from + (int64_t)i * 16);
    __syncthreads();
    return (const uint8_t*)to + skip;
}

__device__ __forceinline__ uint32_t repack_u16(const uint8_t* p) { return p[0] | (uint32_t)p[1] << 8; }
__device__ __forceinline__ uint32_t repack_u32(const uint8_t* p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
// Four bytes at an even address of shared memory.
__device__ __forceinline__ uint32_t repack_even(const uint8_t* p) {
    const uint16_t* h = (const uint16_t*)p;
    return h[0] | (uint32_t)h[1] << 16;
}
// Four bytes at any address of shared memory, by two aligned words.
__device__ __forceinline__ uint32_t repack_any(const uint8_t* p) {
    const uint32_t off = (uint32_t)((size_t)p & 3);
    const uint32_t* w = (const uint32_t*)(p - off);
    return off ? w[0] >> (8 * off) | w[1] << (32 - 8 * off) : w[0];
}
__device__ __forceinline__ uint4 repack_any16(const uint8_t* p) {
    return make_uint4(repack_any(p), repack_any(p + 4), repack_any(p + 8), repack_any(p + 12));
}

// Blocks of BYTES bytes, GROUP of them staged at a time; `write(block, bytes, thread)` of the
// GROUP * PARTS pieces of work.
#define REPACK_LOOP(BYTES, GROUP, TOTAL)                                                                \
    __shared__ uint4 stage[((GROUP) * (BYTES) + 15) / 16 + 2];                                          \
    for (int64_t g = (int64_t)blockIdx.x * (GROUP); g < (TOTAL); g += (int64_t)gridDim.x * (GROUP))     \
        for (int n = (int)min((int64_t)(GROUP), (TOTAL) - g), once = 1; once; once = 0)                 \
            for (const uint8_t* at = repack_stage(raw, g * (BYTES), n * (BYTES), stage); at; at = 0)

extern "C" __global__ void __launch_bounds__(256)
    repack_q8_0(const uint8_t* raw, void* q, void* s, void* d, int64_t first_row, int64_t n_rows, int cols) {
    const int64_t total = n_rows * (cols / 32), b0 = first_row * (cols / 32);
    REPACK_LOOP(34, 256, total) {
        for (int i = threadIdx.x; i < n * 2; i += 256) {
            const uint8_t* b = at + (i >> 1) * 34 + 2 + (i & 1) * 16;
            ((uint4*)q)[(b0 + g) * 2 + i] = make_uint4(repack_even(b), repack_even(b + 4), repack_even(b + 8), repack_even(b + 12));
        }
        for (int i = threadIdx.x; i < n; i += 256) ((uint16_t*)d)[b0 + g + i] = *(const uint16_t*)(at + i * 34);
    }
}
DS4_REGISTER(repack_q8_0)

extern "C" __global__ void __launch_bounds__(256)
    repack_mxfp4(const uint8_t* raw, void* q, void* s, void* d, int64_t first_row, int64_t n_rows, int cols) {
    const int64_t total = n_rows * (cols / 32), b0 = first_row * (cols / 32);
    REPACK_LOOP(17, 512, total) {
        for (int i = threadIdx.x; i < n; i += 256) {
            const uint8_t* b = at + i * 17;
            ((uint4*)q)[b0 + g + i] = repack_any16(b + 1);
            ((uint8_t*)s)[b0 + g + i] = b[0];
        }
    }
}
DS4_REGISTER(repack_mxfp4)

extern "C" __global__ void __launch_bounds__(256)
    repack_q2_k(const uint8_t* raw, void* q, void* s, void* d, int64_t first_row, int64_t n_rows, int cols) {
    const int64_t total = n_rows * (cols / 256), b0 = first_row * (cols / 256);
    REPACK_LOOP(84, 128, total) {
        for (int i = threadIdx.x; i < n * 4; i += 256) {
            const uint32_t* b = (const uint32_t*)(at + (i >> 2) * 84 + 16 + (i & 3) * 16);
            ((uint4*)q)[(b0 + g) * 4 + i] = make_uint4(b[0], b[1], b[2], b[3]);
        }
        for (int i = threadIdx.x; i < n; i += 256) {
            const uint32_t* b = (const uint32_t*)(at + i * 84);
            ((uint4*)s)[b0 + g + i] = make_uint4(b[0], b[1], b[2], b[3]);
            ((uint32_t*)d)[b0 + g + i] = b[20];
        }
    }
}
DS4_REGISTER(repack_q2_k)

// Four of the 8 six-bit scales and minima, packed in 12 bytes of the file (three words).
__device__ __forceinline__ uint4 repack_q4_k_scales(uint32_t a, uint32_t b, uint32_t c) {
    return make_uint4(a & 0x3f3f3f3fu, (c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u),
                      b & 0x3f3f3f3fu, (c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u));
}

extern "C" __global__ void __launch_bounds__(256)
    repack_q4_k(const uint8_t* raw, void* q, void* s, void* d, int64_t first_row, int64_t n_rows, int cols) {
    const int64_t total = n_rows * (cols / 256), b0 = first_row * (cols / 256);
    REPACK_LOOP(144, 64, total) {
        for (int i = threadIdx.x; i < n * 8; i += 256)
            ((uint4*)q)[(b0 + g) * 8 + i] = *(const uint4*)(at + (i >> 3) * 144 + 16 + (i & 7) * 16);
        for (int i = threadIdx.x; i < n; i += 256) {
            const uint4 head = *(const uint4*)(at + i * 144);
            ((uint32_t*)d)[b0 + g + i] = head.x;
            ((uint4*)s)[b0 + g + i] = repack_q4_k_scales(head.y, head.z, head.w);
        }
    }
}
DS4_REGISTER(repack_q4_k)

// The 32 signs of a group from its four 7-bit selectors; the eighth makes their number even.
__device__ __forceinline__ uint32_t repack_signs(uint32_t word) {
    uint32_t signs = 0;
#pragma unroll
    for (int l = 0; l < 4; l++) {
        const uint32_t low = word >> (7 * l) & 127;
        signs |= (low | (uint32_t)(__popc(low) & 1) << 7) << (8 * l);
    }
    return signs;
}

// A block takes 8 rows by CHUNK blocks of 256 of one unit.
extern "C" __global__ void __launch_bounds__(256)
    repack_iq2_xxs(const uint8_t* raw, void* q, void* s, void* d, int64_t first_row, int64_t n_rows, int cols) {
    constexpr int CHUNK = 4, LINES = (CHUNK * 66 + 15) / 16 + 2;
    __shared__ uint4 stage[8][LINES];
    const int nb = cols / 256, groups = cols / 32, chunks = (nb + CHUNK - 1) / CHUNK;
    const int64_t total = n_rows / 8 * chunks, row_bytes = (int64_t)nb * 66;
    for (int64_t g = blockIdx.x; g < total; g += gridDim.x) {
        const int64_t unit = g / chunks, to = first_row / 8 + unit;
        const int c0 = (int)(g % chunks) * CHUNK, n = min(CHUNK, nb - c0);
        __syncthreads();
        {
            // 32 threads a row.
            const int r = threadIdx.x >> 5;
            const int64_t at = (unit * 8 + r) * row_bytes + (int64_t)c0 * 66, line = at & ~(int64_t)15;
            const int lines = (int)((at - line + n * 66 + 15) >> 4);
            for (int i = threadIdx.x & 31; i < lines; i += 32) stage[r][i] = *(const uint4*)(raw + line + i * 16);
        }
        __syncthreads();
        // Block bytes of row r, 256-block b of the chunk.
        auto block = [&](int r, int b) {
            const int64_t at = (unit * 8 + r) * row_bytes + (int64_t)c0 * 66;
            return (const uint8_t*)stage[r] + (at & 15) + b * 66;
        };
        for (int i = threadIdx.x; i < 4 * n * 8; i += 256) {
            const int j = i / (n * 8), k = i % (n * 8);
            const uint8_t* a = block(2 * j, k >> 3) + 2 + (k & 7) * 8;
            const uint8_t* b = block(2 * j + 1, k >> 3) + 2 + (k & 7) * 8;
            ((uint4*)q)[(to * 4 + j) * groups + c0 * 8 + k] =
                make_uint4(repack_even(a), repack_signs(repack_even(a + 4)), repack_even(b), repack_signs(repack_even(b + 4)));
        }
        for (int i = threadIdx.x; i < n * 8; i += 256) {
            uint32_t scales = 0;
#pragma unroll
            for (int r = 0; r < 8; r++) scales |= (uint32_t)(block(r, i >> 3)[2 + (i & 7) * 8 + 7] >> 4) << (4 * r);
            ((uint32_t*)s)[to * groups + c0 * 8 + i] = scales;
            ((uint16_t*)d)[to * groups + c0 * 8 + i] = *(const uint16_t*)block(i & 7, i >> 3);
        }
    }
}
DS4_REGISTER(repack_iq2_xxs)
