// Routed experts of 1 to 16 tokens. Every chosen pair (token, expert) is a mat-vec of its own; the
// shapes are the model's, N_EMBD x N_FF: multiples of 256, or, of F16 and F32 (the shared matrix
// included), of 8 and 4; kernels of the other types are left out then.
#pragma once

#include "mv.cuh"

// --- 16 bytes of a row of each type, and the activations that meet them

// Activations of one token: the Q8_K form (q, d per 256, sums of 16) or, for F16 and F32, floats.
struct EvActs {
    const int8_t* q;
    const float* d;
    const int16_t* sums;
    const float* f;
};

// Planes of a matrix at some row.
struct EvRow {
    const char* q;
    const char* s;
    const char* d;
};

// An expert's number, from memory and not before `pdl_wait`.
__device__ __forceinline__ int64_t ev_id(const int* id) { return *(const volatile int*)id; }

__device__ __forceinline__ void ev_load8(const float* from, float (&to)[8]) {
    const float4 a = *(const float4*)from, b = *(const float4*)(from + 4);
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w, to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

// Per type: VALUES per piece of 16 bytes; bytes per 256 values of the planes; X, what the lane
// keeps of the activations for its piece; W, what it loads; dot.
template <int TY> struct EvType;

template <> struct EvType<TY_Q8_0> {
    static constexpr int VALUES = 16, Q = 256, S = 0, D = 16;
    struct X { uint4 q; float d; };
    struct W { uint4 q; uint32_t d; };
    static __device__ __forceinline__ X acts(const EvActs& a, int p) {
        return {*(const uint4*)(a.q + p * 16), a.d[p >> 4]};
    }
    static __device__ __forceinline__ W load(const EvRow& r, int p) {
        return {load_stream(r.q + p * 16), load_stream2(r.d + (p >> 1) * 2)};
    }
    static __device__ __forceinline__ float dot(const W& w, const X& x, float y) {
        return fmaf((float)dot16(w.q, x.q), half_bits(w.d) * x.d, y);
    }
};

template <> struct EvType<TY_MXFP4> {
    static constexpr int VALUES = 32, Q = 128, S = 8, D = 0;
    struct X { uint4 a, b; float d; };  // values l, l + 16, l + 1, l + 17: as nibbles lie
    struct W { uint4 q; uint32_t s; };
    static __device__ __forceinline__ X acts(const EvActs& a, int p) {
        const uint4 l = *(const uint4*)(a.q + p * 32), h = *(const uint4*)(a.q + p * 32 + 16);
        return {make_uint4(prmt(l.x, h.x, 0x5140), prmt(l.x, h.x, 0x7362), prmt(l.y, h.y, 0x5140), prmt(l.y, h.y, 0x7362)),
                make_uint4(prmt(l.z, h.z, 0x5140), prmt(l.z, h.z, 0x7362), prmt(l.w, h.w, 0x5140), prmt(l.w, h.w, 0x7362)),
                a.d[p >> 3]};
    }
    static __device__ __forceinline__ W load(const EvRow& r, int p) {
        return {load_stream(r.q + p * 16), load_stream1(r.s + p)};
    }
    static __device__ __forceinline__ int dot8(uint32_t w, uint32_t x0, uint32_t x1, int s) {
        s = __dp4a((int)e2m1_4(w), (int)x0, s);
        return __dp4a((int)e2m1_4(w >> 16), (int)x1, s);
    }
    static __device__ __forceinline__ float dot(const W& w, const X& x, float y) {
        int s = dot8(w.q.x, x.a.x, x.a.y, 0);
        s = dot8(w.q.y, x.a.z, x.a.w, s);
        s = dot8(w.q.z, x.b.x, x.b.y, s);
        s = dot8(w.q.w, x.b.z, x.b.w, s);
        return fmaf((float)s, e8m0_half(w.s) * x.d, y);
    }
};

// d·s − dmin·m of a part of a block, times the activations' scale.
__device__ __forceinline__ float ev_minima(uint32_t dm, int s, int m, float dx, float y) {
    const float2 d = half2_bits(dm);
    return fmaf(fmaf(-d.y, (float)m, d.x * (float)s), dx, y);
}

// y + a · b of four unsigned bytes of a and four signed ones of b.
__device__ __forceinline__ int ev_dp4a_us(uint32_t a, uint32_t b, int y) {
#ifdef DS4_EMU
    for (int i = 0; i < 32; i += 8) y += (int)(a >> i & 255) * (int8_t)(b >> i);
    return y;
#else
    int s;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(s) : "r"(a), "r"(b), "r"(y));
    return s;
#endif
}

template <> struct EvType<TY_Q2_K> {
    static constexpr int VALUES = 64, Q = 64, S = 16, D = 4;
    struct X { uint4 q[4]; uint32_t sums[2]; float d; };  // sums: two of 16 bits each
    struct W { uint4 q; uint32_t s, d; };                 // s: of each j, scale and minimum
    // Piece 4b + 2n + u of block b has bits 2j of values 128n + 32j + 16u.
    static __device__ __forceinline__ X acts(const EvActs& a, int p) {
        const int at = (p >> 2) * 256 + (p >> 1 & 1) * 128 + (p & 1) * 16;
        const uint16_t* sums = (const uint16_t*)a.sums + (at >> 4);
        X x;
#pragma unroll
        for (int j = 0; j < 4; j++) x.q[j] = *(const uint4*)(a.q + at + 32 * j);
        x.sums[0] = sums[0] | (uint32_t)sums[2] << 16, x.sums[1] = sums[4] | (uint32_t)sums[6] << 16;
        x.d = a.d[p >> 2];
        return x;
    }
    // Of 8 bytes, two for each j, those of the piece's u.
    static __device__ __forceinline__ uint32_t scales(const uint2& s, int p) { return prmt(s.x, s.y, p & 1 ? 0x7531 : 0x6420); }
    static __device__ __forceinline__ W load(const EvRow& r, int p) {
        return {load_stream(r.q + p * 16), scales(load_stream8(r.s + (p >> 1) * 8), p), load_stream4(r.d + (p >> 2) * 4)};
    }
    static __device__ __forceinline__ uint4 mask(const uint4& w, uint32_t m) {
        return make_uint4(w.x & m, w.y & m, w.z & m, w.w & m);
    }
    static __device__ __forceinline__ float dot(const W& w, const X& x, float y) {
        // In place: the sums carry the factor of the bits' position. Each fits into 16 bits without it.
        const int s0 = dot16(mask(w.q, 0x03030303u), x.q[0]);
        const int s1 = dot16(mask(w.q, 0x0c0c0c0cu), x.q[1]) >> 2;
        const int s2 = dot16(mask(w.q, 0x30303030u), x.q[2]) >> 4;
        const uint4 top = mask(w.q, 0xc0c0c0c0u);
        const int s3 = ev_dp4a_us(top.w, x.q[3].w, ev_dp4a_us(top.z, x.q[3].z, ev_dp4a_us(top.y, x.q[3].y, ev_dp4a_us(top.x, x.q[3].x, 0)))) >> 6;
        const int scales = w.s & 0x0f0f0f0fu, minima = w.s >> 4 & 0x0f0f0f0fu;
        const int s = __dp2a_hi((int)prmt(s2, s3, 0x5410), scales, __dp2a_lo((int)prmt(s0, s1, 0x5410), scales, 0));
        const int m = __dp2a_hi((int)x.sums[1], minima, __dp2a_lo((int)x.sums[0], minima, 0));
        return ev_minima(w.d, s, m, x.d, y);
    }
};

template <> struct EvType<TY_Q4_K> {
    static constexpr int VALUES = 32, Q = 128, S = 16, D = 4;
    struct X { uint4 lo, hi; int sums[2]; float d; };
    struct W { uint4 q; uint32_t s, m, d; };
    // Piece 8b + 2k + u of block b has values 64k + 16u (low nibbles) and 64k + 32 + 16u (high ones).
    static __device__ __forceinline__ X acts(const EvActs& a, int p) {
        const int at = (p >> 1) * 64 + (p & 1) * 16;
        return {*(const uint4*)(a.q + at), *(const uint4*)(a.q + at + 32), {a.sums[at >> 4], a.sums[(at >> 4) + 2]}, a.d[p >> 3]};
    }
    static __device__ __forceinline__ W load(const EvRow& r, int p) {
        const char* s = r.s + (p >> 3) * 16 + (p >> 1 & 3) * 2;
        return {load_stream(r.q + p * 16), load_stream2(s), load_stream2(s + 8), load_stream4(r.d + (p >> 3) * 4)};
    }
    static __device__ __forceinline__ float dot(const W& w, const X& x, float y) {
        const uint4 lo = EvType<TY_Q2_K>::mask(w.q, 0x0f0f0f0fu);
        const uint4 hi = EvType<TY_Q2_K>::mask(make_uint4(w.q.x >> 4, w.q.y >> 4, w.q.z >> 4, w.q.w >> 4), 0x0f0f0f0fu);
        const int s = (int)(w.s & 255) * dot16(lo, x.lo) + (int)(w.s >> 8) * dot16(hi, x.hi);
        const int m = (int)(w.m & 255) * x.sums[0] + (int)(w.m >> 8) * x.sums[1];
        return ev_minima(w.d, s, m, x.d, y);
    }
};

template <> struct EvType<TY_F16> {
    static constexpr int VALUES = 8, Q = 512, S = 0, D = 0;
    struct X { float v[8]; };
    struct W { uint4 q; };
    static __device__ __forceinline__ X acts(const EvActs& a, int p) {
        X x;
        ev_load8(a.f + p * 8, x.v);
        return x;
    }
    static __device__ __forceinline__ W load(const EvRow& r, int p) { return {load_stream(r.q + p * 16)}; }
    static __device__ __forceinline__ float dot(const W& w, const X& x, float y) {
        const float2 a = half2_bits(w.q.x), b = half2_bits(w.q.y), c = half2_bits(w.q.z), d = half2_bits(w.q.w);
        y = fmaf(a.x, x.v[0], y), y = fmaf(a.y, x.v[1], y), y = fmaf(b.x, x.v[2], y), y = fmaf(b.y, x.v[3], y);
        y = fmaf(c.x, x.v[4], y), y = fmaf(c.y, x.v[5], y), y = fmaf(d.x, x.v[6], y), y = fmaf(d.y, x.v[7], y);
        return y;
    }
};

template <> struct EvType<TY_F32> {
    static constexpr int VALUES = 4, Q = 1024, S = 0, D = 0;
    struct X { float4 v; };
    struct W { uint4 q; };
    static __device__ __forceinline__ X acts(const EvActs& a, int p) { return {*(const float4*)(a.f + p * 4)}; }
    static __device__ __forceinline__ W load(const EvRow& r, int p) { return {load_stream(r.q + p * 16)}; }
    static __device__ __forceinline__ float dot(const W& w, const X& x, float y) {
        y = fmaf(__uint_as_float(w.q.x), x.v.x, y), y = fmaf(__uint_as_float(w.q.y), x.v.y, y);
        return fmaf(__uint_as_float(w.q.w), x.v.w, fmaf(__uint_as_float(w.q.z), x.v.z, y));
    }
};

// Steps of weights loaded ahead: elsewhere two would spill registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
#define EV_AHEAD 2
#else
#define EV_AHEAD 1
#endif

// R consecutive rows of K values, the part `part` of PARTS of their pieces: what is loaded ahead,
// and the rest.
template <int TY, int K, int PARTS, int R> struct EvRows {
    typedef EvType<TY> E;
    static constexpr int PIECES = K / E::VALUES, STEP = PARTS * 32, STEPS = (PIECES + STEP - 1) / STEP;
    static constexpr int AHEAD = STEPS < EV_AHEAD ? STEPS : EV_AHEAD;
    typename E::W w[AHEAD][R];

    static __device__ __forceinline__ EvRow row(const Mat& m, int64_t r) {
        return {(const char*)m.q + r * (K * E::Q / 256), (const char*)m.s + r * (K * E::S / 256),
                (const char*)m.d + r * (K * E::D / 256)};
    }
    __device__ __forceinline__ void load_step(const Mat& m, int64_t row0, int part, int step, typename E::W (&to)[R]) {
        const int p = step * STEP + part * 32 + (threadIdx.x & 31);
        const EvRow first = row(m, row0);
#pragma unroll
        for (int r = 0; r < R; r++) {
            const EvRow at = {first.q + r * (K * E::Q / 256), first.s + r * (K * E::S / 256), first.d + r * (K * E::D / 256)};
            if (PIECES % STEP == 0 || p < PIECES) to[r] = E::load(at, p);
        }
    }
    __device__ __forceinline__ void load(const Mat& m, int64_t row0, int part) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) load_step(m, row0, part, i, w[i]);
    }
    __device__ __forceinline__ void dot(const Mat& m, int64_t row0, int part, const EvActs& a, float (&y)[R]) {
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const int p = i * STEP + part * 32 + (threadIdx.x & 31);
            if (i >= AHEAD) load_step(m, row0, part, i, w[i % AHEAD]);
            if (PIECES % STEP != 0 && p >= PIECES) continue;
            const typename E::X x = E::acts(a, p);
#pragma unroll
            for (int r = 0; r < R; r++) y[r] = E::dot(w[i % AHEAD][r], x, y[r]);
        }
    }
};

// --- gate and up

// Completes the tokens' gates unless they are (null), by the block that has least to do, while its first
// weights are on their way.
__device__ __forceinline__ void ev_gates(float* gates, int T) {
    if (!gates || blockIdx.x != gridDim.x - 1) return;
    for (int t = threadIdx.x >> 5; t < T; t += blockDim.x >> 5) complete_gates(gates + t * HC_GATES);
}

// Units of 4 to 16 rows of one pair; 4 warps on the gate and 4 on up, of which WK split the columns.
template <int TY, int R>
__device__ __forceinline__ void ev_gate_up_rows(const Mat& gate, const Mat& up, const int* ids, const float* weights,
                                                 const int8_t* xq, const float* xd, const int16_t* xs, const float* xf,
                                                 float clamp, float* mid, int T, float* gates) {
    constexpr int PIECES = N_EMBD / EvType<TY>::VALUES, WK = PIECES >= 128 || N_FF % 16 ? 4 : PIECES >= 64 ? 2 : 1;
    constexpr int ROWS = 4 / WK * R, UNITS = N_FF / ROWS;
    static_assert(N_FF % ROWS == 0, "whole units");
    __shared__ float part[2][8][R];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, wk = warp % WK, wr = (warp & 3) / WK;
    const int total = T * N_USED * UNITS;
    const Mat& m = warp < 4 ? gate : up;
    auto first_row = [&](int unit, int64_t id) { return id * N_FF + (unit % UNITS) * ROWS + wr * R; };
    EvRows<TY, N_EMBD, WK, R> rows;
    int u = blockIdx.x;
    pdl_wait();
    int64_t row0 = 0;
    if (u < total) {
        row0 = first_row(u, ev_id(ids + u / UNITS));
        rows.load(m, row0, wk);
    }
    pdl_go();
    ev_gates(gates, T);
    for (int buf = 0; u < total; buf ^= 1) {
        const int pair = u / UNITS, t = pair / N_USED, row = (u % UNITS) * ROWS;
        u += gridDim.x;
        const int64_t id = u < total ? ev_id(ids + u / UNITS) : 0;
        const EvActs a = {xq + t * N_EMBD, xd + t * (N_EMBD / 256), xs + t * (N_EMBD / 16), xf + t * N_EMBD};
        float y[R] = {};
        rows.dot(m, row0, wk, a, y);
        if (u < total) {
            row0 = first_row(u, id);
            rows.load(m, row0, wk);
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            y[r] = warp_sum(y[r]);
            if (lane == 0) part[buf][warp][r] = y[r];
        }
        __syncthreads();
        if (threadIdx.x < ROWS) {
            const int r = threadIdx.x % R, w = threadIdx.x / R * WK;
            float g = 0.0f, v = 0.0f;
#pragma unroll
            for (int k = 0; k < WK; k++) g += part[buf][w + k][r], v += part[buf][4 + w + k][r];
            mid[(int64_t)pair * N_FF + row + threadIdx.x] = swiglu(g, v, clamp) * weights[pair];
        }
    }
}

// Sum of v[i] over the 8 lanes of equal lane / 8, of the i that is the lane's number among them.
__device__ __forceinline__ int ev_sum8(int (&v)[8]) {
    const int lane = threadIdx.x;
#pragma unroll
    for (int half = 4; half; half >>= 1) {
        const bool high = lane & half;
#pragma unroll
        for (int i = 0; i < half; i++) {
            const int keep = high ? v[i + half] : v[i], give = high ? v[i] : v[i + half];
            v[i] = keep + __shfl_xor_sync(FULL, give, half);
        }
    }
    return v[0];
}

#define EV_BLOCKS (N_EMBD % 256 == 0 && N_FF % 256 == 0)  // rows are whole blocks of every type

#if EV_BLOCKS
// Warps on each of gate and up for IQ2_XXS: a lane owns 32 columns of 8 rows.
#define EV_IQ2_BLOCKS (N_EMBD / 32)
#define EV_IQ2_WARPS ((EV_IQ2_BLOCKS + 31) / 32)

// Units whose sums are collected before a block adds them up.
#define EV_IQ2_TURNS 4

// Four codebook entries and 32 signs of one row times 32 activations. `mine`: where the lane's copy of
// an entry lies, in bytes.
template <int COPIES>
__device__ __forceinline__ int ev_iq2_dot(const uint2* table, uint32_t mine, uint32_t index, uint32_t signs, const uint32_t (&x)[8]) {
    int all = 0, negative = 0;
    uint32_t mask[8];
    sign_masks(signs, mask);
#pragma unroll
    for (int l = 0; l < 4; l++) {
        const uint2 e = *(const uint2*)((const char*)table + (prmt(index, 0, 0x4440 + l) * (COPIES * 8) + mine));
        all = __dp4a((int)e.x, (int)x[2 * l], all);
        negative = __dp4a((int)(e.x & mask[2 * l]), (int)x[2 * l], negative);
        all = __dp4a((int)e.y, (int)x[2 * l + 1], all);
        negative = __dp4a((int)(e.y & mask[2 * l + 1]), (int)x[2 * l + 1], negative);
    }
    return all - 2 * negative;
}

// Where a lane's 32 columns of a unit of 8 rows lie.
struct EvIq2Lane {
    const char *q, *s, *d;
    __device__ __forceinline__ void move(int units) {
        q += (int64_t)units * (EV_IQ2_BLOCKS * 64);
        s += (int64_t)units * (EV_IQ2_BLOCKS * 4);
        d += (int64_t)units * (EV_IQ2_BLOCKS * 2);
    }
};

struct EvIq2 {
    uint4 q[4];
    uint32_t s, d;

    __device__ __forceinline__ void load_rows(const EvIq2Lane& l, int j) { q[j] = load_stream(l.q + j * (EV_IQ2_BLOCKS * 16)); }
    __device__ __forceinline__ void load_scales(const EvIq2Lane& l) { s = load_stream4(l.s), d = load_stream2(l.d); }
    __device__ __forceinline__ void load(const EvIq2Lane& l) {
#pragma unroll
        for (int j = 0; j < 4; j++) load_rows(l, j);
        load_scales(l);
    }
    // Lane r of each 8: the sum of row r and their 256 columns. What is used up is replaced by
    // what `next` has, unless there are no `more`.
    template <int COPIES>
    __device__ __forceinline__ float dot(const uint2* table, uint32_t mine, const uint32_t (&x)[8], float dx, bool more,
                                         const EvIq2Lane& next) {
        int v[8];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            v[2 * j] = ev_iq2_dot<COPIES>(table, mine, q[j].x, q[j].y, x);
            v[2 * j + 1] = ev_iq2_dot<COPIES>(table, mine, q[j].z, q[j].w, x);
            if (more) load_rows(next, j);
        }
#pragma unroll
        for (int r = 0; r < 8; r++) v[r] *= (int)(r ? s >> (4 * r - 1) & 30 | 1 : s << 1 & 30 | 1);
        const float scale = half_bits(d) * dx;
        if (more) load_scales(next);
        return (float)ev_sum8(v) * scale;
    }
};

// The lane's 32 activations of a token, and an eighth of their scale.
__device__ __forceinline__ float ev_iq2_acts(const int8_t* xq, const float* xd, int t, int kb, uint32_t (&x)[8]) {
    const uint4* from = (const uint4*)(xq + t * N_EMBD + kb * 32);
    const uint4 a = from[0], b = from[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    return 0.125f * xd[t * (N_EMBD / 256) + (kb >> 3)];
}

// The codebook; copies lie in different banks, so that lanes with different entries do not meet.
template <int COPIES>
__device__ __forceinline__ void ev_iq2_table(uint2* table) {
    for (int i = threadIdx.x; i < 256; i += blockDim.x) {
        const uint2 e = iq2_entry(i);
#pragma unroll
        for (int c = 0; c < COPIES; c++) table[i * COPIES + (c + threadIdx.x) % COPIES] = e;
    }
}

// Units of one pair that a block takes at a time, as a power of two: more of them save arithmetic where
// there is enough for all blocks.
__device__ __forceinline__ int ev_iq2_run(int T) { return T >= 8 ? 2 : T == 4 || T >= 6 ? 1 : 0; }

// A block takes runs of units of 8 rows of a pair: half of its warps the gate, half up, each 1024
// columns. Their sums wait in `part` for a few units, so that warps need not keep step.
template <int COPIES>
__device__ __forceinline__ void ev_gate_up_iq2_rows(const Mat& gate, const Mat& up, const int* ids, const float* weights,
                                                     const int8_t* xq, const float* xd, float clamp, float* mid, int T, float* gates) {
    constexpr int UNITS = N_FF / 8, WARPS = EV_IQ2_WARPS;
    static_assert(UNITS % EV_IQ2_TURNS == 0, "whole runs");
    __shared__ __align__(16) uint2 table[256 * COPIES];
    __shared__ float part[2][EV_IQ2_TURNS][2 * WARPS][8];
    ev_iq2_table<COPIES>(table);
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, kb = warp % WARPS * 32 + lane;
    const bool live = EV_IQ2_BLOCKS % 32 == 0 || kb < EV_IQ2_BLOCKS;
    const Mat& m = warp < WARPS ? gate : up;
    EvIq2Lane at = {(const char*)m.q + kb * 16, (const char*)m.s + kb * 4, (const char*)m.d + kb * 2};
    uint32_t mine = lane % COPIES * 8;
#ifndef DS4_EMU
    asm volatile("" : "+r"(mine));  // else it becomes a part of the entry's number, at two instructions each
#endif
    const int run = ev_iq2_run(T), total = T * N_USED * UNITS, jump = (gridDim.x - 1) << run, mask = (1 << run) - 1;
    int u = blockIdx.x << run, token = -1;
    pdl_wait();
    EvIq2 w = {};
    uint32_t x[8] = {};
    float dx = 0.0f;
    // Before the weights, behind which they would wait.
    if (live && u < total) token = u / (UNITS * N_USED), dx = ev_iq2_acts(xq, xd, token, kb, x);
    // Experts of this run and, a run ahead, of the next.
    const auto expert = [&](int unit) { return (int)ev_id(ids + min(unit, total - 1) / UNITS); };
    int now = expert(u), later = expert(u + jump + mask + 1);
    at.move(now * UNITS + u % UNITS);
    if (live && u < total) w.load(at);
    pdl_go();
    ev_gates(gates, T);
    __syncthreads();
    for (int buf = 0; u < total; buf ^= 1) {
        const int first = u;
#pragma unroll 1
        for (int turn = 0; turn < EV_IQ2_TURNS && u < total; turn++) {
            if ((u & mask) == 0 || turn == 0) {
                const int t = u / (UNITS * N_USED);
                if (t != token && live) dx = ev_iq2_acts(xq, xd, t, kb, x);
                token = t;
            }
            int units = 1;
            if ((u++ & mask) == mask) {
                const int here = now * UNITS + (u - 1) % UNITS;
                u += jump, now = later, later = expert(u + jump + mask + 1);
                units = now * UNITS + u % UNITS - here;
            }
            at.move(units);
            float y = w.dot<COPIES>(table, mine, x, dx, live && u < total, at);
            y += __shfl_xor_sync(FULL, y, 8);
            y += __shfl_xor_sync(FULL, y, 16);
            if (lane < 8) part[buf][turn][warp][lane] = y;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < EV_IQ2_TURNS * 8; i += WARPS * 64) {
            const int turn = i / 8, unit = first + turn + (turn >> run) * jump, pair = unit / UNITS;
            if (unit >= total) break;
            const float(*sums)[8] = part[buf][turn];
            float g = 0.0f, v = 0.0f;
#pragma unroll
            for (int k = 0; k < WARPS; k++) g += sums[k][i % 8], v += sums[WARPS + k][i % 8];
            mid[(int64_t)pair * N_FF + unit % UNITS * 8 + i % 8] = swiglu(g, v, clamp) * weights[pair];
        }
    }
}

#endif

// gate, up: stacks [N_EXPERT][N_FF][N_EMBD] of one type; ids, weights: [T * N_USED]; xq int8
// [T][N_EMBD], xd f32 [T][N_EMBD / 256], xs int16 [T][N_EMBD / 16]: the Q8_K form; xf f32
// [T][N_EMBD], read by _f32 and _f16 only; mid f32 [T * N_USED][N_FF]. T <= 16. gates: see `ev_gates`.
// Block: 256 threads (_iq2: 64 * ceil(N_EMBD / 1024)). Grid: any; for _iq2 the blocks that are resident at
// once, else T * N_USED * N_FF / 4 or fewer: 4 blocks per multiprocessor stay busy.
#define EV_GATE_UP(name, bounds, ...)                                                                              \
    extern "C" __global__ void __launch_bounds__ bounds                                                             \
        name(const __grid_constant__ Mat gate, const __grid_constant__ Mat up, const int* ids, const float* weights, \
             const int8_t* xq, const float* xd, const int16_t* xs, const float* xf, float clamp, float* mid, int T, \
             float* gates) {                                                                                        \
        __VA_ARGS__;                                                                                                \
    }                                                                                                               \
    DS4_REGISTER(name)
#define EV_GATE_UP_ROWS(name, type, blocks) \
    EV_GATE_UP(name, (256, N_EMBD <= 4096 ? blocks : 2), ev_gate_up_rows<type, 4>(gate, up, ids, weights, xq, xd, xs, xf, clamp, mid, T, gates))
#if EV_BLOCKS
EV_GATE_UP(exp_gate_up_iq2, (EV_IQ2_WARPS * 64, EV_IQ2_WARPS <= 4 ? 3 : 2), ev_gate_up_iq2_rows<16>(gate, up, ids, weights, xq, xd, clamp, mid, T, gates))
EV_GATE_UP_ROWS(exp_gate_up_q2k, TY_Q2_K, 4)
EV_GATE_UP_ROWS(exp_gate_up_q4k, TY_Q4_K, 4)
EV_GATE_UP_ROWS(exp_gate_up_mxfp4, TY_MXFP4, 4)
EV_GATE_UP_ROWS(exp_gate_up_q80, TY_Q8_0, 4)
#endif
EV_GATE_UP_ROWS(exp_gate_up_f16, TY_F16, 2)
EV_GATE_UP_ROWS(exp_gate_up_f32, TY_F32, 1)

// --- down

__device__ __forceinline__ int ev_rint(float v) { return __float2int_rn(fminf(fmaxf(v, -127.0f), 127.0f)); }

__device__ __forceinline__ uint2 ev_pack8(const float (&x)[8], float inv, int& sum) {
    uint32_t w[2] = {0, 0};
    sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int q = ev_rint(__fmul_rn(x[i], inv));
        sum += q;
        w[i >> 2] |= (uint32_t)(q & 255) << (8 * (i & 3));
    }
    return make_uint2(w[0], w[1]);
}

__device__ __forceinline__ uint32_t ev_abs_bits(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// 8 values of each lane as one block of 256 of the Q8_K form.
__device__ __forceinline__ void ev_quant_q8_k(const float (&x)[8], int8_t* q, float* d, int16_t* sums) {
    const int lane = threadIdx.x & 31;
    uint32_t size = 0;
    float m = 0.0f;  // the first of largest magnitude
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (ev_abs_bits(x[i]) > size) size = ev_abs_bits(x[i]), m = x[i];
    uint32_t most = size;
#pragma unroll
    for (int o = 16; o; o >>= 1) most = max(most, __shfl_xor_sync(FULL, most, o));
    const uint32_t have = __ballot_sync(FULL, size == most);
    m = __shfl_sync(FULL, m, __ffs((int)have) - 1);
    const float inv = m == 0.0f ? 0.0f : __fdiv_rn(-127.0f, m);
    int sum;
    *(uint2*)(q + lane * 8) = ev_pack8(x, inv, sum);
    sum += __shfl_xor_sync(FULL, sum, 1);
    if ((lane & 1) == 0) sums[lane >> 1] = (int16_t)sum;
    if (lane == 0) *d = inv == 0.0f ? 0.0f : __fdiv_rn(1.0f, inv);
}

// 8 values of each lane as eight blocks of 32 of the Q8_0 form.
__device__ __forceinline__ void ev_quant_q8_0(const float (&x)[8], int8_t* q, float* d) {
    const int lane = threadIdx.x & 31;
    uint32_t size = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) size = max(size, ev_abs_bits(x[i]));
    size = max(size, __shfl_xor_sync(FULL, size, 1));
    size = max(size, __shfl_xor_sync(FULL, size, 2));
    const float scale = __fdiv_rn(__uint_as_float(size), 127.0f);
    int sum;
    *(uint2*)(q + lane * 8) = ev_pack8(x, scale == 0.0f ? 0.0f : __fdiv_rn(1.0f, scale), sum);
    if ((lane & 3) == 0) d[lane >> 2] = scale;
}

// Warps of a group: 4 share the columns of the shared expert, WE those of each routed one. The groups
// of a block, at most MOST, work on 4 rows each, with the same activations.
template <int TY, int MOST> struct EvDown {
    static constexpr int SH = 4, WE = TY == TY_Q2_K ? 1 : 2, OF = SH + N_USED * WE, WARPS = MOST * OF, R = 4;
    static constexpr bool INTS = TY != TY_F16 && TY != TY_F32;
    static constexpr int UNITS = (N_FF + 255) / 256;
    // Rows are read and written as vectors.
    __align__(16) int8_t q[N_USED][N_FF];
    __align__(16) float d[N_USED][UNITS];
    __align__(16) int16_t sums[N_USED][N_FF / 16];
    __align__(16) int8_t sq[N_FF];
    __align__(16) float sd[N_FF / 32];
    __align__(16) float part[2][WARPS][R];

    // Quantises what is read as integers; every warp takes some of the 256-blocks.
    __device__ __forceinline__ void quantise(const float* mid, const float* shared_mid, bool shared_ints) {
        if (N_FF % 256 != 0) return;  // floats alone
        constexpr int ALL = (N_USED + 1) * UNITS, TURNS = (ALL + WARPS - 1) / WARPS, MOST_AT_ONCE = EV_AHEAD == 2 ? 4 : 1,
                      AT_ONCE = TURNS < MOST_AT_ONCE ? TURNS : MOST_AT_ONCE;
        const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = blockDim.x >> 5;
#pragma unroll 1
        for (int turn = 0; turn * warps < ALL; turn += AT_ONCE) {
            float x[AT_ONCE][8] = {};
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int b = (turn + i) * warps + warp;
                const float* from = b < N_USED * UNITS ? mid + b * 256 : shared_mid + (b - N_USED * UNITS) * 256;
                if (b < ALL && (b < N_USED * UNITS ? INTS : shared_ints)) ev_load8(from + lane * 8, x[i]);
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int b = (turn + i) * warps + warp, sb = b - N_USED * UNITS;
                if (sb < 0) {
                    if (INTS) ev_quant_q8_k(x[i], q[0] + b * 256, d[0] + b, sums[0] + b * 16);
                } else if (b < ALL && shared_ints) {
                    ev_quant_q8_0(x[i], sq + sb * 256, sd + sb * 8);
                }
            }
        }
    }
};

// The shared expert's matrix, whose activations are in Q8_0 form: a scale per 32.
struct EvShared {
    typedef EvType<TY_Q8_0> E;
    static constexpr int PIECES = N_FF / 16, STEPS = (PIECES + 127) / 128;
    E::W w[STEPS][4];
    __device__ __forceinline__ void load(const Mat& m, int row0, int part) {
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const int p = i * 128 + part * 32 + (threadIdx.x & 31);
            const EvRow first = {(const char*)m.q + (int64_t)row0 * N_FF, 0, (const char*)m.d + (int64_t)row0 * (N_FF / 16)};
#pragma unroll
            for (int r = 0; r < 4; r++)
                if (PIECES % 128 == 0 || p < PIECES) w[i][r] = E::load({first.q + r * N_FF, 0, first.d + r * (N_FF / 16)}, p);
        }
    }
    __device__ __forceinline__ void dot(int part, const int8_t* q, const float* d, float (&y)[4]) {
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const int p = i * 128 + part * 32 + (threadIdx.x & 31);
            if (PIECES % 128 != 0 && p >= PIECES) continue;
            const E::X x = {*(const uint4*)(q + p * 16), d[p >> 1]};
#pragma unroll
            for (int r = 0; r < 4; r++) y[r] = E::dot(w[i][r], x, y[r]);
        }
    }
};

// Four warp sums to lanes 0..3 of `part`.
__device__ __forceinline__ void ev_put(float (&y)[4], float* part) {
#pragma unroll
    for (int r = 0; r < 4; r++) {
        y[r] = warp_sum(y[r]);
        if ((threadIdx.x & 31) == 0) part[r] = y[r];
    }
}

template <int TY, int MOST>
__device__ __forceinline__ void ev_down_rows(const Mat& down, const int* ids, const float* mid, const Mat& shared,
                                              const float* shared_mid, float* y, int early, const Ahead& ahead) {
    typedef EvDown<TY, MOST> D;
    typedef EvRows<TY, N_FF, D::WE, D::R> Rows;
    static_assert(N_EMBD % D::R == 0, "whole units");
    constexpr int UNITS = N_EMBD / D::R;
    __shared__ __align__(16) unsigned char space[sizeof(D)];
    D& s = *(D*)space;
    // part: the warps of a group lie together.
    const int group = (threadIdx.x >> 5) / D::OF, warp = (threadIdx.x >> 5) % D::OF, t = blockIdx.y;
    const int groups = (blockDim.x >> 5) / D::OF, step = gridDim.x * groups;
    const int turns = (UNITS - (int)blockIdx.x * groups + step - 1) / step;
    const bool is_shared = warp < D::SH, shared_ints = shared.type == TY_Q8_0;
    const int k = is_shared ? 0 : (warp - D::SH) / D::WE, part = is_shared ? warp : (warp - D::SH) % D::WE;
    mid += (int64_t)t * N_USED * N_FF, shared_mid += (int64_t)t * N_FF, ids += t * N_USED, y += (int64_t)t * N_EMBD;
    int u = blockIdx.x * groups + group, buf = 0;
    pdl_go();
    fetch_ahead(ahead);
    if (is_shared) {
        const EvActs a = {0, 0, 0, shared_mid};
        EvShared w;
        if (shared_ints && u < UNITS) w.load(shared, u * 4, part);
        pdl_wait();
        s.quantise(mid, shared_mid, shared_ints);
        __syncthreads();
        for (int turn = 0; turn < turns; turn++, buf ^= 1) {
            float v[4] = {};
            const bool live = u < UNITS;
            const int row = live ? u * 4 : 0;
            float(*sums)[D::R] = s.part[buf] + group * D::OF;
            u += step;
            if (shared_ints) {
                w.dot(part, s.sq, s.sd, v);
                if (u < UNITS) w.load(shared, u * 4, part);
            } else if (shared.type == TY_F16) {
                EvRows<TY_F16, N_FF, D::SH, 4> f;
                f.load(shared, row, part);
                f.dot(shared, row, part, a, v);
            } else {
                EvRows<TY_F32, N_FF, D::SH, 4> f;
                f.load(shared, row, part);
                f.dot(shared, row, part, a, v);
            }
            ev_put(v, sums[warp]);
            __syncthreads();
            const int lane = threadIdx.x & 31;
            if (warp == 0 && lane < 4 && live) {
                float sum = 0.0f;
#pragma unroll
                for (int i = 0; i < D::SH; i++) sum += sums[i][lane];
                for (int e = 0; e < N_USED; e++) {
                    float one = 0.0f;
#pragma unroll
                    for (int i = 0; i < D::WE; i++) one += sums[D::SH + e * D::WE + i][lane];
                    sum += one;
                }
                y[row + lane] = sum;
            }
        }
        return;
    }
    Rows w;
    if (!early) pdl_wait();
    const int64_t base = ev_id(ids + k) * N_EMBD;
    if (u < UNITS) w.load(down, base + u * 4, part);
    if (early) pdl_wait();
    s.quantise(mid, shared_mid, shared_ints);
    __syncthreads();
    const EvActs a = {s.q[k], s.d[k], s.sums[k], mid + k * N_FF};
#pragma unroll 1
    for (int turn = 0; turn < turns; turn++, buf ^= 1) {
        float v[4] = {};
        w.dot(down, base + min(u, UNITS - 1) * 4, part, a, v);
        u += step;
        if (u < UNITS) w.load(down, base + u * 4, part);
        ev_put(v, s.part[buf][group * D::OF + warp]);
        __syncthreads();
    }
}

// y[t] = shared_down · shared_mid[t] + sum over k of down[ids[t][k]] · mid[t][k], in this order.
// down: stack [N_EXPERT][N_EMBD][N_FF]; shared [N_EMBD][N_FF] of Q8_0, F16 or F32; mid f32
// [T * N_USED][N_FF], shared_mid f32 [T][N_FF], y f32 [T][N_EMBD]. `early`: 1 where the kernel just
// before is exp_gate_up_* (or a launch without programmatic dependence), so that the ids are known to
// be written before this one may start: experts' first rows are then loaded before the wait.
// Block: g * 32 * (4 + N_USED * (1 for _q2k, else 2)) threads with g = 1, or 2 for _q2k where N_FF <=
// 2048 and N_USED <= 6: g groups of rows share the block's quantised activations. Grid: (n, T), n = ceil(2 * SMs
// / T) for g = 1 of _q2k, else max(1, SMs / T).
#define EV_DOWN(name, type, groups)                                                                                       \
    extern "C" __global__ void __launch_bounds__(EvDown<type, groups>::WARPS * 32)                                       \
        name(const __grid_constant__ Mat down, const int* ids, const float* mid, const __grid_constant__ Mat shared, \
             const float* shared_mid, float* y, int T, int early, const __grid_constant__ Ahead ahead) {           \
        ev_down_rows<type, groups>(down, ids, mid, shared, shared_mid, y, early, ahead);                                  \
    }                                                                                                              \
    DS4_REGISTER(name)
#if N_FF <= 2048 && N_USED <= 6
#define EV_DOWN_GROUPS 2
#else
#define EV_DOWN_GROUPS 1
#endif
#if EV_BLOCKS
EV_DOWN(exp_down_q2k, TY_Q2_K, EV_DOWN_GROUPS)
EV_DOWN(exp_down_q4k, TY_Q4_K, 1)
EV_DOWN(exp_down_mxfp4, TY_MXFP4, 1)
EV_DOWN(exp_down_q80, TY_Q8_0, 1)
#endif
EV_DOWN(exp_down_f16, TY_F16, 1)
EV_DOWN(exp_down_f32, TY_F32, 1)
