// Where a sequence's state lies on the device, and the roundings of what is stored there.
#pragma once
#include "common.cuh"

// State of one layer of one sequence; the host keeps one for every (sequence, layer).
struct SeqLayer {
    uint8_t* raw;    // ring of raw rows: [RAW_SLOTS], position p in slot p % RAW_SLOTS
    uint8_t* comp;   // compressed rows: [cap/ratio]
    uint8_t* idx;    // index rows: [cap/4]
    float* comp_kv;  // ring of projections: [lanes·ratio + MARGIN][lanes·HEAD_DIM]
    float* comp_sc;  // the same of scores, position bias added
    float* idx_kv;   // the same two of the index compressor, IDX_DIM wide lanes
    float* idx_sc;
    float* hidden;   // MTP only: ring of the trunk's final streams [HIDDEN_SLOTS][N_HC·N_EMBD]
};

// Tokens a ring can be set back (ROLLBACK_MAX of the model crate).
#define MARGIN 64
#define HIDDEN_SLOTS (MARGIN + 1)
#define RAW_SLOTS (WINDOW - 1 + MARGIN + 16)

__device__ __forceinline__ int comp_lanes(int ratio) { return ratio == 4 ? 2 : 1; }
__device__ __forceinline__ int comp_slots(int ratio) { return comp_lanes(ratio) * ratio + MARGIN; }

// 2^k, exact where f32 can hold it.
__device__ __forceinline__ float exp2i(int k) {
    if (k >= -126 && k <= 127) return __int_as_float((k + 127) << 23);
    if (k >= -149 && k < -126) return __int_as_float(1 << (k + 149));
    return k > 127 ? INFINITY : 0.0f;
}

// ceil(log2 x) of a positive normal number, from its bits.
__device__ __forceinline__ int ceil_log2(float x) {
    const uint32_t bits = __float_as_uint(x);
    return (int)(bits >> 23) - 127 + ((bits & 0x007fffffu) != 0);
}

// Nearest E4M3 value of |x| <= 448, ties to even.
__device__ __forceinline__ float round_e4m3(float x) {
    if (fabsf(x) < 1.0f / 64.0f) {
        // The sum leaves units of 2^-9. Rounded operations: nothing may be contracted or folded.
        const float unit = 1.5f * 16384.0f;
        return copysignf(__fadd_rn(__fadd_rn(fabsf(x), unit), -unit), x);
    }
    const uint32_t bits = __float_as_uint(x), odd = (bits >> 20) & 1;
    return __uint_as_float((bits + 0x0007ffffu + odd) & 0xfff00000u);
}

// Nearest of {0, 0.5, 1, 1.5, 2, 3, 4, 6} of |x| <= 6, ties to the even code.
__device__ __forceinline__ float round_e2m1(float x) {
    const float a = fabsf(x);
    const float inverse = a < 2.0f ? 2.0f : a < 4.0f ? 1.0f : 0.5f;
    const float unit = a < 2.0f ? 0.5f : a < 4.0f ? 1.0f : 2.0f;
    return copysignf(rintf(a * inverse) * unit, x);
}

// The exponent of the scale of a block with this largest magnitude, for E4M3 (architecture.md 6.9).
__device__ __forceinline__ int fp8_exponent(float amax) { return ceil_log2(__fmul_rn(fmaxf(amax, 1e-4f), 1.0f / 448.0f)); }

// E4M3 round trip of one value of such a block.
__device__ __forceinline__ float fp8_value(float v, float amax) {
    const int k = fp8_exponent(amax);
    const float s = fminf(fmaxf(__fmul_rn(v, exp2i(-k)), -448.0f), 448.0f);
    return round_e4m3(s) * exp2i(k);
}

// The same two for E2M1 (6.10).
__device__ __forceinline__ int fp4_exponent(float amax) { return ceil_log2(__fmul_rn(fmaxf(amax, 6.0f * 1.17549435e-38f), 1.0f / 6.0f)); }
__device__ __forceinline__ float fp4_value(float v, float amax) {
    const int k = fp4_exponent(amax);
    const float s = fminf(fmaxf(__fmul_rn(v, exp2i(-k)), -6.0f), 6.0f);
    return round_e2m1(s) * exp2i(k);
}

// Nearest integer within +-127, ties to even.
__device__ __forceinline__ int round_i8(float v) {
    return (int)rintf(fminf(fmaxf(v, -127.0f), 127.0f));
}
