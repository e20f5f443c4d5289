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

// What a sublayer's gates make of its output and of the old streams of one channel:
// x[k] = post[k]·out + sum_j comb[j][k]·x[j]. `gates` are those of the token.
__device__ __forceinline__ void mix_streams(float x[N_HC], float out, const float* gates) {
    float old[N_HC];
#pragma unroll
    for (int k = 0; k < N_HC; k++) old[k] = x[k];
#pragma unroll
    for (int k = 0; k < N_HC; k++) x[k] = gates[N_HC + k] * out;
#pragma unroll
    for (int j = 0; j < N_HC; j++)
#pragma unroll
        for (int k = 0; k < N_HC; k++) x[k] += gates[2 * N_HC + j * N_HC + k] * old[j];
}

// One step of `warp_sums_16`: a lane keeps N of its 2N values and gives the others away.
template <int N> __device__ __forceinline__ void halve_sums(float v[16]) {
    const bool upper = threadIdx.x & 2 * N;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float given = upper ? v[i] : v[i + N], kept = upper ? v[i + N] : v[i];
        v[i] = kept + __shfl_xor_sync(FULL, given, 2 * N);
    }
}

// Sums of 16 values each over the warp, in 16 shuffles: lanes 2i and 2i + 1 receive the sum of v[i].
__device__ __forceinline__ float warp_sums_16(float v[16]) {
    halve_sums<8>(v);
    halve_sums<4>(v);
    halve_sums<2>(v);
    halve_sums<1>(v);
    return v[0] + __shfl_xor_sync(FULL, v[0], 1);
}

// Spreads `y` over the streams with the gates of the last `hc_pre` (skipped when `y` is null: then
// the streams are taken as they are), and leaves each slice's part of the products of `fn` with the
// new streams. grid (HC_SLICES, groups of tokens), block 128; a block keeps its weights in registers
// for all of its tokens.
//
// streams, next: [T][N_HC][N_EMBD]; y: [T][N_EMBD]; gates: [T][HC_GATES];
// part: [n][HC_SLICES][HC_PART]; `rows`, optional and only without `y`, maps row t of the output to
// a token.
DS4_KERNEL(hc_mix, 128)(Mat fn, const float* streams, const float* y, const float* gates, float* next,
                   float* part, const int* rows, int n) {
    constexpr int BATCHES = (HC_PART + 15) / 16;
    __shared__ float sums[2][4][16 * BATCHES];
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
    float x[N_HC], out = 0.0f;
    const auto load = [&](int t) {
        const int from = rows ? rows[t] : t;
#pragma unroll
        for (int k = 0; k < N_HC; k++) x[k] = inside ? streams[((size_t)from * N_HC + k) * N_EMBD + d] : 0.0f;
        if (y) out = inside ? y[(size_t)from * N_EMBD + d] : 0.0f;
    };
    if (blockIdx.y < n) load(blockIdx.y);
    for (int t = blockIdx.y, turn = 0; t < n; t += gridDim.y, turn ^= 1) {
        if (y) {
            mix_streams(x, out, gates + (size_t)t * HC_GATES);
#pragma unroll
            for (int k = 0; k < N_HC; k++)
                if (inside) next[((size_t)t * N_HC + k) * N_EMBD + d] = x[k];
        }
        float now[N_HC];
#pragma unroll
        for (int k = 0; k < N_HC; k++) now[k] = x[k];
        // The next token's values come while this one's are summed.
        if (t + gridDim.y < n) load(t + gridDim.y);
#pragma unroll
        for (int b = 0; b < BATCHES; b++) {
            float v[16];
#pragma unroll
            for (int i = 0; i < 16; i++) {
                const int m = b * 16 + i;
                v[i] = 0.0f;
#pragma unroll
                for (int k = 0; k < N_HC; k++) {
                    if (m < HC_MIX) v[i] += w[m][k] * now[k];
                    if (m == HC_MIX) v[i] += now[k] * now[k];
                }
            }
            const float sum = warp_sums_16(v);
            if ((lane & 1) == 0) sums[turn][warp][b * 16 + lane / 2] = sum;
        }
        // Two sets of sums in turns: one barrier a token is enough.
        __syncthreads();
        if (threadIdx.x < HC_PART) {
            const int m = threadIdx.x;
            part[((size_t)t * HC_SLICES + blockIdx.x) * HC_PART + m] =
                (sums[turn][0][m] + sums[turn][1][m]) + (sums[turn][2][m] + sums[turn][3][m]);
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
    mix_streams(x, y[(size_t)t * N_EMBD + d], gates + (size_t)t * HC_GATES);
#pragma unroll
    for (int k = 0; k < N_HC; k++) next[((size_t)t * N_HC + k) * N_EMBD + d] = x[k];
}
DS4_REGISTER(hc_post)

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// `start` and the N_HC values that lie `step` lanes apart from `first` on: the shuffles do not wait
// for one another.
__device__ __forceinline__ float sum_of_hc(float start, float v, int first, int step) {
    float all[N_HC];
#pragma unroll
    for (int i = 0; i < N_HC; i++) all[i] = __shfl_sync(FULL, v, (first + i * step) & 31);
#pragma unroll
    for (int i = 0; i + 1 < N_HC; i += 2) start += all[i] + all[i + 1];
    return N_HC % 2 ? start + all[N_HC - 1] : start;
}

// 1 / x to a unit in the last place, in one instruction; x is no subnormal.
__device__ __forceinline__ float fast_inverse(float x) {
#ifdef DS4_EMU
    return 1.0f / x;
#else
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// Row softmax and alternating normalisation of the N_HC × N_HC matrix that the lanes of one warp
// hold, lane j·N_HC + k the element of row j and column k; other lanes idle along. A chain of some
// 40 dependent steps: what each of them takes is what counts.
__device__ __forceinline__ float sinkhorn(float v, int lane) {
    const int j = lane / N_HC, k = lane % N_HC;
    const bool used = lane < N_HC * N_HC;
    float row = -INFINITY;
#pragma unroll
    for (int i = 0; i < N_HC; i++) row = fmaxf(row, __shfl_sync(FULL, v, (j * N_HC + i) & 31));
    v = used ? expf(v - row) : 0.0f;
    v = v / sum_of_hc(0.0f, v, j * N_HC, 1) + HC_EPS;
    v *= fast_inverse(sum_of_hc(HC_EPS, v, k, N_HC));
    // Not unrolled: straight code would have to be fetched.
#pragma unroll 1
    for (int it = 1; it < SINKHORN; it++) {
        v *= fast_inverse(sum_of_hc(HC_EPS, v, j * N_HC, 1));
        v *= fast_inverse(sum_of_hc(HC_EPS, v, k, N_HC));
    }
    return v;
}

// Completes a token's gates where comb still is logarithms, by one warp. A function of its own, so
// that it takes no registers from the kernels it is a guest in.
__device__ __noinline__ void complete_gates(float* gates) {
    const int lane = threadIdx.x & 31;
    float* comb = gates + 2 * N_HC;
    const float c = sinkhorn(lane < N_HC * N_HC ? comb[lane] : 0.0f, lane);
    if (lane < N_HC * N_HC) comb[lane] = c;
}

// The gate of row `m` of the mix from its product with the normed streams, scaled and shifted:
// pre, post, or the logarithm of an element of comb.
__device__ __forceinline__ float gate(int m, float g) {
    return m < N_HC ? sigmoid(g) + HC_EPS : m < 2 * N_HC ? 2.0f * sigmoid(g) : g;
}

// 1 / rms of the streams from their sum of squares.
__device__ __forceinline__ float streams_scale(float square) {
    return 1.0f / sqrtf(square / (float)(N_HC * N_EMBD) + RMS_EPS);
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
    __align__(16) float v[8];
    float best = 0.0f;
    int at = 0;
    *(float4*)v = ((const float4*)x)[2 * lane];
    *(float4*)(v + 4) = ((const float4*)x)[2 * lane + 1];
#pragma unroll
    for (int i = 0; i < 8; i++) {
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

#define HC_THREADS (N_EMBD >= 512 ? 512 : N_EMBD < 64 ? 64 : (N_EMBD + 31) / 32 * 32)
#define HC_WARPS (HC_THREADS / 32)

// Every gate of one token, by one warp: sums of the partial products, then the doubly stochastic
// matrix. `mix` has HC_PART floats of shared memory.
__device__ __forceinline__ void all_gates(const float* part, const float* base, const float* scale, float* mix,
                                          float* gates) {
    const int lane = threadIdx.x & 31;
    for (int m = lane; m < HC_PART; m += 32) {
        float sum = 0.0f;
#pragma unroll 8
        for (int s = 0; s < HC_SLICES; s++) sum += part[s * HC_PART + m];
        mix[m] = sum;
    }
    __syncwarp();
    const float inv = streams_scale(mix[HC_MIX]);
    for (int m = lane; m < HC_MIX; m += 32) {
        const float g = gate(m, mix[m] * inv * scale[m < N_HC ? 0 : m < 2 * N_HC ? 1 : 2] + base[m]);
        mix[m] = g;
        if (m < 2 * N_HC) gates[m] = g;
    }
    __syncwarp();
    const float c = sinkhorn(lane < N_HC * N_HC ? mix[2 * N_HC + lane] : 0.0f, lane);
    if (lane < N_HC * N_HC) gates[2 * N_HC + lane] = c;
}

// Gates of every token from the partial products, and the sublayer's normed input with its int8
// forms. The first `gate_blocks` blocks make the gates, a warp those of one token: nobody waits for
// them here. The others make a token's input each. An output head only has `pre` gates with one
// scale, and so no blocks for gates. grid (gate_blocks + n), block HC_THREADS.
//
// rows, optional, maps row t of the output to a token of `streams`; x: [T][N_EMBD];
// bare, optional: the input before its norm, for observers.
#define HC_PER ((N_EMBD + HC_THREADS - 1) / HC_THREADS)
DS4_KERNEL(hc_pre, HC_THREADS, HC_PER <= 8 ? 2 : 1)(const float* part, const float* base, const float* scale,
                   const float* streams, const int* rows, int n, int gate_blocks, const float* weight, int forms,
                   float* gates, float* x, float* bare, int8_t* q8, float* d8, int8_t* qk, float* dk, int16_t* sk) {
    __shared__ float mix[HC_WARPS][HC_PART], space[32];
    __shared__ __align__(16) float row[N_EMBD];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (blockIdx.x < gate_blocks) {
        const int t = blockIdx.x * HC_WARPS + warp;
        pdl_wait();
        pdl_go();
        if (t < n) all_gates(part + (size_t)t * HC_SLICES * HC_PART, base, scale, mix[warp], gates + (size_t)t * HC_GATES);
        return;
    }
    const int t = blockIdx.x - gate_blocks;
    const float own_base = lane < N_HC ? base[lane] : 0.0f, own_scale = scale[0];
    float w[HC_PER];
#pragma unroll
    for (int i = 0; i < HC_PER; i++) {
        const int d = threadIdx.x + i * HC_THREADS;
        w[i] = d < N_EMBD ? weight[d] : 0.0f;
    }
    pdl_wait();
    pdl_go();
    // The streams are loaded while the gates are computed.
    const int from = rows ? rows[t] : t;
    float v[HC_PER][N_HC];
#pragma unroll
    for (int i = 0; i < HC_PER; i++) {
        const int d = threadIdx.x + i * HC_THREADS;
#pragma unroll
        for (int k = 0; k < N_HC; k++)
            v[i][k] = d < N_EMBD ? streams[((size_t)from * N_HC + k) * N_EMBD + d] : 0.0f;
    }
    // The rows of the `pre` gates, and last the sum of squares.
    for (int i = warp; i <= N_HC; i += HC_WARPS) {
        const int m = i < N_HC ? i : HC_MIX;
        float sum = 0.0f;
        for (int s = lane; s < HC_SLICES; s += 32) sum += part[((size_t)t * HC_SLICES + s) * HC_PART + m];
        sum = warp_sum(sum);
        if (lane == 0) mix[0][i] = sum;
    }
    __syncthreads();
    const float own = gate(0, mix[0][lane < N_HC ? lane : 0] * streams_scale(mix[0][N_HC]) * own_scale + own_base);
    float pre[N_HC];
#pragma unroll
    for (int k = 0; k < N_HC; k++) pre[k] = __shfl_sync(FULL, own, k);
    float a[HC_PER], square = 0.0f;
#pragma unroll
    for (int i = 0; i < HC_PER; i++) {
        a[i] = pre[0] * v[i][0];
#pragma unroll
        for (int k = 1; k < N_HC; k++) a[i] += pre[k] * v[i][k];
        square += a[i] * a[i];
        const int d = threadIdx.x + i * HC_THREADS;
        if (bare && d < N_EMBD) bare[(size_t)t * N_EMBD + d] = a[i];
    }
    square = block_sum(square, space);
    const float norm = 1.0f / sqrtf(square / (float)N_EMBD + RMS_EPS);
#pragma unroll
    for (int i = 0; i < HC_PER; i++) {
        const int d = threadIdx.x + i * HC_THREADS;
        if (d < N_EMBD) {
            const float o = a[i] * (norm * w[i]);
            row[d] = o;
            x[(size_t)t * N_EMBD + d] = o;
        }
    }
    if (!forms) return;
    __syncthreads();
    const size_t at = (size_t)t * N_EMBD;
    quantise_row(row, N_EMBD, forms, q8 + at, d8 + at / 32, qk + at, dk + at / 256, sk + at / 16);
}
DS4_REGISTER(hc_pre)

// --- The two kernels above in one, for few tokens on devices with clusters of blocks.
//
// A cluster works on a token, each of its blocks on HC_OWN channels of every stream. The first half
// of a block's threads multiplies the first half of the rows of the mix, the second the others;
// thread i of a half has the channels 2i and 2i + 1. Blocks tell each other their sums by stores to
// each other's shared memory, which an mbarrier there counts.
#define HC_CLUSTER 8
#define HC_OWN (N_EMBD / HC_CLUSTER)
#ifdef DS4_EMU
// The emulator runs a cluster as one block, of at most 1024 threads.
#define HC_FUSED_OK (N_HC == 4 && N_EMBD % HC_CLUSTER == 0 && HC_OWN == 128)
#else
#define HC_FUSED_OK (N_HC == 4 && N_EMBD % (256 * HC_CLUSTER) == 0 && HC_OWN <= 512)
#endif
// Threads of a block of `hc_fused`, 0 where it does not exist; rows of the mix of each half.
#define HC_FUSED_THREADS (HC_FUSED_OK ? HC_OWN : 0)
#define HC_HALF_ROWS (HC_MIX / 2)
#define HC_HALF_WARPS (HC_OWN / 64)

// Operands of `hc_fused` as of `hc_mix` and `hc_pre`.
struct HcFusedArgs {
    const float *streams, *y;
    float* next;
    const float *base, *scale, *weight;
    int64_t forms;
    float *gates, *x, *bare;
    int8_t* q8;
    float* d8;
    int8_t* qk;
    float* dk;
    int16_t* sk;
};

#if HC_FUSED_OK && (defined(DS4_EMU) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900)

// Shared memory of one block.
struct HcShared {
    // What others send.
    __align__(16) float sums[HC_PART][HC_CLUSTER];
    float squares[HC_CLUSTER * HC_HALF_WARPS];
    uint64_t arrived[2];  // mbarriers: the sums, the squares
    // What stays here: slots 0.. of a warp are rows of its half, HC_HALF_ROWS the sum of squares.
    float part[2 * HC_HALF_WARPS][16];
    __align__(16) float row[HC_OWN];
};
// Warps of the second half that make Q8_K forms, and the threads that meet for it.
#define HC_MAKERS (HC_OWN / 256)
#define HC_MEETING (HC_OWN / 2 + 32 * HC_MAKERS)
// Bytes that a block is sent.
#define HC_SENT_SUMS (4 * HC_PART * HC_CLUSTER)
#define HC_SENT_SQUARES (4 * HC_CLUSTER * HC_HALF_WARPS)

// A block's place in its cluster, and how it talks to the others.
struct Cluster {
#ifdef DS4_EMU
    HcShared* all;
    __device__ int rank() const { return threadIdx.x / HC_OWN; }
    __device__ int thread() const { return threadIdx.x % HC_OWN; }
    __device__ HcShared& own() const { return all[rank()]; }
    __device__ void start() const {
        if (thread() == 0) own().arrived[0] = own().arrived[1] = 0;
        __syncthreads();
    }
    __device__ void started() const {}
    __device__ void sync() const { emu_bar_sync(1 + rank(), HC_OWN); }
    __device__ void row_written() const { emu_bar_arrive(9 + rank(), HC_MEETING); }
    __device__ void row_wait() const { emu_bar_sync(9 + rank(), HC_MEETING); }
    __device__ void send(float* at, int to, float v, int phase) const {
        *(float*)((char*)at + ((char*)&all[to] - (char*)&own())) = v;
        all[to].arrived[phase] += 4;
    }
    __device__ void receive(int phase) const {
        while (((volatile HcShared&)own()).arrived[phase] < (phase ? HC_SENT_SQUARES : HC_SENT_SUMS))
            ds4_emu::worker->yield();
    }
#else
    HcShared* mine;
    __device__ __forceinline__ int rank() const { return blockIdx.x % HC_CLUSTER; }
    __device__ __forceinline__ int thread() const { return threadIdx.x; }
    __device__ __forceinline__ HcShared& own() const { return *mine; }
    static __device__ __forceinline__ uint32_t at(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
    // Readies this block to be sent to, and says so.
    __device__ __forceinline__ void start() const {
        if (threadIdx.x == 0) {
            const uint32_t sums = at(&mine->arrived[0]), squares = at(&mine->arrived[1]);
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(sums) : "memory");
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(squares) : "memory");
            asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
            expect(sums, HC_SENT_SUMS);
            expect(squares, HC_SENT_SQUARES);
        }
        __syncwarp();
        asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
    }
    static __device__ __forceinline__ void expect(uint32_t barrier, int bytes) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
    }
    // Waits until all blocks are ready.
    __device__ __forceinline__ void started() const {
        asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    }
    __device__ __forceinline__ void sync() const { __syncthreads(); }
    // Between the half that writes `row` and the warps that make its Q8_K form.
    __device__ __forceinline__ void row_written() const {
        asm volatile("bar.arrive 1, %0;" :: "n"(HC_MEETING) : "memory");
    }
    __device__ __forceinline__ void row_wait() const {
        asm volatile("bar.sync 1, %0;" :: "n"(HC_MEETING) : "memory");
    }
    // Stores `v` at the place of block `to` that `p` is here.
    __device__ __forceinline__ void send(const float* p, int to, float v, int phase) const {
        uint32_t there, barrier;
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at(p)), "r"(to));
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(barrier) : "r"(at(&mine->arrived[phase])), "r"(to));
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];"
                     :: "r"(there), "r"(__float_as_uint(v)), "r"(barrier) : "memory");
    }
    // Waits for everything that is sent here in this phase.
    __device__ __forceinline__ void receive(int phase) const {
        const uint32_t barrier = at(&mine->arrived[phase]);
        uint32_t done;
        do {
            asm volatile("{\n.reg .pred p;\n"
                         "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;\n"
                         "selp.u32 %0, 1, 0, p;\n}"
                         : "=r"(done) : "r"(barrier) : "memory");
        } while (!done);
    }
#endif
};

// Two neighbouring weights of one row and stream as they lie in memory.
template <bool F16> struct HcPair {
    float2 v;
    __device__ __forceinline__ float2 get() const { return v; }
};
template <> struct HcPair<true> {
    half2 v;
    __device__ __forceinline__ float2 get() const { return __half22float2(v); }
};

// All gates of a token from the sums of all blocks, by one warp; of comb only the logarithms.
__device__ __forceinline__ void fused_gates(const HcShared& s, float base, float scale, float* gates) {
    const int lane = threadIdx.x & 31, m = lane < HC_MIX ? lane : HC_MIX;
    float sum = 0.0f, square = 0.0f;
#pragma unroll
    for (int c = 0; c < HC_CLUSTER; c++) {
        sum += s.sums[m][c];
        square += s.sums[HC_MIX][c];
    }
    if (lane < HC_MIX) gates[lane] = gate(m, sum * streams_scale(square) * scale + base);
}

// The channels of the thread in the sublayer's input, before its norm.
__device__ __forceinline__ float2 fused_gather(const HcShared& s, const float2 x[N_HC], float base, float scale) {
    const int lane = threadIdx.x & 31;
    // Lane 8m + c has what block c found for row m; the sum of squares lies in every eighth.
    float sum = (&s.sums[0][0])[lane], square = s.sums[HC_MIX][lane % HC_CLUSTER];
#pragma unroll
    for (int o = HC_CLUSTER / 2; o; o >>= 1) {
        sum += __shfl_xor_sync(FULL, sum, o);
        square += __shfl_xor_sync(FULL, square, o);
    }
    const float own = gate(0, sum * streams_scale(square) * scale + base);
    float2 a = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int k = 0; k < N_HC; k++) {
        const float pre = __shfl_sync(FULL, own, k * HC_CLUSTER);
        a.x += pre * x[k].x;
        a.y += pre * x[k].y;
    }
    return a;
}

// Q8_0 form of two values a lane: a block is half a warp.
__device__ __forceinline__ void fused_q8_0(float2 o, int8_t* q, float* d, size_t at) {
    float scale = fmaxf(fabsf(o.x), fabsf(o.y));
#pragma unroll
    for (int s = 8; s; s >>= 1) scale = fmaxf(scale, __shfl_xor_sync(FULL, scale, s));
    scale /= 127.0f;
    const float inv = scale == 0.0f ? 0.0f : 1.0f / scale;
    *(char2*)(q + at) = make_char2((signed char)round_i8(o.x * inv), (signed char)round_i8(o.y * inv));
    if (at % 32 == 0) d[at / 32] = scale;
}

template <bool F16>
__device__ __forceinline__ void hc_fused_token(const Cluster c, int t, const Mat& fn, const HcFusedArgs& p) {
    using Pair = HcPair<F16>;
    HcShared& s = c.own();
    const int thread = c.thread(), lane = thread & 31, pair = thread % (HC_OWN / 2);
    // From a shuffle, so that the compiler knows that a warp does not diverge by it.
    const int warp = __shfl_sync(FULL, thread >> 5, 0), half = warp / HC_HALF_WARPS;
    const int half_warp = warp - half * HC_HALF_WARPS;
    const int d = c.rank() * HC_OWN + 2 * pair;
    const bool makes_gates = c.rank() == 0 && half == 1 && half_warp == HC_HALF_WARPS - 1;
    c.start();
    // Everything that no earlier kernel writes comes before the wait. F32 weights are too many for
    // the registers: they come as near as the second-level cache.
    const Pair* rows = (const Pair*)((const char*)fn.q + ((size_t)half * HC_HALF_ROWS * N_HC * N_EMBD + d) * (sizeof(Pair) / 2));
    Pair w[HC_HALF_ROWS][N_HC];
#pragma unroll
    for (int m = 0; m < HC_HALF_ROWS; m++)
#pragma unroll
        for (int k = 0; k < N_HC; k++) {
            const Pair* from = rows + (size_t)(m * N_HC + k) * (N_EMBD / 2);
            if constexpr (F16) w[m][k] = *from;
#ifndef DS4_EMU
            else asm volatile("prefetch.global.L2 [%0];" :: "l"(from));
#endif
        }
    float2 weight = make_float2(0.0f, 0.0f);
    if (half == 0) weight = *(const float2*)(p.weight + d);
    const int row = makes_gates ? min(lane, HC_MIX - 1) : lane / HC_CLUSTER;
    const float base = p.base[row], scale = p.scale[row < N_HC ? 0 : row < 2 * N_HC ? 1 : 2];
    pdl_wait();
    pdl_go();

    float2 x[N_HC];
    const size_t at = (size_t)t * N_HC * N_EMBD + d;
#pragma unroll
    for (int k = 0; k < N_HC; k++) x[k] = *(const float2*)(p.streams + at + (size_t)k * N_EMBD);
    float* gates = p.gates + (size_t)t * HC_GATES;
    float2 fresh;
    float4 g4[HC_GATES / 4];
    if (p.y) {
        fresh = *(const float2*)(p.y + (size_t)t * N_EMBD + d);
#pragma unroll
        for (int i = N_HC / 4; i < HC_GATES / 4; i++) g4[i] = ((const float4*)gates)[i];
    }
    c.started();
    if (p.y) {
        __align__(16) float g[HC_GATES];
        float a[N_HC], b[N_HC];
#pragma unroll
        for (int i = N_HC / 4; i < HC_GATES / 4; i++) *(float4*)(g + 4 * i) = g4[i];
#pragma unroll
        for (int k = 0; k < N_HC; k++) { a[k] = x[k].x; b[k] = x[k].y; }
        mix_streams(a, fresh.x, g);
        mix_streams(b, fresh.y, g);
#pragma unroll
        for (int k = 0; k < N_HC; k++) {
            x[k] = make_float2(a[k], b[k]);
            if (half == 0) *(float2*)(p.next + at + (size_t)k * N_EMBD) = x[k];
        }
    }
    float v[16];
#pragma unroll
    for (int m = 0; m < 16; m++) {
        v[m] = 0.0f;
        if (m < HC_HALF_ROWS)
#pragma unroll
            for (int k = 0; k < N_HC; k++) {
                if constexpr (!F16) w[m][k] = rows[(size_t)(m * N_HC + k) * (N_EMBD / 2)];
                const float2 two = w[m][k].get();
                v[m] += two.x * x[k].x + two.y * x[k].y;
            }
    }
#pragma unroll
    for (int k = 0; k < N_HC; k++) v[HC_HALF_ROWS] += x[k].x * x[k].x + x[k].y * x[k].y;
    const float sum = warp_sums_16(v);
    if ((lane & 1) == 0) s.part[warp][lane / 2] = sum;
    c.sync();
    // Eight threads tell eight blocks about one row.
    for (int i = thread; i < HC_PART * HC_CLUSTER; i += HC_OWN) {
        const int m = i / HC_CLUSTER, first = m >= HC_HALF_ROWS && m < HC_MIX ? HC_HALF_WARPS : 0;
        const int slot = m == HC_MIX ? HC_HALF_ROWS : m % HC_HALF_ROWS;
        float all = 0.0f;
#pragma unroll
        for (int j = 0; j < HC_HALF_WARPS; j++) all += s.part[first + j][slot];
        c.send(&s.sums[m][c.rank()], i % HC_CLUSTER, all, 0);
    }
    __syncwarp();

    const size_t out = (size_t)t * N_EMBD + d;
    const bool with_k = HC_OWN % 256 == 0 && (p.forms & FORM_Q8_K);
    if (half == 1) {
        if (makes_gates) {
            c.receive(0);
            fused_gates(s, base, scale, gates);
        }
        if (half_warp < HC_MAKERS && with_k) {
            c.row_wait();
            const size_t block = ((size_t)t * N_EMBD + c.rank() * HC_OWN) / 256 + half_warp;
            quantise_256(s.row + half_warp * 256, p.qk + block * 256, p.dk + block, p.sk + block * 16);
        }
        return;
    }
    c.receive(0);
    const float2 a = fused_gather(s, x, base, scale);
    if (p.bare) *(float2*)(p.bare + out) = a;
    const float own = warp_sum(a.x * a.x + a.y * a.y);
    if (lane < HC_CLUSTER) c.send(&s.squares[c.rank() * HC_HALF_WARPS + warp], lane, own, 1);
    __syncwarp();
    c.receive(1);
    float square = 0.0f;
#pragma unroll
    for (int i = 0; i < HC_CLUSTER * HC_HALF_WARPS; i += 32)
        if (i + lane < HC_CLUSTER * HC_HALF_WARPS) square += s.squares[i + lane];
    square = warp_sum(square);
    const float norm = 1.0f / sqrtf(square / (float)N_EMBD + RMS_EPS);
    const float2 o = make_float2(a.x * (norm * weight.x), a.y * (norm * weight.y));
    if (with_k) {
        *(float2*)(s.row + 2 * pair) = o;
        c.row_written();
    }
    *(float2*)(p.x + out) = o;
    if (p.forms & FORM_Q8_0) fused_q8_0(o, p.q8, p.d8, out);
}

#ifdef DS4_EMU
#define HC_FUSED_KERNEL(name) DS4_KERNEL(name, HC_OWN* HC_CLUSTER)
#define HC_FUSED_TOKEN blockIdx.x
#define HC_FUSED_SPACE __shared__ HcShared space[HC_CLUSTER]; const Cluster cluster{space}
#else
#define HC_FUSED_KERNEL(name) \
    extern "C" __global__ void __cluster_dims__(HC_CLUSTER, 1, 1) __launch_bounds__(HC_OWN, 1) name
#define HC_FUSED_TOKEN (blockIdx.x / HC_CLUSTER)
#define HC_FUSED_SPACE __shared__ HcShared space; const Cluster cluster{&space}
#endif

// What `hc_mix` and `hc_pre` do, of tokens 0.. in order, but for the end of comb: its chain of dependent
// steps is nobody's concern before the next hyper-connection, so a kernel in between that has time for it
// calls `complete_gates`. grid (HC_CLUSTER · tokens), block HC_FUSED_THREADS. `gates` are read for `y`
// and replaced.
HC_FUSED_KERNEL(hc_fused)(Mat fn, HcFusedArgs args) {
    HC_FUSED_SPACE;
    hc_fused_token<true>(cluster, HC_FUSED_TOKEN, fn, args);
}
DS4_REGISTER(hc_fused)

// The same with weights in F32.
HC_FUSED_KERNEL(hc_fused_f32)(Mat fn, HcFusedArgs args) {
    HC_FUSED_SPACE;
    hc_fused_token<false>(cluster, HC_FUSED_TOKEN, fn, args);
}
DS4_REGISTER(hc_fused_f32)

#endif

// `complete_gates` alone. grid (tokens), block 32.
DS4_KERNEL(hc_comb, 32)(float* gates) {
    pdl_wait();
    pdl_go();
    complete_gates(gates + (size_t)blockIdx.x * HC_GATES);
}
DS4_REGISTER(hc_comb)

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
