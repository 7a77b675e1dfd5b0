// CUDA's words for the host's compiler: a block's threads are fibres that run one after the other and give way at barriers.
// kernels.h says why. Only what the kernels use is here.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#define HSG_TWIN
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(8) ushort4 { u16 x, y, z, w; };
struct Index { u32 x, y, z; };

// The running thread's place; the scheduler sets it.
extern Index threadIdx, blockIdx, blockDim, gridDim;

// Waits for the block's (the warp's) other threads.
void twin_block_barrier();
void twin_warp_barrier();
// One word per thread of the block, to exchange values at barriers.
extern u64 twin_words[1024];

float twin_half_to_float(u16 bits);
u16 twin_float_to_half(float value);

inline void __syncthreads() { twin_block_barrier(); }
inline void __syncwarp() { twin_warp_barrier(); }

inline int __syncthreads_or(int value)
{
    twin_words[threadIdx.x] = value != 0;
    twin_block_barrier();
    int any = 0;
    for (u32 i = 0; i < blockDim.x; i++)
        any |= (int)twin_words[i];
    twin_block_barrier();
    return any;
}

// The value that lane `from` of the warp brought; its own where there is no such lane.
template <class T> inline T twin_exchange(T value, int from)
{
    u64 word = 0;
    std::memcpy(&word, &value, sizeof value);
    twin_words[threadIdx.x] = word;
    twin_warp_barrier();
    if (from >= 0 && from < 32)
        word = twin_words[threadIdx.x / 32 * 32 + from];
    twin_warp_barrier();
    std::memcpy(&value, &word, sizeof value);
    return value;
}

template <class T> inline T __shfl_xor_sync(u32, T value, int mask) { return twin_exchange(value, (int)(threadIdx.x % 32) ^ mask); }
template <class T> inline T __shfl_up_sync(u32, T value, int by) { return twin_exchange(value, (int)(threadIdx.x % 32) - by); }
template <class T> inline T __shfl_sync(u32, T value, int from) { return twin_exchange(value, from); }

inline u32 __reduce_max_sync(u32, u32 value)
{
    twin_words[threadIdx.x] = value;
    twin_warp_barrier();
    for (u32 i = 0; i < 32; i++)
        value = twin_words[threadIdx.x / 32 * 32 + i] > value ? (u32)twin_words[threadIdx.x / 32 * 32 + i] : value;
    twin_warp_barrier();
    return value;
}

// Fibres give way at barriers only, so nothing comes between.
template <class T> inline T atomicAdd(T* place, T value)
{
    const T before = *place;
    *place += value;
    return before;
}

template <class T> inline T atomicMin(T* place, T value)
{
    const T before = *place;
    *place = value < before ? value : before;
    return before;
}

inline u32 __float_as_uint(float value) { u32 bits; std::memcpy(&bits, &value, 4); return bits; }
inline float __uint_as_float(u32 bits) { float value; std::memcpy(&value, &bits, 4); return value; }
inline float __int_as_float(int bits) { return __uint_as_float((u32)bits); }
inline int __popc(u32 bits) { return __builtin_popcount(bits); }
inline int __ffs(u32 bits) { return __builtin_ffs((int)bits); }

// A kernel by its name, called with pointers to its arguments as the driver's launch takes them.
struct Kernel {
    const char* name;
    void (*call)(void** arguments);
    int num_arguments;
};

template <class F> struct Caller;
template <class... A> struct Caller<void(A...)> {
    static const int num_arguments = sizeof...(A);
    template <void (*kernel)(A...), size_t... I> static void spread(void** arguments, std::index_sequence<I...>)
    {
        kernel(*(A*)arguments[I]...);
    }
    template <void (*kernel)(A...)> static void call(void** arguments)
    {
        spread<kernel>(arguments, std::index_sequence_for<A...>());
    }
};

#define KERNEL(NAME) {#NAME, &Caller<decltype(NAME)>::call<NAME>, Caller<decltype(NAME)>::num_arguments}
