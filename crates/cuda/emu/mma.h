// Tensor cores, matrix loads and asynchronous copies, with the fragment layouts of the PTX manual.
//
// The products of an mma are exact and their sum is formed in double and rounded once to float; the
// hardware cuts off digits in an order it does not tell, so agree within a tolerance, or on integers.
#pragma once

#include "warp.h"

namespace ds4_emu __attribute__((visibility("hidden"))) {

// In bytes, m16n8k16 of 2-byte, m16n8k32 of 1-byte and m16n8k8 of 4-byte elements are one layout:
// A is 16 rows and B 8 columns of 32 bytes, of which lane 4g+t holds bytes 4t.. and 16+4t.. of rows
// g and g+8 of A and of column g of B.
template <class Sum>
struct MmaArgs {
    Sum* d;
    const uint32_t* a;
    const uint32_t* b;
    const Sum* c;
};

template <class Element, class Sum>
void run_mma(void* const* args, uint32_t lanes) {
    if (lanes != ~0u) fail("mma: all 32 lanes of the warp must take part");
    constexpr unsigned K = 32 / sizeof(typename Element::Raw);
    uint32_t a[16][8], b[8][8];
    auto at = [&](unsigned l) { return static_cast<MmaArgs<Sum>*>(args[l]); };
    for (unsigned l = 0; l < WARP; l++) {
        unsigned g = l / 4, t = l % 4;
        const uint32_t *fa = at(l)->a, *fb = at(l)->b;
        a[g][t] = fa[0], a[g + 8][t] = fa[1], a[g][t + 4] = fa[2], a[g + 8][t + 4] = fa[3];
        b[g][t] = fb[0], b[g][t + 4] = fb[1];
    }
    using Total = typename Element::Total;
    Total va[16][K], vb[8][K], columns[K][8], d[16][8];
    for (unsigned i = 0; i < 16; i++) Element::decode(va[i], a[i]);
    for (unsigned j = 0; j < 8; j++) Element::decode(vb[j], b[j]);
    for (unsigned k = 0; k < K; k++)
        for (unsigned j = 0; j < 8; j++) columns[k][j] = vb[j][k];
    // The i-th of a lane's four sums.
    auto sum = [&](unsigned l, unsigned i) -> Total& { return d[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2]; };
    for (unsigned l = 0; l < WARP; l++)
        for (unsigned i = 0; i < 4; i++) sum(l, i) = static_cast<Total>(at(l)->c[i]);
    for (unsigned i = 0; i < 16; i++)
        for (unsigned k = 0; k < K; k++)
            for (unsigned j = 0; j < 8; j++) d[i][j] += va[i][k] * columns[k][j];
    for (unsigned l = 0; l < WARP; l++)
        for (unsigned i = 0; i < 4; i++) at(l)->d[i] = static_cast<Sum>(sum(l, i));
}

// An element's bits, its value, and what products are summed in: double, or unsigned as sums of
// integers wrap around.
template <class R, class T, auto value>
struct Element {
    using Raw = R;
    using Total = T;
    static void decode(Total* out, const uint32_t* words) {
        Raw raw[32 / sizeof(Raw)];
        memcpy(raw, words, 32);
        for (unsigned i = 0; i < 32 / sizeof(Raw); i++) out[i] = static_cast<Total>(value(raw[i]));
    }
};
inline int s8_value(int8_t v) { return v; }
inline int u8_value(uint8_t v) { return v; }
// TF32 keeps 10 bits of the mantissa; the hardware ignores the rest.
inline float tf32_value(uint32_t v) { return std::bit_cast<float>(v & ~0x1fffu); }
// FP8 of 4 and 3 bits: no infinities, 0x7f is the NaN.
inline float e4m3_value(uint8_t v) {
    int exponent = v >> 3 & 15, mantissa = v & 7;
    if (exponent == 15 && mantissa == 7) return NAN;
    float m = exponent ? std::ldexp(static_cast<float>(8 + mantissa), exponent - 10)
                       : std::ldexp(static_cast<float>(mantissa), -9);
    return v & 128 ? -m : m;
}

template <class E, class Sum>
void mma(const Op* op, Sum* d, const uint32_t* a, const uint32_t* b, const Sum* c) {
    MmaArgs<Sum> args{d, a, b, c};
    meet(~0u, op, args);
}

// --- matrix loads

struct LoadArgs {
    uint32_t* r;
    const void* row;
};

// Lanes 8i..8i+7 name the rows of the i-th matrix, 8 rows of 16 bytes.
template <unsigned matrices, bool transposed>
void run_ldmatrix(void* const* args, uint32_t lanes) {
    if (lanes != ~0u) fail("ldmatrix: all 32 lanes of the warp must take part");
    auto at = [&](unsigned l) { return static_cast<LoadArgs*>(args[l]); };
    for (unsigned m = 0; m < matrices; m++) {
        uint16_t v[8][8];
        for (unsigned i = 0; i < 8; i++) memcpy(v[i], at(8 * m + i)->row, 16);
        for (unsigned l = 0; l < WARP; l++) {
            unsigned i = l / 4, j = 2 * (l % 4);
            uint32_t low = transposed ? v[j][i] : v[i][j], high = transposed ? v[j + 1][i] : v[i][j + 1];
            at(l)->r[m] = low | high << 16;
        }
    }
}

template <unsigned matrices, bool transposed>
inline constexpr Op ldmatrix_op{transposed ? "ldmatrix.trans" : "ldmatrix", run_ldmatrix<matrices, transposed>};

template <unsigned matrices, bool transposed>
void ldmatrix(uint32_t* r, const void* row) {
    if (worker->lane->index < 8 * matrices) check_aligned(static_cast<const char*>(row), 16);
    LoadArgs args{r, row};
    meet(~0u, &ldmatrix_op<matrices, transposed>, args);
}

}  // namespace ds4_emu

#define DS4_EMU_MMA(name, Sum, ...)                                                                              \
    inline void name(Sum d[4], const uint32_t a[4], const uint32_t b[2], const Sum c[4]) {                       \
        using E = ds4_emu::Element<__VA_ARGS__>;                                                                 \
        static constexpr ds4_emu::Op op{#name, ds4_emu::run_mma<E, Sum>};                                        \
        ds4_emu::mma<E, Sum>(&op, d, a, b, c);                                                                   \
    }
DS4_EMU_MMA(emu_mma_m16n8k16_f16, float, uint16_t, double, ds4_emu::half_to_float)
DS4_EMU_MMA(emu_mma_m16n8k16_bf16, float, uint16_t, double, ds4_emu::bf16_to_float)
DS4_EMU_MMA(emu_mma_m16n8k8_tf32, float, uint32_t, double, ds4_emu::tf32_value)
DS4_EMU_MMA(emu_mma_m16n8k32_e4m3, float, uint8_t, double, ds4_emu::e4m3_value)
DS4_EMU_MMA(emu_mma_m16n8k32_s8, int, int8_t, unsigned, ds4_emu::s8_value)
DS4_EMU_MMA(emu_mma_m16n8k32_u8, int, uint8_t, unsigned, ds4_emu::u8_value)
#undef DS4_EMU_MMA

inline void emu_ldmatrix_x1(uint32_t r[1], const void* row) { ds4_emu::ldmatrix<1, false>(r, row); }
inline void emu_ldmatrix_x2(uint32_t r[2], const void* row) { ds4_emu::ldmatrix<2, false>(r, row); }
inline void emu_ldmatrix_x4(uint32_t r[4], const void* row) { ds4_emu::ldmatrix<4, false>(r, row); }
inline void emu_ldmatrix_x1_trans(uint32_t r[1], const void* row) { ds4_emu::ldmatrix<1, true>(r, row); }
inline void emu_ldmatrix_x2_trans(uint32_t r[2], const void* row) { ds4_emu::ldmatrix<2, true>(r, row); }
inline void emu_ldmatrix_x4_trans(uint32_t r[4], const void* row) { ds4_emu::ldmatrix<4, true>(r, row); }

// --- asynchronous copies
//
// cp.async of 4, 8 or 16 bytes, of which `source_bytes` are read and the rest zeroed. The copy happens
// as late as it may, when its group is waited for, and until then the destination holds bytes 0xff:
// a wait that is missing shows.

template <unsigned bytes>
inline void emu_cp_async(void* smem, const void* gmem, unsigned source_bytes = bytes) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16);
    ds4_emu::check_aligned(static_cast<char*>(smem), bytes);
    ds4_emu::check_aligned(static_cast<const char*>(gmem), bytes);
    auto* lane = ds4_emu::worker->lane;
    memset(smem, 0xff, bytes);
    lane->copies.push_back({smem, gmem, bytes, source_bytes, lane->copy_group});
}
inline void emu_cp_async16(void* smem, const void* gmem, unsigned source_bytes = 16) {
    emu_cp_async<16>(smem, gmem, source_bytes);
}
inline void emu_cp_async_commit() { ds4_emu::worker->lane->copy_group++; }
// All but the newest `groups` committed groups are complete on return.
template <unsigned groups>
inline void emu_cp_async_wait() {
    ds4_emu::worker->wait_copies(groups);
}
inline void emu_cp_async_wait_all() {
    emu_cp_async_commit();
    emu_cp_async_wait<0>();
}
