// Times the many-token and attention kernels at the published shape and checks samples of their
// results against double precision.
//
//   nvcc -O3 -std=c++20 -gencode=arch=compute_90a,code=sm_90a -I crates/cuda/kernels -I crates/cuda/emu \
//        bench/cuda/mm_bench.cu -o mm_bench && ./mm_bench
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#define N_EMBD 4096
#define N_FF 2048
#define N_EXPERT 256
#define N_USED 6
#define N_HEAD 64
#define HEAD_DIM 512
#define ROPE_DIM 64
#define WINDOW 128
#define IDX_TOPK 512
#define IDX_DIM 128
#define RMS_EPS 1e-6f
#define N_HC 4
#include "attn.cuh"
#include "experts_mm.cuh"
#include "mm.cuh"

// --- variants to choose from

MM_Q8_KERNEL(q8_128x128_k64, 2, 128, 128, 64, 32, 64, 3)
MM_Q8_KERNEL(q8_128x128_1, 1, 128, 128, 64, 32, 128, 2)
MM_Q8_KERNEL(q8_256x128, 1, 256, 128, 64, 32, 64, 3)
MM_Q8_KERNEL(q8_128x256, 1, 128, 256, 64, 32, 64, 3)
MM_Q8_KERNEL(q8_64x128, 3, 64, 128, 32, 64, 64, 3)
EXP_MM_KERNELS(iq2_w8, ExpIq2, 8, 1)
EXP_MM_KERNELS(q2k_w8, ExpQ2K, 8, 1)
ATTN_KERNEL(attn_fast, 4, 2, false, false)
ATTN_KERNEL(attn_q, 2, 4, true, false)
ATTN_KERNEL(attn_few_8, 1, 8, true, true)

// --- numbers: a function of seed and index, the same here and there

__host__ __device__ inline uint32_t hash(uint64_t i, uint32_t seed) {
    uint64_t x = i * 0x9e3779b97f4a7c15ull + seed * 0xd1342543de82ef95ull + 0x632be59bd9b4e019ull;
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ull;
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ull;
    return (uint32_t)(x >> 16);
}
enum Kind { BYTES, INT8, NIBBLES6, E8M0, HALF_SCALE, FLOAT_SCALE, FLOATS, HALVES };
__host__ __device__ inline float unit(uint32_t h) {  // about normal
    return ((h & 255) + (h >> 8 & 255) + (h >> 16 & 255) + (h >> 24) - 510.0f) * (1.0f / 147.0f);
}
__host__ __device__ inline uint8_t byte_at(Kind k, uint32_t seed, uint64_t i) {
    uint8_t b = hash(i / 4, seed) >> (8 * (i % 4));
    if (k == INT8 && b == 128) b = 127;
    return k == NIBBLES6 ? b & 63 : k == E8M0 ? 118 + b % 6 : b;
}
__host__ __device__ inline float float_at(Kind k, uint32_t seed, uint64_t i) {
    const uint32_t h = hash(i, seed);
    if (k == HALF_SCALE) return (1 + (h & 127)) * (1.0f / 8192);
    if (k == FLOAT_SCALE) return (1 + (h & 0xffff)) * 1.3e-7f;
    return k == HALVES ? (int)(unit(h) * 256) * (1.0f / 256) : unit(h);
}
__global__ void fill(Kind k, uint32_t seed, void* p, uint64_t n) {
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) {
        if (k <= E8M0) ((uint8_t*)p)[i] = byte_at(k, seed, i);
        else if (k == HALF_SCALE || k == HALVES) ((half*)p)[i] = __float2half(float_at(k, seed, i));
        else ((float*)p)[i] = float_at(k, seed, i);
    }
}
__global__ void fill_sums(const int8_t* q, int16_t* s, uint64_t n) {
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) {
        int t = 0;
        for (int k = 0; k < 16; k++) t += q[i * 16 + k];
        s[i] = t;
    }
}

static void ok(cudaError_t e, const char* what) {
    if (e == cudaSuccess) return;
    printf("%s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}
template <class T> static T* device(uint64_t n) {
    void* p;
    ok(cudaMalloc(&p, n * sizeof(T) + 256), "cudaMalloc");
    return (T*)p;
}
template <class T> static T* filled(Kind k, uint32_t seed, uint64_t n) {
    T* p = device<T>(n);
    fill<<<4096, 256>>>(k, seed, p, n);
    return p;
}
template <class T> static T* uploaded(const std::vector<T>& v) {
    T* p = device<T>(v.size());
    ok(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
    return p;
}
template <class T> static std::vector<T> fetched(const T* p, uint64_t n) {
    std::vector<T> v(n);
    ok(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost), "fetch");
    return v;
}

// Milliseconds of one run: a graph of `n` runs, the best of 5 replays. Negative if it cannot run.
static float timed(int n, const std::function<void(cudaStream_t)>& f) {
    static cudaStream_t s = nullptr;
    if (!s) ok(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "stream");
    cudaDeviceSynchronize();
    f(s);
    if (cudaGetLastError() != cudaSuccess || cudaStreamSynchronize(s) != cudaSuccess) return -1;
    cudaGraph_t g;
    cudaGraphExec_t x;
    ok(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < n; i++) f(s);
    ok(cudaStreamEndCapture(s, &g), "capture");
    ok(cudaGraphInstantiate(&x, g, 0), "graph");
    cudaEvent_t a, b;
    cudaEventCreate(&a), cudaEventCreate(&b);
    float best = 1e30f;
    for (int i = 0; i < 5; i++) {
        float ms = 0;
        cudaEventRecord(a, s), cudaGraphLaunch(x, s), cudaEventRecord(b, s);
        ok(cudaEventSynchronize(b), "replay");
        cudaEventElapsedTime(&ms, a, b);
        best = std::min(best, ms / n);
    }
    cudaGraphExecDestroy(x), cudaGraphDestroy(g), cudaEventDestroy(a), cudaEventDestroy(b);
    return best;
}
static double nmse(const std::vector<double>& got, const std::vector<double>& want) {
    double e = 0, s = 0;
    for (size_t i = 0; i < got.size(); i++) e += (got[i] - want[i]) * (got[i] - want[i]), s += want[i] * want[i];
    return e / s;
}
template <class K> static void allow(K* kernel, int smem) { cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem); }

// --- dense

typedef void (*Q8Kernel)(Mat, const int8_t*, const float*, int, float*, int, int, int);
struct Q8Variant {
    const char* name;
    Q8Kernel f;
    int bm, bn, threads, smem;
};
#define Q8(name, bm, bn, kb, st) {#name, name, bm, bn, name##_tile::THREADS, MM_Q8_SMEM(bm, bn, kb, st)}
static const Q8Variant Q8S[] = {Q8(mm_q8_0, 128, 128, 128, 2),     Q8(q8_128x128_k64, 128, 128, 64, 3), Q8(q8_128x128_1, 128, 128, 128, 2),
                                Q8(q8_256x128, 256, 128, 64, 3),   Q8(q8_128x256, 128, 256, 64, 3),       Q8(q8_64x128, 64, 128, 64, 3),
                                Q8(mm_q8_0_small, 64, 64, 128, 3), Q8(mm_q8_0_few, 32, 64, 128, 3)};

static void dense() {
    printf("Q8_0, ms (TMAC/s) by variant:");
    for (auto& v : Q8S) printf(" %s", v.name), allow(v.f, v.smem);
    printf("\n");
    struct { const char* name; int rows, cols, groups, copies; } shapes[] = {
        {"q_a", 1024, 4096, 1, 8}, {"q_b", 32768, 1024, 1, 2}, {"out_a", 8192, 4096, 8, 2}, {"out_b", 4096, 8192, 1, 2}, {"shared", 2048, 4096, 1, 4}};
    for (auto& s : shapes) {
        const uint64_t n = (uint64_t)s.rows * s.cols;
        const int xs = s.cols * s.groups, most = 4096;
        int8_t *w = filled<int8_t>(INT8, 1, n), *xq = filled<int8_t>(INT8, 3, (uint64_t)most * xs);
        half* d = filled<half>(HALF_SCALE, 2, n / 32);
        float *xd = filled<float>(FLOAT_SCALE, 4, (uint64_t)most * xs / 32), *out = device<float>((uint64_t)most * s.rows);
        const Mat m = {w, nullptr, d, TY_Q8_0, s.rows, s.cols, 0};
        for (int T : {32, 512, 2048}) {
            printf("%-6s T %4d:", s.name, T);
            double worst = 0;
            for (auto& v : Q8S) {
                const int per = s.rows / s.groups;
                const dim3 grid((T + v.bn - 1) / v.bn, s.groups * ((per + v.bm - 1) / v.bm));
                const float ms = timed(s.copies, [&](cudaStream_t st) { v.f<<<grid, v.threads, v.smem, st>>>(m, xq, xd, xs, out, s.rows, T, s.groups); });
                if (ms < 0) {
                    printf(" -");
                    continue;
                }
                const std::vector<float> y = fetched(out, (uint64_t)T * s.rows);
                std::vector<double> got, want;
                for (int i = 0; i < 40; i++) {
                    const uint32_t t = hash(i, 50) % T, r = hash(i, 51) % s.rows;
                    double sum = 0;
                    for (int k = 0; k < s.cols; k++) {
                        const uint64_t a = (uint64_t)r * s.cols + k, b = (uint64_t)t * xs + r / per * s.cols + k;
                        sum += (double)(int8_t)byte_at(INT8, 1, a) * float_at(HALF_SCALE, 2, a / 32) * (int8_t)byte_at(INT8, 3, b) * float_at(FLOAT_SCALE, 4, b / 32);
                    }
                    got.push_back(y[(uint64_t)t * s.rows + r]), want.push_back(sum);
                }
                worst = std::max(worst, nmse(got, want));
                printf(" %.3f (%.0f)", ms, (double)n * T / ms * 1e-9);
            }
            printf("  nmse %.0e\n", worst);
        }
        cudaFree(w), cudaFree(xq), cudaFree(d), cudaFree(xd), cudaFree(out);
    }
    const int rows = 1024, cols = 4096;
    half* w = filled<half>(HALVES, 5, (uint64_t)rows * cols);
    float *x = filled<float>(FLOATS, 6, 2048ull * cols), *out = device<float>(2048ull * rows);
    allow(mm_f16, MM_F16_SMEM(128, 128)), allow(mm_f16_small, MM_F16_SMEM(64, 64));
    for (int r : {256, 1024}) {
        const Mat m = {w, nullptr, nullptr, TY_F16, r, cols, 0};
        for (int small = 0; small < 2; small++) {
            const int b = small ? 64 : 128;
            const dim3 grid(2048 / b, r / b);
            const float ms = timed(4, [&](cudaStream_t st) {
                if (small) mm_f16_small<<<grid, MM_F16_SMALL_THREADS, MM_F16_SMEM(64, 64), st>>>(m, x, cols, out, r, 2048);
                else mm_f16<<<grid, MM_F16_THREADS, MM_F16_SMEM(128, 128), st>>>(m, x, cols, out, r, 2048);
            });
            const std::vector<float> y = fetched(out, 2048ull * r);
            std::vector<double> got, want;
            for (int i = 0; i < 40; i++) {
                const uint32_t t = hash(i, 50) % 2048, q = hash(i, 51) % r;
                double sum = 0;
                for (int k = 0; k < cols; k++) sum += (double)float_at(HALVES, 5, (uint64_t)q * cols + k) * float_at(FLOATS, 6, (uint64_t)t * cols + k);
                got.push_back(y[(uint64_t)t * r + q]), want.push_back(sum);
            }
            printf("F16 %dx4096 T 2048 %s: %.3f ms (%.0f TMAC/s) nmse %.0e\n", r, small ? "small" : "large", ms, (double)r * cols * 2048 / ms * 1e-9, nmse(got, want));
        }
    }
    cudaFree(w), cudaFree(x), cudaFree(out);
}

// --- experts

// Planes of a stack filled by `hash`, and any value of it.
struct Stack {
    int type, rows, cols;
    uint32_t seed;
    Mat mat;
    Stack(int ty, int r, int c, uint32_t s) : type(ty), rows(r), cols(c), seed(s) {
        const uint64_t n = (uint64_t)N_EXPERT * r * c;
        const uint64_t q = ty == TY_IQ2_XXS || ty == TY_Q2_K ? n / 4 : n / 2;
        void* sp = ty == TY_IQ2_XXS ? filled<uint8_t>(BYTES, s + 1, n / 64) : ty == TY_Q4_K ? filled<uint8_t>(NIBBLES6, s + 1, n / 16)
                 : ty == TY_Q2_K ? filled<uint8_t>(BYTES, s + 1, n / 16) : filled<uint8_t>(E8M0, s + 1, n / 32);
        mat = Mat{filled<uint8_t>(BYTES, s, q), sp, filled<half>(HALF_SCALE, s + 2, n / 128), ty, r, c, 0};
    }
    Stack(const Stack&) = delete;
    ~Stack() { cudaFree((void*)mat.q), cudaFree((void*)mat.s), cudaFree((void*)mat.d); }
    uint8_t q(uint64_t i) const { return byte_at(BYTES, seed, i); }
    double d(uint64_t i) const { return float_at(HALF_SCALE, seed + 2, i); }
    double value(const std::vector<uint16_t>& codes, uint64_t r, int k) const {
        const uint64_t b = r * (cols / 256) + k / 256, n32 = cols / 32;
        const int e = k % 256, l = k % 32;
        if (type == TY_IQ2_XXS) {
            const uint64_t at = (((r / 8 * 4 + r % 8 / 2) * n32 + k / 32) * 4 + r % 2 * 2) * 4;
            const double mag = codes[q(at + l / 8)] >> (2 * (k % 8)) & 3;
            const int scale = byte_at(BYTES, seed + 1, (r / 8 * n32 + k / 32) * 4 + r % 8 / 2) >> (r % 2 * 4) & 15;
            const double v = mag == 0 ? 8 : mag == 1 ? 25 : 43;
            return d((r / 8 * (cols / 256) + k / 256) * 8 + r % 8) * (2 * scale + 1) / 8 * (q(at + 4 + l / 8) >> (l % 8) & 1 ? -v : v);
        }
        if (type == TY_Q2_K) {
            const int s = byte_at(BYTES, seed + 1, b * 16 + e / 16);
            return d(2 * b) * (s & 15) * (q(b * 64 + e / 128 * 32 + l) >> (e % 128 / 32 * 2) & 3) - d(2 * b + 1) * (s >> 4);
        }
        if (type == TY_Q4_K) {
            const int s = byte_at(NIBBLES6, seed + 1, b * 16 + e / 32), m = byte_at(NIBBLES6, seed + 1, b * 16 + 8 + e / 32);
            return d(2 * b) * s * (q(b * 128 + e / 64 * 32 + l) >> (e / 32 % 2 * 4) & 15) - d(2 * b + 1) * m;
        }
        const uint8_t two = q((r * n32 + k / 32) * 16 + l % 16), c = l < 16 ? two & 15 : two >> 4;
        static const double table[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
        return ldexp(c & 8 ? -table[c & 7] : table[c & 7], byte_at(E8M0, seed + 1, r * n32 + k / 32) - 127);
    }
};

// Slots of T tokens sorted by expert; popularity falls off with an expert's rank.
struct Routing {
    std::vector<int> first{0}, token;
    std::vector<float> weight;
    std::vector<int2> tiles;
    explicit Routing(int T) {
        std::vector<std::vector<int>> of(N_EXPERT);
        uint64_t tries = 0;
        for (int t = 0; t < T; t++)
            for (int k = 0; k < N_USED;) {
                const float u = (hash(tries++, 61) >> 8) * (1.0f / (1 << 24));
                const int e = (int)(N_EXPERT * powf(u, 1.35f)) * 37 % N_EXPERT;
                if (!of[e].empty() && of[e].back() == t) continue;
                of[e].push_back(t), k++;
            }
        for (int e = 0; e < N_EXPERT; e++) {
            for (size_t i = 0; i < of[e].size(); i += EXP_TILE_T) tiles.push_back(make_int2(e, (int)token.size() + (int)i));
            token.insert(token.end(), of[e].begin(), of[e].end());
            first.push_back((int)token.size());
        }
        for (size_t i = 0; i < token.size(); i++) weight.push_back((hash(i, 62) & 255) / 256.0f);
    }
};

typedef void (*UpKernel)(Mat, Mat, const int*, const int*, const float*, const int2*, const int*, const int8_t*, const float*, const int16_t*, const float*, float, float*);
typedef void (*DownKernel)(Mat, const int*, const int2*, const int*, const int8_t*, const float*, const int16_t*, const float*, float*);

static std::vector<uint16_t> codebook() {
    std::vector<uint16_t> v(256);
    ok(cudaMemcpyFromSymbol(v.data(), IQ2_CODES, 512), "codebook");
    return v;
}

template <class W, int WARPS> static void up(const char* name, UpKernel f, const Stack& g, const Stack& u, int T) {
    const Routing r(T);
    const int slots = (int)r.token.size(), n = (int)r.tiles.size(), smem = ExpSmem<W, WARPS>::ALL;
    int *first = uploaded(r.first), *token = uploaded(r.token), *n_tiles = uploaded(std::vector<int>{n});
    float* weight = uploaded(r.weight);
    int2* tiles = uploaded(r.tiles);
    int8_t* q = filled<int8_t>(INT8, 70, (uint64_t)T * N_EMBD);
    float *d = filled<float>(FLOAT_SCALE, 71, (uint64_t)T * N_EMBD / 256), *mid = device<float>((uint64_t)slots * N_FF);
    int16_t* s = device<int16_t>((uint64_t)T * N_EMBD / 16);
    fill_sums<<<1024, 256>>>(q, s, (uint64_t)T * N_EMBD / 16);
    allow(f, smem);
    const float ms = timed(2, [&](cudaStream_t st) {
        f<<<dim3(N_FF / (16 * WARPS), n), WARPS * 32, smem, st>>>(g.mat, u.mat, first, token, weight, tiles, n_tiles, q, d, s, nullptr, 10.0f, mid);
    });
    if (ms < 0) {
        printf("%s T %d: cannot run\n", name, T);
        exit(1);
    }
    const std::vector<float> y = fetched(mid, (uint64_t)slots * N_FF);
    const std::vector<uint16_t> codes = codebook();
    std::vector<double> got, want;
    for (int i = 0; i < 30; i++) {
        const int slot = hash(i, 80) % slots, row = hash(i, 81) % N_FF;
        int e = 0;
        while (r.first[e + 1] <= slot) e++;
        double a = 0, b = 0;
        for (int k = 0; k < N_EMBD; k++) {
            const uint64_t at = (uint64_t)r.token[slot] * N_EMBD + k;
            const double x = (double)(int8_t)byte_at(INT8, 70, at) * float_at(FLOAT_SCALE, 71, at / 256);
            a += g.value(codes, (uint64_t)e * N_FF + row, k) * x, b += u.value(codes, (uint64_t)e * N_FF + row, k) * x;
        }
        a = std::min(a, 10.0), b = std::min(std::max(b, -10.0), 10.0);
        got.push_back(y[(uint64_t)slot * N_FF + row]), want.push_back(a / (1 + exp(-a)) * b * r.weight[slot]);
    }
    printf("gate_up %-8s T %4d: %.3f ms, %.0f TMAC/s, %d tiles, x43 %.0f ms, nmse %.0e\n", name, T, ms, 2.0 * slots * N_FF * N_EMBD / ms * 1e-9, n, ms * 43, nmse(got, want));
    for (void* p : {(void*)first, (void*)token, (void*)n_tiles, (void*)weight, (void*)tiles, (void*)q, (void*)d, (void*)s, (void*)mid}) cudaFree(p);
}

template <class W, int WARPS> static void down(const char* name, DownKernel f, const Stack& w, int T) {
    const Routing r(T);
    const int slots = (int)r.token.size(), n = (int)r.tiles.size(), smem = ExpSmem<W, WARPS>::ALL;
    int *first = uploaded(r.first), *n_tiles = uploaded(std::vector<int>{n});
    int2* tiles = uploaded(r.tiles);
    int8_t* q = filled<int8_t>(INT8, 70, (uint64_t)slots * N_FF);
    float *d = filled<float>(FLOAT_SCALE, 71, (uint64_t)slots * N_FF / 256), *out = device<float>((uint64_t)slots * N_EMBD);
    int16_t* s = device<int16_t>((uint64_t)slots * N_FF / 16);
    fill_sums<<<1024, 256>>>(q, s, (uint64_t)slots * N_FF / 16);
    allow(f, smem);
    const float ms = timed(2, [&](cudaStream_t st) {
        f<<<dim3(N_EMBD / (32 * WARPS), n), WARPS * 32, smem, st>>>(w.mat, first, tiles, n_tiles, q, d, s, nullptr, out);
    });
    if (ms < 0) {
        printf("%s T %d: cannot run\n", name, T);
        exit(1);
    }
    const std::vector<float> y = fetched(out, (uint64_t)slots * N_EMBD);
    const std::vector<uint16_t> codes = codebook();
    std::vector<double> got, want;
    for (int i = 0; i < 30; i++) {
        const int slot = hash(i, 80) % slots, row = hash(i, 81) % N_EMBD;
        int e = 0;
        while (r.first[e + 1] <= slot) e++;
        double a = 0;
        for (int k = 0; k < N_FF; k++) {
            const uint64_t at = (uint64_t)slot * N_FF + k;
            a += w.value(codes, (uint64_t)e * N_EMBD + row, k) * (int8_t)byte_at(INT8, 70, at) * float_at(FLOAT_SCALE, 71, at / 256);
        }
        got.push_back(y[(uint64_t)slot * N_EMBD + row]), want.push_back(a);
    }
    printf("down    %-8s T %4d: %.3f ms, %.0f TMAC/s, %d tiles, x43 %.0f ms, nmse %.0e\n", name, T, ms, 1.0 * slots * N_FF * N_EMBD / ms * 1e-9, n, ms * 43, nmse(got, want));
    for (void* p : {(void*)first, (void*)n_tiles, (void*)tiles, (void*)q, (void*)d, (void*)s, (void*)out}) cudaFree(p);
}

static void experts() {
    {
        const Stack g(TY_IQ2_XXS, N_FF, N_EMBD, 100), u(TY_IQ2_XXS, N_FF, N_EMBD, 110), d(TY_Q2_K, N_EMBD, N_FF, 120);
        for (int T : {512, 2048, 4096}) {
            up<ExpIq2, EXP_MM_WARPS_IQ2>("iq2", exp_mm_gate_up_iq2, g, u, T);
            if (T == 2048) up<ExpIq2, 8>("iq2_w8", exp_mm_gate_up_iq2_w8, g, u, T);
            down<ExpQ2K, EXP_MM_WARPS_Q2K>("q2k", exp_mm_down_q2k, d, T);
            if (T == 2048) down<ExpQ2K, 8>("q2k_w8", exp_mm_down_q2k_w8, d, T);
        }
    }
    {
        const Stack g(TY_Q4_K, N_FF, N_EMBD, 130), u(TY_Q4_K, N_FF, N_EMBD, 140), d(TY_Q4_K, N_EMBD, N_FF, 150);
        up<ExpQ4K, EXP_MM_WARPS_Q4K>("q4k", exp_mm_gate_up_q4k, g, u, 2048);
        down<ExpQ4K, EXP_MM_WARPS_Q4K>("q4k", exp_mm_down_q4k, d, 2048);
    }
    const Stack g(TY_MXFP4, N_FF, N_EMBD, 160), u(TY_MXFP4, N_FF, N_EMBD, 170), d(TY_MXFP4, N_EMBD, N_FF, 180);
    up<ExpMxfp4, EXP_MM_WARPS_MXFP4>("mxfp4", exp_mm_gate_up_mxfp4, g, u, 2048);
    down<ExpMxfp4, EXP_MM_WARPS_MXFP4>("mxfp4", exp_mm_down_mxfp4, d, 2048);
}

// --- attention

typedef void (*AttnKernel)(const float*, const float*, const float*, const Tok*, const SeqLayer*, int, int, const uint8_t*, const int*, int, int, float*, float*, float*, int8_t*, float*);
struct AttnVariant {
    const char* name;
    AttnKernel f;
    int hg, ksplit;
};
static const AttnVariant MANY[] = {{"attn", attn, ATTN_HG, ATTN_KSPLIT}, {"attn_q", attn_q, 2, 4}, {"attn_fast", attn_fast, 4, 2}};
static const AttnVariant FEW[] = {{"attn_few", attn_few, ATTN_FEW_HG, ATTN_FEW_KSPLIT}, {"attn_few_8", attn_few_8, 1, 8}};

// T tokens from position pos0 on (all of one sequence), or T sequences of one token.
static void attention(int T, int pos0, int ratio, bool batch, const std::vector<int>& splits) {
    const int last = batch ? pos0 : pos0 + T - 1, n_comp = ratio ? (last + 1) / ratio : 0, most = 32;
    float* q = filled<float>(FLOATS, 200, (uint64_t)T * N_HEAD * HEAD_DIM);
    half *ring = filled<half>(HALVES, 201, (uint64_t)RAW_SLOTS * HEAD_DIM), *comp = filled<half>(HALVES, 202, (uint64_t)(n_comp + 1) * HEAD_DIM),
         *chunk = filled<half>(HALVES, 203, (uint64_t)T * HEAD_DIM);
    float *sinks = filled<float>(FLOATS, 204, N_HEAD), *out = device<float>((uint64_t)T * N_HEAD * HEAD_DIM);
    const uint64_t parts = splits[0] > 1 ? (uint64_t)T * most * N_HEAD : 1;
    float *po = device<float>(parts * HEAD_DIM), *ml = device<float>(parts * 2);
    std::vector<float> turn((uint64_t)T * ROPE_DIM);
    std::vector<Tok> tok(T);
    std::vector<int> pick((uint64_t)T * IDX_TOPK);
    for (int t = 0; t < T; t++) {
        const int pos = batch ? pos0 : pos0 + t, n = ratio ? (pos + 1) / ratio : 0;
        tok[t] = Tok{0, pos, 0, batch ? t : 0, pos0, batch ? 1 : T, 0, 0};
        for (int i = 0; i < ROPE_DIM / 2; i++) turn[t * ROPE_DIM + 2 * i] = cosf(pos * 0.01f * i), turn[t * ROPE_DIM + 2 * i + 1] = sinf(pos * 0.01f * i);
        for (int i = 0; i < IDX_TOPK && n > 0; i++) pick[(uint64_t)t * IDX_TOPK + i] = std::min<uint64_t>(n - 1, ((uint64_t)i * n + hash(i + t * 512ull, 205) % std::max(1, n)) / IDX_TOPK);
    }
    float* turns = uploaded(turn);
    Tok* toks = uploaded(tok);
    int* chosen = uploaded(pick);
    SeqLayer layer = {};
    layer.raw = (uint8_t*)ring, layer.comp = (uint8_t*)comp;
    SeqLayer* table = uploaded(std::vector<SeqLayer>{layer});
    printf("attention T %d%s pos %d ratio %d:", T, batch ? " sequences" : "", pos0, ratio);
    double worst = 0;
    const bool many = splits[0] == 1;
    for (int v = 0; v < (many ? 3 : 2); v++) {
        const AttnVariant& a = many ? MANY[v] : FEW[v];
        const int smem = ATTN_SMEM(a.hg, a.ksplit);
        allow(a.f, smem);
        printf(" %s", a.name);
        for (int n : splits) {
            const float ms = timed(many ? 2 : 50, [&](cudaStream_t st) {
                a.f<<<dim3(T, n, (N_HEAD + 16 * a.hg - 1) / (16 * a.hg)), a.hg * a.ksplit * 32, smem, st>>>(q, turns, sinks, toks, table, 1, 0, (const uint8_t*)chunk, chosen, ratio, n, po, ml, out, nullptr, nullptr);
                if (n > 1) attn_combine<<<dim3(T, N_HEAD), ATTN_COMBINE_THREADS, 0, st>>>(po, ml, sinks, turns, n, out, nullptr, nullptr);
            });
            printf(" /%d %.4f ms", n, ms);
            const std::vector<float> y = fetched(out, (uint64_t)T * N_HEAD * HEAD_DIM);
            std::vector<double> got, want;
            for (int s = 0; s < 3; s++) {
                const int t = hash(s, 206) % T, h = hash(s, 207) % N_HEAD, pos = tok[t].pos;
                std::vector<std::pair<uint32_t, uint64_t>> rows;
                for (int p = std::max(0, pos - WINDOW + 1); p <= pos; p++)
                    rows.push_back(p >= pos0 ? std::make_pair(203u, (uint64_t)(tok[t].start + p - pos0)) : std::make_pair(201u, (uint64_t)(p % RAW_SLOTS)));
                const int nc = ratio ? (pos + 1) / ratio : 0;
                const bool some = ratio == 4 && nc > IDX_TOPK;
                for (int i = 0; i < (some ? IDX_TOPK : nc); i++) rows.push_back({202u, some ? (uint64_t)pick[(uint64_t)t * IDX_TOPK + i] : (uint64_t)i});
                double x[HEAD_DIM], o[HEAD_DIM] = {}, ss = 0, m = float_at(FLOATS, 204, h), den;
                for (int c = 0; c < HEAD_DIM; c++) x[c] = float_at(FLOATS, 200, ((uint64_t)t * N_HEAD + h) * HEAD_DIM + c), ss += x[c] * x[c];
                for (double& c : x) c /= sqrt(ss / HEAD_DIM + RMS_EPS);
                const auto rotate = [&](double* z, double sign) {
                    for (int i = 0; i < ROPE_DIM; i += 2) {
                        double &p = z[HEAD_DIM - ROPE_DIM + i], &r = z[HEAD_DIM - ROPE_DIM + i + 1];
                        const double cs = turn[t * ROPE_DIM + i], sn = sign * turn[t * ROPE_DIM + i + 1], p0 = p;
                        p = p0 * cs - r * sn, r = p0 * sn + r * cs;
                    }
                };
                rotate(x, 1);
                std::vector<double> sc;
                for (auto& row : rows) {
                    double dot = 0;
                    for (int c = 0; c < HEAD_DIM; c++) dot += x[c] * float_at(HALVES, row.first, row.second * HEAD_DIM + c);
                    sc.push_back(dot / sqrt((double)HEAD_DIM)), m = std::max(m, sc.back());
                }
                den = exp(float_at(FLOATS, 204, h) - m);
                for (double& e : sc) e = exp(e - m), den += e;
                for (size_t j = 0; j < rows.size(); j++)
                    for (int c = 0; c < HEAD_DIM; c++) o[c] += sc[j] / den * float_at(HALVES, rows[j].first, rows[j].second * HEAD_DIM + c);
                rotate(o, -1);
                for (int c = 0; c < HEAD_DIM; c++) got.push_back(y[((uint64_t)t * N_HEAD + h) * HEAD_DIM + c]), want.push_back(o[c]);
            }
            const double e = nmse(got, want);
            if (!(e < 1e-6)) printf(" WRONG (nmse %.0e)", e);
            worst = std::max(worst, e);
        }
    }
    printf(", worst nmse %.0e\n", worst);
    for (void* p : {(void*)q, (void*)ring, (void*)comp, (void*)chunk, (void*)sinks, (void*)out, (void*)po, (void*)ml, (void*)turns, (void*)toks, (void*)chosen, (void*)table}) cudaFree(p);
}

int main() {
    cudaDeviceProp p;
    ok(cudaGetDeviceProperties(&p, 0), "device");
    printf("%s, %d multiprocessors\n", p.name, p.multiProcessorCount);
    for (int pos : {2048, 65535})
        for (int ratio : {4, 128}) attention(1, pos, ratio, false, {8, 16, 20, 32});
    attention(16, 65535, 4, true, {2, 4, 8});
    for (int ratio : {0, 4, 128}) attention(2048, 0, ratio, false, {1});
    attention(2048, 16384, 4, false, {1});
    fflush(stdout);
    dense();
    fflush(stdout);
    experts();
    return 0;
}
