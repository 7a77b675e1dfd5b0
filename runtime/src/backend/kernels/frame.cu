// What lies between the stages of a frame on the device: whether the features are numbers, how far they are from the last
// frame's prototypes (scene cuts), and what the grouping network is given. Equal to runtime/src/backend (first_not_finite),
// pipeline/segment.rs (distance_to_segments) and pipeline/group.rs (GroupStage::run) up to the order of sums.
#include "kernels.h"

enum { THREADS = 256, WARPS = THREADS / WARP };

// Index of the first value that is NaN or infinite; `first` comes in as the largest number and stays so without one.
extern "C" __global__ void __launch_bounds__(THREADS) frame_first_not_finite(const float* values, int num, u32* first)
{
    const int start = (blockIdx.x * THREADS + threadIdx.x) * 4;
    for (int i = 0; i < 4; i++)
        if (start + i < num && !is_finite(values[start + i]))
            atomicMin(first, (u32)(start + i));
}

// Sum of 1 − cos(feature, prototype of the segment at the cell's place), and how many cells have one, per block of THREADS
// cells: sums[2 · block], sums[2 · block + 1]. features [height · width][dim] of this frame; labels [last_height · last_width]
// and prototypes [num_slots][dim] of the last one, whose map may have another size: a cell looks at what is in its middle.
// A warp per cell; block: 8 warps.
extern "C" __global__ void __launch_bounds__(THREADS)
    frame_distances(const float* features, int height, int width, int dim, const u16* labels, int last_height,
                    int last_width, const float* prototypes, int num_slots, double* sums)
{
    __shared__ double sum_of[WARPS];
    __shared__ u32 count_of[WARPS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    double sum = 0.0;
    u32 count = 0;
    for (int i = warp; i < THREADS; i += WARPS) {
        const int cell = blockIdx.x * THREADS + i;
        if (cell >= height * width)
            break;
        const int row = (2 * (cell / width) + 1) * last_height / (2 * height);
        const int column = (2 * (cell % width) + 1) * last_width / (2 * width);
        const u32 slot = labels[row * last_width + column];
        if (slot >= (u32)num_slots)
            continue;
        float product = 0.0f;
        for (int d = lane; d < dim; d += WARP)
            product = fmaf(features[(u64)cell * dim + d], prototypes[(u64)slot * dim + d], product);
        sum += 1.0f - warp_sum(product);
        count++;
    }
    if (lane == 0) {
        sum_of[warp] = sum;
        count_of[warp] = count;
    }
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    for (int w = 1; w < WARPS; w++) {
        sum += sum_of[w];
        count += count_of[w];
    }
    sums[2 * blockIdx.x] = sum;
    sums[2 * blockIdx.x + 1] = count;
}

// Weights of one axis: the cells of a segment per row (or column) times the linear interpolation into the table's entries.
// weights [extent][num_slots], this segment's column. Entry t has what row_entries says is at t, and the rest of t − 1.
__device__ inline void axis_weights(const u32* counts, int num_cells, const u32* entries, const float* next_weights,
                                    int extent, int num_slots, int slot, u32 area, float* weights)
{
    for (int t = threadIdx.x; t < extent; t += THREADS) {
        float sum = 0.0f;
        for (int i = 0; i < num_cells; i++) {
            const int entry = (int)entries[i];
            if (entry == t)
                sum += (float)counts[i] * (1.0f - next_weights[i]);
            else if (entry + 1 == t)
                sum += (float)counts[i] * next_weights[i];
        }
        weights[t * num_slots + slot] = area > 0 ? sum / (float)area : 0.0f;
    }
}

// Inputs of the grouping network. Block: one segment. prototypes [num_slots][dim], labels [height · width], areas
// [num_slots]; entries and weights of the next entry per row and column of the map → features [dim][num_slots], positions
// [2 · extent][num_slots] (columns first), valid [num_slots]. height, width: at most MAX_SIDE.
extern "C" __global__ void __launch_bounds__(THREADS)
    frame_grouping_inputs(const float* prototypes, const u16* labels, const u32* areas, int height, int width, int dim,
                          int num_slots, int extent, const u32* row_entries, const float* row_weights,
                          const u32* column_entries, const float* column_weights, float* features, float* positions,
                          float* valid)
{
    __shared__ u32 row_counts[MAX_SIDE];
    __shared__ u32 column_counts[MAX_SIDE];
    const int slot = blockIdx.x;
    const u32 area = areas[slot];
    for (int i = threadIdx.x; i < MAX_SIDE; i += THREADS)
        row_counts[i] = column_counts[i] = 0;
    for (int d = threadIdx.x; d < dim; d += THREADS)
        features[(u64)d * num_slots + slot] = prototypes[(u64)slot * dim + d];
    if (threadIdx.x == 0)
        valid[slot] = area > 0 ? 1.0f : 0.0f;
    __syncthreads();
    // Whole numbers: the order of threads does not matter.
    for (int cell = threadIdx.x; cell < height * width; cell += THREADS)
        if (labels[cell] == slot) {
            atomicAdd(&row_counts[cell / width], 1u);
            atomicAdd(&column_counts[cell % width], 1u);
        }
    __syncthreads();
    axis_weights(column_counts, width, column_entries, column_weights, extent, num_slots, slot, area, positions);
    axis_weights(row_counts, height, row_entries, row_weights, extent, num_slots, slot, area,
                 positions + (u64)extent * num_slots);
}
