// __half and __nv_bfloat16 with the conversions and arithmetic of cuda_fp16.h and cuda_bf16.h in use.
//
// Every operation rounds once, to nearest even: sums, products and quotients through float, where the
// second rounding cannot change the result (float has more than twice the digits), fma through double.
#pragma once

#include "types.h"

#include <bit>
#include <cmath>
#include <cstdint>
#ifdef __F16C__
#include <immintrin.h>
#endif

namespace ds4_emu __attribute__((visibility("hidden"))) {

inline float half_to_float(uint16_t bits) {
#ifdef __F16C__
    return _cvtsh_ss(bits);
#else
    // The exponent's bias grows by 112; for infinities and NaNs it becomes the greatest.
    float f = std::bit_cast<float>((bits & 0x7fffu) << 13) * 0x1p112f;
    uint32_t special = (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(f) | special | (bits & 0x8000u) << 16);
#endif
}
inline uint16_t float_to_half(float v) {
    if (v != v) return 0x7fff;
#ifdef __F16C__
    return _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT);
#else
    uint32_t u = std::bit_cast<uint32_t>(v), sign = u >> 16 & 0x8000u, h;
    u &= 0x7fffffffu;
    if (u >= 0x477ff000u) {  // 65520 and more round to infinity
        h = 0x7c00;
    } else if (u < 0x38800000u) {  // a subnormal counts 2^-24, as the last digit of 0.5f does
        h = std::bit_cast<uint32_t>(std::bit_cast<float>(u) + 0.5f) - 0x3f000000u;
    } else {
        h = (u - 0x38000000u + 0xfffu + (u >> 13 & 1)) >> 13;
    }
    return static_cast<uint16_t>(sign | h);
#endif
}
inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
inline uint16_t float_to_bf16(float v) {
    if (v != v) return 0x7fff;
    uint32_t u = std::bit_cast<uint32_t>(v);
    return static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
// Round to odd keeps in the last bit that something was cut off, so that a second rounding is right.
inline float to_odd_float(double v) {
    float f = static_cast<float>(v);
    if (static_cast<double>(f) == v || !std::isfinite(f)) return f;
    uint32_t u = std::bit_cast<uint32_t>(f);
    if (std::fabs(static_cast<double>(f)) > std::fabs(v)) u--;
    return std::bit_cast<float>(u | 1);
}

}  // namespace ds4_emu

// The two types differ in name and conversion alone.
#define DS4_EMU_HALF(type, to_float, from_float)                                                       \
    struct type {                                                                                      \
        uint16_t bits;                                                                                 \
        type() = default;                                                                              \
        type(float v) : bits(ds4_emu::from_float(v)) {}                                                \
        type(double v) : bits(ds4_emu::from_float(ds4_emu::to_odd_float(v))) {}                        \
        type(int v) : type(static_cast<double>(v)) {}                                                  \
        type(unsigned v) : type(static_cast<double>(v)) {}                                             \
        operator float() const { return ds4_emu::to_float(bits); }                                     \
        static type raw(uint16_t bits) {                                                               \
            type h;                                                                                    \
            h.bits = bits;                                                                             \
            return h;                                                                                  \
        }                                                                                              \
    };                                                                                                 \
    inline type operator+(type a, type b) { return type(float(a) + float(b)); }                        \
    inline type operator-(type a, type b) { return type(float(a) - float(b)); }                        \
    inline type operator*(type a, type b) { return type(float(a) * float(b)); }                        \
    inline type operator/(type a, type b) { return type(float(a) / float(b)); }                        \
    inline type operator-(type a) { return type::raw(a.bits ^ 0x8000); }                               \
    inline type& operator+=(type& a, type b) { return a = a + b; }                                     \
    inline type& operator-=(type& a, type b) { return a = a - b; }                                     \
    inline type& operator*=(type& a, type b) { return a = a * b; }                                     \
    inline bool operator==(type a, type b) { return float(a) == float(b); }                            \
    inline bool operator!=(type a, type b) { return float(a) != float(b); }                            \
    inline bool operator<(type a, type b) { return float(a) < float(b); }                              \
    inline bool operator>(type a, type b) { return float(a) > float(b); }                              \
    inline bool operator<=(type a, type b) { return float(a) <= float(b); }                            \
    inline bool operator>=(type a, type b) { return float(a) >= float(b); }                            \
    struct alignas(4) type##2 { type x, y; };                                                          \
    inline type __hadd(type a, type b) { return a + b; }                                               \
    inline type __hsub(type a, type b) { return a - b; }                                               \
    inline type __hmul(type a, type b) { return a * b; }                                               \
    inline type __hdiv(type a, type b) { return a / b; }                                               \
    inline type __hneg(type a) { return -a; }                                                          \
    inline type __habs(type a) { return type::raw(a.bits & 0x7fff); }                                  \
    inline type __hmax(type a, type b) { return type(fmaxf(a, b)); }                                   \
    inline type __hmin(type a, type b) { return type(fminf(a, b)); }                                   \
    inline type __hfma(type a, type b, type c) {                                                       \
        return type(std::fma(double(float(a)), double(float(b)), double(float(c))));                   \
    }                                                                                                  \
    inline type##2 __hadd2(type##2 a, type##2 b) { return {a.x + b.x, a.y + b.y}; }                    \
    inline type##2 __hsub2(type##2 a, type##2 b) { return {a.x - b.x, a.y - b.y}; }                    \
    inline type##2 __hmul2(type##2 a, type##2 b) { return {a.x * b.x, a.y * b.y}; }                    \
    inline type##2 __hfma2(type##2 a, type##2 b, type##2 c) {                                          \
        return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};                                         \
    }                                                                                                  \
    inline type##2 __hneg2(type##2 a) { return {-a.x, -a.y}; }                                         \
    inline type##2 __hmax2(type##2 a, type##2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }      \
    inline type##2 __hmin2(type##2 a, type##2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }      \
    inline float __low2float(type##2 a) { return a.x; }                                                \
    inline float __high2float(type##2 a) { return a.y; }

DS4_EMU_HALF(__half, half_to_float, float_to_half)
DS4_EMU_HALF(__nv_bfloat16, bf16_to_float, float_to_bf16)
#undef DS4_EMU_HALF

using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline __half __float2half(float v) { return __half(v); }
inline __half __float2half_rn(float v) { return __half(v); }
inline __half __double2half(double v) { return __half(v); }
inline __half __int2half_rn(int v) { return __half(v); }
inline __half __uint2half_rn(unsigned v) { return __half(v); }
inline float __half2float(__half v) { return v; }
inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float2half2_rn(float v) { return {__half(v), __half(v)}; }
inline __half2 __half2half2(__half v) { return {v, v}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half __low2half(__half2 v) { return v.x; }
inline __half __high2half(__half2 v) { return v.y; }
inline __half __ushort_as_half(unsigned short v) { return __half::raw(v); }
inline __half __short_as_half(short v) { return __half::raw(static_cast<uint16_t>(v)); }
inline unsigned short __half_as_ushort(__half v) { return v.bits; }
inline short __half_as_short(__half v) { return static_cast<short>(v.bits); }

inline __nv_bfloat16 __float2bfloat16(float v) { return __nv_bfloat16(v); }
inline __nv_bfloat16 __float2bfloat16_rn(float v) { return __nv_bfloat16(v); }
inline float __bfloat162float(__nv_bfloat16 v) { return v; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {v.x, v.y}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {__nv_bfloat16(v.x), __nv_bfloat16(v.y)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
inline __nv_bfloat162 __float2bfloat162_rn(float v) { return {__nv_bfloat16(v), __nv_bfloat16(v)}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 v) { return {v, v}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short v) { return __nv_bfloat16::raw(v); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) { return v.bits; }
