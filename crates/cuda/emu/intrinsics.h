// Device functions of one thread: bits, integer SIMD, math, loads and stores, atomics.
#pragma once

#include "half.h"
#include "runtime.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <math.h>
#include <stdlib.h>
#include <type_traits>

// --- bits

inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline float __int_as_float(int v) { return std::bit_cast<float>(v); }
inline long long __double_as_longlong(double v) { return std::bit_cast<long long>(v); }
inline double __longlong_as_double(long long v) { return std::bit_cast<double>(v); }

inline int __popc(unsigned v) { return std::popcount(v); }
inline int __popcll(unsigned long long v) { return std::popcount(v); }
inline int __clz(int v) { return std::countl_zero(static_cast<unsigned>(v)); }
inline int __clzll(long long v) { return std::countl_zero(static_cast<unsigned long long>(v)); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline unsigned __brev(unsigned v) {
    v = (v >> 1 & 0x55555555u) | (v & 0x55555555u) << 1;
    v = (v >> 2 & 0x33333333u) | (v & 0x33333333u) << 2;
    v = (v >> 4 & 0x0f0f0f0fu) | (v & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(v);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n) {
    return static_cast<unsigned>(((uint64_t{high} << 32 | low) << (n & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n) {
    return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (n & 31));
}
// Four bytes picked from eight; unlike PTX's prmt, the function ignores a selector's top bit.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    uint64_t bytes = uint64_t{b} << 32 | a;
    unsigned r = 0;
    for (unsigned i = 0; i < 4; i++) {
        unsigned from = selector >> (4 * i) & 7;
        r |= (static_cast<unsigned>(bytes >> (8 * from)) & 255) << (8 * i);
    }
    return r;
}

// --- integers

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(int64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline int __mul24(int a, int b) { return (a << 8 >> 8) * (b << 8 >> 8); }

namespace ds4_emu __attribute__((visibility("hidden"))) {
// The i-th `Part` of a word.
template <class Part>
auto part(unsigned word, unsigned i) {
    return static_cast<Part>(word >> (8 * sizeof(Part) * i));
}
// Sums wrap around, as on the device.
template <class A, class B, unsigned parts, class SumA>
unsigned dot(unsigned a, unsigned b, unsigned b_from, SumA sum) {
    unsigned r = static_cast<unsigned>(sum);
    for (unsigned i = 0; i < parts; i++) r += static_cast<unsigned>(part<A>(a, i) * part<B>(b, b_from + i));
    return r;
}
template <class F>
unsigned each_byte(unsigned a, unsigned b, F f) {
    unsigned r = 0;
    for (unsigned i = 0; i < 4; i++) {
        int v = f(part<int8_t>(a, i), part<int8_t>(b, i));
        r |= (static_cast<unsigned>(v) & 255) << (8 * i);
    }
    return r;
}
}  // namespace ds4_emu

inline int __dp4a(int a, int b, int c) {
    return static_cast<int>(ds4_emu::dot<int8_t, int8_t, 4>(static_cast<unsigned>(a), static_cast<unsigned>(b), 0, c));
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) { return ds4_emu::dot<uint8_t, uint8_t, 4>(a, b, 0, c); }
inline int __dp2a_lo(int a, int b, int c) {
    return static_cast<int>(ds4_emu::dot<int16_t, int8_t, 2>(static_cast<unsigned>(a), static_cast<unsigned>(b), 0, c));
}
inline int __dp2a_hi(int a, int b, int c) {
    return static_cast<int>(ds4_emu::dot<int16_t, int8_t, 2>(static_cast<unsigned>(a), static_cast<unsigned>(b), 2, c));
}
inline unsigned __dp2a_lo(unsigned a, unsigned b, unsigned c) { return ds4_emu::dot<uint16_t, uint8_t, 2>(a, b, 0, c); }
inline unsigned __dp2a_hi(unsigned a, unsigned b, unsigned c) { return ds4_emu::dot<uint16_t, uint8_t, 2>(a, b, 2, c); }

inline unsigned __vadd4(unsigned a, unsigned b) { return ds4_emu::each_byte(a, b, [](int x, int y) { return x + y; }); }
inline unsigned __vsub4(unsigned a, unsigned b) { return ds4_emu::each_byte(a, b, [](int x, int y) { return x - y; }); }
inline unsigned __vaddss4(unsigned a, unsigned b) {
    return ds4_emu::each_byte(a, b, [](int x, int y) { return std::clamp(x + y, -128, 127); });
}
inline unsigned __vsubss4(unsigned a, unsigned b) {
    return ds4_emu::each_byte(a, b, [](int x, int y) { return std::clamp(x - y, -128, 127); });
}
inline unsigned __vcmpeq4(unsigned a, unsigned b) {
    return ds4_emu::each_byte(a, b, [](int x, int y) { return x == y ? 255 : 0; });
}
inline unsigned __vcmpne4(unsigned a, unsigned b) {
    return ds4_emu::each_byte(a, b, [](int x, int y) { return x != y ? 255 : 0; });
}

template <class A, class B>
    requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
constexpr auto min(A a, B b) {
    using C = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<C>) return std::fmin(static_cast<C>(a), static_cast<C>(b));
    else return std::min(static_cast<C>(a), static_cast<C>(b));
}
template <class A, class B>
    requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
constexpr auto max(A a, B b) {
    using C = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<C>) return std::fmax(static_cast<C>(a), static_cast<C>(b));
    else return std::max(static_cast<C>(a), static_cast<C>(b));
}
using std::abs;

// --- math: the approximate functions are the host's exact ones

inline float __expf(float v) { return expf(v); }
inline float __exp10f(float v) { return powf(10.0f, v); }
inline float __logf(float v) { return logf(v); }
inline float __log2f(float v) { return log2f(v); }
inline float __log10f(float v) { return log10f(v); }
inline float __powf(float a, float b) { return powf(a, b); }
inline float __sinf(float v) { return sinf(v); }
inline float __cosf(float v) { return cosf(v); }
inline void __sincosf(float v, float* s, float* c) { *s = sinf(v), *c = cosf(v); }
inline float __tanhf(float v) { return tanhf(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float v) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(v))); }
inline float __frsqrt_rn(float v) { return rsqrtf(v); }
inline double rsqrt(double v) { return 1.0 / std::sqrt(v); }
inline float __saturatef(float v) { return v > 0.0f ? (v < 1.0f ? v : 1.0f) : 0.0f; }

// The _rn functions are never fused with a neighbour; the barrier on the result keeps the compiler from it.
namespace ds4_emu __attribute__((visibility("hidden"))) {
template <class T>
inline T unfused(T v) {
#if defined(__x86_64__)
    asm("" : "+x"(v));
#elif defined(__aarch64__)
    asm("" : "+w"(v));
#endif
    return v;
}
}  // namespace ds4_emu
inline float __fmul_rn(float a, float b) { return ds4_emu::unfused(a * b); }
inline float __fadd_rn(float a, float b) { return ds4_emu::unfused(ds4_emu::unfused(a) + ds4_emu::unfused(b)); }
inline float __fsub_rn(float a, float b) { return ds4_emu::unfused(ds4_emu::unfused(a) - ds4_emu::unfused(b)); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float v) { return 1.0f / v; }
inline float __fsqrt_rn(float v) { return sqrtf(v); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

namespace ds4_emu __attribute__((visibility("hidden"))) {
// The device's conversions: out of range gives the nearest end, NaN gives zero.
template <class I, class F>
I to_int(F v) {
    using L = std::numeric_limits<I>;
    if (v != v) return 0;
    if (v <= static_cast<F>(L::min())) return L::min();
    if (v >= static_cast<F>(L::max())) return L::max();
    return static_cast<I>(v);
}
}  // namespace ds4_emu
inline int __float2int_rn(float v) { return ds4_emu::to_int<int>(rintf(v)); }
inline int __float2int_rz(float v) { return ds4_emu::to_int<int>(truncf(v)); }
inline int __float2int_rd(float v) { return ds4_emu::to_int<int>(floorf(v)); }
inline int __float2int_ru(float v) { return ds4_emu::to_int<int>(ceilf(v)); }
inline unsigned __float2uint_rn(float v) { return ds4_emu::to_int<unsigned>(rintf(v)); }
inline unsigned __float2uint_rz(float v) { return ds4_emu::to_int<unsigned>(truncf(v)); }
inline float __int2float_rn(int v) { return static_cast<float>(v); }
inline float __uint2float_rn(unsigned v) { return static_cast<float>(v); }
inline float __double2float_rn(double v) { return static_cast<float>(v); }

// --- loads and stores with a cache hint

#define DS4_EMU_LOAD(name)                          \
    template <class T>                              \
    inline T name(const T* p) {                     \
        ds4_emu::check_aligned(p, sizeof(T) < 16 ? sizeof(T) : 16); \
        return *p;                                  \
    }
#define DS4_EMU_STORE(name)                         \
    template <class T>                              \
    inline void name(T* p, std::type_identity_t<T> v) { \
        ds4_emu::check_aligned(p, sizeof(T) < 16 ? sizeof(T) : 16); \
        *p = v;                                     \
    }
DS4_EMU_LOAD(__ldg)
DS4_EMU_LOAD(__ldca)
DS4_EMU_LOAD(__ldcg)
DS4_EMU_LOAD(__ldcs)
DS4_EMU_LOAD(__ldcv)
DS4_EMU_LOAD(__ldlu)
DS4_EMU_STORE(__stcg)
DS4_EMU_STORE(__stcs)
DS4_EMU_STORE(__stwb)
DS4_EMU_STORE(__stwt)
#undef DS4_EMU_LOAD
#undef DS4_EMU_STORE

inline size_t __cvta_generic_to_shared(const void* p) { return reinterpret_cast<size_t>(p); }
inline size_t __cvta_generic_to_global(const void* p) { return reinterpret_cast<size_t>(p); }

// --- atomics: real ones, as blocks run on several host threads

namespace ds4_emu __attribute__((visibility("hidden"))) {
template <class T, class F>
T atomic_update(T* p, F f) {
    std::atomic_ref<T> a(*p);
    T old = a.load(std::memory_order_relaxed);
    while (!a.compare_exchange_weak(old, f(old))) {}
    return old;
}
}  // namespace ds4_emu

#define DS4_EMU_ATOMIC(name, expression)                                        \
    template <class T>                                                          \
    inline T name(T* p, std::type_identity_t<T> v) {                            \
        return ds4_emu::atomic_update(p, [v](T old) -> T { return expression; }); \
    }
DS4_EMU_ATOMIC(atomicAdd, old + v)
DS4_EMU_ATOMIC(atomicSub, old - v)
DS4_EMU_ATOMIC(atomicMax, old < v ? v : old)
DS4_EMU_ATOMIC(atomicMin, v < old ? v : old)
DS4_EMU_ATOMIC(atomicExch, (static_cast<void>(old), v))
DS4_EMU_ATOMIC(atomicAnd, old & v)
DS4_EMU_ATOMIC(atomicOr, old | v)
DS4_EMU_ATOMIC(atomicXor, old ^ v)
DS4_EMU_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
#undef DS4_EMU_ATOMIC
template <class T>
inline T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
    std::atomic_ref<T>(*p).compare_exchange_strong(expected, v);
    return expected;
}

inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { __threadfence(); }
inline void __threadfence_system() { __threadfence(); }

// --- time and errors

inline long long clock64() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
inline unsigned long long __globaltimer() { return static_cast<unsigned long long>(clock64()); }
// Lets the block's other threads run; the one call in a waiting loop that makes it end.
inline void __nanosleep(unsigned) { ds4_emu::worker->yield(); }
[[noreturn]] inline void __trap() { ds4_emu::fail("__trap()"); }
