// Speed and correctness of the decode weight kernels on one GPU, with variants of the critical ones.
//
//   nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -I crates/cuda/kernels -I crates/cuda/emu
//        bench/cuda/mv_bench.cu -o mv_bench && ./mv_bench [seconds-saving divisor of launches, default 1]
//
// Every case is a CUDA graph of launches over distinct weights (far more than the second-level
// cache), replayed 7 times; the median is shown, without and with programmatic dependent launch.
// Needs about 20 GB. Errors are against a plain kernel in double precision that reads the planes
// element by element: nmse over samples.
#define N_EMBD 4096
#define N_FF 2048
#define N_EXPERT 256
#define N_USED 6
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>
#include "experts_mv.cuh"
#include "repack.cuh"

#define OK(call)                                                                                   \
    do {                                                                                           \
        cudaError_t e_ = (call);                                                                   \
        if (e_ != cudaSuccess) {                                                                   \
            printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_));           \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

// --- data

__device__ uint32_t mix(uint64_t i) {
    i = (i + 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
    i = (i ^ (i >> 31)) * 0x94d049bb133111ebull;
    return (uint32_t)(i >> 32);
}
__global__ void fill_bits(uint32_t* p, size_t n) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) p[i] = mix(i);
}
// kind 0: scales 0.001 .. 0.011; 1: weights of -1 .. 1
__global__ void fill_half(__half* p, size_t n, int kind) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        const float u = (mix(i) >> 8) * (1.0f / (1 << 24));
        p[i] = __float2half(kind ? 2 * u - 1 : 0.001f + 0.01f * u);
    }
}
__global__ void fill_e8m0(uint8_t* p, size_t n) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) p[i] = 118 + mix(i) % 8;
}

static int sms;
static char *bits, *scales, *halves, *e8m0;
static const size_t BITS = 11ull << 30, SCALES = 1ull << 30, HALVES = 3ull << 30, E8M0 = 1ull << 28;
static float *xf, *xd, *xkd, *weights, *out_buf, *mid, *smid, *y_buf;
static int8_t *xq, *xkq;
static int16_t* xks;
static const int XN = 16 * 32768;
static cudaStream_t stream;
static cudaEvent_t ev0, ev1;
static double ceiling = 0;
static int divisor = 1, failures = 0;

template <class T> static T* upload(const std::vector<T>& v) {
    T* p;
    OK(cudaMalloc(&p, v.size() * sizeof(T) + 256));
    OK(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}

static void make_data() {
    OK(cudaMalloc(&bits, BITS));
    OK(cudaMalloc(&scales, SCALES));
    OK(cudaMalloc(&halves, HALVES));
    OK(cudaMalloc(&e8m0, E8M0));
    fill_bits<<<2048, 256>>>((uint32_t*)bits, BITS / 4);
    fill_half<<<2048, 256>>>((__half*)scales, SCALES / 2, 0);
    fill_half<<<2048, 256>>>((__half*)halves, HALVES / 2, 1);
    fill_e8m0<<<2048, 256>>>((uint8_t*)e8m0, E8M0);
    std::vector<float> f(XN), d(XN / 32), kd(XN / 256);
    std::vector<int8_t> q(XN), kq(XN);
    std::vector<int16_t> s(XN / 16);
    srand(1);
    for (auto& v : f) v = (rand() % 20001 - 10000) * 1e-4f;
    for (int b = 0; b < XN / 32; b++) {
        float m = 0;
        for (int i = 0; i < 32; i++) m = fmaxf(m, fabsf(f[b * 32 + i]));
        d[b] = m / 127;
        for (int i = 0; i < 32; i++) q[b * 32 + i] = (int8_t)nearbyintf(f[b * 32 + i] * (1 / d[b]));
    }
    for (int b = 0; b < XN / 256; b++) {
        float m = 0;
        for (int i = 0; i < 256; i++)
            if (fabsf(f[b * 256 + i]) > fabsf(m)) m = f[b * 256 + i];
        const float inv = -127 / m;
        kd[b] = 1 / inv;
        for (int i = 0; i < 256; i++) kq[b * 256 + i] = (int8_t)nearbyintf(fminf(127, f[b * 256 + i] * inv));
    }
    for (int i = 0; i < XN; i++) s[i / 16] += kq[i];
    xf = upload(f), xd = upload(d), xkd = upload(kd), xq = upload(q), xkq = upload(kq), xks = upload(s);
    std::vector<float> w(96);
    for (auto& v : w) v = (rand() % 1000 + 1) * 1e-3f;
    weights = upload(w);
    OK(cudaMalloc(&out_buf, 16ull * 140000 * 4));
    OK(cudaMalloc(&mid, 96 * N_FF * 4));
    OK(cudaMalloc(&smid, 16 * N_FF * 4));
    OK(cudaMalloc(&y_buf, 16 * N_EMBD * 4));
    OK(cudaMemcpy(mid, xf, 96 * N_FF * 4, cudaMemcpyDeviceToDevice));
    OK(cudaMemcpy(smid, xf + 96 * N_FF, 16 * N_FF * 4, cudaMemcpyDeviceToDevice));
    OK(cudaDeviceSynchronize());
}

static const char* TYPE[] = {"f32", "f16", "q8_0", "iq2_xxs", "q2_k", "q4_k", "mxfp4"};
static const double Q_BYTES[] = {4, 2, 1, 0.25, 0.25, 0.5, 0.5};
static const double S_BYTES[] = {0, 0, 0, 1 / 64., 1 / 16., 1 / 16., 1 / 32.};
static const double D_BYTES[] = {0, 0, 1 / 16., 1 / 128., 1 / 64., 1 / 64., 0};

// Matrices are laid one after the other through the pools, round and round.
static size_t at_bits, at_halves, at_scales, at_e8m0;
static size_t take(size_t& at, size_t bytes, size_t size) {
    bytes = (bytes + 255) / 256 * 256;
    if (at + bytes > size) at = 0;
    const size_t r = at;
    at += bytes;
    return r;
}
static Mat matrix(int type, size_t rows, int cols, int one = 0) {
    const double n = (double)rows * cols;
    Mat m = {};
    m.type = type, m.rows = one ? one : (int)rows, m.cols = cols;
    if (type == TY_F16) m.q = halves + take(at_halves, n * 2, HALVES);
    else m.q = bits + take(at_bits, n * Q_BYTES[type], BITS);
    if (type == TY_MXFP4) m.s = e8m0 + take(at_e8m0, n / 32, E8M0);
    else if (S_BYTES[type] > 0) m.s = bits + take(at_bits, n * S_BYTES[type], BITS);
    if (D_BYTES[type] > 0) m.d = scales + take(at_scales, n * D_BYTES[type], SCALES);
    return m;
}
static double bytes_of(int type, double n) { return n * (Q_BYTES[type] + S_BYTES[type] + D_BYTES[type]); }

// --- reference

__device__ double half_at(const void* p, int64_t i) { return (double)__half2float(((const __half*)p)[i]); }
__device__ double element(const Mat& m, int64_t row, int col) {
    const uint8_t *q = (const uint8_t*)m.q, *s = (const uint8_t*)m.s;
    const int64_t b = row * (m.cols / 256) + col / 256;
    const int k = col % 256;
    switch (m.type) {
    case TY_F32: return ((const float*)m.q)[row * m.cols + col];
    case TY_F16: return half_at(m.q, row * m.cols + col);
    case TY_Q8_0: return half_at(m.d, row * (m.cols / 32) + col / 32) * (double)((const signed char*)m.q)[row * m.cols + col];
    case TY_Q2_K: {
        const int l = k % 32, j = k % 128 / 32, n = k / 128, sc = s[b * 16 + k / 16];
        return half_at(m.d, 2 * b) * (sc & 15) * ((q[b * 64 + 32 * n + l] >> (2 * j)) & 3) - half_at(m.d, 2 * b + 1) * (sc >> 4);
    }
    case TY_Q4_K: {
        const int v = (q[b * 128 + k / 64 * 32 + k % 32] >> (k % 64 / 32 * 4)) & 15;
        return half_at(m.d, 2 * b) * s[b * 16 + k / 32] * v - half_at(m.d, 2 * b + 1) * s[b * 16 + 8 + k / 32];
    }
    case TY_MXFP4: {
        const double e2m1[] = {0, .5, 1, 1.5, 2, 3, 4, 6};
        const int64_t g = row * (m.cols / 32) + col / 32;
        const int l = col % 32, v = q[g * 16 + l % 16] >> (l / 16 * 4) & 15;
        return e2m1[v & 7] * (v & 8 ? -1 : 1) * exp2((double)s[g] - 127);
    }
    default: {
        const int64_t unit = row / 8, groups = m.cols / 32, g = col / 32;
        const int r = row % 8, l = col % 32;
        const uint32_t* w = (const uint32_t*)m.q + ((unit * 4 + r / 2) * groups + g) * 4 + r % 2 * 2;
        const int code = (IQ2_CODES[w[0] >> (l / 8 * 8) & 255] >> (l % 8 * 2)) & 3, mag = code == 0 ? 8 : code == 1 ? 25 : 43;
        const int scale = ((const uint32_t*)m.s)[unit * groups + g] >> (4 * r) & 15;
        return half_at(m.d, (unit * (m.cols / 256) + col / 256) * 8 + r) * (2 * scale + 1) / 8 * mag * (w[1] >> l & 1 ? -1 : 1);
    }
    }
}
// Dot product of a row with activations of form 0 (f32), 1 (Q8_0) or 2 (Q8_K) from value `at` on.
__device__ double ref_dot(const Mat& m, int64_t row, int form, const float* f, const int8_t* q, const float* d, int64_t at) {
    double sum = 0;
    for (int c = threadIdx.x; c < m.cols; c += 32) {
        const int64_t i = at + c;
        const double x = form == 0 ? f[i] : form == 1 ? (double)q[i] * d[i / 32] : (double)q[i] * d[i / 256];
        sum += element(m, row, c) * x;
    }
    for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(FULL, sum, o);
    return sum;
}
__device__ double ref_swiglu(double g, double u, double clamp) {
    g = fmin(g, clamp), u = fmin(fmax(u, -clamp), clamp);
    return g / (1 + exp(-g)) * u;
}
// err: {sum of squared errors, of squares} of samples, one warp each.
__global__ void ref_mv(MvJob j, const float* f, const int8_t* q, const float* d, int stride, int T, int samples, double* err) {
    const int t = mix(blockIdx.x * 2) % T, row = mix(blockIdx.x * 2 + 1) % j.w.rows, form = j.w.type == TY_Q8_0;
    const int64_t at = (int64_t)t * stride + (j.groups > 1 ? row / (j.w.rows / j.groups) * j.w.cols : 0);
    double r = ref_dot(j.w, row, form, f, q, d, at);
    if (j.kind) r = ref_swiglu(r, ref_dot(j.w2, row, form, f, q, d, at), j.clamp);
    const double e = j.out[(int64_t)t * j.out_stride + row] - r;
    if (threadIdx.x == 0) atomicAdd(err, e == e ? e * e : 1e300), atomicAdd(err + 1, r * r);
}
__global__ void ref_gate_up(Mat g, Mat u, const int* ids, const float* w, const float* f, const int8_t* q, const float* d, float clamp,
                            const float* mid, int T, double* err) {
    const int p = mix(blockIdx.x * 2) % (T * N_USED), row = mix(blockIdx.x * 2 + 1) % N_FF, form = g.type <= TY_F16 ? 0 : 2;
    const int64_t r0 = (int64_t)ids[p] * N_FF + row, at = (int64_t)(p / N_USED) * N_EMBD;
    const double r = ref_swiglu(ref_dot(g, r0, form, f, q, d, at), ref_dot(u, r0, form, f, q, d, at), clamp) * w[p];
    const double e = mid[(int64_t)p * N_FF + row] - r;
    if (threadIdx.x == 0) atomicAdd(err, e == e ? e * e : 1e300), atomicAdd(err + 1, r * r);
}
// The reference quantises nothing itself: q, d are the host's Q8_K form of mid, sq, sd the Q8_0 form of smid.
__global__ void ref_down(Mat m, Mat s, const int* ids, const int8_t* q, const float* d, const int8_t* sq, const float* sd, const float* y,
                         int T, double* err) {
    const int t = mix(blockIdx.x * 2) % T, row = mix(blockIdx.x * 2 + 1) % N_EMBD;
    double r = ref_dot(s, row, 1, 0, sq, sd, (int64_t)t * N_FF);
    for (int k = 0; k < N_USED; k++)
        r += ref_dot(m, (int64_t)ids[t * N_USED + k] * N_EMBD + row, 2, 0, q, d, (int64_t)(t * N_USED + k) * N_FF);
    const double e = y[(int64_t)t * N_EMBD + row] - r;
    if (threadIdx.x == 0) atomicAdd(err, e == e ? e * e : 1e300), atomicAdd(err + 1, r * r);
}
static double nmse(std::function<void(double*)> reference) {
    static double* err = 0;
    if (!err) OK(cudaMalloc(&err, 16));
    OK(cudaMemset(err, 0, 16));
    reference(err);
    double h[2];
    OK(cudaMemcpy(h, err, 16, cudaMemcpyDeviceToHost));
    const double v = h[0] / (h[1] + 1e-300);
    if (!(v < 1e-11)) failures++;
    return v;
}

// --- launches and timing

static bool dependent;
template <class... P, class... A> static void launch(void (*kernel)(P...), dim3 grid, int block, A... a) {
    cudaLaunchConfig_t c = {};
    c.gridDim = grid, c.blockDim = dim3(block), c.stream = stream;
    cudaLaunchAttribute at[1];
    at[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    at[0].val.programmaticStreamSerializationAllowed = 1;
    c.attrs = at, c.numAttrs = dependent ? 1 : 0;
    OK(cudaLaunchKernelEx(&c, kernel, static_cast<P>(a)...));
}

// Microseconds of one of n launches, the median of replays.
static double time_graph(int n, const std::function<void(int)>& one) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < n; i++) one(i);
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    std::vector<float> ms;
    for (int r = 0; r < 8; r++) {
        OK(cudaEventRecord(ev0, stream));
        OK(cudaGraphLaunch(exec, stream));
        OK(cudaEventRecord(ev1, stream));
        OK(cudaEventSynchronize(ev1));
        float t;
        OK(cudaEventElapsedTime(&t, ev0, ev1));
        if (r) ms.push_back(t);
    }
    std::sort(ms.begin(), ms.end());
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
    return ms[ms.size() / 2] * 1e3 / n;
}
static void line(const char* name, double mb, int n, const std::function<void(int)>& one, double error) {
    n = std::max(4, n / divisor);
    dependent = false;
    const double a = time_graph(n, one);
    dependent = true;
    const double b = time_graph(n, one);
    printf("%-34s %7.1f MB | %8.2f us %5.0f GB/s | pdl %8.2f us %5.0f GB/s %3.0f%% | %.0e%s\n", name, mb, a, mb / a * 1e3, b, mb / b * 1e3,
           mb / b * 1e5 / ceiling, error, error < 1e-11 ? "" : " WRONG");
    fflush(stdout);
}

// --- a plain read

__global__ void __launch_bounds__(256) read_all(const uint4* p, size_t n, uint32_t* out) {
    uint32_t s = 0;
    pdl_go();
    const size_t step = (size_t)gridDim.x * 256;
    size_t i = blockIdx.x * 256ull + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
        const uint4 a = load_stream(p + i), b = load_stream(p + i + step), c = load_stream(p + i + 2 * step), d = load_stream(p + i + 3 * step);
        s ^= a.x ^ b.y ^ c.z ^ d.w;
    }
    for (; i < n; i += step) s ^= load_stream(p + i).x;
    pdl_wait();
    if (s == 0x12345) *out = s;
}

// --- mat-vecs

template <int T, int W, int RQ, int CQ, int RF, int CF, int MB>
__global__ void __launch_bounds__(W * 32, MB)
    v_small(const __grid_constant__ MvJobs jobs, const float* f, const int8_t* q, const float* d, int stride, int tokens) {
    mv_small<T, W, RQ, CQ, RF, CF>(jobs, f, q, d, stride, tokens);
}
template <int NT, int U, int MB>
__global__ void __launch_bounds__(256, MB)
    v_large(const __grid_constant__ MvJobs jobs, const float* f, const int8_t* q, const float* d, int stride, int tokens) {
    mv_large<NT, U>(jobs, f, q, d, stride, tokens);
}
typedef void (*MvKernel)(const MvJobs, const float*, const int8_t*, const float*, int, int);
struct Variant {
    const char* name;
    MvKernel kernel;
    int warps, rq, rf, tokens;  // tokens: 16: tensor cores
};
static int rows_per_block(const Variant& v, int type, int cols, int kind) {
    int rows;
    if (v.tokens > 4) rows = 16 * (8 / (cols >= 4096 ? 8 : cols >= 2048 ? 4 : cols >= 1024 ? 2 : 1));
    else rows = (type == TY_Q8_0 ? v.rq : v.rf) * (v.warps / (cols >= 4096 ? v.warps : cols >= 2048 ? v.warps / 2 : v.warps / 4));
    return kind ? rows / 2 : rows;
}
struct Spec {
    int type, rows, cols, kind, groups;
};
static void mv_case(const char* name, const Variant& v, int T, int stride, const std::vector<Spec>& specs, double gb = 2.2) {
    double bytes = 0;
    for (const Spec& s : specs) bytes += bytes_of(s.type, (double)s.rows * s.cols) * (s.kind ? 2 : 1);
    const int n = std::max(2, (int)(gb * 1e9 / bytes));
    std::vector<MvJobs> all(n);
    int blocks = 0;
    for (MvJobs& jobs : all) {
        jobs = {};
        jobs.n = (int)specs.size();
        blocks = 0;
        size_t out = 0;
        for (size_t j = 0; j < specs.size(); j++) {
            const Spec& s = specs[j];
            MvJob& job = jobs.job[j];
            job.w = matrix(s.type, s.rows, s.cols);
            if (s.kind) job.w2 = matrix(s.type, s.rows, s.cols);
            job.out = out_buf + out, job.out_stride = s.rows, job.groups = s.groups, job.kind = s.kind, job.clamp = 10, job.first = blocks;
            out += (size_t)s.rows * T;
            const int r = rows_per_block(v, s.type, s.cols, s.kind);
            blocks += (s.rows + r - 1) / r;
        }
    }
    auto one = [&](int i) { launch(v.kernel, dim3(blocks), v.tokens > 4 ? 256 : v.warps * 32, all[i % n], xf, xq, xd, stride, T); };
    OK(cudaMemset(out_buf, 0xff, 16ull * 140000 * 4));
    dependent = false;
    one(0);
    OK(cudaStreamSynchronize(stream));
    double error = 0;
    for (const MvJob& job : all[0].job)
        if (job.w.rows) error = std::max(error, nmse([&](double* e) { ref_mv<<<512, 32>>>(job, xf, xq, xd, stride, T, 512, e); }));
    char text[99];
    snprintf(text, sizeof text, "%s T%d %s", name, T, v.name);
    line(text, bytes / 1e6, n, one, error);
}

// --- experts

template <int COPIES, int MB>
__global__ void __launch_bounds__(EV_IQ2_WARPS * 64, MB)
    v_iq2(const __grid_constant__ Mat g, const __grid_constant__ Mat u, const int* ids, const float* w, const int8_t* q, const float* d,
          const int16_t*, const float*, float clamp, float* mid, int T) {
    ev_gate_up_iq2_rows<COPIES>(g, u, ids, w, q, d, clamp, mid, T);
}
template <int GROUPS, int MB>
__global__ void __launch_bounds__(EvDown<TY_Q2_K, GROUPS>::WARPS * 32, MB)
    v_down(const __grid_constant__ Mat m, const int* ids, const float* mid, const __grid_constant__ Mat shared, const float* smid, float* y, int, int early) {
    ev_down_rows<TY_Q2_K, GROUPS>(m, ids, mid, shared, smid, y, early);
}
typedef void (*GateUp)(const Mat, const Mat, const int*, const float*, const int8_t*, const float*, const int16_t*, const float*, float, float*, int);
typedef void (*Down)(const Mat, const int*, const float*, const Mat, const float*, float*, int, int);

struct Layer {
    Mat gate, up, down, shared;
};
static std::vector<Layer> layers(int gate, int down, int n) {
    std::vector<Layer> v(n);
    at_bits = at_scales = at_e8m0 = 0;
    for (Layer& l : v) {
        l.gate = matrix(gate, (size_t)N_EXPERT * N_FF, N_EMBD, N_FF);
        l.up = matrix(gate, (size_t)N_EXPERT * N_FF, N_EMBD, N_FF);
        l.down = matrix(down, (size_t)N_EXPERT * N_EMBD, N_FF, N_EMBD);
        l.shared = matrix(TY_Q8_0, N_EMBD, N_FF);
    }
    return v;
}
// Experts of each launch, every one at most once per turn through a layer's 256.
static int* ids_of(int launches, int T) {
    std::vector<int> ids;
    const int per = 256 / (T * N_USED);
    for (int i = 0; i < launches; i++)
        for (int p = 0; p < T * N_USED; p++) ids.push_back((i % per * T * N_USED + p) * 77 % 256);
    return upload(ids);
}
static float* mid_out;
static void gate_case(const char* name, GateUp kernel, int block, int grid, int type, int T) {
    const double bytes = 2 * bytes_of(type, (double)T * N_USED * N_FF * N_EMBD);
    const int per = 256 / (T * N_USED), nl = type == TY_IQ2_XXS ? 3 : 1, n = per * nl;
    std::vector<Layer> ls = layers(type, TY_Q2_K, nl);
    int* ids = ids_of(n, T);
    auto one = [&](int i) {
        const Layer& l = ls[i / per % nl];
        launch(kernel, dim3(grid), block, l.gate, l.up, ids + i % n * T * N_USED, weights, xkq, xkd, xks, xf, 10.0f, mid_out, T);
    };
    dependent = false;
    OK(cudaMemset(mid_out, 0xff, 96 * N_FF * 4));
    one(0);
    OK(cudaStreamSynchronize(stream));
    const double e = nmse([&](double* err) { ref_gate_up<<<512, 32>>>(ls[0].gate, ls[0].up, ids, weights, xf, xkq, xkd, 10, mid_out, T, err); });
    char text[99];
    snprintf(text, sizeof text, "gate+up %s T%d %s", TYPE[type], T, name);
    line(text, bytes / 1e6, n, one, e);
    OK(cudaFree(ids));
}
static double down_bytes(int type, int T) { return bytes_of(type, (double)T * N_USED * N_FF * N_EMBD) + bytes_of(TY_Q8_0, (double)N_FF * N_EMBD); }
static void down_case(const char* name, Down kernel, int block, int grid, int type, int T, int early) {
    const int per = 256 / (T * N_USED), nl = 3, n = per * nl;
    std::vector<Layer> ls = layers(TY_IQ2_XXS, type, nl);
    int* ids = ids_of(n, T);
    auto one = [&](int i) {
        const Layer& l = ls[i / per % nl];
        launch(kernel, dim3(grid, T), block, l.down, ids + i % n * T * N_USED, mid, l.shared, smid, y_buf, T, early);
    };
    dependent = false;
    OK(cudaMemset(y_buf, 0xff, 16 * N_EMBD * 4));
    one(0);
    OK(cudaStreamSynchronize(stream));
    const int so = 96 * N_FF;  // smid is xf from here on
    const double e = nmse([&](double* err) { ref_down<<<512, 32>>>(ls[0].down, ls[0].shared, ids, xkq, xkd, xq + so, xd + so / 32, y_buf, T, err); });
    char text[99];
    snprintf(text, sizeof text, "down+shared %s T%d %s", TYPE[type], T, name);
    line(text, down_bytes(type, T) / 1e6, n, one, e);
    OK(cudaFree(ids));
}
// gate+up, then down on its result; the router's part and the shared gate and up are left out.
static void chain_case(const char* name, GateUp gate, int gate_grid, Down down, int block, int down_grid, int T, int early) {
    const int per = 256 / (T * N_USED), nl = 3, n = per * nl;
    std::vector<Layer> ls = layers(TY_IQ2_XXS, TY_Q2_K, nl);
    int* ids = ids_of(n, T);
    auto one = [&](int i) {
        const Layer& l = ls[i / per % nl];
        const int* id = ids + i % n * T * N_USED;
        launch(gate, dim3(gate_grid), 256, l.gate, l.up, id, weights, xkq, xkd, xks, xf, 10.0f, mid_out, T);
        launch(down, dim3(down_grid, T), block, l.down, id, mid_out, l.shared, smid, y_buf, T, early);
    };
    char text[99];
    snprintf(text, sizeof text, "gate+up, down T%d %s", T, name);
    line(text, (2 * bytes_of(TY_IQ2_XXS, (double)T * N_USED * N_FF * N_EMBD) + down_bytes(TY_Q2_K, T)) / 1e6, n, one, 0);
    OK(cudaFree(ids));
}

// --- repacking

typedef void (*Repack)(const uint8_t*, void*, void*, void*, int64_t, int64_t, int);
static void repack_case(const char* name, Repack kernel, int block_bytes, int block_values) {
    const int cols = 4096;
    const int64_t rows = (int64_t)(64 << 20) / (cols / block_values * block_bytes) / 8 * 8;
    const size_t chunk = rows * (cols / block_values) * block_bytes;
    char* to = bits + (6ull << 30);
    const int n = 32;
    printf(" %s", name);
    for (int g : {8, 32}) {
        dependent = false;
        const double us = time_graph(n, [&](int i) {
            launch(kernel, dim3(sms * g), 256, (const uint8_t*)bits + i * (chunk / 256 * 256), to + i * (chunk / 256 * 256),
                   to + (3ull << 30), to + (4ull << 30), (int64_t)0, rows, cols);
        });
        printf(" %.0f", chunk / us * 1e-3);
    }
    printf(" GB/s of file;");
}

int main(int argc, char** argv) {
    if (argc > 1) divisor = std::max(1, atoi(argv[1]));
    cudaDeviceProp prop;
    OK(cudaGetDeviceProperties(&prop, 0));
    sms = prop.multiProcessorCount;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    OK(cudaEventCreate(&ev0));
    OK(cudaEventCreate(&ev1));
    make_data();
    OK(cudaMalloc(&mid_out, 96 * N_FF * 4));
    const size_t one_gb = 4ull << 30;
    const double us = time_graph(2, [&](int i) { launch(read_all, dim3(sms * 8), 256, (const uint4*)(bits + i * one_gb), one_gb / 16, (uint32_t*)out_buf); });
    ceiling = one_gb / us * 1e-3;
    printf("%s, %d SMs: one read of 4 GiB %.0f GB/s; %% are of that; last column: nmse against float64\n", prop.name, sms, ceiling);
    const size_t part = 17825792;
    line("plain read, 17.8 MB a launch", part / 1e6, 128, [&](int i) { launch(read_all, dim3(sms * 4), 256, (const uint4*)(bits + i * part), part / 16, (uint32_t*)out_buf); }, 0);

    const Variant mv1 = {"", mv_1, 4, 4, 2, 4}, mv2 = {"", mv_2, 4, 4, 2, 4}, mv4 = {"", mv_4, 4, 4, 2, 4};
    const Variant mv8 = {"", mv_8, 8, 0, 0, 16}, mv16 = {"", mv_16, 8, 0, 0, 16};
    const std::vector<Spec> square = {{TY_Q8_0, 4096, 4096, 0, 1}};
    const std::vector<Spec> first = {{TY_F16, 1024, 4096, 0, 1}, {TY_F16, 1024, 4096, 0, 1}, {TY_F16, 256, 4096, 0, 1}, {TY_F16, 256, 4096, 0, 1},
                                     {TY_F16, 64, 4096, 0, 1},   {TY_Q8_0, 1024, 4096, 0, 1}, {TY_Q8_0, 512, 4096, 0, 1}};
    const std::vector<Spec> qb = {{TY_F16, 8192, 1024, 0, 1}, {TY_Q8_0, 32768, 1024, 0, 1}};
    const std::vector<Spec> outa = {{TY_Q8_0, 8192, 4096, 0, 8}}, outb = {{TY_Q8_0, 4096, 8192, 0, 1}};
    const std::vector<Spec> router = {{TY_Q8_0, 2048, 4096, 1, 1}, {TY_F16, 256, 4096, 0, 1}}, head = {{TY_Q8_0, 129280, 4096, 0, 1}};
    for (const Variant& v : {mv1, Variant{"R4 C2 96 regs", v_small<1, 4, 4, 2, 2, 4, 5>, 4, 4, 2, 4}, Variant{"R2 C2", v_small<1, 4, 2, 2, 2, 2, 10>, 4, 2, 2, 4},
                             Variant{"R2 C4", v_small<1, 4, 2, 4, 2, 4, 8>, 4, 2, 2, 4}, Variant{"R8 C2", v_small<1, 4, 8, 2, 2, 4, 4>, 4, 8, 2, 4},
                             Variant{"R4 C1 8 warps", v_small<1, 8, 4, 1, 2, 2, 4>, 8, 4, 2, 4}})
        mv_case("q8_0 4096x4096", v, 1, 4096, square);
    for (const Variant& v : {mv1, Variant{"RF4 CF2", v_small<1, 4, 4, 2, 4, 2, 8>, 4, 4, 4, 4}, Variant{"RF1 CF4", v_small<1, 4, 4, 2, 1, 4, 8>, 4, 4, 1, 4},
                             Variant{"8 warps", v_small<1, 8, 4, 1, 2, 2, 4>, 8, 4, 2, 4}})
        mv_case("q_a kv comp index", v, 1, 4096, first);
    mv_case("q_b, index q_b", mv1, 1, 1024, qb);
    mv_case("out_a, 8 groups", mv1, 1, 32768, outa);
    mv_case("out_b", mv1, 1, 8192, outb);
    mv_case("router, shared pair", mv1, 1, 4096, router);
    mv_case("head", mv1, 1, 4096, head);
    mv_case("q8_0 4096x4096", mv2, 2, 4096, square);
    for (const Variant& v : {mv4, Variant{"tensor", mv_8, 8, 0, 0, 16}}) mv_case("q8_0 4096x4096", v, 4, 4096, square);
    mv_case("q_a kv comp index", mv4, 4, 4096, first);
    mv_case("q8_0 4096x4096", mv8, 8, 4096, square);
    for (const Variant& v : {mv16, Variant{"U1", v_large<2, 1, 2>, 8, 0, 0, 16}, Variant{"U1, 3 blocks", v_large<2, 1, 3>, 8, 0, 0, 16}})
        mv_case("q8_0 4096x4096", v, 16, 4096, square);
    mv_case("q_a kv comp index", mv16, 16, 4096, first);
    mv_case("q_b, index q_b", mv16, 16, 1024, qb);
    mv_case("head", mv16, 16, 4096, head);

    for (int g : {3, 4, 5}) gate_case(("16 copies, grid " + std::to_string(g)).c_str(), exp_gate_up_iq2, 256, sms * g, TY_IQ2_XXS, 1);
    gate_case("16 copies, 1 unit a block", exp_gate_up_iq2, 256, 1536, TY_IQ2_XXS, 1);
    gate_case("8 copies, grid 4", v_iq2<8, 4>, 256, sms * 4, TY_IQ2_XXS, 1);
    gate_case("8 copies, grid 5", v_iq2<8, 5>, 256, sms * 5, TY_IQ2_XXS, 1);
    gate_case("grid 4", exp_gate_up_iq2, 256, sms * 4, TY_IQ2_XXS, 4);
    gate_case("grid 4", exp_gate_up_iq2, 256, sms * 4, TY_IQ2_XXS, 16);
    gate_case("", exp_gate_up_q2k, 256, sms * 4, TY_Q2_K, 1);
    gate_case("", exp_gate_up_q4k, 256, sms * 4, TY_Q4_K, 1);
    for (int g : {4, 24}) gate_case(g == 4 ? "" : "1 unit a block", exp_gate_up_mxfp4, 256, sms * g, TY_MXFP4, 1);
    down_case("2 groups", exp_down_q2k, 640, sms, TY_Q2_K, 1, 1);
    down_case("1 group, grid 2", v_down<1, 2>, 320, sms * 2, TY_Q2_K, 1, 1);
    down_case("3 groups", v_down<3, 1>, 960, sms, TY_Q2_K, 1, 1);
    down_case("", exp_down_q2k, 640, sms / 16, TY_Q2_K, 16, 1);
    down_case("", exp_down_q4k, 512, sms, TY_Q4_K, 1, 1);
    down_case("", exp_down_mxfp4, 512, sms, TY_MXFP4, 1, 1);
    for (int early : {0, 1}) chain_case(early ? "early" : "late", exp_gate_up_iq2, sms * 4, exp_down_q2k, 640, sms, 1, early);
    chain_case("early, grid 5", exp_gate_up_iq2, sms * 5, exp_down_q2k, 640, sms, 1, 1);
    chain_case("early, 1 group", exp_gate_up_iq2, sms * 4, v_down<1, 2>, 320, sms * 2, 1, 1);
    chain_case("early", exp_gate_up_iq2, sms * 4, exp_down_q2k, 640, sms / 16, 16, 1);
    printf("repack, 8 and 32 blocks per SM:");
    repack_case("q8_0", repack_q8_0, 34, 32);
    repack_case("iq2_xxs", repack_iq2_xxs, 66, 256);
    repack_case("q2_k", repack_q2_k, 84, 256);
    repack_case("q4_k", repack_q4_k, 144, 256);
    repack_case("mxfp4", repack_mxfp4, 17, 32);
    printf("\n%s\n", failures ? "SOME RESULTS ARE WRONG" : "all results agree");
    OK(cudaDeviceSynchronize());
    return failures != 0;
}
