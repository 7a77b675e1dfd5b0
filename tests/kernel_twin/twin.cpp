// Runs the kernels' source on the host: blocks one after the other, their threads as fibres. See twin.h.
#include "twin.h"

#include <mutex>
#include <ucontext.h>
#include <vector>

Index threadIdx, blockIdx, blockDim, gridDim;
u64 twin_words[1024];

extern const Kernel preprocess_kernels[], kmeans_kernels[], top_k_kernels[], refine_kernels[];

namespace {

const size_t STACK_BYTES = 64 << 10;

// Threads that wait for each other.
struct Group {
    u32 live = 0, arrived = 0;
    u64 generation = 0;

    void release_if_complete();
    void leave()
    {
        live--;
        release_if_complete();
    }
};

struct Fibre {
    ucontext_t context;
    std::vector<char> stack;
    bool is_done;
};

std::mutex one_launch;
ucontext_t scheduler;
std::vector<Fibre> fibres;
Group block, warps[32];
u32 running;
bool has_progress;
void (*kernel)(void**);
void** kernel_arguments;

void Group::release_if_complete()
{
    if (live > 0 && arrived == live) {
        arrived = 0;
        generation++;
        has_progress = true;
    }
}

void wait(Group& group)
{
    const u64 generation = group.generation;
    const u32 me = running;
    group.arrived++;
    group.release_if_complete();
    while (group.generation == generation)
        swapcontext(&fibres[me].context, &scheduler);
}

void thread_main()
{
    kernel(kernel_arguments);
    fibres[running].is_done = true;
    has_progress = true;
    warps[running / 32].leave();
    block.leave();
}

// False: the threads wait for each other for ever.
bool run_block(u32 num_threads, bool backwards)
{
    block = Group();
    block.live = num_threads;
    for (u32 w = 0; w < 32; w++) {
        warps[w] = Group();
        warps[w].live = w * 32 >= num_threads ? 0 : num_threads - w * 32 < 32 ? num_threads - w * 32 : 32;
    }
    for (u32 i = 0; i < num_threads; i++) {
        Fibre& fibre = fibres[i];
        fibre.is_done = false;
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.data();
        fibre.context.uc_stack.ss_size = fibre.stack.size();
        fibre.context.uc_link = &scheduler;
        makecontext(&fibre.context, thread_main, 0);
    }
    u32 num_done = 0;
    while (num_done < num_threads) {
        has_progress = false;
        num_done = 0;
        for (u32 i = 0; i < num_threads; i++) {
            running = backwards ? num_threads - 1 - i : i;
            if (!fibres[running].is_done) {
                threadIdx.x = running;
                const u32 me = running;
                swapcontext(&scheduler, &fibres[me].context);
            }
            num_done += fibres[running].is_done;
        }
        if (!has_progress && num_done < num_threads)
            return false;
    }
    return true;
}

} // namespace

void twin_block_barrier()
{
    wait(block);
    threadIdx.x = running;
}

void twin_warp_barrier()
{
    wait(warps[running / 32]);
    threadIdx.x = running;
}

float twin_half_to_float(u16 bits)
{
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const float sign = bits & 0x8000 ? -1.0f : 1.0f;
    if (exponent == 31)
        return mantissa ? NAN : sign * INFINITY;
    return sign * (exponent ? std::ldexp(1024.0f + mantissa, exponent - 25) : std::ldexp((float)mantissa, -24));
}

u16 twin_float_to_half(float value)
{
    const u16 sign = std::signbit(value) ? 0x8000 : 0;
    const float size = std::fabs(value);
    if (std::isnan(value))
        return 0x7fff;
    if (size >= 65520.0f)
        return sign | 0x7c00;
    if (size < std::ldexp(1.0f, -14))
        return sign | (u16)std::nearbyint(std::ldexp(size, 24));
    int exponent;
    std::frexp(size, &exponent);
    // 11 bits of mantissa, rounded to even; one too many becomes the next exponent by itself.
    const int mantissa = (int)std::nearbyint(std::ldexp(size, 11 - exponent));
    return sign | (u16)(((exponent + 14) << 10) + mantissa - 1024);
}

// 0: done; 1: no such kernel; 2: its threads wait for each other for ever; 3: too many threads.
extern "C" int hsg_twin_launch(const char* name, u32 grid_x, u32 grid_y, u32 num_threads, int backwards, void** arguments)
{
    std::lock_guard<std::mutex> guard(one_launch);
    kernel = nullptr;
    for (const Kernel* list : {preprocess_kernels, kmeans_kernels, top_k_kernels, refine_kernels})
        for (; list->name; list++)
            if (!std::strcmp(list->name, name))
                kernel = list->call;
    if (!kernel)
        return 1;
    if (num_threads > 1024)
        return 3;
    kernel_arguments = arguments;
    if (fibres.size() < num_threads)
        fibres.resize(num_threads);
    for (Fibre& fibre : fibres)
        fibre.stack.resize(STACK_BYTES);
    blockDim = {num_threads, 1, 1};
    gridDim = {grid_x, grid_y, 1};
    for (u32 y = 0; y < grid_y; y++)
        for (u32 x = 0; x < grid_x; x++) {
            blockIdx = {x, y, 0};
            threadIdx = {0, 0, 0};
            if (!run_block(num_threads, backwards != 0))
                return 2;
        }
    return 0;
}
