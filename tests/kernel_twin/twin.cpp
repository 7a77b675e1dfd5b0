// Runs the kernels' source on the host: blocks one after the other, their threads as fibres. See twin.h.
// Jumps between stacks are what is wanted here.
#undef _FORTIFY_SOURCE
#include "twin.h"

#include <csetjmp>
#include <memory>
#include <mutex>
#include <ucontext.h>
#include <vector>

Index threadIdx, blockIdx, blockDim, gridDim;
u64 twin_words[1024];

extern const Kernel preprocess_kernels[], kmeans_kernels[], top_k_kernels[], refine_kernels[], frame_kernels[];

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

// Made once, runs a thread of a block again and again. Switching is a jump: swapcontext asks the kernel about signals each time.
struct Fibre {
    std::unique_ptr<char[]> stack;
    jmp_buf place;
    bool is_begun = false;
    bool is_done = false;
};

std::mutex one_launch;
jmp_buf scheduler;
ucontext_t begin;
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
        if (!_setjmp(fibres[me].place))
            _longjmp(scheduler, 1);
}

void thread_main()
{
    for (;;) {
        kernel(kernel_arguments);
        const u32 me = running;
        fibres[me].is_done = true;
        has_progress = true;
        warps[me / 32].leave();
        block.leave();
        if (!_setjmp(fibres[me].place))
            _longjmp(scheduler, 1);
    }
}

// Runs a fibre until it waits or is done.
void resume(Fibre& fibre)
{
    if (_setjmp(scheduler))
        return;
    if (fibre.is_begun)
        _longjmp(fibre.place, 1);
    fibre.is_begun = true;
    if (!fibre.stack)
        fibre.stack.reset(new char[STACK_BYTES]);
    getcontext(&begin);
    begin.uc_stack.ss_sp = fibre.stack.get();
    begin.uc_stack.ss_size = STACK_BYTES;
    begin.uc_link = nullptr;
    makecontext(&begin, thread_main, 0);
    setcontext(&begin);
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
    for (u32 i = 0; i < num_threads; i++)
        fibres[i].is_done = false;
    u32 num_done = 0;
    while (num_done < num_threads) {
        has_progress = false;
        num_done = 0;
        for (u32 i = 0; i < num_threads; i++) {
            running = backwards ? num_threads - 1 - i : i;
            if (!fibres[running].is_done) {
                threadIdx.x = running;
                resume(fibres[running]);
            }
            num_done += fibres[running].is_done;
        }
        if (!has_progress && num_done < num_threads) {
            // They are never gone on with.
            for (u32 i = 0; i < num_threads; i++)
                fibres[i].is_begun = false;
            return false;
        }
    }
    return true;
}

const Kernel* find(const char* name)
{
    for (const Kernel* list : {preprocess_kernels, kmeans_kernels, top_k_kernels, refine_kernels, frame_kernels})
        for (; list->name; list++)
            if (!std::strcmp(list->name, name))
                return list;
    return nullptr;
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

// How many arguments a kernel takes; -1: there is none of that name.
extern "C" int hsg_twin_num_arguments(const char* name)
{
    const Kernel* found = find(name);
    return found ? found->num_arguments : -1;
}

// 0: done; 1: no such kernel; 2: its threads wait for each other for ever; 3: too many threads.
extern "C" int hsg_twin_launch(const char* name, u32 grid_x, u32 grid_y, u32 num_threads, int backwards, void** arguments)
{
    std::lock_guard<std::mutex> guard(one_launch);
    const Kernel* found = find(name);
    if (!found)
        return 1;
    kernel = found->call;
    if (num_threads > 1024)
        return 3;
    kernel_arguments = arguments;
    // All at once: they are not moved once they have begun.
    if (fibres.empty())
        fibres.resize(1024);
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
