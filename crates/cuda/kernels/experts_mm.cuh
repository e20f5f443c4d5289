// Routed experts of many tokens. Slots (token, expert) are sorted by expert; a tile is at most
// EXP_TILE_T slots of one expert, and a block multiplies one tile with some of the expert's rows.
//
// Every warp has its own 32 rows (16 of gate and the same 16 of up, or 32 of down) and all tokens
// of the tile. It unpacks its weights straight into the operand registers of the tensor core:
// raw blocks come through shared memory, no int8 copy of them is ever stored. For that the columns
// of a block of 32 are taken in another order: lane `tig` of a quad owns columns 8·tig..8·tig+7.
#pragma once
#include "mm.cuh"
#include "tables.cuh"

#ifndef EXP_TILE_T
#define EXP_TILE_T 64
#endif

// Shared memory of one token's 256 values, and of its 16 sums: padded against bank conflicts.
#define EXP_X_ROW 288
#define EXP_SUM_ROW 48

// --- weight formats: how 32 rows × 256 columns are copied, unpacked and scaled

// How products of 32 columns are combined over 256.
#define EXP_CHAIN 0  // summed by the tensor core: scales are part of the weights
#define EXP_INT 1    // times an integer scale, in integers
#define EXP_FLOAT 2  // times a float scale of few bits, at once

// The two row tiles of a warp: first rows within the stacks, and how many blocks of 256 a row has.
struct ExpRows {
    Mat m[2];
    int64_t row[2];
    int blocks;
};

// Rows that a lane unpacks: row 8·u + lane/4 of tile t.
#define EXP_ROWS_OF_LANE(t, u) \
    _Pragma("unroll") for (int t = 0; t < 2; t++) _Pragma("unroll") for (int u = 0; u < 2; u++)

// The byte of a word with this number.
__device__ __forceinline__ uint32_t byte_of(uint32_t word, int i) { return prmt(word, 0, 0x4440 + i); }

// Four bytes, none of them 0, negated where `mask` is 0xff.
__device__ __forceinline__ uint32_t negate_bytes(uint32_t v, uint32_t mask) { return (v ^ mask) + (mask & 0x01010101u); }

struct ExpIq2 {
    static constexpr int KIND = EXP_INT, GROUP = 4, UNIT = 640, BYTES = 4 * UNIT, TABLE = 256 * 8 * 8;
    static constexpr bool MINIMA = false;
    struct Side { half d[2][2]; };
    struct Regs { uint4 s[2][2]; };

    // Eight copies of the codebook, side by side: lanes mostly find different banks.
    static __device__ __forceinline__ void table(unsigned char* s) {
        uint2* to = (uint2*)s;
        for (int i = threadIdx.x; i < 256 * 8; i += blockDim.x) to[i] = iq2_entry(i / 8);
    }
    static __device__ __forceinline__ void copy(unsigned char* s, const ExpRows& r, int b, int lane) {
        const int64_t n32 = (int64_t)r.blocks * 8;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int64_t unit = r.row[i / 2] / 8 + i % 2;
            const uint4* q = (const uint4*)r.m[i / 2].q + (unit * 4 + lane / 8) * n32 + b * 8 + lane % 8;
            cp_async16(s + i * UNIT + lane / 8 * 144 + lane % 8 * 16, q);
        }
        if (lane < 8) {
            const int i = lane / 2;
            const int64_t unit = (i < 2 ? r.row[0] : r.row[1]) / 8 + i % 2;
            const void* from = i < 2 ? r.m[0].s : r.m[1].s;
            cp_async16(s + i * UNIT + 576 + lane % 2 * 16, (const uint32_t*)from + unit * n32 + b * 8 + lane % 2 * 4);
        }
    }
    static __device__ __forceinline__ void side(Side& v, const ExpRows& r, int b, int lane) {
        EXP_ROWS_OF_LANE(t, u) v.d[t][u] = ((const half*)r.m[t].d)[((r.row[t] / 8 + u) * r.blocks + b) * 8 + lane / 4];
    }
    static __device__ __forceinline__ void load(Regs& v, const unsigned char* s, const Side&, const ExpRows&, int, int group, int) {
        EXP_ROWS_OF_LANE(t, u) v.s[t][u] = *(const uint4*)(s + (2 * t + u) * UNIT + 576 + group * 16);
    }
    static __device__ __forceinline__ void frag(uint32_t a[2][4], const Regs&, const unsigned char* s, const unsigned char* table,
                                                int group, int k, int lane) {
        const int g = lane / 4, tig = lane % 4;
        EXP_ROWS_OF_LANE(t, u) {
            const uint2 v = *(const uint2*)(s + (2 * t + u) * UNIT + g / 2 * 144 + (group * 4 + k) * 16 + g % 2 * 8);
            const uint2 m = ((const uint2*)table)[byte_of(v.x, tig) * 8 + lane % 8];
            // A sign bit of every byte, carried up to its top and spread.
            const uint32_t signs = prmt(v.y, 0, 0x1111 * tig);
            a[t][u] = negate_bytes(m.x, prmt((signs & 0x08040201u) + 0x787c7e7fu, 0, 0xba98));
            a[t][2 + u] = negate_bytes(m.y, prmt((signs & 0x80402010u) + 0x00406070u, 0, 0xba98));
        }
    }
    static __device__ __forceinline__ int scale(const Regs& v, int t, int u, int k, int lane) {
        const uint32_t w = k == 0 ? v.s[t][u].x : k == 1 ? v.s[t][u].y : k == 2 ? v.s[t][u].z : v.s[t][u].w;
        return 2 * (w >> (lane / 4 * 4) & 15) + 1;
    }
    static __device__ __forceinline__ float d(const Side& v, int t, int u) { return __half2float(v.d[t][u]) * 0.125f; }
    static __device__ __forceinline__ float dmin(const Side&, int, int) { return 0.0f; }
    static __device__ __forceinline__ void minima(uint32_t[4], const unsigned char*, int, int) {}
};

// Two integers below 1024 as f16.
__device__ __forceinline__ uint32_t small_ints_half2(uint32_t low, uint32_t high) {
    const uint32_t w = low | high << 16 | 0x64006400u;
    const half2 v = __hsub2(*(const half2*)&w, __halves2half2(__float2half_rn(1024.0f), __float2half_rn(1024.0f)));
    return *(const uint32_t*)&v;
}

struct ExpQ2K {
    static constexpr int KIND = EXP_CHAIN, GROUP = 4, ROW = 96, BYTES = 32 * ROW, TABLE = 0;
    static constexpr bool MINIMA = true;
    struct Side { half2 d[2][2]; };
    struct Regs { uint2 q[2][2], s[2][2]; };

    static __device__ __forceinline__ void table(unsigned char*) {}
    static __device__ __forceinline__ void copy(unsigned char* s, const ExpRows& r, int b, int lane) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int64_t row = r.row[i / 2] + i % 2 * 8 + lane / 4;
            cp_async16(s + (i * 8 + lane / 4) * ROW + lane % 4 * 16, (const unsigned char*)r.m[i / 2].q + (row * r.blocks + b) * 64 + lane % 4 * 16);
        }
        const int64_t row = (lane < 16 ? r.row[0] : r.row[1]) + lane % 16;
        const void* from = lane < 16 ? r.m[0].s : r.m[1].s;
        cp_async16(s + lane * ROW + 64, (const unsigned char*)from + (row * r.blocks + b) * 16);
    }
    static __device__ __forceinline__ void side(Side& v, const ExpRows& r, int b, int lane) {
        EXP_ROWS_OF_LANE(t, u) v.d[t][u] = ((const half2*)r.m[t].d)[(r.row[t] + u * 8 + lane / 4) * r.blocks + b];
    }
    static __device__ __forceinline__ const unsigned char* row(const unsigned char* s, int t, int u, int lane) {
        return s + (t * 16 + u * 8 + lane / 4) * ROW;
    }
    static __device__ __forceinline__ void load(Regs& v, const unsigned char* s, const Side&, const ExpRows&, int, int group, int lane) {
        EXP_ROWS_OF_LANE(t, u) {
            v.q[t][u] = *(const uint2*)(row(s, t, u, lane) + group * 32 + lane % 4 * 8);
            v.s[t][u] = *(const uint2*)(row(s, t, u, lane) + 64 + group * 8);
        }
    }
    static __device__ __forceinline__ void frag(uint32_t a[2][4], const Regs& v, const unsigned char*, const unsigned char*, int,
                                                int k, int lane) {
        EXP_ROWS_OF_LANE(t, u) {
            const uint32_t word = k < 2 ? v.s[t][u].x : v.s[t][u].y;
            const uint32_t scale = byte_of(word, k % 2 * 2 + lane % 4 / 2) & 15;
            a[t][u] = (v.q[t][u].x >> (2 * k) & 0x03030303u) * scale;
            a[t][2 + u] = (v.q[t][u].y >> (2 * k) & 0x03030303u) * scale;
        }
    }
    static __device__ __forceinline__ int scale(const Regs&, int, int, int, int) { return 1; }
    static __device__ __forceinline__ float d(const Side& v, int t, int u) { return __low2float(v.d[t][u]); }
    static __device__ __forceinline__ float dmin(const Side& v, int t, int u) { return __high2float(v.d[t][u]); }
    static __device__ __forceinline__ void minima(uint32_t a[4], const unsigned char* s, int t, int lane) {
#pragma unroll
        for (int u = 0; u < 2; u++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint32_t v = *(const uint16_t*)(row(s, t, u, lane) + 64 + h * 8 + lane % 4 * 2);
                a[2 * h + u] = small_ints_half2(v >> 4 & 15, v >> 12);
            }
    }
};

struct ExpQ4K {
    static constexpr int KIND = EXP_INT, GROUP = 2, ROW = 160, BYTES = 32 * ROW, TABLE = 0;
    static constexpr bool MINIMA = true;
    struct Side { half2 d[2][2]; };
    struct Regs { uint2 q[2][2]; uint32_t s[2][2]; };

    static __device__ __forceinline__ void table(unsigned char*) {}
    static __device__ __forceinline__ void copy(unsigned char* s, const ExpRows& r, int b, int lane) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int64_t row = r.row[i / 4] + i % 4 * 4 + lane / 8;
            cp_async16(s + (i * 4 + lane / 8) * ROW + lane % 8 * 16, (const unsigned char*)r.m[i / 4].q + (row * r.blocks + b) * 128 + lane % 8 * 16);
        }
        const int64_t row = (lane < 16 ? r.row[0] : r.row[1]) + lane % 16;
        const void* from = lane < 16 ? r.m[0].s : r.m[1].s;
        cp_async16(s + lane * ROW + 128, (const unsigned char*)from + (row * r.blocks + b) * 16);
    }
    static __device__ __forceinline__ void side(Side& v, const ExpRows& r, int b, int lane) {
        EXP_ROWS_OF_LANE(t, u) v.d[t][u] = ((const half2*)r.m[t].d)[(r.row[t] + u * 8 + lane / 4) * r.blocks + b];
    }
    static __device__ __forceinline__ const unsigned char* row(const unsigned char* s, int t, int u, int lane) {
        return s + (t * 16 + u * 8 + lane / 4) * ROW;
    }
    static __device__ __forceinline__ void load(Regs& v, const unsigned char* s, const Side&, const ExpRows&, int, int group, int lane) {
        EXP_ROWS_OF_LANE(t, u) {
            v.q[t][u] = *(const uint2*)(row(s, t, u, lane) + group * 32 + lane % 4 * 8);
            v.s[t][u] = *(const uint16_t*)(row(s, t, u, lane) + 128 + group * 2);
        }
    }
    static __device__ __forceinline__ void frag(uint32_t a[2][4], const Regs& v, const unsigned char*, const unsigned char*, int,
                                                int k, int) {
        EXP_ROWS_OF_LANE(t, u) {
            a[t][u] = v.q[t][u].x >> (4 * k) & 0x0f0f0f0fu;
            a[t][2 + u] = v.q[t][u].y >> (4 * k) & 0x0f0f0f0fu;
        }
    }
    static __device__ __forceinline__ int scale(const Regs& v, int t, int u, int k, int) { return byte_of(v.s[t][u], k); }
    static __device__ __forceinline__ float d(const Side& v, int t, int u) { return __low2float(v.d[t][u]); }
    static __device__ __forceinline__ float dmin(const Side& v, int t, int u) { return __high2float(v.d[t][u]); }
    // A minimum belongs to 32 columns, a sum to 16: each counts twice.
    static __device__ __forceinline__ void minima(uint32_t a[4], const unsigned char* s, int t, int lane) {
#pragma unroll
        for (int u = 0; u < 2; u++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint32_t v = row(s, t, u, lane)[136 + h * 4 + lane % 4];
                a[2 * h + u] = small_ints_half2(v, v);
            }
    }
};

// Doubled E2M1 values of the codes in the low halves of four bytes.
__device__ __forceinline__ uint32_t e2m1_bytes(uint32_t codes) {
    const uint32_t m = codes & 0x07070707u;
    const uint32_t at = prmt(m | m >> 4, 0, 0x4420);
    const uint32_t plus = prmt(0x03020100u, 0x0c080604u, at), minus = prmt(0xfdfeff00u, 0xf4f8fafcu, at);
    const uint32_t mask = prmt(codes << 4, 0, 0xba98);
    return (plus & ~mask) | (minus & mask);
}

struct ExpMxfp4 {
    static constexpr int KIND = EXP_FLOAT, GROUP = 2, ROW = 160, BYTES = 32 * ROW, TABLE = 0;
    static constexpr bool MINIMA = false;
    struct Side { uint2 s[2][2]; };
    struct Regs { uint32_t s[2][2]; };

    static __device__ __forceinline__ void table(unsigned char*) {}
    static __device__ __forceinline__ void copy(unsigned char* s, const ExpRows& r, int b, int lane) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int64_t row = r.row[i / 4] + i % 4 * 4 + lane / 8;
            cp_async16(s + (i * 4 + lane / 8) * ROW + lane % 8 * 16, (const unsigned char*)r.m[i / 4].q + (row * r.blocks + b) * 128 + lane % 8 * 16);
        }
    }
    static __device__ __forceinline__ void side(Side& v, const ExpRows& r, int b, int lane) {
        EXP_ROWS_OF_LANE(t, u) v.s[t][u] = ((const uint2*)r.m[t].s)[(r.row[t] + u * 8 + lane / 4) * r.blocks + b];
    }
    static __device__ __forceinline__ void load(Regs& v, const unsigned char*, const Side& side, const ExpRows&, int, int group, int) {
        EXP_ROWS_OF_LANE(t, u) v.s[t][u] = (group < 2 ? side.s[t][u].x : side.s[t][u].y) >> (group % 2 * 16);
    }
    static __device__ __forceinline__ void frag(uint32_t a[2][4], const Regs&, const unsigned char* s, const unsigned char*,
                                                int group, int k, int lane) {
        const int tig = lane % 4;
        EXP_ROWS_OF_LANE(t, u) {
            const uint2 q = *(const uint2*)(s + (t * 16 + u * 8 + lane / 4) * ROW + (group * 2 + k) * 16 + tig % 2 * 8);
            a[t][u] = e2m1_bytes(q.x >> (tig / 2 * 4));
            a[t][2 + u] = e2m1_bytes(q.y >> (tig / 2 * 4));
        }
    }
    static __device__ __forceinline__ float scale(const Regs& v, int t, int u, int k, int) {
        return e8m0_half(byte_of(v.s[t][u], k));
    }
    static __device__ __forceinline__ float d(const Side&, int, int) { return 1.0f; }
    static __device__ __forceinline__ float dmin(const Side&, int, int) { return 0.0f; }
    static __device__ __forceinline__ void minima(uint32_t[4], const unsigned char*, int, int) {}
};

// Weights straight from memory: no published file has these.
struct ExpQ80 {
    static constexpr int KIND = EXP_FLOAT, GROUP = 1, BYTES = 0, TABLE = 0;
    static constexpr bool MINIMA = false;
    struct Side {};
    struct Regs { uint2 q[2][2]; half d[2][2]; };

    static __device__ __forceinline__ void table(unsigned char*) {}
    static __device__ __forceinline__ void copy(unsigned char*, const ExpRows&, int, int) {}
    static __device__ __forceinline__ void side(Side&, const ExpRows&, int, int) {}
    static __device__ __forceinline__ void load(Regs& v, const unsigned char*, const Side&, const ExpRows& r, int b, int group, int lane) {
        EXP_ROWS_OF_LANE(t, u) {
            const int64_t block = (r.row[t] + u * 8 + lane / 4) * r.blocks * 8 + b * 8 + group;
            v.q[t][u] = *(const uint2*)((const int8_t*)r.m[t].q + block * 32 + lane % 4 * 8);
            v.d[t][u] = ((const half*)r.m[t].d)[block];
        }
    }
    static __device__ __forceinline__ void frag(uint32_t a[2][4], const Regs& v, const unsigned char*, const unsigned char*, int, int, int) {
        EXP_ROWS_OF_LANE(t, u) a[t][u] = v.q[t][u].x, a[t][2 + u] = v.q[t][u].y;
    }
    static __device__ __forceinline__ float scale(const Regs& v, int t, int u, int, int) { return __half2float(v.d[t][u]); }
    static __device__ __forceinline__ float d(const Side&, int, int) { return 1.0f; }
    static __device__ __forceinline__ float dmin(const Side&, int, int) { return 0.0f; }
    static __device__ __forceinline__ void minima(uint32_t[4], const unsigned char*, int, int) {}
};

// --- one tile

// Shared memory of a kernel of so many warps for format W, in bytes.
template <class W, int WARPS> struct ExpSmem {
    static constexpr int X = EXP_TILE_T * EXP_X_ROW, D = EXP_TILE_T * 4, SUMS = W::MINIMA ? EXP_TILE_T * EXP_SUM_ROW : 0;
    static constexpr int STAGE = X + D + SUMS + WARPS * W::BYTES, ALL = W::TABLE + 2 * STAGE;
};

// The activations of a tile: row i is row `row[..]` of the arrays.
struct ExpX {
    const int8_t* q;
    const float* d;
    const int16_t* sums;
    const int* rows;  // in slot order, if gathered; else row i is first + i
    int first, n, cols;
};

template <class W, int WARPS, int NT, bool GATHER> struct ExpTile {
    static constexpr int THREADS = WARPS * 32, PER = NT * 8 * 16 / THREADS < 1 ? 1 : NT * 8 * 16 / THREADS;
    typedef ExpSmem<W, WARPS> S;

    // What is copied through registers.
    struct Ahead {
        float d;
        uint4 sums;
        typename W::Side side;
    };

    static __device__ __forceinline__ void copy_x(unsigned char* s, const ExpX& x, const int at[PER], int b) {
#pragma unroll
        for (int p = 0; p < PER; p++) {
            const int i = threadIdx.x / 16 + p * (THREADS / 16), c = threadIdx.x % 16;
            const bool ok = i < x.n;
            const int64_t row = GATHER ? at[p] : x.first + i;
            if (i < NT * 8) cp_async16(s + i * EXP_X_ROW + c * 16, x.q + (ok ? row * x.cols + b * 256 + c * 16 : 0), ok);
        }
    }
    static __device__ __forceinline__ void fetch(Ahead& v, const ExpX& x, int at_d, int at_sums, const ExpRows& r, int b, int lane) {
        const int n = x.cols / 256;
        v.d = at_d >= 0 ? x.d[(int64_t)at_d * n + b] : 0.0f;
        if (W::MINIMA) {
            v.sums = make_uint4(0, 0, 0, 0);
            if (at_sums >= 0) v.sums = *(const uint4*)(x.sums + ((int64_t)at_sums * n + b) * 16 + threadIdx.x % 2 * 8);
        }
        W::side(v.side, r, b, lane);
    }
    static __device__ __forceinline__ uint32_t halves(uint32_t two_ints) {
        const short lo = (short)(two_ints & 0xffff), hi = (short)(two_ints >> 16);
        return pack_half2(__float2half_rn((float)lo), __float2half_rn((float)hi));
    }
    static __device__ __forceinline__ void keep(unsigned char* s, const Ahead& v) {
        if (threadIdx.x < EXP_TILE_T) ((float*)(s + S::X))[threadIdx.x] = v.d;
        if (W::MINIMA && threadIdx.x < 2 * EXP_TILE_T) {
            uint4* to = (uint4*)(s + S::X + S::D + threadIdx.x / 2 * EXP_SUM_ROW + threadIdx.x % 2 * 16);
            *to = make_uint4(halves(v.sums.x), halves(v.sums.y), halves(v.sums.z), halves(v.sums.w));
        }
    }

    // acc += products of 256 columns.
    static __device__ __forceinline__ void block(float acc[2][NT][4], const unsigned char* s, const unsigned char* w, const unsigned char* table,
                                                 const typename W::Side& side, const ExpRows& r, int b, int lane) {
        const int g = lane / 4, tig = lane % 4;
        const unsigned char* x = s + g * EXP_X_ROW + tig * 8;
        int sum[2][NT][4];
#pragma unroll
        for (int t = 0; t < 2; t++)
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) sum[t][j][e] = W::KIND == EXP_CHAIN ? INT_BIAS : 0;
        typename W::Regs regs;
#pragma unroll 1
        for (int group = 0; group < 8 / W::GROUP; group++) {
            W::load(regs, w, side, r, b, group, lane);
#pragma unroll
            for (int k = 0; k < W::GROUP; k++) {
                uint32_t a[2][4];
                W::frag(a, regs, w, table, group, k, lane);
#pragma unroll
                for (int j = 0; j < NT; j++) {
                    const uint2 v = *(const uint2*)(x + j * 8 * EXP_X_ROW + (group * W::GROUP + k) * 32);
                    const uint32_t bf[2] = {v.x, v.y};
                    const float2 dx = W::KIND == EXP_FLOAT ? *(const float2*)(s + S::X + (j * 8 + tig * 2) * 4) : make_float2(0.0f, 0.0f);
#pragma unroll
                    for (int t = 0; t < 2; t++) {
                        if (W::KIND == EXP_CHAIN) {
                            mma_s8(sum[t][j], a[t], bf, sum[t][j]);
                        } else {
                            const int c = W::KIND == EXP_INT ? 0 : INT_BIAS;
                            const int zero[4] = {c, c, c, c};
                            int d[4];
                            mma_s8(d, a[t], bf, zero);
#pragma unroll
                            for (int e = 0; e < 4; e++) {
                                if (W::KIND == EXP_INT) {
                                    sum[t][j][e] += d[e] * (int)W::scale(regs, t, e / 2, k, lane);
                                } else {
                                    const float scale = W::scale(regs, t, e / 2, k, lane);
                                    acc[t][j][e] = fmaf(biased_times(d[e], scale, -INT_BIAS_F * scale), e % 2 ? dx.y : dx.x, acc[t][j][e]);
                                }
                            }
                        }
                    }
                }
            }
        }
        if (W::KIND == EXP_FLOAT) return;
        uint32_t mins[2][4];
        if (W::MINIMA) W::minima(mins[0], w, 0, lane), W::minima(mins[1], w, 1, lane);
#pragma unroll
        for (int j = 0; j < NT; j++) {
            const float2 dx = *(const float2*)(s + S::X + (j * 8 + tig * 2) * 4);
            uint32_t sums[2];
            if (W::MINIMA) {
                const unsigned char* at = s + S::X + S::D + (j * 8 + g) * EXP_SUM_ROW + tig * 4;
                sums[0] = *(const uint32_t*)at, sums[1] = *(const uint32_t*)(at + 16);
            }
#pragma unroll
            for (int t = 0; t < 2; t++) {
                float m[4];
                const float zero[4] = {};
                if (W::MINIMA) mma_f16(m, mins[t], sums, zero);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float x1 = e % 2 ? dx.y : dx.x, dw = W::d(side, t, e / 2);
                    const float v = W::KIND == EXP_CHAIN ? biased_times(sum[t][j][e], dw, -INT_BIAS_F * dw) : dw * (float)sum[t][j][e];
                    const float y = W::MINIMA ? fmaf(-W::dmin(side, t, e / 2), m[e], v) : v;
                    acc[t][j][e] = fmaf(y, x1, acc[t][j][e]);
                }
            }
        }
    }

    static __device__ __forceinline__ int row(const ExpX& x, int i) { return GATHER ? x.rows[x.first + i] : x.first + i; }
    static __device__ __forceinline__ void run(float acc[2][NT][4], unsigned char* smem, const ExpX& x, const ExpRows& r) {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        const unsigned char* table = smem;
        unsigned char* stages = smem + W::TABLE;
        const int stage = S::STAGE, weights = S::X + S::D + S::SUMS + warp * W::BYTES;
        int at[PER];
#pragma unroll
        for (int p = 0; p < PER; p++) {
            const int i = threadIdx.x / 16 + p * (THREADS / 16);
            at[p] = GATHER && i < x.n ? row(x, i) : 0;
        }
        const int at_d = threadIdx.x < x.n ? row(x, threadIdx.x) : -1;
        const int at_sums = threadIdx.x / 2 < x.n ? row(x, threadIdx.x / 2) : -1;
        Ahead next;
        W::copy(stages + weights, r, 0, lane);
        copy_x(stages, x, at, 0);
        cp_async_commit();
        fetch(next, x, at_d, at_sums, r, 0, lane);
        keep(stages, next);
#pragma unroll 1
        for (int b = 0; b < r.blocks; b++) {
            unsigned char *s = stages + b % 2 * stage, *to = stages + (b + 1) % 2 * stage;
            const typename W::Side side = next.side;
            cp_async_wait<0>();
            __syncthreads();
            if (b + 1 < r.blocks) {
                W::copy(to + weights, r, b + 1, lane);
                copy_x(to, x, at, b + 1);
                fetch(next, x, at_d, at_sums, r, b + 1, lane);
            }
            cp_async_commit();
            block(acc, s, s + weights, table, side, r, b, lane);
            if (b + 1 < r.blocks) keep(to, next);
        }
    }
};

// The weighted middle value of an expert.
__device__ __forceinline__ float exp_swiglu(float gate, float up, float clamp, float weight) {
    const float a = fminf(gate, clamp), b = fminf(fmaxf(up, -clamp), clamp);
    return a / (1.0f + expf(-a)) * b * weight;
}

template <class W, int WARPS, int NT>
__device__ __forceinline__ void exp_gate_up_tile(unsigned char* smem, const ExpX& x, const ExpRows& r, int row, const float* weight_of, float clamp, float* mid) {
    float acc[2][NT][4] = {};
    ExpTile<W, WARPS, NT, true>::run(acc, smem, x, r);
    pdl_go();
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int t = j * 8 + lane % 4 * 2 + e;
            if (t >= x.n) continue;
            const float weight = weight_of[x.first + t];
            float* to = mid + (int64_t)(x.first + t) * N_FF + row + lane / 4;
            to[0] = exp_swiglu(acc[0][j][e], acc[1][j][e], clamp, weight);
            to[8] = exp_swiglu(acc[0][j][e + 2], acc[1][j][e + 2], clamp, weight);
        }
}

template <class W, int WARPS, int NT>
__device__ __forceinline__ void exp_down_tile(unsigned char* smem, const ExpX& x, const ExpRows& r, int row, float* out) {
    float acc[2][NT][4] = {};
    ExpTile<W, WARPS, NT, false>::run(acc, smem, x, r);
    pdl_go();
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int t = j * 8 + lane % 4 * 2 + e;
            if (t >= x.n) continue;
            float* to = out + (int64_t)(x.first + t) * N_EMBD + row + lane / 4;
            to[0] = acc[0][j][e], to[8] = acc[0][j][e + 2], to[16] = acc[1][j][e], to[24] = acc[1][j][e + 2];
        }
}

// The tile of this block: false if there is none.
__device__ __forceinline__ bool exp_tile_of_block(const int* first, const int2* tiles, const int* n_tiles, int* expert, int* slot, int* n) {
    if ((int)blockIdx.y >= *n_tiles) return false;
    const int2 tile = tiles[blockIdx.y];
    *expert = tile.x, *slot = tile.y;
    *n = min(EXP_TILE_T, first[tile.x + 1] - tile.y);
    return *n > 0;
}

// One of the tile widths that cover n tokens, 16 apart.
#define EXP_BY_TOKENS(n, call)                     \
    do {                                           \
        const int width = ((n) + 15) / 16;         \
        if (width <= 1) { constexpr int NT = 2; call; } \
        else if (width == 2) { constexpr int NT = 4; call; } \
        else if (width == 3) { constexpr int NT = 6; call; } \
        else { constexpr int NT = 8; call; }       \
    } while (0)

template <class W, int WARPS>
__device__ __forceinline__ void exp_gate_up(const Mat& gate, const Mat& up, const int* first, const int* token_of, const float* weight_of,
                                            const int2* tiles, const int* n_tiles, const int8_t* xq, const float* xd, const int16_t* xs,
                                            float clamp, float* mid) {
    static_assert(N_FF % (16 * WARPS) == 0, "whole blocks of rows");
    DS4_DYN_SMEM(unsigned char, smem);
    W::table(smem);
    pdl_wait();
    int expert, slot, n;
    if (!exp_tile_of_block(first, tiles, n_tiles, &expert, &slot, &n)) return;
    const int row = (blockIdx.x * WARPS + (threadIdx.x >> 5)) * 16;
    ExpRows r;
    r.m[0] = gate, r.m[1] = up;
    r.row[0] = r.row[1] = (int64_t)expert * N_FF + row;
    r.blocks = N_EMBD / 256;
    const ExpX x = {xq, xd, xs, token_of, slot, n, N_EMBD};
    EXP_BY_TOKENS(n, (exp_gate_up_tile<W, WARPS, NT>(smem, x, r, row, weight_of, clamp, mid)));
}

template <class W, int WARPS>
__device__ __forceinline__ void exp_down(const Mat& down, const int* first, const int2* tiles, const int* n_tiles, const int8_t* mq,
                                         const float* md, const int16_t* ms, float* out) {
    static_assert(N_EMBD % (32 * WARPS) == 0, "whole blocks of rows");
    DS4_DYN_SMEM(unsigned char, smem);
    W::table(smem);
    pdl_wait();
    int expert, slot, n;
    if (!exp_tile_of_block(first, tiles, n_tiles, &expert, &slot, &n)) return;
    const int row = (blockIdx.x * WARPS + (threadIdx.x >> 5)) * 32;
    ExpRows r;
    r.m[0] = r.m[1] = down;
    r.row[0] = (int64_t)expert * N_EMBD + row, r.row[1] = r.row[0] + 16;
    r.blocks = N_FF / 256;
    const ExpX x = {mq, md, ms, nullptr, slot, n, N_FF};
    EXP_BY_TOKENS(n, (exp_down_tile<W, WARPS, NT>(smem, x, r, row, out)));
}

// Grids (N_FF/(16·warps), tiles) and (N_EMBD/(32·warps), tiles), warps·32 threads,
// ExpSmem<W, warps>::ALL bytes of shared memory.
#define EXP_MM_KERNELS(suffix, W, warps, blocks)                                                                               \
    DS4_KERNEL(exp_mm_gate_up_##suffix, (warps) * 32, blocks)                                                                  \
    (Mat gate, Mat up, const int* first, const int* token_of, const float* weight_of, const int2* tiles, const int* n_tiles,  \
     const int8_t* xq, const float* xd, const int16_t* xs, const float*, float clamp, float* mid) {                            \
        exp_gate_up<W, warps>(gate, up, first, token_of, weight_of, tiles, n_tiles, xq, xd, xs, clamp, mid);                    \
    }                                                                                                                          \
    DS4_REGISTER(exp_mm_gate_up_##suffix)                                                                                      \
    DS4_KERNEL(exp_mm_down_##suffix, (warps) * 32, blocks)                                                                     \
    (Mat down, const int* first, const int2* tiles, const int* n_tiles, const int8_t* mq, const float* md, const int16_t* ms,  \
     const float*, float* out) {                                                                                               \
        exp_down<W, warps>(down, first, tiles, n_tiles, mq, md, ms, out);                                                       \
    }                                                                                                                          \
    DS4_REGISTER(exp_mm_down_##suffix)

// Two blocks of four warps, or one of eight where shared memory has no room for two.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
#define EXP_MM_WARPS_2BIT 8
#else
#define EXP_MM_WARPS_2BIT 4
#endif
#define EXP_MM_WARPS_IQ2 EXP_MM_WARPS_2BIT
#define EXP_MM_WARPS_Q2K EXP_MM_WARPS_2BIT
#define EXP_MM_WARPS_Q4K 4
#define EXP_MM_WARPS_MXFP4 4
#define EXP_MM_WARPS_Q80 4
#if N_EMBD % 256 == 0 && N_FF % 256 == 0  // else no row has whole Q8_K blocks
EXP_MM_KERNELS(iq2, ExpIq2, EXP_MM_WARPS_IQ2, 8 / EXP_MM_WARPS_IQ2)
EXP_MM_KERNELS(q2k, ExpQ2K, EXP_MM_WARPS_Q2K, 8 / EXP_MM_WARPS_Q2K)
EXP_MM_KERNELS(q4k, ExpQ4K, EXP_MM_WARPS_Q4K, 2)
EXP_MM_KERNELS(mxfp4, ExpMxfp4, EXP_MM_WARPS_MXFP4, 2)
EXP_MM_KERNELS(q80, ExpQ80, EXP_MM_WARPS_Q80, 2)
#endif

// --- F16 and F32 weights with f32 activations: grids (⌈N_FF/64⌉, tiles) and (⌈N_EMBD/64⌉, tiles)

template <class T> __device__ __forceinline__ float exp_value(const void* w, int64_t i) { return ((const T*)w)[i]; }
template <> __device__ __forceinline__ float exp_value<half>(const void* w, int64_t i) { return __half2float(((const half*)w)[i]); }

template <class T>
__device__ __forceinline__ void exp_gate_up_float(const Mat& gate, const Mat& up, const int* first, const int* token_of, const float* weight_of,
                                                  const int2* tiles, const int* n_tiles, const float* xf, float clamp, float* mid) {
    int expert, slot, n;
    pdl_wait();
    if (!exp_tile_of_block(first, tiles, n_tiles, &expert, &slot, &n)) return;
    const int64_t row0 = (int64_t)expert * N_FF + blockIdx.x * MM_F32_TILE;
    float a[4][4] = {}, b[4][4] = {};
    const auto x = [&](int t, int k) { return t < n ? xf[(int64_t)token_of[slot + t] * N_EMBD + k] : 0.0f; };
    const int rows = N_FF - blockIdx.x * MM_F32_TILE;
    mm_f32_tile(a, N_EMBD, [&](int r, int k) { return r < rows ? exp_value<T>(gate.q, (row0 + r) * N_EMBD + k) : 0.0f; }, x);
    mm_f32_tile(b, N_EMBD, [&](int r, int k) { return r < rows ? exp_value<T>(up.q, (row0 + r) * N_EMBD + k) : 0.0f; }, x);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            const int t = ty + 16 * j, r = blockIdx.x * MM_F32_TILE + tx + 16 * i;
            if (t < n && r < N_FF) mid[(int64_t)(slot + t) * N_FF + r] = exp_swiglu(a[i][j], b[i][j], clamp, weight_of[slot + t]);
        }
}

template <class T>
__device__ __forceinline__ void exp_down_float(const Mat& down, const int* first, const int2* tiles, const int* n_tiles, const float* mf, float* out) {
    int expert, slot, n;
    pdl_wait();
    if (!exp_tile_of_block(first, tiles, n_tiles, &expert, &slot, &n)) return;
    const int64_t row0 = (int64_t)expert * N_EMBD + blockIdx.x * MM_F32_TILE;
    const int rows = N_EMBD - blockIdx.x * MM_F32_TILE;
    float a[4][4] = {};
    mm_f32_tile(
        a, N_FF, [&](int r, int k) { return r < rows ? exp_value<T>(down.q, (row0 + r) * N_FF + k) : 0.0f; },
        [&](int t, int k) { return t < n ? mf[(int64_t)(slot + t) * N_FF + k] : 0.0f; });
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            const int t = ty + 16 * j, r = tx + 16 * i;
            if (t < n && r < rows) out[(int64_t)(slot + t) * N_EMBD + blockIdx.x * MM_F32_TILE + r] = a[i][j];
        }
}

#define EXP_MM_FLOAT_KERNELS(suffix, type)                                                                                    \
    DS4_KERNEL(exp_mm_gate_up_##suffix, MM_F32_THREADS)                                                                       \
    (Mat gate, Mat up, const int* first, const int* token_of, const float* weight_of, const int2* tiles, const int* n_tiles, \
     const int8_t*, const float*, const int16_t*, const float* xf, float clamp, float* mid) {                                 \
        exp_gate_up_float<type>(gate, up, first, token_of, weight_of, tiles, n_tiles, xf, clamp, mid);                         \
    }                                                                                                                         \
    DS4_REGISTER(exp_mm_gate_up_##suffix)                                                                                     \
    DS4_KERNEL(exp_mm_down_##suffix, MM_F32_THREADS)                                                                          \
    (Mat down, const int* first, const int2* tiles, const int* n_tiles, const int8_t*, const float*, const int16_t*,          \
     const float* mf, float* out) {                                                                                           \
        exp_down_float<type>(down, first, tiles, n_tiles, mf, out);                                                            \
    }                                                                                                                         \
    DS4_REGISTER(exp_mm_down_##suffix)

EXP_MM_FLOAT_KERNELS(f16, half)
EXP_MM_FLOAT_KERNELS(f32, float)
