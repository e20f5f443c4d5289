// CUDA's vector types, with CUDA's alignments (a float4 is 16 bytes at a multiple of 16).
#pragma once

#define DS4_EMU_VEC2(type, name, align)                                  \
    struct alignas(align) name { type x, y; };                           \
    inline name make_##name(type x, type y) { return name{x, y}; }
#define DS4_EMU_VEC3(type, name)                                         \
    struct name { type x, y, z; };                                       \
    inline name make_##name(type x, type y, type z) { return name{x, y, z}; }
#define DS4_EMU_VEC4(type, name, align)                                  \
    struct alignas(align) name { type x, y, z, w; };                     \
    inline name make_##name(type x, type y, type z, type w) { return name{x, y, z, w}; }

DS4_EMU_VEC2(signed char, char2, 2)
DS4_EMU_VEC2(unsigned char, uchar2, 2)
DS4_EMU_VEC2(short, short2, 4)
DS4_EMU_VEC2(unsigned short, ushort2, 4)
DS4_EMU_VEC2(int, int2, 8)
DS4_EMU_VEC2(unsigned, uint2, 8)
DS4_EMU_VEC2(float, float2, 8)
DS4_EMU_VEC2(double, double2, 16)
DS4_EMU_VEC2(long long, longlong2, 16)
DS4_EMU_VEC2(unsigned long long, ulonglong2, 16)
DS4_EMU_VEC3(int, int3)
DS4_EMU_VEC3(unsigned, uint3)
DS4_EMU_VEC3(float, float3)
DS4_EMU_VEC4(signed char, char4, 4)
DS4_EMU_VEC4(unsigned char, uchar4, 4)
DS4_EMU_VEC4(short, short4, 8)
DS4_EMU_VEC4(unsigned short, ushort4, 8)
DS4_EMU_VEC4(int, int4, 16)
DS4_EMU_VEC4(unsigned, uint4, 16)
DS4_EMU_VEC4(float, float4, 16)

#undef DS4_EMU_VEC2
#undef DS4_EMU_VEC3
#undef DS4_EMU_VEC4

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
