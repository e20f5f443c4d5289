// Products of dense matrices with many tokens: tiles of rows × tokens on tensor cores.
//
// out[t][r] = Σ_k w[r][k] · x[t][k]. Tokens run fastest over the grid, so that a tile of weights
// is read from memory once.
#pragma once
#include "common.cuh"

// An integer sum that starts at this number, taken for a float, is 1.5·2^23 plus the sum, exact up
// to ±2^22: one subtraction converts it.
#define INT_BIAS 0x4b400000
#define INT_BIAS_F 12582912.0f

// The sum times `scale`, rounded once: `bias` is -INT_BIAS_F · scale, exact for a scale of at most 22
// bits, as every f16 is.
__device__ __forceinline__ float biased_times(int sum, float scale, float bias) { return fmaf(__int_as_float(sum), scale, bias); }

// Chunk of 16 bytes at which chunk `c` of row `row` lies, for conflict-free ldmatrix: rows of
// 64 or 128 bytes.
template <int BYTES> __device__ __forceinline__ int mm_chunk(int row, int c) {
    if (BYTES == 64) return c ^ ((row >> 1) & 3);
    return c ^ (row & 7);
}

// --- Q8_0 × int8

// Shared memory of a tile of BM rows × BN tokens, KB bytes of K in each of STAGES.
#define MM_Q8_SMEM(BM, BN, KB, STAGES) ((STAGES) * ((BM) + (BN)) * ((KB) + (KB) / 8))

template <int BM, int BN, int WM, int WN, int KB, int STAGES> struct MmQ8 {
    static constexpr int WARPS_M = BM / WM, WARPS_N = BN / WN, THREADS = WARPS_M * WARPS_N * 32;
    static constexpr int MT = WM / 16, NT = WN / 8, BLOCKS = KB / 32, CHUNKS = KB / 16;
    static constexpr int A_BYTES = BM * KB, B_BYTES = BN * KB;
    static constexpr int SCALES = (BM + BN) * BLOCKS;  // floats of a stage
    static constexpr int STAGE = A_BYTES + B_BYTES + SCALES * 4;
    static constexpr int PER = (BM + BN + THREADS - 1) / THREADS;  // rows and tokens whose scales a thread brings

    // One tile's operands.
    struct In {
        const int8_t* a;
        const half* ad;
        const int8_t* b;
        const float* bd;
        int rows, tokens, blocks;  // rows and tokens left from the tile's first; blocks of 32 in K
        int a_stride, b_stride;    // of values; a tile's offsets fit 32 bits
    };

    // Starts the copies of a stage's values: a thread has one column of chunks, every STEPth row.
    static constexpr int STEP = THREADS / CHUNKS;
    template <int ROWS>
    static __device__ __forceinline__ void copy_part(unsigned char* s, const int8_t* from, int stride, int rows, int left) {
        const int c = threadIdx.x % CHUNKS, r = threadIdx.x / CHUNKS;
        const bool in_k = c * 16 < left;
        from += r * stride + c * 16;
        s += r * KB + mm_chunk<KB>(r, c) * 16;
#pragma unroll
        for (int i = 0; i < ROWS / STEP; i++) {
            const bool ok = in_k && r + i * STEP < rows;
            cp_async16(s + i * STEP * KB, ok ? from + i * STEP * stride : from - r * stride - c * 16, ok);
        }
    }
    static __device__ __forceinline__ void copy(unsigned char* s, const In& in, int k0) {
        static_assert(STEP % 8 == 0 && BM % STEP == 0 && BN % STEP == 0, "the swizzle repeats every 8 rows");
        const int left = in.blocks * 32 - k0;
        copy_part<BM>(s, in.a + k0, in.a_stride, in.rows, left);
        copy_part<BN>(s + A_BYTES, in.b + k0, in.b_stride, in.tokens, left);
    }

    // Scales lie so that a thread finds those of its rows (and tokens) side by side.
    static __device__ __forceinline__ int a_slot(int r) {
        const int w = r / WM, in = r % WM;
        return (w * 8 + in % 8) * (WM / 8) + in / 8;
    }
    static __device__ __forceinline__ int b_slot(int t) {
        const int w = t / WN, in = t % WN;
        return (w * 4 + in % 8 / 2) * (WN / 4) + in / 8 * 2 + in % 2;
    }
    static __device__ __forceinline__ void load_scales(float v[PER][BLOCKS], const In& in, int b0) {
#pragma unroll
        for (int p = 0; p < PER; p++) {
            const int i = threadIdx.x + p * THREADS;
#pragma unroll
            for (int b = 0; b < BLOCKS; b++) {
                v[p][b] = 0.0f;
                if (b0 + b >= in.blocks) continue;
                if (i < BM) {
                    if (i < in.rows) v[p][b] = __half2float(in.ad[i * (in.a_stride / 32) + b0 + b]);
                } else if (i < BM + BN) {
                    if (i - BM < in.tokens) v[p][b] = in.bd[(i - BM) * (in.b_stride / 32) + b0 + b];
                }
            }
        }
    }
    static __device__ __forceinline__ void store_scales(unsigned char* s, const float v[PER][BLOCKS]) {
        float* at = (float*)(s + A_BYTES + B_BYTES);
#pragma unroll
        for (int p = 0; p < PER; p++) {
            const int i = threadIdx.x + p * THREADS;
#pragma unroll
            for (int b = 0; b < BLOCKS; b++) {
                if (i < BM) at[b * (BM + BN) + a_slot(i)] = v[p][b];
                else if (i < BM + BN) at[b * (BM + BN) + BM + b_slot(i - BM)] = v[p][b];
            }
        }
    }

    // acc += the stage's products.
    static __device__ __forceinline__ void stage(const unsigned char* s, float acc[MT][NT][4], int wm, int wn) {
        const int lane = threadIdx.x & 31;
        const float* scales = (const float*)(s + A_BYTES + B_BYTES);
        const int bias[4] = {INT_BIAS, INT_BIAS, INT_BIAS, INT_BIAS};
#pragma unroll 1
        for (int k = 0; k < BLOCKS; k++) {
            uint32_t b[NT][2];
#pragma unroll
            for (int j = 0; j < NT; j += 2) {
                const int row = wn * WN + j * 8 + (lane >> 4) * 8 + (lane & 7), c = 2 * k + ((lane >> 3) & 1);
                uint32_t r[4];
                ldmatrix_x4(r, s + A_BYTES + row * KB + mm_chunk<KB>(row, c) * 16);
                b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
            }
            float bd[NT * 2];
            const float4* at = (const float4*)(scales + k * (BM + BN) + BM + (wn * 4 + (lane & 3)) * (WN / 4));
#pragma unroll
            for (int j = 0; j < NT / 2; j++) {
                const float4 v = at[j];
                bd[4 * j] = v.x, bd[4 * j + 1] = v.y, bd[4 * j + 2] = v.z, bd[4 * j + 3] = v.w;
            }
#pragma unroll
            for (int i = 0; i < MT; i++) {
                const float2 d2 = ((const float2*)(scales + k * (BM + BN) + (wm * 8 + (lane >> 2)) * (WM / 8)))[i];
                const float ad[2] = {d2.x, d2.y}, bias_ad[2] = {-INT_BIAS_F * d2.x, -INT_BIAS_F * d2.y};
                const int row = wm * WM + i * 16 + (lane & 15), c = 2 * k + (lane >> 4);
                uint32_t a[4];
                ldmatrix_x4(a, s + row * KB + mm_chunk<KB>(row, c) * 16);
#pragma unroll
                for (int j = 0; j < NT; j++) {
                    int d[4];
                    mma_s8(d, a, b[j], bias);
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        acc[i][j][e] = fmaf(biased_times(d[e], ad[e / 2], bias_ad[e / 2]), bd[2 * j + (e & 1)], acc[i][j][e]);
                }
            }
        }
    }

    static __device__ __forceinline__ void run(const Mat& w, const int8_t* xq, const float* xd, int x_stride, float* out,
                                               int out_stride, int T, int groups) {
        DS4_DYN_SMEM(unsigned char, smem);
        const int group_rows = w.rows / groups, tiles = (group_rows + BM - 1) / BM;
        const int group = blockIdx.y / tiles, row0 = blockIdx.y % tiles * BM, t0 = blockIdx.x * BN;
        if (group >= groups || t0 >= T) return pdl_wait();
        const int64_t first = (int64_t)group * group_rows + row0;
        In in;
        in.a = (const int8_t*)w.q + first * w.cols;
        in.ad = (const half*)w.d + first * (w.cols / 32);
        in.b = xq + (int64_t)t0 * x_stride + (int64_t)group * w.cols;
        in.bd = xd + (int64_t)t0 * (x_stride / 32) + group * (w.cols / 32);
        in.rows = group_rows - row0, in.tokens = T - t0, in.blocks = w.cols / 32;
        in.a_stride = w.cols, in.b_stride = x_stride;
        const int n = (in.blocks + BLOCKS - 1) / BLOCKS;
        const int warp = threadIdx.x >> 5, wm = warp % WARPS_M, wn = warp / WARPS_M, lane = threadIdx.x & 31;
        float acc[MT][NT][4] = {};

        pdl_wait();
        float v[PER][BLOCKS];
#pragma unroll
        for (int s = 0; s < STAGES - 1; s++) {
            if (s < n) {
                copy(smem + s * STAGE, in, s * KB);
                load_scales(v, in, s * BLOCKS);
                store_scales(smem + s * STAGE, v);
            }
            cp_async_commit();
        }
        for (int k = 0; k < n; k++) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            const int next = k + STAGES - 1;
            unsigned char* to = smem + next % STAGES * STAGE;
            if (next < n) {
                copy(to, in, next * KB);
                load_scales(v, in, next * BLOCKS);
            }
            cp_async_commit();
            stage(smem + k % STAGES * STAGE, acc, wm, wn);
            if (next < n) store_scales(to, v);
        }
        pdl_go();
#pragma unroll
        for (int j = 0; j < NT; j++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int t = wn * WN + j * 8 + (lane & 3) * 2 + e;
                float* to = out + (int64_t)(t0 + t) * out_stride + first;
                if (t >= in.tokens) continue;
#pragma unroll
                for (int i = 0; i < MT; i++) {
                    const int r = wm * WM + i * 16 + (lane >> 2);
                    if (r < in.rows) to[r] = acc[i][j][e];
                    if (r + 8 < in.rows) to[r + 8] = acc[i][j][e + 2];
                }
            }
        }
    }
};

// `cols` a multiple of 32; activations in Q8_0 form: xq [T][x_stride], xd [T][x_stride/32]. With
// groups, row r reads the columns g·cols.. of x, g = r / (rows/groups).
// Grid (⌈T/BN⌉, groups·⌈rows/groups/BM⌉).
#define MM_Q8_KERNEL(name, blocks, ...)                                                                                  \
    typedef MmQ8<__VA_ARGS__> name##_tile;                                                                               \
    DS4_KERNEL(name, name##_tile::THREADS, blocks)                                                                       \
    (Mat w, const int8_t* xq, const float* xd, int x_stride, float* out, int out_stride, int T, int groups) {            \
        name##_tile::run(w, xq, xd, x_stride, out, out_stride, T, groups);                                               \
    }                                                                                                                    \
    DS4_REGISTER(name)

#define MM_Q8_BM 128
#define MM_Q8_BN 128
#define MM_Q8_THREADS 256
#define MM_Q8_BYTES MM_Q8_SMEM(128, 128, 128, 2)
MM_Q8_KERNEL(mm_q8_0, 2, 128, 128, 64, 32, 128, 2)
// The same where no multiprocessor gets more than one block: with all the registers it likes.
MM_Q8_KERNEL(mm_q8_0_one, 1, 128, 128, 64, 32, 128, 2)
// For few tokens or few rows: smaller tiles, more blocks.
#define MM_Q8_SMALL_BM 64
#define MM_Q8_SMALL_BN 64
#define MM_Q8_SMALL_THREADS 128
#define MM_Q8_SMALL_BYTES MM_Q8_SMEM(64, 64, 128, 3)
MM_Q8_KERNEL(mm_q8_0_small, 3, 64, 64, 32, 32, 128, 3)
// For both.
#define MM_Q8_FEW_BM 32
#define MM_Q8_FEW_BN 64
#define MM_Q8_FEW_THREADS 128
#define MM_Q8_FEW_BYTES MM_Q8_SMEM(32, 64, 128, 3)
MM_Q8_KERNEL(mm_q8_0_few, 4, 32, 64, 16, 32, 128, 3)

// --- F16 × f32

// The activations are split into a sum of two f16 numbers, after a multiplication by this: so small
// values keep their digits, and values up to 4094 fit.
#define MM_F16_SCALE 16.0f
#define MM_F16_SMEM(BM, BN) (2 * ((BM) + 2 * (BN)) * 128)

__device__ __forceinline__ uint32_t pack_half2(half a, half b) {
    const half2 v = __halves2half2(a, b);
    return *(const uint32_t*)&v;
}

// v = hi + lo, two values in a word.
__device__ __forceinline__ void split_f16(float v0, float v1, uint32_t* hi, uint32_t* lo) {
    const half h0 = __float2half_rn(fminf(fmaxf(v0, -65504.0f), 65504.0f));
    const half h1 = __float2half_rn(fminf(fmaxf(v1, -65504.0f), 65504.0f));
    *hi = pack_half2(h0, h1);
    *lo = pack_half2(__float2half_rn(v0 - __half2float(h0)), __float2half_rn(v1 - __half2float(h1)));
}

template <int BM, int BN, int WM, int WN> struct MmF16 {
    static constexpr int WARPS_M = BM / WM, WARPS_N = BN / WN, THREADS = WARPS_M * WARPS_N * 32;
    static constexpr int MT = WM / 16, NT = WN / 8, K = 64;
    static constexpr int A_BYTES = BM * 128, B_BYTES = BN * 128, STAGE = A_BYTES + 2 * B_BYTES;
    static constexpr int PER = BN * 8 / THREADS;  // chunks of 8 activations that a thread converts

    static __device__ __forceinline__ void copy(unsigned char* s, const half* a, int rows, int cols, int k0) {
#pragma unroll
        for (int i = threadIdx.x; i < BM * 8; i += THREADS) {
            const int r = i / 8, c = i % 8;
            const bool ok = r < rows && k0 + c * 8 < cols;
            cp_async16(s + r * 128 + (c ^ (r & 7)) * 16, a + (ok ? (int64_t)r * cols + k0 + c * 8 : 0), ok);
        }
    }
    static __device__ __forceinline__ void load(float4 v[PER][2], const float* x, int tokens, int cols, int stride, int k0) {
#pragma unroll
        for (int p = 0; p < PER; p++) {
            const int i = threadIdx.x + p * THREADS, t = i / 8, c = i % 8;
            v[p][0] = v[p][1] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (t < tokens && k0 + c * 8 < cols) {
                const float4* from = (const float4*)(x + (int64_t)t * stride + k0 + c * 8);
                v[p][0] = from[0], v[p][1] = from[1];
            }
        }
    }
    static __device__ __forceinline__ void store(unsigned char* s, const float4 v[PER][2]) {
#pragma unroll
        for (int p = 0; p < PER; p++) {
            const int i = threadIdx.x + p * THREADS, t = i / 8, c = i % 8;
            uint32_t hi[4], lo[4];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float4 x = v[p][h];
                split_f16(x.x * MM_F16_SCALE, x.y * MM_F16_SCALE, hi + 2 * h, lo + 2 * h);
                split_f16(x.z * MM_F16_SCALE, x.w * MM_F16_SCALE, hi + 2 * h + 1, lo + 2 * h + 1);
            }
            unsigned char* at = s + A_BYTES + t * 128 + (c ^ (t & 7)) * 16;
            *(uint4*)at = make_uint4(hi[0], hi[1], hi[2], hi[3]);
            *(uint4*)(at + B_BYTES) = make_uint4(lo[0], lo[1], lo[2], lo[3]);
        }
    }
    static __device__ __forceinline__ void stage(const unsigned char* s, float acc[MT][NT][4], int wm, int wn) {
        const int lane = threadIdx.x & 31;
#pragma unroll
        for (int k = 0; k < K / 16; k++) {
            uint32_t a[MT][4];
#pragma unroll
            for (int i = 0; i < MT; i++) {
                const int row = wm * WM + i * 16 + (lane & 15), c = 2 * k + (lane >> 4);
                ldmatrix_x4(a[i], s + row * 128 + (c ^ (row & 7)) * 16);
            }
#pragma unroll
            for (int part = 0; part < 2; part++) {
#pragma unroll
                for (int j = 0; j < NT; j += 2) {
                    const int row = wn * WN + j * 8 + (lane >> 4) * 8 + (lane & 7), c = 2 * k + ((lane >> 3) & 1);
                    uint32_t b[4];
                    ldmatrix_x4(b, s + A_BYTES + part * B_BYTES + row * 128 + (c ^ (row & 7)) * 16);
#pragma unroll
                    for (int i = 0; i < MT; i++) {
                        mma_f16(acc[i][j], a[i], b, acc[i][j]);
                        mma_f16(acc[i][j + 1], a[i], b + 2, acc[i][j + 1]);
                    }
                }
            }
        }
    }
    static __device__ __forceinline__ void run(const Mat& w, const float* xf, int x_stride, float* out, int out_stride, int T) {
        DS4_DYN_SMEM(unsigned char, smem);
        const int row0 = blockIdx.y * BM, t0 = blockIdx.x * BN, cols = w.cols;
        if (row0 >= w.rows || t0 >= T) return pdl_wait();
        const half* a = (const half*)w.q + (int64_t)row0 * cols;
        const float* x = xf + (int64_t)t0 * x_stride;
        const int rows = w.rows - row0, tokens = T - t0, n = (cols + K - 1) / K;
        const int warp = threadIdx.x >> 5, wm = warp % WARPS_M, wn = warp / WARPS_M, lane = threadIdx.x & 31;
        float acc[MT][NT][4] = {};
        float4 v[PER][2];

        copy(smem, a, rows, cols, 0);
        cp_async_commit();
        pdl_wait();
        load(v, x, tokens, cols, x_stride, 0);
        store(smem, v);
        for (int k = 0; k < n; k++) {
            unsigned char* to = smem + (k + 1) % 2 * STAGE;
            cp_async_wait<0>();
            __syncthreads();
            if (k + 1 < n) {
                copy(to, a, rows, cols, (k + 1) * K);
                load(v, x, tokens, cols, x_stride, (k + 1) * K);
            }
            cp_async_commit();
            stage(smem + k % 2 * STAGE, acc, wm, wn);
            if (k + 1 < n) store(to, v);
        }
        pdl_go();
#pragma unroll
        for (int j = 0; j < NT; j++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int t = wn * WN + j * 8 + (lane & 3) * 2 + e;
                if (t >= tokens) continue;
                float* to = out + (int64_t)(t0 + t) * out_stride + row0;
#pragma unroll
                for (int i = 0; i < MT; i++) {
                    const int r = wm * WM + i * 16 + (lane >> 2);
                    if (r < rows) to[r] = acc[i][j][e] * (1.0f / MM_F16_SCALE);
                    if (r + 8 < rows) to[r + 8] = acc[i][j][e + 2] * (1.0f / MM_F16_SCALE);
                }
            }
        }
    }
};

// `cols` a multiple of 16, x_stride of 4. Grid (⌈T/BN⌉, ⌈rows/BM⌉).
#define MM_F16_KERNEL(name, blocks, ...)                                                                 \
    typedef MmF16<__VA_ARGS__> name##_tile;                                                              \
    DS4_KERNEL(name, name##_tile::THREADS, blocks)                                                       \
    (Mat w, const float* xf, int x_stride, float* out, int out_stride, int T) {                          \
        name##_tile::run(w, xf, x_stride, out, out_stride, T);                                           \
    }                                                                                                    \
    DS4_REGISTER(name)

#define MM_F16_BM 128
#define MM_F16_BN 128
#define MM_F16_THREADS 256
MM_F16_KERNEL(mm_f16, 1, 128, 128, 64, 32)
#define MM_F16_SMALL_BM 64
#define MM_F16_SMALL_BN 64
#define MM_F16_SMALL_THREADS 128
MM_F16_KERNEL(mm_f16_small, 3, 64, 64, 32, 32)

// --- F32 × f32

#define MM_F32_TILE 64
#define MM_F32_THREADS 256

// Acc of a tile of 64 rows × 64 tokens: a thread has the 4 rows ty, ty+16, .. and 4 tokens likewise.
// `row(r, k)` and `tok(t, k)` give operands, zero outside.
template <class Row, class Token>
__device__ __forceinline__ void mm_f32_tile(float acc[4][4], int cols, Row row, Token tok) {
    __shared__ float a[16][MM_F32_TILE + 1], b[16][MM_F32_TILE + 1];
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    for (int k0 = 0; k0 < cols; k0 += 16) {
        __syncthreads();
        for (int i = threadIdx.x; i < 16 * MM_F32_TILE; i += MM_F32_THREADS) {
            const int k = i % 16, r = i / 16;
            a[k][r] = k0 + k < cols ? row(r, k0 + k) : 0.0f;
            b[k][r] = k0 + k < cols ? tok(r, k0 + k) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 16; k++) {
            float av[4], bv[4];
#pragma unroll
            for (int i = 0; i < 4; i++) av[i] = a[k][tx + 16 * i], bv[i] = b[k][ty + 16 * i];
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) acc[i][j] = fmaf(av[i], bv[j], acc[i][j]);
        }
    }
}

// Grid (⌈T/64⌉, ⌈rows/64⌉), 256 threads.
DS4_KERNEL(mm_f32, MM_F32_THREADS)(Mat w, const float* xf, int x_stride, float* out, int out_stride, int T) {
    const int row0 = blockIdx.y * MM_F32_TILE, t0 = blockIdx.x * MM_F32_TILE;
    float acc[4][4] = {};
    const float* a = (const float*)w.q;
    pdl_wait();
    mm_f32_tile(
        acc, w.cols,
        [&](int r, int k) { return row0 + r < w.rows ? a[(int64_t)(row0 + r) * w.cols + k] : 0.0f; },
        [&](int t, int k) { return t0 + t < T ? xf[(int64_t)(t0 + t) * x_stride + k] : 0.0f; });
    pdl_go();
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            const int r = row0 + tx + 16 * i, t = t0 + ty + 16 * j;
            if (r < w.rows && t < T) out[(int64_t)t * out_stride + r] = acc[i][j];
        }
}
DS4_REGISTER(mm_f32)
