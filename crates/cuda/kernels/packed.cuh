// How attention and index rows are stored: without loss, in as few bytes as the numerics' roundings allow
// (architecture.md 6.9, 6.10). The host's side is packed.rs.
//
// Attention rows, of KV_ROW_BYTES: where all but the rotated channels are rounded to E4M3, [KV_PLAIN codes]
// [ROPE_DIM f16][a power of two as f16 for each 64 codes, padding to 16 bytes]; else [HEAD_DIM f16].
//
// Index rows, of IDX_ROW_BYTES: where they are rounded to E2M1, [IDX_DIM / 8 words][a power of two as bf16
// for each 32 channels, padding to 16 bytes]; else [IDX_DIM f16]. Word q · IDX_DIM / 32 + m has channels
// 8q.. of block m: what lane q of a quad multiplies, see `idx_channel`.
#pragma once
#include "seq.cuh"

#define KV_PLAIN (HEAD_DIM - ROPE_DIM)
#if defined(KV_FP8) && KV_FP8 && KV_PLAIN % 64 == 0 && ROPE_DIM % 8 == 0
#define KV_PACKED 1
#define KV_ROW_BYTES (KV_PLAIN + 2 * ROPE_DIM + (KV_PLAIN / 32 + 15) / 16 * 16)
#else
#define KV_PACKED 0
#define KV_ROW_BYTES (2 * HEAD_DIM)
#endif
#if defined(IDX_FP4) && IDX_FP4 && IDX_DIM % 32 == 0
#define IDX_PACKED 1
#define IDX_ROW_BYTES (IDX_DIM / 2 + (IDX_DIM / 16 + 15) / 16 * 16)
#else
#define IDX_PACKED 0
#define IDX_ROW_BYTES (2 * IDX_DIM)
#endif

// The code of an E4M3 value.
__device__ __forceinline__ uint8_t e4m3_code(float v) {
    const float a = fabsf(v);
    const uint32_t bits = __float_as_uint(a);
    return (uint8_t)((__float_as_uint(v) >> 31 << 7) | (a < 1.0f / 64.0f ? (uint32_t)(a * 512.0f) : (bits >> 20) - (120 << 3)));
}
// The code of an E2M1 value.
__device__ __forceinline__ uint32_t e2m1_code(float v) {
    const float a = fabsf(v);
    return (__float_as_uint(v) >> 31 << 3) | (a < 1.0f ? (uint32_t)(a * 2.0f) : (__float_as_uint(a) >> 22) - (126 << 1));
}

// Two neighbouring E4M3 codes, the halves of word `i` of `codes`, as f16.
__device__ __forceinline__ half2 e4m3_halves(uint32_t codes, int i) {
#if !defined(DS4_EMU) && __CUDA_ARCH__ >= 890
    const uint16_t two = (uint16_t)(codes >> 16 * i);
    uint32_t h;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(h) : "h"(two));
    return *(const half2*)&h;
#else
    // Exponents are 8 smaller, subnormal ones, too.
    const uint32_t two = codes >> 16 * i, wide = (two & 0xff) << 8 | (two & 0xff00) << 16;
    const uint32_t h = (wide & 0x80008000u) | (wide & 0x7f007f00u) >> 1;
    return __hmul2(*(const half2*)&h, __float2half2_rn(256.0f));
#endif
}

#if KV_PACKED
// Pieces of 16 bytes of a row without its scales, and lanes' turns at them.
#define KV_PIECES ((KV_PLAIN + 2 * ROPE_DIM) / 16)
#define KV_TURNS ((KV_PIECES + 31) / 32)

// Packed rows in shared memory, which the warp has copied there, to f16 in their places: N rows at once,
// every STEP-th from `first` on, each in `PITCH` bytes. Piece c of 8 channels of row r goes to the place of
// piece c ^ r % 8.
template <int N, int STEP, int PITCH> __device__ __forceinline__ void kv_unpack(unsigned char* rows, int first) {
    const int lane = threadIdx.x & 31;
    uint4 v[N][KV_TURNS];
    half scale[N][KV_TURNS];
#pragma unroll
    for (int n = 0; n < N; n++) {
        const unsigned char* row = rows + (first + n * STEP) * PITCH;
#pragma unroll
        for (int i = 0; i < KV_TURNS; i++) {
            const int j = i * 32 + lane;
            if (j < KV_PIECES) v[n][i] = *(const uint4*)(row + j * 16);
            if (i * 32 < KV_PLAIN / 16 && j < KV_PLAIN / 16) scale[n][i] = *(const half*)(row + KV_PIECES * 16 + j / 4 * 2);
        }
    }
    __syncwarp();
#pragma unroll
    for (int n = 0; n < N; n++) {
        unsigned char* row = rows + (first + n * STEP) * PITCH;
        const int swizzle = (first + n * STEP) & 7;
#pragma unroll
        for (int i = 0; i < KV_TURNS; i++) {
            const int j = i * 32 + lane;
            if (i * 32 < KV_PLAIN / 16 && j < KV_PLAIN / 16) {
                const half2 by = __half2half2(scale[n][i]);
                const uint32_t codes[4] = {v[n][i].x, v[n][i].y, v[n][i].z, v[n][i].w};
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    uint32_t w[4];
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const half2 two = __hmul2(e4m3_halves(codes[2 * k + e / 2], e % 2), by);
                        w[e] = *(const uint32_t*)&two;
                    }
                    *(uint4*)(row + ((2 * j + k) ^ swizzle) * 16) = make_uint4(w[0], w[1], w[2], w[3]);
                }
            } else if (j < KV_PIECES) {
                *(uint4*)(row + ((j + KV_PLAIN / 16) ^ swizzle) * 16) = v[n][i];
            }
        }
    }
}
#endif

// Stores an attention row of `x`, in shared memory, as rounded by the numerics. `also` may be null.
__device__ __forceinline__ void kv_store(const float* x, uint8_t* to, uint8_t* also) {
#pragma unroll 1
    for (int d = threadIdx.x; d < HEAD_DIM; d += blockDim.x) {
        float v = x[d];
#if defined(KV_FP8) && KV_FP8
        // KV_PLAIN is a multiple of 64, so two whole warps share a block.
        if (d < KV_PLAIN) {
            const float* block = x + d / 64 * 64;
            const int lane = d & 31;
            const float most = warp_max(fmaxf(fabsf(block[lane]), fabsf(block[lane + 32])));
            v = fp8_value(v, most);
#if KV_PACKED
            // Rounding to f16, which small values need, leaves codes of the same scale.
            const float scale = exp2i(fp8_exponent(most)), inverse = 1.0f / scale;
            const uint8_t code = e4m3_code(__half2float(__float2half_rn(v)) * inverse);
            to[d] = code;
            if (also) also[d] = code;
            const int at = KV_PIECES * 16 + d / 64 * 2;
            if (d % 64 == 0) *(half*)(to + at) = __float2half_rn(scale);
            if (d % 64 == 0 && also) *(half*)(also + at) = __float2half_rn(scale);
            continue;
#endif
        }
#endif
        // After the codes, or from the row's start.
        const int at = KV_PACKED ? d + d - KV_PLAIN : 2 * d;
        *(half*)(to + at) = __float2half_rn(v);
        if (also) *(half*)(also + at) = __float2half_rn(v);
    }
}

#if IDX_PACKED
// The channel of bit 4 · p + 16 · upper of lane q's word of block m.
__device__ __forceinline__ int idx_channel(int q, int m, int p, int upper) { return m * 32 + 8 * q + 2 * p + upper; }

// Pair `p` of a word's E2M1 codes as bf16, which holds the values exactly; `scale`: bits of the block's.
__device__ __forceinline__ uint32_t idx_pair(uint32_t word, int p, uint16_t scale) {
    // As they are, the bits are those of numbers 2^126 too small.
    const uint32_t two = word >> 4 * p & 0x000f000fu, bits = (two & 0x00080008u) << 12 | (two & 0x00070007u) << 6;
    const __nv_bfloat162 v = __hmul2(*(const __nv_bfloat162*)&bits, __float2bfloat162_rn(0x1p126f));
    const __nv_bfloat162 scaled = __hmul2(v, __bfloat162bfloat162(__ushort_as_bfloat16(scale)));
    return *(const uint32_t*)&scaled;
}
#else
// Two f16 of numerics without E2M1 as bf16, to its 8 bits.
__device__ __forceinline__ uint32_t idx_pair(uint32_t two) {
    const __nv_bfloat162 b = __float22bfloat162_rn(__half22float2(*(const half2*)&two));
    return *(const uint32_t*)&b;
}
#endif

// Stores an index row of `x`, in shared memory, which holds what the numerics' rounding has left.
__device__ __forceinline__ void idx_store(const float* x, uint8_t* to) {
#if IDX_PACKED
    constexpr int BLOCKS = IDX_DIM / 32;
#pragma unroll 1
    for (int w = threadIdx.x; w < IDX_DIM / 8; w += blockDim.x) {
        const int q = w / BLOCKS, m = w % BLOCKS;
        float most = 0.0f;
#pragma unroll 4
        for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[m * 32 + i]));
        // Below 2^-24 f16 has nothing: what is left of smaller blocks has codes of that scale.
        const int k = max(fp4_exponent(most), -24);
        uint32_t word = 0;
#pragma unroll 1
        for (int i = 0; i < 8; i++) {
            const float v = __half2float(__float2half_rn(x[idx_channel(q, m, i / 2, i % 2)]));
            word |= e2m1_code(v * exp2i(-k)) << (4 * (i / 2) + 16 * (i % 2));
        }
        ((uint32_t*)to)[w] = word;
        if (q == 0) *(__nv_bfloat16*)(to + IDX_DIM / 2 + 2 * m) = __float2bfloat16_rn(exp2i(k));
    }
#else
    for (int d = threadIdx.x; d < IDX_DIM; d += blockDim.x) ((half*)to)[d] = __float2half_rn(x[d]);
#endif
}

// Of every 32 columns of an index row the 8 from 8·q on, as they are stored.
struct IdxQuad {
    static constexpr int BLOCKS = IDX_DIM / 32;
#if IDX_PACKED
    __align__(16) uint32_t words[BLOCKS];
    __align__(8) uint16_t scales[BLOCKS];

    __device__ __forceinline__ void load(const uint8_t* row, int q) {
        const uint32_t* from = (const uint32_t*)row + q * BLOCKS;
        const uint16_t* by = (const uint16_t*)(row + IDX_DIM / 2);
        if constexpr (BLOCKS == 4) {
            *(uint4*)words = *(const uint4*)from;
            *(uint2*)scales = *(const uint2*)by;
        } else {
#pragma unroll
            for (int m = 0; m < BLOCKS; m++) words[m] = from[m], scales[m] = by[m];
        }
    }
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < BLOCKS; m++) words[m] = 0, scales[m] = 0;
    }
    // Columns 2p and 2p + 1 of the 8 of block m as bf16.
    __device__ __forceinline__ uint32_t pair(int m, int p) const { return idx_pair(words[m], p, scales[m]); }
#else
    uint4 v[BLOCKS];

    __device__ __forceinline__ void load(const uint8_t* row, int q) {
#pragma unroll
        for (int m = 0; m < BLOCKS; m++) v[m] = ((const uint4*)row)[4 * m + q];
    }
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < BLOCKS; m++) v[m] = make_uint4(0, 0, 0, 0);
    }
    __device__ __forceinline__ uint32_t pair(int m, int p) const { return idx_pair(p == 0 ? v[m].x : p == 1 ? v[m].y : p == 2 ? v[m].z : v[m].w); }
#endif
};

// What lane q of a quad multiplies of a row, or zeros for none: word [k][i] has columns 16k + 8i + 2q
// and the next as bf16.
__device__ __forceinline__ void idx_fragments(uint32_t v[IDX_DIM / 16][2], const uint8_t* row, int q) {
#if IDX_PACKED
#pragma unroll
    for (int part = 0; part < 4; part++) {
        IdxQuad quad;
        if (row) quad.load(row, part);
        else quad.clear();
#pragma unroll
        for (int m = 0; m < IDX_DIM / 32; m++) v[2 * m + part / 2][part % 2] = quad.pair(m, q);
    }
#else
#pragma unroll
    for (int k = 0; k < IDX_DIM / 16; k++)
#pragma unroll
        for (int i = 0; i < 2; i++) v[k][i] = row ? idx_pair(((const uint32_t*)row)[8 * k + 4 * i + q]) : 0;
#endif
}
