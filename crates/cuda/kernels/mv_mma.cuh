// Products of matrices with 8 or 16 tokens by tensor cores, 16 rows by 8 tokens: what a warp of `mv_8`
// and `mv_16` does between its place and the sum over warps. Included by mv.cuh, after what it builds on.
//
// A warp copies the inputs of its own columns to shared memory in the background, in slots of a ring:
// whole lines at once, while it multiplies others. A slot has 128 bytes of each token, and then
// [T][4] scales.
#pragma once

#define MV_SLOTS 2
template <int NT> constexpr int MV_SLOT = 8 * NT * (128 + 16);

// 16 bytes to shared memory in the background, through the first-level cache: warps of other rows read
// them too. Zeros when `ok` is false.
__device__ __forceinline__ void mv_copy(void* to, const void* from, bool ok) {
#ifdef DS4_EMU
    emu_cp_async16(to, from, ok ? 16 : 0);
#else
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" :: "r"(at), "l"(from), "r"(ok ? 16 : 0) : "memory");
#endif
}

// Where the 16 bytes `chunk` of a token are in a slot: lanes that read fragments find different banks.
// Q8_0: 8 bytes of each of 4 tokens at once; f32: 16 bytes of each of 2.
__device__ __forceinline__ int mv_at_q8(int token, int chunk) { return token * 128 + ((chunk ^ (token & 3) << 1) << 4); }
__device__ __forceinline__ int mv_at_f32(int token, int chunk) { return token * 128 + ((chunk ^ (token & 1)) << 4); }

// The float of an integer below 2^22 that the tensor core added to MV_MAGIC: exact, without a conversion.
#define MV_MAGIC 0x4b400000
__device__ __forceinline__ float mv_float(int y) { return __int_as_float(y) - 12582912.0f; }

// One group of four blocks of 32 columns: w, s the values and scales of rows g and g + 8.
template <int NT>
__device__ __forceinline__ void mv_q8_group(const uint2 (&w)[2][4], const uint2 (&s)[2], const char* slot, float (&acc)[NT][4]) {
    const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
    float dt[NT][2][4];
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float4 v = *(const float4*)(slot + 8 * NT * 128 + (n * 8 + 2 * c + i) * 16);
            dt[n][i][0] = v.x, dt[n][i][1] = v.y, dt[n][i][2] = v.z, dt[n][i][3] = v.w;
        }
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const uint32_t a[4] = {w[0][k].x, w[1][k].x, w[0][k].y, w[1][k].y};
        const uint32_t half0 = k < 2 ? s[0].x : s[0].y, half1 = k < 2 ? s[1].x : s[1].y;
        const float s0 = half_bits(half0 >> (k & 1) * 16 & 0xffff), s1 = half_bits(half1 >> (k & 1) * 16 & 0xffff);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const uint2 xv = *(const uint2*)(slot + mv_at_q8(n * 8 + g, 2 * k) + 8 * c);
            const uint32_t bf[2] = {xv.x, xv.y};
            const int magic[4] = {MV_MAGIC, MV_MAGIC, MV_MAGIC, MV_MAGIC};
            int y[4];
            mma_s8(y, a, bf, magic);
            acc[n][0] += mv_float(y[0]) * (s0 * dt[n][0][k]);
            acc[n][1] += mv_float(y[1]) * (s0 * dt[n][1][k]);
            acc[n][2] += mv_float(y[2]) * (s1 * dt[n][0][k]);
            acc[n][3] += mv_float(y[3]) * (s1 * dt[n][1][k]);
        }
    }
}

// 16 rows of Q8_0 times 8 * NT tokens over the warp's part of the blocks of 32, of rows and inputs that
// are whole multiples of 128 columns. Lane 4g + c holds 8 values of rows g and g + 8 and of token g;
// which 8 of the 32 is the same on both sides. As many groups are in flight as the ring has slots.
template <int NT>
__device__ __forceinline__ void mv_q8_mma(const MvJob& job, const MvPlace& pl, const int8_t* xq, const float* xd,
                                          int x_stride, int tokens, char* ring, float (&acc)[NT][4]) {
    const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
    const int cols = job.w.cols, groups = cols >> 7;
    const int per = groups + (1 << pl.shift) - 1 >> pl.shift;
    const int first = pl.part * per, n = min(per, groups - first);
    const char* q[2];
    const char* d[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row;
        const Mat& m = mv_slot<16>(job, pl, g + 8 * h, row);
        q[h] = (const char*)m.q + (int64_t)row * cols + first * 128 + 8 * c;
        d[h] = (const char*)m.d + ((int64_t)row * groups + first) * 8;
    }
    // Lane's token and 16 bytes of a copy; the next copy is of 4 tokens on. None is read past the last.
    const int token = lane >> 3, chunk = lane & 7;
    const int8_t* x = xq + token * x_stride + pl.x_at + first * 128 + chunk * 16;
    const float* dx = xd + lane * (x_stride >> 5) + (pl.x_at >> 5) + first * 4;
    uint2 w[MV_SLOTS][2][4], s[MV_SLOTS][2];
    const auto weights = [&](int u, int i) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
#pragma unroll
            for (int k = 0; k < 4; k++) w[u][h][k] = load_stream8(q[h] + i * 128 + k * 32);
            s[u][h] = load_stream8(d[h] + i * 8);
        }
    };
    const auto inputs = [&](int u, int i) {
        char* to = ring + u * MV_SLOT<NT>;
#pragma unroll
        for (int j = 0; j < 2 * NT; j++) {
            const int t = 4 * j + token;
            mv_copy(to + mv_at_q8(t, chunk), x + (4 * j * x_stride + i * 128), t < tokens);
        }
        if (lane < 8 * NT) mv_copy(to + 8 * NT * 128 + lane * 16, dx + i * 4, lane < tokens);
    };
#pragma unroll
    for (int u = 0; u < MV_SLOTS; u++)
        if (u < n) weights(u, u);
    // Those of the next round: a line of each row and group.
    static_assert(MV_SLOTS == 2, "a lane for every line");
    if (MV_SLOTS + (lane >> 4) < n) {
        int row;
        const Mat& m = mv_slot<16>(job, pl, lane & 15, row);
        prefetch_l2((const char*)m.q + (int64_t)row * cols + (first + MV_SLOTS + (lane >> 4)) * 128);
    }
    pdl_wait();
#pragma unroll
    for (int u = 0; u < MV_SLOTS; u++) {
        if (u < n) inputs(u, u);
        cp_async_commit();
    }
#pragma unroll 1
    for (int i = 0; i < n; i += MV_SLOTS)
#pragma unroll
        for (int u = 0; u < MV_SLOTS; u++) {
            if (i + u >= n) break;
            cp_async_wait<MV_SLOTS - 1>();
            __syncwarp();
            mv_q8_group<NT>(w[u], s[u], ring + u * MV_SLOT<NT>, acc);
            __syncwarp();
            if (i + u + MV_SLOTS < n) weights(u, i + u + MV_SLOTS), inputs(u, i + u + MV_SLOTS);
            cp_async_commit();
        }
}

// The same of any rows, a block of 32 at a time.
template <int NT>
__device__ __forceinline__ void mv_q8_mma_any(const MvJob& job, const MvPlace& pl, const int8_t* xq, const float* xd,
                                              int x_stride, int tokens, float (&acc)[NT][4]) {
    const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
    const int cols = job.w.cols, blocks = cols >> 5, xb = x_stride >> 5;
    const int per = blocks + (1 << pl.shift) - 1 >> pl.shift;
    const int first = pl.part * per, last = min(first + per, blocks);
    const char* q[2];
    const char* d[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row;
        const Mat& m = mv_slot<16>(job, pl, g + 8 * h, row);
        q[h] = (const char*)m.q + (int64_t)row * cols + 8 * c;
        d[h] = (const char*)m.d + (int64_t)row * blocks * 2;
    }
    xq += pl.x_at + 8 * c, xd += pl.x_at >> 5;
    pdl_wait();
#pragma unroll 1
    for (int b = first; b < last; b++) {
        const uint2 w0 = load_stream8(q[0] + b * 32), w1 = load_stream8(q[1] + b * 32);
        const float s0 = half_bits(load_stream2(d[0] + b * 2)), s1 = half_bits(load_stream2(d[1] + b * 2));
        const uint32_t a[4] = {w0.x, w1.x, w0.y, w1.y};
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const int t = n * 8 + 2 * c;
            const float d0 = xd[min(t, tokens - 1) * xb + b], d1 = xd[min(t + 1, tokens - 1) * xb + b];
            const uint2 xv = *(const uint2*)(xq + (min(n * 8 + g, tokens - 1) * x_stride + b * 32));
            const uint32_t bf[2] = {xv.x, xv.y};
            const int zero[4] = {0, 0, 0, 0};
            int y[4];
            mma_s8(y, a, bf, zero);
            acc[n][0] += (float)y[0] * (s0 * d0);
            acc[n][1] += (float)y[1] * (s0 * d1);
            acc[n][2] += (float)y[2] * (s1 * d0);
            acc[n][3] += (float)y[3] * (s1 * d1);
        }
    }
}

// Two floats as halves, and what those leave, times 2^11: together 22 bits.
__device__ __forceinline__ void mv_halves(float x, float y, uint32_t& hi, uint32_t& lo) {
    const half2 v = __floats2half2_rn(x, y);
    const half2 rest = __floats2half2_rn((x - __low2float(v)) * 2048.0f, (y - __high2float(v)) * 2048.0f);
    hi = *(const uint32_t*)&v, lo = *(const uint32_t*)&rest;
}

// The same of F16 rows whose length is a multiple of 8; inputs must be below 65504. Four groups of 32
// columns are in flight, a slot of the ring each for two of them.
template <int NT>
__device__ __forceinline__ void mv_f16_mma(const MvJob& job, const MvPlace& pl, const float* xf, int x_stride,
                                           int tokens, char* ring, float (&acc)[NT][4]) {
    constexpr int U = 2 * MV_SLOTS;
    const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
    const int pieces = job.w.cols >> 3, per = (pieces + (4 << pl.shift) - 1) >> (2 + pl.shift) << 2;
    const int first = pl.part * per, last = min(first + per, pieces), groups = (last - first + 3) >> 2;
    const char* q[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row;
        const Mat& m = mv_slot<16>(job, pl, g + 8 * h, row);
        q[h] = (const char*)m.q + (int64_t)row * pieces * 16;
    }
    const int token = lane >> 3, chunk = lane & 7;
    xf += pl.x_at;
    uint4 w[U][2];
    const auto weights = [&](int u, int i) {
        const int p = first + 4 * i + c;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            w[u][h] = make_uint4(0, 0, 0, 0);
            if (p < last) w[u][h] = load_stream(q[h] + p * 16);
        }
    };
    const auto inputs = [&](int u, int i) {
        const int p = first + 4 * i + (chunk >> 1);
        char* to = ring + u * MV_SLOT<NT>;
#pragma unroll
        for (int j = 0; j < 2 * NT; j++) {
            const int t = 4 * j + token;
            const float* from = xf + (min(t, tokens - 1) * x_stride + min(p, pieces - 1) * 8 + (chunk & 1) * 4);
            mv_copy(to + mv_at_f32(t, chunk), from, t < tokens && p < last);
        }
    };
#pragma unroll
    for (int u = 0; u < U; u++)
        if (u < groups) weights(u, u);
    pdl_wait();
#pragma unroll
    for (int u = 0; u < MV_SLOTS; u++) {
        if (u < groups) inputs(u, u);
        cp_async_commit();
    }
#pragma unroll 1
    for (int i = 0; i < groups; i += U)
#pragma unroll
        for (int u = 0; u < U; u++) {
            if (i + u >= groups) break;
            cp_async_wait<MV_SLOTS - 1>();
            __syncwarp();
            const char* slot = ring + u % MV_SLOTS * MV_SLOT<NT>;
            const uint32_t a0[4] = {w[u][0].x, w[u][1].x, w[u][0].y, w[u][1].y};
            const uint32_t a1[4] = {w[u][0].z, w[u][1].z, w[u][0].w, w[u][1].w};
#pragma unroll
            for (int n = 0; n < NT; n++) {
                const float4 v0 = *(const float4*)(slot + mv_at_f32(n * 8 + g, 2 * c));
                const float4 v1 = *(const float4*)(slot + mv_at_f32(n * 8 + g, 2 * c + 1));
                uint32_t h0[2], h1[2], l0[2], l1[2];
                mv_halves(v0.x, v0.y, h0[0], l0[0]);
                mv_halves(v0.z, v0.w, h0[1], l0[1]);
                mv_halves(v1.x, v1.y, h1[0], l1[0]);
                mv_halves(v1.z, v1.w, h1[1], l1[1]);
                const float zero[4] = {0, 0, 0, 0};
                float hi[4], lo[4];
                mma_f16(hi, a0, h0, zero);
                mma_f16(lo, a0, l0, zero);
                mma_f16(hi, a1, h1, hi);
                mma_f16(lo, a1, l1, lo);
#pragma unroll
                for (int k = 0; k < 4; k++) acc[n][k] += fmaf(lo[k], 1.0f / 2048.0f, hi[k]);
            }
            __syncwarp();
            if (i + u + U < groups) weights(u, i + u + U);
            if (i + u + MV_SLOTS < groups) inputs(u % MV_SLOTS, i + u + MV_SLOTS);
            cp_async_commit();
        }
}
