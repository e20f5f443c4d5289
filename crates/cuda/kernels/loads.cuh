// Loads of weights in program order with `pdl_wait`, past the first-level cache, and small things that
// are done with what they bring.
#pragma once

#include "common.cuh"

#ifdef DS4_EMU
__device__ __forceinline__ uint2 load_stream8(const void* p) { return *(const uint2*)p; }
__device__ __forceinline__ uint32_t load_stream4(const void* p) { return *(const uint32_t*)p; }
__device__ __forceinline__ uint32_t load_stream2(const void* p) { return *(const uint16_t*)p; }
__device__ __forceinline__ uint32_t load_stream1(const void* p) { return *(const uint8_t*)p; }
#else
__device__ __forceinline__ uint2 load_stream8(const void* p) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}
__device__ __forceinline__ uint32_t load_stream4(const void* p) {
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
__device__ __forceinline__ uint32_t load_stream2(const void* p) {
    uint16_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(v) : "l"(p));
    return v;
}
__device__ __forceinline__ uint32_t load_stream1(const void* p) {
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u8 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
#endif

__device__ __forceinline__ float half_bits(uint32_t bits) {
    return __half2float(__ushort_as_half((unsigned short)bits));
}
__device__ __forceinline__ float2 half2_bits(uint32_t bits) {
    return make_float2(half_bits(bits & 0xffff), half_bits(bits >> 16));
}

__device__ __forceinline__ int dot16(const uint4& w, const uint4& x) {
    int s = __dp4a((int)w.x, (int)x.x, 0);
    s = __dp4a((int)w.y, (int)x.y, s);
    s = __dp4a((int)w.z, (int)x.z, s);
    return __dp4a((int)w.w, (int)x.w, s);
}

// silu(min(gate, clamp)) * clamp(up, +-clamp)
__device__ __forceinline__ float swiglu(float gate, float up, float clamp) {
    const float a = fminf(gate, clamp);
    return a / (1.0f + expf(-a)) * fminf(fmaxf(up, -clamp), clamp);
}
