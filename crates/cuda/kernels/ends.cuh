// Both ends of the model: embedding, the MTP block's input, the greedy choice, steering.
#pragma once
#include "hc.cuh"

// Value `d` of a row of the embedding table.
__device__ __forceinline__ float embd_at(const Mat& e, int id, int d) {
    const size_t at = (size_t)id * N_EMBD + d;
    if (e.type == TY_F16) return __half2float(((const half*)e.q)[at]);
    if (e.type == TY_Q8_0) return (float)((const int8_t*)e.q)[at] * __half2float(((const half*)e.d)[at / 32]);
    return ((const float*)e.q)[at];
}

// Every stream of a token starts as its embedding. grid (T), block 256.
DS4_KERNEL(embed)(Mat e, const Tok* toks, float* streams) {
    const int t = blockIdx.x;
    pdl_wait();
    pdl_go();
    const int id = toks[t].id;
    for (int d = threadIdx.x; d < N_EMBD; d += blockDim.x) {
        const float v = embd_at(e, id, d);
#pragma unroll
        for (int k = 0; k < N_HC; k++) streams[((size_t)t * N_HC + k) * N_EMBD + d] = v;
    }
}
DS4_REGISTER(embed)

// Inputs of the MTP block's projections (section 4, steps 1 and 2): x = rms(E[id])·enorm and
// h = rms(hidden, stream by stream)·hnorm, with their Q8_0 forms. grid (T, 1 + N_HC), block 256.
// `hidden` is [T][N_HC][N_EMBD]; token t reads row from[t] when `from` is given.
DS4_KERNEL(mtp_input)(Mat e, const Tok* toks, const float* enorm, const float* hidden, const int* from,
                      const float* hnorm, float* x, int8_t* xq, float* xd, float* h, int8_t* hq, float* hd) {
    __shared__ float row[N_EMBD], space[32];
    const int t = blockIdx.x, k = (int)blockIdx.y - 1;
    pdl_wait();
    pdl_go();
    const float* in = k < 0 ? 0 : hidden + ((size_t)(from ? from[t] : t) * N_HC + k) * N_EMBD;
    const int id = toks[t].id;
    float square = 0.0f;
    for (int d = threadIdx.x; d < N_EMBD; d += blockDim.x) {
        row[d] = k < 0 ? embd_at(e, id, d) : in[d];
        square += row[d] * row[d];
    }
    const float inv = 1.0f / sqrtf(block_sum(square, space) / (float)N_EMBD + RMS_EPS);
    const float* w = k < 0 ? enorm : hnorm;
    const size_t at = k < 0 ? (size_t)t * N_EMBD : ((size_t)t * N_HC + k) * N_EMBD;
    for (int d = threadIdx.x; d < N_EMBD; d += blockDim.x) {
        row[d] *= inv * w[d];
        (k < 0 ? x : h)[at + d] = row[d];
    }
    __syncthreads();
    if (N_EMBD % 32 == 0)
        quantise_row(row, N_EMBD, FORM_Q8_0, (k < 0 ? xq : hq) + at, (k < 0 ? xd : hd) + at / 32, 0, 0, 0);
}
DS4_REGISTER(mtp_input)

// streams[t][k] += y[t]. grid (T·N_HC), block 256.
DS4_KERNEL(add_to_streams)(const float* y, float* streams) {
    pdl_wait();
    pdl_go();
    const size_t t = blockIdx.x / N_HC;
    for (int d = threadIdx.x; d < N_EMBD; d += blockDim.x)
        streams[(size_t)blockIdx.x * N_EMBD + d] += y[t * N_EMBD + d];
}
DS4_REGISTER(add_to_streams)

// Keeps final streams in the sequences' rings of them. grid (T), block 256.
DS4_KERNEL(keep_hidden)(const float* streams, const Tok* toks, const SeqLayer* table, int places, int place) {
    const int t = blockIdx.x;
    pdl_wait();
    pdl_go();
    const Tok tok = toks[t];
    if (tok.pos < tok.pos0 + tok.n - HIDDEN_SLOTS) return;
    float* to = table[(size_t)tok.seq * places + place].hidden + (size_t)(tok.pos % HIDDEN_SLOTS) * N_HC * N_EMBD;
    for (int d = threadIdx.x; d < N_HC * N_EMBD; d += blockDim.x) to[d] = streams[(size_t)t * N_HC * N_EMBD + d];
}
DS4_REGISTER(keep_hidden)

// Final streams of pairs: of the step's own tokens (from[t] >= 0) or of a sequence's ring (else the
// state of position `pos`). grid (T), block 256.
DS4_KERNEL(gather_hidden)(const float* streams, const int* from, const Tok* pairs, const SeqLayer* table,
                          int places, int place, float* out) {
    const int t = blockIdx.x;
    pdl_wait();
    pdl_go();
    const Tok tok = pairs[t];
    const float* in = from[t] >= 0 ? streams + (size_t)from[t] * N_HC * N_EMBD
                                   : table[(size_t)tok.seq * places + place].hidden +
                                         (size_t)(tok.pos % HIDDEN_SLOTS) * N_HC * N_EMBD;
    for (int d = threadIdx.x; d < N_HC * N_EMBD; d += blockDim.x) out[(size_t)t * N_HC * N_EMBD + d] = in[d];
}
DS4_REGISTER(gather_hidden)

// Number of the largest of `n` values, the lowest of equal ones. grid (rows), block 1024.
DS4_KERNEL(argmax)(const float* x, int n, int* out) {
    __shared__ uint64_t best_of[32];
    pdl_wait();
    uint64_t best = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        const uint32_t bits = __float_as_uint(x[(size_t)blockIdx.x * n + i] + 0.0f);
        const uint64_t key = (uint64_t)(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | (uint32_t)(0x7fffffff - i);
        if (key > best) best = key;
    }
    for (int o = 16; o; o >>= 1) {
        const uint64_t other = __shfl_xor_sync(FULL, best, o);
        if (other > best) best = other;
    }
    if ((threadIdx.x & 31) == 0) best_of[threadIdx.x >> 5] = best;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < (int)blockDim.x / 32; w++)
            if (best_of[w] > best) best = best_of[w];
        out[blockIdx.x] = 0x7fffffff - (int)(uint32_t)best;
    }
}
DS4_REGISTER(argmax)

// y -= scale·v·(v·y) for every token. grid (T), block 256.
DS4_KERNEL(steer)(const float* v, float scale, float* y) {
    __shared__ float space[32];
    pdl_wait();
    float* row = y + (size_t)blockIdx.x * N_EMBD;
    float share = 0.0f;
    for (int d = threadIdx.x; d < N_EMBD; d += blockDim.x) share += v[d] * row[d];
    share = block_sum(share, space) * scale;
    for (int d = threadIdx.x; d < N_EMBD; d += blockDim.x) row[d] -= share * v[d];
}
DS4_REGISTER(steer)

// Choices of experts beyond the first `inside` get weight 0 and an expert among those.
DS4_KERNEL(keep_inside)(int* ids, float* weights, int n, int inside) {
    pdl_wait();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n || ids[i] < inside) return;
    ids[i] %= inside;
    weights[i] = 0.0f;
}
DS4_REGISTER(keep_inside)

// y += x, n values.
DS4_KERNEL(add_values)(const float* x, float* y, int64_t n) {
    pdl_wait();
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) y[i] += x[i];
}
DS4_REGISTER(add_values)

// Reads `n` pieces of 16 bytes and does next to nothing with them: the ceiling of reading.
DS4_KERNEL(read_all, 512)(const uint4* x, int64_t n, uint32_t* sink) {
    pdl_wait();
    uint32_t sum = 0;
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
        uint4 v[4];
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = load_stream(x + i + k * step);
#pragma unroll
        for (int k = 0; k < 4; k++) sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    for (; i < n; i += step) sum ^= x[i].x;
    if (sum == 0x9e3779b9u) *sink = sum;
}
DS4_REGISTER(read_all)
