// All kernels of one shape.
#include "attn.cuh"
#include "attn_one.cuh"
#include "ends.cuh"
#include "experts_mm.cuh"
#include "experts_mv.cuh"
#include "experts_ring.cuh"
#include "index.cuh"
#include "mm.cuh"
#include "mv.cuh"
#include "packed.cuh"
#include "repack.cuh"
#include "router.cuh"
#include "rows.cuh"

// What the host must know of the kernels: sizes that follow from the shape. The order is that of
// `Constants` in constants.rs.
#define EXPERTS(W, warps) (int)ExpSmem<W, warps>::ALL, warps
DS4_KERNEL(constants)(int* out) {
    const int all[] = {
        HC_SLICES, HC_PART, HC_THREADS, IDX_ROWS, TOPK_THREADS, (int)sizeof(SeqLayer), (int)sizeof(Tok),
        (int)sizeof(Mat), (int)sizeof(MvJobs), (int)sizeof(RowsArgs), (int)sizeof(Ropes), RAW_SLOTS,
        EXP_TILE_T, MM_Q8_BYTES, MM_Q8_SMALL_BYTES,
        MM_F16_SMEM(MM_F16_BM, MM_F16_BN), MM_F16_SMEM(MM_F16_SMALL_BM, MM_F16_SMALL_BN),
        EXPERTS(ExpIq2, EXP_MM_WARPS_IQ2), EXPERTS(ExpQ2K, EXP_MM_WARPS_Q2K), EXPERTS(ExpQ4K, EXP_MM_WARPS_Q4K),
        EXPERTS(ExpMxfp4, EXP_MM_WARPS_MXFP4), EXPERTS(ExpQ80, EXP_MM_WARPS_Q80),
        16 * ATTN_HG, ATTN_HG * ATTN_KSPLIT * 32, ATTN_SMEM(ATTN_HG, ATTN_KSPLIT),
        16 * ATTN_FEW_HG, ATTN_FEW_HG * ATTN_FEW_KSPLIT * 32, ATTN_SMEM(ATTN_FEW_HG, ATTN_FEW_KSPLIT),
        ATTN_COMBINE_THREADS, MM_Q8_FEW_BYTES, HC_FUSED_THREADS, (int)sizeof(HcFusedArgs), ONE_LAUNCH, KV_ROW_BYTES, IDX_ROW_BYTES,
    };
    for (int i = 0; i < (int)(sizeof(all) / sizeof(all[0])); i++) out[i] = all[i];
}
DS4_REGISTER(constants)
