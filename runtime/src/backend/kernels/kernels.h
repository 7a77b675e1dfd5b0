// What all kernels share: number types, constants, index arithmetic and sums over a warp.
//
// A kernel is plain CUDA C++ without a header of the toolkit, so that two compilers take it: NVRTC makes the committed
// .ptx (`cargo xtask kernels`), and the host's C++ compiler makes the CPU twin (tests/kernel_twin/), which runs the same
// lines thread by thread and is compared with the Rust code that the kernels must equal. Both compile without contracting
// a·b + c into one rounding: where fused multiply-adds are wanted, the code says fmaf.
//
// Layouts: pictures [h, w, channel] or as the camera sends them; tensors [channel, h, w]; features [cell][dimension], cells
// row by row; "columns" matrices [depth][number padded], where neighbouring threads read neighbouring numbers.
#pragma once

#ifndef HSG_TWIN
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#endif

// Label of a cell or pixel that belongs to no segment (segcore::hierarchy::NONE).
#define NONE 0xffffu
// Norms below this count as zero (segcore::embedding::MIN_NORM).
#define MIN_NORM 1e-12f
#define WARP 32
#define WHOLE_WARP 0xffffffffu

// Cells per block of the assignment and clusters per step of it; `columns` matrices are padded to these.
#define CELL_TILE 32
#define CLUSTER_TILE 64
// Longest feature vector that the clustering and refinement kernels take.
#define MAX_DIM 256
// Most rows and columns of a map whose grouping network is given its inputs on the device.
#define MAX_SIDE 1024
// Prototypes per panel of a bank on the device, queries per tile.
#define BANK_PANEL 64
#define QUERY_TILE 64
// Candidates that are kept per query: the first k plus those that rounding leaves in doubt.
#define KEPT 32
// Room for candidates per query and part of the bank: those kept, and one panel more before they are thinned out.
#define CANDIDATES 128

#define INFINITE __int_as_float(0x7f800000)

__device__ inline int rounded_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// The value is neither infinite nor NaN.
__device__ inline bool is_finite(float value) { return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u; }

// 1 / norm, or 0 for a vector without direction: one shorter than MIN_NORM or not finite.
__device__ inline float inverse_norm(float squared)
{
    const float norm = sqrtf(squared);
    return norm >= MIN_NORM && is_finite(norm) ? 1.0f / norm : 0.0f;
}

// Sum over the threads of a warp; every thread gets it. The order is fixed.
__device__ inline float warp_sum(float value)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(WHOLE_WARP, value, distance);
    return value;
}

// An order of floats as unsigned integers: a < b exactly when ordered(a) < ordered(b). No NaN.
__device__ inline u32 ordered(float value)
{
    // +0 and -0 are one value.
    const u32 bits = __float_as_uint(value + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float from_ordered(u32 key)
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// IEEE half precision without cuda_fp16.h.
__device__ inline float half_to_float(u16 bits)
{
#ifdef HSG_TWIN
    return twin_half_to_float(bits);
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#endif
}

__device__ inline u16 float_to_half(float value)
{
#ifdef HSG_TWIN
    return twin_float_to_half(value);
#else
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#endif
}
