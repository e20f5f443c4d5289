// Hyper-connections (architecture.md 2.2, 2.3): spreading a sublayer's output over the streams,
// mixing the streams into the next sublayer's input, and the int8 forms of that input.
#pragma once
#include "seq.cuh"

// Channels of each stream that one block of `hc_mix` visits, and so its partial sums.
#define HC_SLICE (N_EMBD < 128 ? N_EMBD : 128)
#define HC_SLICES ((N_EMBD + HC_SLICE - 1) / HC_SLICE)
#define HC_MIX (2 * N_HC + N_HC * N_HC)
// A partial: up to HC_MIX products and the sum of squares.
#define HC_PART (HC_MIX + 1)
// Gates of a token as kept between kernels: pre, post, comb.
#define HC_GATES HC_MIX

__device__ __forceinline__ float weight_at(const Mat& w, size_t at) {
    return w.type == TY_F16 ? __half2float(((const half*)w.q)[at]) : ((const float*)w.q)[at];
}

// Channel `d` of every stream after the sublayer: next[k] = post[k]·y + sum_j comb[j][k]·x[j]. `x`
// holds the old values and receives the new ones.
__device__ __forceinline__ void spread(float x[N_HC], const float* y, const float* gates, float* next, int d,
                                       bool inside) {
    const float out = inside ? y[d] : 0.0f;
    float old[N_HC];
#pragma unroll
    for (int k = 0; k < N_HC; k++) old[k] = x[k];
#pragma unroll
    for (int k = 0; k < N_HC; k++) {
        x[k] = gates[N_HC + k] * out;
#pragma unroll
        for (int j = 0; j < N_HC; j++) x[k] += gates[2 * N_HC + j * N_HC + k] * old[j];
        if (inside) next[(size_t)k * N_EMBD + d] = x[k];
    }
}

// Spreads `y` over the streams with the gates of the last `hc_pre` (skipped when `y` is null: then
// the streams are taken as they are), and leaves each slice's part of the products of `fn` with the
// new streams. grid (HC_SLICES, groups of tokens), block 128; a block keeps its weights in registers
// for all of its tokens.
//
// streams, next: [T][N_HC][N_EMBD]; y: [T][N_EMBD]; gates: [T][HC_GATES];
// part: [n][HC_SLICES][HC_PART]; `rows`, optional, maps row t of the output to a token.
DS4_KERNEL(hc_mix, 128)(Mat fn, const float* streams, const float* y, const float* gates, float* next,
                   float* part, const int* rows, int n) {
    __shared__ float sums[2][4][HC_PART];
    const int d = blockIdx.x * HC_SLICE + threadIdx.x;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const bool inside = threadIdx.x < HC_SLICE && d < N_EMBD;
    // Weights do not depend on earlier kernels: their way from memory overlaps the wait.
    float w[HC_MIX][N_HC];
#pragma unroll
    for (int m = 0; m < HC_MIX; m++)
#pragma unroll
        for (int k = 0; k < N_HC; k++)
            w[m][k] = inside && m < fn.rows ? weight_at(fn, ((size_t)m * N_HC + k) * N_EMBD + d) : 0.0f;
    pdl_wait();
    pdl_go();
    for (int t = blockIdx.y, turn = 0; t < n; t += gridDim.y, turn ^= 1) {
        const int from = rows ? rows[t] : t;
        float x[N_HC], square = 0.0f;
        const float* in = streams + (size_t)from * N_HC * N_EMBD + d;
#pragma unroll
        for (int k = 0; k < N_HC; k++) x[k] = inside ? in[(size_t)k * N_EMBD] : 0.0f;
        if (y) spread(x, y + (size_t)from * N_EMBD, gates + (size_t)from * HC_GATES,
                      next + (size_t)from * N_HC * N_EMBD, d, inside);
#pragma unroll
        for (int k = 0; k < N_HC; k++) square += x[k] * x[k];
#pragma unroll
        for (int m = 0; m < HC_MIX; m++) {
            float v = 0.0f;
#pragma unroll
            for (int k = 0; k < N_HC; k++) v += w[m][k] * x[k];
            v = warp_sum(v);
            if (lane == 0) sums[turn][warp][m] = v;
        }
        square = warp_sum(square);
        if (lane == 0) sums[turn][warp][HC_MIX] = square;
        // Two sets of sums in turns: one barrier a token is enough.
        __syncthreads();
        if (threadIdx.x < HC_PART) {
            const float(*s)[HC_PART] = sums[turn];
            const int m = threadIdx.x;
            part[((size_t)t * HC_SLICES + blockIdx.x) * HC_PART + m] = s[0][m] + s[1][m] + s[2][m] + s[3][m];
        }
    }
}
DS4_REGISTER(hc_mix)

// Spreads `y` over the streams and nothing else: after the last layer. grid (HC_SLICES, tokens).
DS4_KERNEL(hc_post, 128)(const float* streams, const float* y, const float* gates, float* next) {
    const int t = blockIdx.y, d = blockIdx.x * HC_SLICE + threadIdx.x;
    pdl_wait();
    pdl_go();
    if (threadIdx.x >= HC_SLICE || d >= N_EMBD) return;
    float x[N_HC];
#pragma unroll
    for (int k = 0; k < N_HC; k++) x[k] = streams[((size_t)t * N_HC + k) * N_EMBD + d];
    spread(x, y + (size_t)t * N_EMBD, gates + (size_t)t * HC_GATES, next + (size_t)t * N_HC * N_EMBD, d, true);
}
DS4_REGISTER(hc_post)

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Row softmax and alternating normalisation of the N_HC × N_HC matrix that the lanes of one warp
// hold, lane j·N_HC + k the element of row j and column k; other lanes idle along.
__device__ __forceinline__ float sinkhorn(float v, int lane) {
    const int j = lane / N_HC, k = lane % N_HC;
    const bool used = lane < N_HC * N_HC;
    float row = -INFINITY;
#pragma unroll
    for (int i = 0; i < N_HC; i++) row = fmaxf(row, __shfl_sync(FULL, v, (j * N_HC + i) & 31));
    v = used ? expf(v - row) : 0.0f;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N_HC; i++) sum += __shfl_sync(FULL, v, (j * N_HC + i) & 31);
    v = v / sum + HC_EPS;
    for (int it = 0; it < SINKHORN; it++) {
        if (it) {
            sum = HC_EPS;
#pragma unroll
            for (int i = 0; i < N_HC; i++) sum += __shfl_sync(FULL, v, (j * N_HC + i) & 31);
            v /= sum;
        }
        sum = HC_EPS;
#pragma unroll
        for (int i = 0; i < N_HC; i++) sum += __shfl_sync(FULL, v, (i * N_HC + k) & 31);
        v /= sum;
    }
    return v;
}

// Which int8 forms of its output a kernel writes beside the f32 rows.
#define FORM_Q8_0 1
#define FORM_Q8_K 2

// A block of 32 in Q8_0 form by one warp: scale amax/127 (6.2).
__device__ __forceinline__ void quantise_32(const float* x, int8_t* q, float* d) {
    const int lane = threadIdx.x & 31;
    const float v = x[lane], scale = warp_max(fabsf(v)) / 127.0f;
    const float inv = scale == 0.0f ? 0.0f : 1.0f / scale;
    q[lane] = (int8_t)round_i8(v * inv);
    if (lane == 0) *d = scale;
}

// A block of 256 in Q8_K form by one warp (6.4): the scale follows from the element of largest
// magnitude, the first of equal ones; `sums` are those of 16 values each.
__device__ __forceinline__ void quantise_256(const float* x, int8_t* q, float* d, int16_t* sums) {
    const int lane = threadIdx.x & 31;
    float v[8], best = 0.0f;
    int at = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i] = x[lane * 8 + i];
        if (fabsf(v[i]) > fabsf(best)) { best = v[i]; at = lane * 8 + i; }
    }
#pragma unroll
    for (int o = 16; o; o >>= 1) {
        const float other = __shfl_xor_sync(FULL, best, o);
        const int other_at = __shfl_xor_sync(FULL, at, o);
        const bool larger = fabsf(other) > fabsf(best) || (fabsf(other) == fabsf(best) && other_at < at);
        if (larger) { best = other; at = other_at; }
    }
    const float inv = best == 0.0f ? 0.0f : -127.0f / best;
    int sum = 0;
    uint32_t packed[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int n = round_i8(v[i] * inv);
        sum += n;
        packed[i >> 2] |= (uint32_t)(n & 255) << (8 * (i & 3));
    }
    ((uint2*)q)[lane] = make_uint2(packed[0], packed[1]);
    sum += __shfl_xor_sync(FULL, sum, 1);
    if ((lane & 1) == 0) sums[lane / 2] = (int16_t)sum;
    if (lane == 0) *d = inv == 0.0f ? 0.0f : 1.0f / inv;
}

// Int8 forms of `n` values that the whole block sees; each warp takes whole blocks of them.
__device__ __forceinline__ void quantise_row(const float* x, int n, int forms, int8_t* q8, float* d8,
                                             int8_t* qk, float* dk, int16_t* sk) {
    const int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    if (forms & FORM_Q8_0)
        for (int b = warp; b < n / 32; b += warps) quantise_32(x + b * 32, q8 + b * 32, d8 + b);
    if (forms & FORM_Q8_K)
        for (int b = warp; b < n / 256; b += warps) quantise_256(x + b * 256, qk + b * 256, dk + b, sk + b * 16);
}

// Gates of every token from the partial products, and the sublayer's normed input with its int8
// forms. `head` is 1 for the output head, which only has `pre` gates with one scale. grid (tokens),
// block HC_THREADS.
//
// rows, optional, maps row t of the output to a token of `streams`; x: [T][N_EMBD];
// bare, optional: the input before its norm, for observers.
#define HC_THREADS (N_EMBD >= 1024 ? 1024 : N_EMBD < 64 ? 64 : (N_EMBD + 31) / 32 * 32)
DS4_KERNEL(hc_pre, HC_THREADS)(const float* part, const float* base, const float* scale, const float* streams,
                   const int* rows, int head, const float* weight, int forms, float* gates, float* x,
                   float* bare, int8_t* q8, float* d8, int8_t* qk, float* dk, int16_t* sk) {
    __shared__ float mix[HC_PART], space[32];
    __shared__ __align__(16) float row[N_EMBD];
    const int t = blockIdx.x, from = rows ? rows[t] : t, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    constexpr int PER = (N_EMBD + HC_THREADS - 1) / HC_THREADS;
    float w[PER];
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int d = threadIdx.x + i * HC_THREADS;
        w[i] = d < N_EMBD ? weight[d] : 0.0f;
    }
    pdl_wait();
    // The streams are loaded while the gates are computed.
    float v[PER][N_HC];
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int d = threadIdx.x + i * HC_THREADS;
#pragma unroll
        for (int k = 0; k < N_HC; k++)
            v[i][k] = d < N_EMBD ? streams[((size_t)from * N_HC + k) * N_EMBD + d] : 0.0f;
    }
    const int n = head ? N_HC : HC_MIX;
    // Each warp sums some of the columns of the partials.
    for (int m = warp; m < HC_PART; m += blockDim.x >> 5) {
        float sum = 0.0f;
        for (int s = lane; s < HC_SLICES; s += 32) sum += part[((size_t)t * HC_SLICES + s) * HC_PART + m];
        sum = warp_sum(sum);
        if (lane == 0) mix[m] = sum;
    }
    __syncthreads();
    const float inv = 1.0f / sqrtf(mix[HC_MIX] / (float)(N_HC * N_EMBD) + RMS_EPS);
    __syncthreads();
    if (threadIdx.x < n) {
        const int m = threadIdx.x, part_of = m < N_HC ? 0 : m < 2 * N_HC ? 1 : 2;
        const float g = mix[m] * inv * scale[part_of] + base[m];
        mix[m] = part_of == 0 ? sigmoid(g) + HC_EPS : part_of == 1 ? 2.0f * sigmoid(g) : g;
    }
    __syncthreads();
    // The last warp makes the doubly stochastic matrix while the others go on.
    if (!head && warp == (blockDim.x >> 5) - 1) {
        const float c = sinkhorn(lane < N_HC * N_HC ? mix[2 * N_HC + lane] : 0.0f, lane);
        float* g = gates + (size_t)t * HC_GATES;
        if (lane < 2 * N_HC) g[lane] = mix[lane];
        if (lane < N_HC * N_HC) g[2 * N_HC + lane] = c;
    }
    float a[PER], square = 0.0f;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        a[i] = mix[0] * v[i][0];
#pragma unroll
        for (int k = 1; k < N_HC; k++) a[i] += mix[k] * v[i][k];
        square += a[i] * a[i];
        const int d = threadIdx.x + i * HC_THREADS;
        if (bare && d < N_EMBD) bare[(size_t)t * N_EMBD + d] = a[i];
    }
    square = block_sum(square, space);
    const float norm = 1.0f / sqrtf(square / (float)N_EMBD + RMS_EPS);
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int d = threadIdx.x + i * HC_THREADS;
        if (d < N_EMBD) {
            const float o = a[i] * norm * w[i];
            row[d] = o;
            x[(size_t)t * N_EMBD + d] = o;
        }
    }
    pdl_go();
    if (!forms) return;
    __syncthreads();
    const size_t at = (size_t)t * N_EMBD;
    quantise_row(row, N_EMBD, forms, q8 + at, d8 + at / 32, qk + at, dk + at / 256, sk + at / 16);
}
DS4_REGISTER(hc_pre)

// Int8 forms of rows of f32 values. grid (tokens, pieces of 1024 columns), block 128.
DS4_KERNEL(quantise, 128)(const float* x, int cols, int forms, int8_t* q8, float* d8, int8_t* qk, float* dk,
                     int16_t* sk) {
    pdl_wait();
    pdl_go();
    const size_t at = (size_t)blockIdx.x * cols + blockIdx.y * 1024;
    const int n = min(1024, cols - (int)blockIdx.y * 1024);
    quantise_row(x + at, n, forms, q8 + at, d8 + at / 32, qk + at, dk + at / 256, sk + at / 16);
}
DS4_REGISTER(quantise)
