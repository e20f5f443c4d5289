// How the kernels' sources stay one text for the device and for the emulator.
//
//     DS4_KERNEL(scale, 256)(float* x, float by, unsigned n) { ... }   // 256: launch bounds, may be left out
//     DS4_REGISTER(scale)
//
// DS4_DYN_SMEM(float, buffer) in a kernel names the launch's dynamic shared memory, a float*.
#pragma once

#ifdef DS4_EMU

#include "emu.h"

#define DS4_REGISTER(name) static const ds4_emu::Registration ds4_registration_##name{#name, ds4_emu::invoke<name>};
#define DS4_DYN_SMEM(type, name) type* name = reinterpret_cast<type*>(ds4_emu::worker->smem)

#else

#ifdef __CUDACC_RTC__  // which has no headers of C
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned;
using uint64_t = unsigned long long;
using int8_t = signed char;
using int16_t = short;
using int32_t = int;
using int64_t = long long;
#else
#include <cstdint>
#endif
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define DS4_REGISTER(name)
#define DS4_DYN_SMEM(type, name)                                 \
    extern __shared__ __align__(1024) unsigned char ds4_smem[]; \
    type* name = reinterpret_cast<type*>(ds4_smem)

#endif

#define DS4_KERNEL(name, ...) extern "C" __global__ void __VA_OPT__(__launch_bounds__(__VA_ARGS__)) name
