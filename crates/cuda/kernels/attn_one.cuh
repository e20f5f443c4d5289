// Attention of one of few tokens in one launch, for devices with clusters of blocks and enough shared
// memory (architecture.md 2.6): what `attn_few` and `attn_combine` do, on the shortest way from the queries
// to the outputs.
//
// A cluster has ONE_HEADS heads of a token; each of its blocks visits a part of the rows, all at once
// where they fit. Rows are the M dimension of the first product, channels that of the second, heads N of
// both. Every block then sends its sums to the one that finishes their head: block r finishes head r.
#pragma once
#include "attn.cuh"

#define ONE_CLUSTER 8
#define ONE_HEADS 8   // as many as blocks
#define ONE_ROWS 96   // rows that a block holds
#define ONE_WARPS (HEAD_DIM / 32)
// A thread of a block has a channel of the outputs, a lane the address of one of its warp's rows.
#ifdef DS4_EMU
// The emulator runs a cluster as one block.
#define ONE_OK (HEAD_DIM % 32 == 0 && ONE_ROWS <= 32 * ONE_WARPS && HEAD_DIM * ONE_CLUSTER <= 1024)
#define ONE_BLOCKS 1
#define ONE_THREADS (HEAD_DIM * ONE_CLUSTER)
#else
#define ONE_OK (HEAD_DIM % 32 == 0 && ONE_ROWS <= 32 * ONE_WARPS && HEAD_DIM <= 512)
#define ONE_BLOCKS ONE_CLUSTER
#define ONE_THREADS HEAD_DIM
#endif

#if ONE_OK && (defined(DS4_EMU) || !defined(__CUDA_ARCH__) || (__CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200))

// Operands as of `attn_few` and `attn_combine`.
struct AttnOneArgs {
    const float *q, *turns, *sinks;
    const Tok* toks;
    const SeqLayer* table;
    int places, place;
    const uint8_t* raw_chunk;
    const int* chosen;
    int ratio, pad;
    float* out;
    int8_t* q8;
    float* d8;
};

// How the warps of a block share the first product: parts of the channels, and groups that take turns
// at tiles of 16 rows.
#define ONE_PARTS (ONE_WARPS % 4 == 0 ? 4 : 1)
#define ONE_GROUPS (ONE_WARPS / ONE_PARTS)
// Pitches that keep accesses free of bank conflicts.
#define ONE_Q_PITCH (HEAD_DIM + 8)
#define ONE_P_PITCH (ONE_ROWS + 8)
#define ONE_S_PITCH (ONE_ROWS + 4)

// Shared memory of one block.
struct AttnOneShared {
    __align__(128) unsigned char rows[ONE_ROWS * ATTN_ROW_BYTES];
    __align__(16) half q[2][ONE_HEADS][ONE_Q_PITCH];  // high and low parts
    __align__(16) half p[2][ONE_HEADS][ONE_P_PITCH];
    float scores[ONE_PARTS][ONE_HEADS][ONE_S_PITCH];
    float by[ONE_HEADS];
    // What the blocks send: outputs of this block's head, their sum and maximum.
    float parts[ONE_CLUSTER][HEAD_DIM];
    float sum[ONE_CLUSTER], most[ONE_CLUSTER];
    uint64_t arrived;  // an mbarrier
};
#define ONE_SENT (4 * ONE_CLUSTER * (HEAD_DIM + 2))

// A block's place in its cluster, and how it talks to the others.
struct OneCluster {
#ifdef DS4_EMU
    AttnOneShared* all;
    __device__ int rank() const { return threadIdx.x / HEAD_DIM; }
    __device__ int thread() const { return threadIdx.x % HEAD_DIM; }
    __device__ AttnOneShared& own() const { return all[rank()]; }
    __device__ void start() const {
        if (thread() == 0) own().arrived = 0;
        __syncthreads();
    }
    __device__ void started() const {}
    __device__ void sync() const { emu_bar_sync(1 + rank(), HEAD_DIM); }
    __device__ void send(float* at, int to, float v) const {
        *(float*)((char*)at + ((char*)&all[to] - (char*)&own())) = v;
        all[to].arrived += 4;
    }
    __device__ void receive() const {
        while (((volatile AttnOneShared&)own()).arrived < ONE_SENT) ds4_emu::worker->yield();
    }
#else
    AttnOneShared* mine;
    __device__ __forceinline__ int rank() const { return blockIdx.x % ONE_CLUSTER; }
    __device__ __forceinline__ int thread() const { return threadIdx.x; }
    __device__ __forceinline__ AttnOneShared& own() const { return *mine; }
    static __device__ __forceinline__ uint32_t at(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
    // Readies this block to be sent to, and says so.
    __device__ __forceinline__ void start() const {
        if (threadIdx.x == 0) {
            const uint32_t barrier = at(&mine->arrived);
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(barrier) : "memory");
            asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(ONE_SENT) : "memory");
        }
        __syncwarp();
        asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
    }
    // Waits until all blocks are ready.
    __device__ __forceinline__ void started() const { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
    __device__ __forceinline__ void sync() const { __syncthreads(); }
    // Stores `v` at the place of block `to` that `p` is here.
    __device__ __forceinline__ void send(const float* p, int to, float v) const {
        uint32_t there, barrier;
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at(p)), "r"(to));
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(barrier) : "r"(at(&mine->arrived)), "r"(to));
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];"
                     :: "r"(there), "r"(__float_as_uint(v)), "r"(barrier) : "memory");
    }
    // Waits for everything that is sent here.
    __device__ __forceinline__ void receive() const {
        uint32_t done;
        do {
            asm volatile("{\n.reg .pred p;\n"
                         "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;\n"
                         "selp.u32 %0, 1, 0, p;\n}"
                         : "=r"(done) : "r"(at(&mine->arrived)) : "memory");
        } while (!done);
    }
#endif
};

struct AttnOne {
    static constexpr int WARPS = ONE_WARPS, STEPS = HEAD_DIM / 16 / ONE_PARTS, TAIL = HEAD_DIM - ROPE_DIM;
    // Warps that prepare a head's query together, heads of such a group, and pieces of 4 channels of a lane.
    static constexpr int SHARE = WARPS >= 2 * ONE_HEADS ? WARPS / ONE_HEADS : 1, TEAMS = WARPS / SHARE;
    static constexpr int OWN_HEADS = (ONE_HEADS + TEAMS - 1) / TEAMS, PIECES = (HEAD_DIM + 127) / 128;
    // Heads whose scores a warp turns to probabilities.
    static constexpr int SOFT_HEADS = (ONE_HEADS + WARPS - 1) / WARPS, LANE_ROWS = ONE_ROWS / 32;

    const OneCluster c;
    AttnOneShared& s;
    const AttnOneArgs& a;
    const int lane, warp, t, head0;

    __device__ __forceinline__ AttnSeen look() const {
        const Tok tok = a.toks[t];
        return attn_seen(tok, a.table[(int64_t)tok.seq * a.places + a.place], a.raw_chunk, a.chosen, t, a.ratio);
    }
    // Row `j` was there before this step.
    __device__ __forceinline__ bool is_old(const AttnSeen& seen, int j) const {
        return j < seen.n_raw ? seen.from + j < seen.pos0 : !seen.chosen && j - seen.n_raw < seen.pos0 / a.ratio;
    }

    // Starts the copy of those of `n` rows from `first` on that are old, or of the others and zeros
    // that complete a tile.
    __device__ __forceinline__ void copy(const AttnSeen& seen, int first, int n, bool old) const {
        const int own = lane * WARPS + warp;
        const uint8_t* row = nullptr;
        if (own < n && is_old(seen, first + own) == old) row = seen.row(first + own);
#pragma unroll 1
        for (int i = 0; i < (ONE_ROWS + WARPS - 1) / WARPS; i++) {
            const int r = i * WARPS + warp;
            if (r >= (n + 15) / 16 * 16) break;
            const uint8_t* from = (const uint8_t*)__shfl_sync(FULL, (unsigned long long)row, i);
            if (!from && (old || r < n)) continue;
#pragma unroll
            for (int i = 0; i < (KV_ROW_BYTES / 16 + 31) / 32; i++) {
                const int k = i * 32 + lane;
                if (k < KV_ROW_BYTES / 16)
                    cp_async16(s.rows + r * ATTN_ROW_BYTES + (KV_PACKED ? k : k ^ (r & 7)) * 16, from ? from + k * 16 : a.raw_chunk, from);
            }
        }
    }
    // Unpacks what this warp has copied, once it has come.
    __device__ __forceinline__ void unpack(int n) const {
        cp_async_wait<0>();
#if KV_PACKED
        __syncwarp();
#pragma unroll 1
        for (int r = warp; r < (n + 15) / 16 * 16; r += WARPS) kv_unpack<1, WARPS, ATTN_ROW_BYTES>(s.rows, r);
#endif
    }

    // This thread's channels of the queries, and the turns of those.
    struct Fetched {
        float4 q[OWN_HEADS][PIECES], turns[PIECES];
    };
    __device__ __forceinline__ void fetch(Fetched& f) const {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const int ch = i * 128 + lane * 4;
            if (i * 128 + 128 > TAIL && ch >= TAIL && ch < HEAD_DIM) f.turns[i] = *(const float4*)(a.turns + (int64_t)t * ROPE_DIM + ch - TAIL);
#pragma unroll
            for (int k = 0; k < OWN_HEADS; k++) {
                const int h = k * TEAMS + warp / SHARE, head = head0 + h;
                f.q[k][i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (h < ONE_HEADS && head < N_HEAD && ch < HEAD_DIM)
                    f.q[k][i] = *(const float4*)(a.q + ((int64_t)t * N_HEAD + head) * HEAD_DIM + ch);
            }
        }
    }

    // Normed, rotated queries as two f16 parts in shared memory. Warps of a team know the whole head,
    // for its norm, and write their shares.
    __device__ __forceinline__ void prepare(const Fetched& f) const {
#pragma unroll
        for (int k = 0; k < OWN_HEADS; k++) {
            const int h = k * TEAMS + warp / SHARE;
            if (h >= ONE_HEADS) break;
            float square = 0.0f;
#pragma unroll
            for (int i = 0; i < PIECES; i++) square += f.q[k][i].x * f.q[k][i].x + f.q[k][i].y * f.q[k][i].y + f.q[k][i].z * f.q[k][i].z + f.q[k][i].w * f.q[k][i].w;
            const float scale = 1.0f / sqrtf(warp_sum(square) / HEAD_DIM + RMS_EPS);
#pragma unroll
            for (int i = 0; i < PIECES; i++) {
                const int ch = i * 128 + lane * 4;
                if (i % SHARE != warp % SHARE || ch >= HEAD_DIM) continue;
                float4 v = f.q[k][i];
                v = make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
                if (i * 128 + 128 > TAIL && ch >= TAIL) {
                    const float4 turn = f.turns[i];
                    v = make_float4(v.x * turn.x - v.y * turn.y, v.x * turn.y + v.y * turn.x, v.z * turn.z - v.w * turn.w,
                                    v.z * turn.w + v.w * turn.z);
                }
                uint2 hi, lo;
                split_f16(v.x, v.y, &hi.x, &lo.x);
                split_f16(v.z, v.w, &hi.y, &lo.y);
                *(uint2*)&s.q[0][h][ch] = hi;
                *(uint2*)&s.q[1][h][ch] = lo;
            }
        }
    }

    // Scores of `tiles` tiles of rows, in parts of the channels.
    __device__ __forceinline__ void score(int tiles) const {
        const int part = warp % ONE_PARTS, g = lane >> 2, tig = lane & 3;
#pragma unroll 1
        for (int tile = warp / ONE_PARTS; tile < tiles; tile += ONE_GROUPS) {
            float sum[4][4] = {};  // of even and odd steps; high, then low parts
            const int row = tile * 16 + ((lane >> 3) & 1) * 8 + (lane & 7);
            const unsigned char* from = s.rows + row * ATTN_ROW_BYTES;
            const int chunk0 = part * STEPS * 2, swizzle = ((lane >> 4) ^ (row & 7)) * 16;
#pragma unroll
            for (int k = 0; k < STEPS; k += 2) {
                const int ch = (part * STEPS + k) * 16;
                uint32_t hi[4], lo[4];
                ldmatrix_x4(hi, &s.q[0][lane & 7][ch + (lane >> 3) * 8]);
                ldmatrix_x4(lo, &s.q[1][lane & 7][ch + (lane >> 3) * 8]);
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    uint32_t rows[4];
                    const int chunk = chunk0 + 2 * (k + i);  // even: the lane's lies in the swizzle
                    ldmatrix_x4(rows, from + (chunk >> 3) * 128 + (swizzle ^ (chunk & 7) * 16));
                    mma_f16(sum[i], rows, hi + 2 * i, sum[i]);
                    mma_f16(sum[2 + i], rows, lo + 2 * i, sum[2 + i]);
                }
            }
#pragma unroll
            for (int e = 0; e < 4; e++)
                s.scores[part][2 * tig + e % 2][tile * 16 + g + e / 2 * 8] = (sum[0][e] + sum[1][e]) + (sum[2][e] + sum[3][e]);
        }
    }

    // Scores of `n` rows to probabilities relative to the running maxima.
    __device__ __forceinline__ void soften(int n, float most[SOFT_HEADS], float sum[SOFT_HEADS]) const {
        const float scale = LOG2E / sqrtf((float)HEAD_DIM);
#pragma unroll
        for (int k = 0; k < SOFT_HEADS; k++) {
            const int h = k * WARPS + warp;
            if (h >= ONE_HEADS) break;
            float v[LANE_ROWS], best = most[k];
#pragma unroll
            for (int i = 0; i < LANE_ROWS; i++) {
                const int r = i * 32 + lane;
                v[i] = -INFINITY;
                if (r < n) {
                    v[i] = 0.0f;
#pragma unroll
                    for (int p = 0; p < ONE_PARTS; p++) v[i] += s.scores[p][h][r];
                    v[i] *= scale;
                }
                best = fmaxf(best, v[i]);
            }
            best = warp_max(best);
            const float by = exp2f(most[k] - best);
            most[k] = best;
            sum[k] *= by;
            if (lane == 0) s.by[h] = by;
#pragma unroll
            for (int i = 0; i < LANE_ROWS; i++) {
                const float p = exp2f(v[i] - best + ATTN_P_BITS);
                const half hi = __float2half_rn(p);
                s.p[0][h][i * 32 + lane] = hi;
                s.p[1][h][i * 32 + lane] = __float2half_rn(p - __half2float(hi));
                sum[k] += p;
            }
        }
    }

    // o += rows × probabilities, 32 channels a warp.
    __device__ __forceinline__ void output(float o[2][4], int tiles) const {
        float sum[2][2][4] = {};  // by the high and the low parts of the probabilities
#pragma unroll 2
        for (int k = 0; k < tiles; k++) {
            uint32_t p[4];
            ldmatrix_x4(p, &s.p[lane >> 4][lane & 7][k * 16 + ((lane >> 3) & 1) * 8]);
            const int row = k * 16 + (lane >> 4) * 8 + (lane & 7);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t rows[4];
                ldmatrix_x4_trans(rows, s.rows + row * ATTN_ROW_BYTES + ((warp * 4 + i * 2 + ((lane >> 3) & 1)) ^ (row & 7)) * 16);
                mma_f16(sum[i][0], rows, p, sum[i][0]);
                mma_f16(sum[i][1], rows, p + 2, sum[i][1]);
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) o[i][e] += sum[i][0][e] + sum[i][1][e];
    }

    // A channel of this block's head from the sums of all blocks; turned back, and written as wanted.
    __device__ __forceinline__ void finish() const {
        const int head = head0 + c.rank(), ch = c.thread();
        const float sink = a.sinks[min(head, N_HEAD - 1)] * LOG2E + ATTN_P_BITS;
        float2 turn = make_float2(1.0f, 0.0f);
        if (ch >= TAIL) turn = *(const float2*)(a.turns + (int64_t)t * ROPE_DIM + (ch - TAIL) / 2 * 2);
        // A block without a head must not end either before all have sent to it.
        c.receive();
        if (head >= N_HEAD) return;
        float most = s.most[lane % ONE_CLUSTER], m = most, v = 0.0f;
#pragma unroll
        for (int o = ONE_CLUSTER / 2; o; o >>= 1) m = fmaxf(m, __shfl_xor_sync(FULL, m, o));
        const float own = exp2f(most - m);
        float l = s.sum[lane % ONE_CLUSTER] * own;
#pragma unroll
        for (int o = ONE_CLUSTER / 2; o; o >>= 1) l += __shfl_xor_sync(FULL, l, o);
        const float by = own / (l + exp2f(sink - m));
#pragma unroll
        for (int i = 0; i < ONE_CLUSTER; i++) v += s.parts[i][ch] * __shfl_sync(FULL, by, i);
        const float other = __shfl_xor_sync(FULL, v, 1);
        if (ch >= TAIL) v = ch % 2 ? v * turn.x - other * turn.y : v * turn.x + other * turn.y;
        const int64_t at = ((int64_t)t * N_HEAD + head) * HEAD_DIM + ch;
        if (a.out) a.out[at] = v;
        if (!a.q8) return;
        const float scale = warp_max(fabsf(v)) / 127.0f, inv = scale == 0.0f ? 0.0f : 1.0f / scale;
        a.q8[at] = (int8_t)round_i8(v * inv);
        if (lane == 0) a.d8[at / 32] = scale;
    }

    __device__ __forceinline__ void run() const {
        int begin, end;
        {
            const AttnSeen seen = look();
            const int per = (seen.n + ONE_CLUSTER - 1) / ONE_CLUSTER;
            begin = min(c.rank() * per, seen.n), end = min(begin + per, seen.n);
            // Nothing of this step writes old rows.
            copy(seen, begin, min(end - begin, ONE_ROWS), true);
            pdl_wait();
            Fetched f;
            fetch(f);
            copy(seen, begin, min(end - begin, ONE_ROWS), false);
            cp_async_commit();
            prepare(f);
        }
        float o[2][4] = {}, most[SOFT_HEADS], sum[SOFT_HEADS];
#pragma unroll
        for (int k = 0; k < SOFT_HEADS; k++) most[k] = -INFINITY, sum[k] = 0.0f;
        if (begin >= end) pdl_go();
#pragma unroll 1
        for (int first = begin; first < end; first += ONE_ROWS) {
            const int n = min(end - first, ONE_ROWS), tiles = (n + 15) / 16;
            if (first > begin) {
                // Looked up again, rather than kept in registers for the rare case of so many rows.
                const AttnSeen seen = look();
                c.sync();
                copy(seen, first, n, true);
                copy(seen, first, n, false);
                cp_async_commit();
            }
            unpack(n);
            c.sync();
            if (first == begin) pdl_go();
            score(tiles);
            c.sync();
            soften(n, most, sum);
            c.sync();
            if (first > begin) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float by = s.by[2 * (lane & 3) + e % 2];
                    o[0][e] *= by, o[1][e] *= by;
                }
            }
            output(o, tiles);
        }
        c.started();
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                c.send(&s.parts[c.rank()][warp * 32 + i * 16 + (lane >> 2) + e / 2 * 8], 2 * (lane & 3) + e % 2, o[i][e]);
#pragma unroll
        for (int k = 0; k < SOFT_HEADS; k++) {
            const int h = k * WARPS + warp;
            if (h >= ONE_HEADS) break;
            const float all = warp_sum(sum[k]);
            if (lane == 0) c.send(&s.sum[c.rank()], h, all);
            if (lane == 0) c.send(&s.most[c.rank()], h, most[k]);
        }
        __syncwarp();
        finish();
    }
};

__device__ __forceinline__ void attn_one_block(const OneCluster c, int t, int group, const AttnOneArgs& a) {
    c.start();
    // From a shuffle, so that the compiler knows that a warp does not diverge by it.
    const int warp = __shfl_sync(FULL, c.thread() >> 5, 0);
    const AttnOne one{c, c.own(), a, (int)threadIdx.x & 31, warp, t, group * ONE_HEADS};
    one.run();
}

#ifdef DS4_EMU
#define ONE_SMEM 0
#define ONE_KERNEL(name) DS4_KERNEL(name, ONE_THREADS)
#define ONE_GROUP blockIdx.x
#define ONE_SPACE __shared__ AttnOneShared space[ONE_CLUSTER]
#else
#define ONE_SMEM ((int)sizeof(AttnOneShared))
#define ONE_KERNEL(name) extern "C" __global__ void __cluster_dims__(ONE_CLUSTER, 1, 1) __launch_bounds__(ONE_THREADS, 2) name
#define ONE_GROUP (blockIdx.x / ONE_CLUSTER)
#define ONE_SPACE AttnOneShared* space = one_space()
__device__ __forceinline__ AttnOneShared* one_space() {
    DS4_DYN_SMEM(AttnOneShared, space);
    return space;
}
#endif

// Grid (ONE_BLOCKS · ⌈N_HEAD/ONE_HEADS⌉, T), ONE_THREADS threads, ONE_SMEM bytes.
ONE_KERNEL(attn_one)(const __grid_constant__ AttnOneArgs args) {
    ONE_SPACE;
    attn_one_block(OneCluster{space}, blockIdx.y, ONE_GROUP, args);
}
DS4_REGISTER(attn_one)

// What the host must know of it; zeros where it does not exist.
#define ONE_LAUNCH ONE_BLOCKS, ONE_THREADS, ONE_SMEM, ONE_HEADS, (int)sizeof(AttnOneArgs)
#else
#define ONE_LAUNCH 0, 0, 0, 0, 0
#endif
