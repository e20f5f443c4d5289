// CUDA C++ on the processor: what a kernel's source includes instead of CUDA's own headers.
//
// Compile with `g++ -std=c++20 -O2 -fPIC -shared -pthread -DDS4_EMU -x c++`; see README.md.
#pragma once

// libstdc++ spells an attribute `__noinline__`, so its headers must come before the macro below.
#include <algorithm>
#include <array>
#include <cassert>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "half.h"
#include "intrinsics.h"
#include "launch.h"
#include "mma.h"
#include "runtime.h"
#include "types.h"
#include "warp.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
// One block runs at a time on a host thread, so the thread's storage is the block's.
#define __shared__ static DS4_EMU_LOCAL

#define threadIdx (ds4_emu::worker->lane->tid)
#define blockIdx (ds4_emu::worker->block_idx)
#define blockDim (ds4_emu::worker->block_dim)
#define gridDim (ds4_emu::worker->grid_dim)
#define warpSize 32

#undef assert
#define assert(condition) ((condition) ? void() : ds4_emu::fail("assertion failed: " #condition))
