// The emulator's tensor core and copy functions as the PTX instructions they stand for, so that the
// self-test's kernels run on a device too and both can be compared.
#pragma once

#define MMA_PTX(name, shape, Sum, letter)                                                              \
    __device__ __forceinline__ void name(Sum d[4], const uint32_t a[4], const uint32_t b[2], const Sum c[4]) { \
        asm volatile("mma.sync.aligned." shape " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};" \
                     : "=" letter(d[0]), "=" letter(d[1]), "=" letter(d[2]), "=" letter(d[3])          \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), letter(c[0]), \
                       letter(c[1]), letter(c[2]), letter(c[3]));                                      \
    }
MMA_PTX(emu_mma_m16n8k16_f16, "m16n8k16.row.col.f32.f16.f16.f32", float, "f")
MMA_PTX(emu_mma_m16n8k16_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32", float, "f")
MMA_PTX(emu_mma_m16n8k8_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32", float, "f")
MMA_PTX(emu_mma_m16n8k32_e4m3, "m16n8k32.row.col.f32.e4m3.e4m3.f32", float, "f")
MMA_PTX(emu_mma_m16n8k32_s8, "m16n8k32.row.col.s32.s8.s8.s32", int, "r")
MMA_PTX(emu_mma_m16n8k32_u8, "m16n8k32.row.col.s32.u8.u8.s32", int, "r")
#undef MMA_PTX

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void emu_ldmatrix_x4(uint32_t r[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void emu_ldmatrix_x4_trans(uint32_t r[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void emu_ldmatrix_x2(uint32_t r[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void emu_ldmatrix_x2_trans(uint32_t r[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}

__device__ __forceinline__ void emu_cp_async16(void* smem, const void* gmem, unsigned source_bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(smem)), "l"(gmem),
                 "r"(source_bytes) : "memory");
}
__device__ __forceinline__ void emu_cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <unsigned groups>
__device__ __forceinline__ void emu_cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}
