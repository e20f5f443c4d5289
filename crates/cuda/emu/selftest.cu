// Kernels that try every part of the emulator; selftest.cpp launches them and checks.
#include "device.h"
#ifndef DS4_EMU
#include "selftest_ptx.h"
#endif

struct Pair {
    int a;
    float4 b;
};

// --- blocks and grids

DS4_KERNEL(self_block_sum, 256)(const float* x, float* out, unsigned per_block) {
    __shared__ float partial[8];
    const float* mine = x + size_t{blockIdx.x} * per_block;
    float sum = 0;
    for (unsigned i = threadIdx.x; i < per_block; i += blockDim.x) sum += mine[i];
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned i = 1; i < blockDim.x / 32; i++) sum += partial[i];
        out[blockIdx.x] = sum;
    }
}
DS4_REGISTER(self_block_sum)

DS4_KERNEL(self_scale)(float* x, float by, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= by;
}
DS4_REGISTER(self_scale)

// Reverses the block's values through dynamic shared memory.
DS4_KERNEL(self_reverse)(int* x) {
    DS4_DYN_SMEM(int, buffer);
    buffer[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = buffer[blockDim.x - 1 - threadIdx.x];
}
DS4_REGISTER(self_reverse)

DS4_KERNEL(self_early_return)(int* out) {
    __shared__ int sum;
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    if (threadIdx.x % 2) return;
    atomicAdd(&sum, 1);
    __syncthreads();
    __syncwarp();
    out[threadIdx.x / 2] = sum;
}
DS4_REGISTER(self_early_return)

DS4_KERNEL(self_grid_3d)(unsigned* out) {
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
    out[i] += i;
}
DS4_REGISTER(self_grid_3d)

DS4_KERNEL(self_struct)(Pair p, int* out, const __grid_constant__ Pair q) {
    out[threadIdx.x] = p.a + static_cast<int>(p.b.w) * q.a + static_cast<int>(q.b.y);
}
DS4_REGISTER(self_struct)

DS4_KERNEL(self_votes_of_block)(int* out) {
    int i = static_cast<int>(threadIdx.x);
    int count = __syncthreads_count(i % 3 == 0);
    int any = __syncthreads_or(i == 77), all = __syncthreads_and(i < 77);
    out[i] = count * 4 + any * 2 + all;
}
DS4_REGISTER(self_votes_of_block)

// --- warps

// 14 words for each lane.
DS4_KERNEL(self_shuffles)(int* out) {
    int lane = static_cast<int>(threadIdx.x);
    int* o = out + lane * 14;
    o[0] = __shfl_sync(~0u, lane, 5);
    o[1] = __shfl_sync(~0u, lane, 3, 8);
    o[2] = __shfl_up_sync(~0u, lane, 3);
    o[3] = __shfl_up_sync(~0u, lane, 3, 8);
    o[4] = __shfl_down_sync(~0u, lane, 3);
    o[5] = __shfl_down_sync(~0u, lane, 3, 8);
    o[6] = __shfl_xor_sync(~0u, lane, 17);
    o[7] = __shfl_xor_sync(~0u, lane, 9, 8);
    o[8] = static_cast<int>(__shfl_xor_sync(~0u, lane * 0.5, 1) * 2);
    o[9] = static_cast<int>(__shfl_xor_sync(~0u, lane * 10000000000ll, 2) / 10000000000ll);
    o[10] = static_cast<int>(__ballot_sync(~0u, lane % 3 == 0));
    o[11] = __any_sync(~0u, lane == 9) * 2 + __all_sync(~0u, lane < 31);
    o[12] = __reduce_add_sync(~0u, lane - 16) + __reduce_min_sync(~0u, lane - 16) * 1000 + __reduce_max_sync(~0u, lane - 16) * 100000;
    // Two halves meet apart, at different counts of calls.
    unsigned half_mask = lane < 16 ? 0xffffu : 0xffff0000u;
    int v = lane;
    for (int i = 0; i < (lane < 16 ? 1 : 4); i++) v = __shfl_xor_sync(half_mask, v, 1);
    o[13] = v;
}
DS4_REGISTER(self_shuffles)

DS4_KERNEL(self_atomics)(unsigned* u, float* f, unsigned long long* l) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&u[0], i);
    atomicMax(&u[1], i);
    atomicMin(&u[2], i);
    atomicOr(&u[3], 1u << (i % 32));
    atomicCAS(&u[4], 0u, 7u);
    atomicExch(&u[5], 9u);
    atomicAdd(f, 1.0f);
    atomicAdd(l, 1ull << 32);
}
DS4_REGISTER(self_atomics)

DS4_KERNEL(self_bits)(int* out) {
    out[0] = __dp4a(0x01fe03fc, 0x7f80ff01, -5);
    out[1] = static_cast<int>(__dp4a(0x01fe03fcu, 0x7f80ff01u, 5u));
    out[2] = static_cast<int>(__byte_perm(0x33221180u, 0x77665544u, 0x8c07u));
    out[3] = __clz(1 << 20) * 100 + __ffs(1 << 20);
    out[4] = static_cast<int>(__brev(0x12345678u));
    out[5] = static_cast<int>(__funnelshift_l(0x89abcdefu, 0x01234567u, 8));
    out[6] = static_cast<int>(__funnelshift_r(0x89abcdefu, 0x01234567u, 8));
    out[7] = __dp2a_lo(0x0002ffff, 0x04030201, 1);
    out[8] = __dp2a_hi(0x0002ffff, 0x04030201, 1);
    out[9] = __float2int_rn(2.5f) * 10 + __float2int_rn(3.5f);
    out[10] = __half_as_ushort(__float2half(1.0f / 3)) + __half_as_ushort(__hfma(__float2half(2.0f), __float2half(0.5f), __float2half(1.0f)));
    __half2 h = __hadd2(__floats2half2_rn(1.5f, -2.0f), __float2half2_rn(0.25f));
    float2 f = __half22float2(h);
    out[11] = static_cast<int>(f.x * 100 + f.y * 10000);
    out[12] = __bfloat16_as_ushort(__float2bfloat16(1.00390625f)) * 10 + (__bfloat16_as_ushort(__float2bfloat16(1.01171875f)) & 7);
    out[13] = static_cast<int>(__vsubss4(0x80017f05u, 0x01027f06u));
    out[14] = min(3, -4) + max(7u, 2u) + static_cast<int>(rsqrtf(0.25f)) + static_cast<int>(exp2f(5.0f));
    float zero = __int_as_float(out[23]), inf = 1.0f / zero, nan = inf - inf;
    out[15] = __float2int_rn(3e9f + zero);
    out[16] = __float2int_rz(zero - 3e9f);
    out[17] = __float2int_rn(nan);
    out[18] = static_cast<int>(__float2uint_rn(5e9f + zero));
    out[19] = __half_as_ushort(__float2half(nan));
    out[20] = __bfloat16_as_ushort(__float2bfloat16(nan));
    out[21] = __half_as_ushort(__float2half(65520.0f + zero));
    out[22] = __half_as_ushort(__float2half(__int_as_float(0x33c00000) + zero));  // 1.5 of the least half
    out[23] = static_cast<int>(__vcmpeq4(0x01020304u, 0x05020604u));
}
DS4_REGISTER(self_bits)

// --- what must fail, with a message

DS4_KERNEL(self_deadlock)() {
    if (threadIdx.x == 3) __syncthreads();
    else __shfl_xor_sync(~0u, 1, 1);
}
DS4_REGISTER(self_deadlock)

DS4_KERNEL(self_trap)() {
    if (blockIdx.x == 2 && threadIdx.x == 5) __trap();
    __syncthreads();
}
DS4_REGISTER(self_trap)

DS4_KERNEL(self_overrun)() {
    DS4_DYN_SMEM(char, buffer);
    buffer[threadIdx.x] = 1;
}
DS4_REGISTER(self_overrun)

// Waits for a value that a later lane stores.
DS4_KERNEL(self_spin)(volatile int* flag) {
    if (threadIdx.x == 0)
        while (!*flag) __nanosleep(20);
    if (threadIdx.x == 40) *flag = 1;
}
DS4_REGISTER(self_spin)

// --- tensor cores: A and B row by row, one tile of A B + 1; the layout is PTX's

template <class T>
__device__ uint32_t pack(const T* p, unsigned stride) {
    constexpr unsigned bits = 8 * sizeof(T);
    uint32_t word = 0;
    for (unsigned i = 0; i < 32 / bits; i++) word |= uint32_t{p[i * stride]} << (bits * i);
    return word;
}
// T holds an element's bits.
#define TILE_KERNEL(name, T, Sum, mma)                                                                           \
    DS4_KERNEL(name)(const T* a, const T* b, Sum* out) {                                                         \
        constexpr unsigned each = 4 / sizeof(T), k = 8 * each;                                                   \
        unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;                                                       \
        uint32_t fa[4], fb[2];                                                                                   \
        for (unsigned i = 0; i < 4; i++) fa[i] = pack(a + (g + 8 * (i % 2)) * k + each * (t + 4 * (i / 2)), 1);  \
        for (unsigned i = 0; i < 2; i++) fb[i] = pack(b + each * (t + 4 * i) * 8 + g, 8);                        \
        Sum c[4] = {1, 1, 1, 1};                                                                                 \
        mma(c, fa, fb, c);                                                                                       \
        for (unsigned i = 0; i < 4; i++) out[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = c[i];                      \
    }                                                                                                            \
    DS4_REGISTER(name)
TILE_KERNEL(self_mma_f16, uint16_t, float, emu_mma_m16n8k16_f16)
TILE_KERNEL(self_mma_bf16, uint16_t, float, emu_mma_m16n8k16_bf16)
TILE_KERNEL(self_mma_tf32, uint32_t, float, emu_mma_m16n8k8_tf32)
TILE_KERNEL(self_mma_e4m3, uint8_t, float, emu_mma_m16n8k32_e4m3)
TILE_KERNEL(self_mma_s8, uint8_t, int, emu_mma_m16n8k32_s8)
TILE_KERNEL(self_mma_u8, uint8_t, int, emu_mma_m16n8k32_u8)

// Every matrix load, 12 words for each lane, of 32 rows of 16 bytes.
DS4_KERNEL(self_ldmatrix_words)(const uint4* rows, uint32_t* out) {
    __shared__ uint4 s[32];
    s[threadIdx.x] = rows[threadIdx.x];
    __syncwarp();
    uint32_t* o = out + threadIdx.x * 12;
    emu_ldmatrix_x4(o, &s[threadIdx.x]);
    emu_ldmatrix_x4_trans(o + 4, &s[threadIdx.x]);
    emu_ldmatrix_x2(o + 8, &s[threadIdx.x]);
    emu_ldmatrix_x2_trans(o + 10, &s[threadIdx.x]);
}
DS4_REGISTER(self_ldmatrix_words)

// The usual way to a product: rows come by cp.async, fragments by ldmatrix, B transposed on the way.
DS4_KERNEL(self_ldmatrix)(const __half* a, const __half* b, float* out) {
    __shared__ __align__(16) __half sa[16][16];
    __shared__ __align__(16) __half sb[16][8];
    unsigned lane = threadIdx.x;
    emu_cp_async16(&sa[lane / 2][lane % 2 * 8], a + lane * 8);
    if (lane < 16) emu_cp_async16(&sb[lane][0], b + lane * 8);
    emu_cp_async_commit();
    emu_cp_async_wait<0>();
    __syncwarp();
    uint32_t fa[4], fb[2];
    emu_ldmatrix_x4(fa, &sa[lane % 16][lane / 16 * 8]);
    emu_ldmatrix_x2_trans(fb, &sb[lane % 16][0]);
    float c[4] = {1, 1, 1, 1};
    emu_mma_m16n8k16_f16(c, fa, fb, c);
    for (unsigned i = 0; i < 4; i++) out[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = c[i];
}
DS4_REGISTER(self_ldmatrix)

// A wait that leaves the newest group open sees the older copy and not the newer.
DS4_KERNEL(self_missing_wait)(const int* in, int* out) {
    __shared__ __align__(16) int s[8];
    emu_cp_async16(&s[0], in);
    emu_cp_async_commit();
    emu_cp_async16(&s[4], in + 4, 8);
    emu_cp_async_commit();
    emu_cp_async_wait<1>();
    out[0] = s[0], out[1] = s[4];
    emu_cp_async_wait<0>();
    out[2] = s[4], out[3] = s[7];
}
DS4_REGISTER(self_missing_wait)
