// Spherical k-means over cells (spec: method.md, section 3), equal to segcore::spherical_kmeans up to the order of sums.
//
// A frame: `kmeans_prepare` once, `kmeans_start`, then rounds of (`kmeans_reseed` when warm, `kmeans_centroids`,
// `kmeans_assign`), `kmeans_prototypes` at the end; a warm start assigns to the last centroids first. No sum depends on the
// order in which threads happen to run: float sums are taken in a fixed order, only whole numbers are added atomically.
//
// changed[r] counts the cells whose label changed in assignment r. When nothing changed, the rounds after would change
// nothing either, so their kernels return at once: the same launches serve every frame, as a CUDA graph wants.
#include "kernels.h"

// True when an earlier round changed nothing. Round 0 always runs.
__device__ inline bool is_settled(const u32* changed, int round) { return round > 0 && changed[round - 1] == 0; }

// The network's output [dim][padded_height][padded_width] → features [cell][dim] of the content's height × width cells (top
// left). Blocks of 32 × 8 threads move 32 × 32 values through shared memory; grid (cells / 32, dim / 32).
extern "C" __global__ void kmeans_gather(const float* network, int padded_height, int padded_width, int height, int width,
                                         int dim, float* features)
{
    __shared__ float tile[32][33];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_cell = blockIdx.x * 32, first_channel = blockIdx.y * 32;
    const int cell = first_cell + lane;
    for (int i = warp; i < 32; i += 8) {
        const int channel = first_channel + i;
        if (cell < height * width && channel < dim) {
            const u64 place = (u64)channel * padded_height * padded_width + (u64)(cell / width) * padded_width + cell % width;
            tile[i][lane] = network[place];
        }
    }
    __syncthreads();
    for (int i = warp; i < 32; i += 8) {
        const int channel = first_channel + lane;
        if (first_cell + i < height * width && channel < dim)
            features[(u64)(first_cell + i) * dim + channel] = tile[lane][i];
    }
}

// scales[i] = 1 / |[feature; location]| (0 for a vector without direction or not finite), and the scaled vectors as columns
// [dim + 2][padded]. Cells beyond num_cells become zero columns. Block: CELL_TILE cells, 8 warps.
extern "C" __global__ void kmeans_prepare(const float* features, const float* row_places, const float* column_places,
                                          int num_cells, int width, int dim, int padded, float* scales, float* columns)
{
    __shared__ float rows[CELL_TILE][MAX_DIM + 1];
    __shared__ float scale_of[CELL_TILE];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, num_warps = blockDim.x / WARP;
    const int first = blockIdx.x * CELL_TILE;
    for (int i = warp; i < CELL_TILE; i += num_warps) {
        const int cell = first + i;
        float squared = 0.0f;
        if (cell < num_cells) {
            for (int d = lane; d < dim; d += WARP) {
                const float value = features[(u64)cell * dim + d];
                rows[i][d] = value;
                squared = fmaf(value, value, squared);
            }
        }
        squared = warp_sum(squared);
        float scale = 0.0f;
        if (cell < num_cells) {
            const float y = row_places[cell / width], x = column_places[cell % width];
            scale = inverse_norm(squared + (y * y + x * x));
        }
        if (lane == 0) {
            scale_of[i] = scale;
            if (cell < num_cells)
                scales[cell] = scale;
        }
    }
    __syncthreads();
    const int cell = first + lane;
    const float scale = scale_of[lane];
    for (int d = warp; d < dim + 2; d += num_warps) {
        float value = 0.0f;
        // A zero scale may stand for values that are not finite, and 0 · NaN is NaN.
        if (scale != 0.0f)
            value = scale * (d < dim ? rows[lane][d] : d == dim ? row_places[cell / width] : column_places[cell % width]);
        columns[(u64)d * padded + cell] = value;
    }
}

// Labels of a start: those given (from the grid), or NONE everywhere (before a warm assignment), and NONE beyond the cells
// and where `clustered` (may be null) is 0. Also clears what rounds count. One thread per padded cell.
extern "C" __global__ void kmeans_start(const u16* initial, const u8* clustered, int num_cells, int padded, int is_warm,
                                        int num_rounds, int num_slots, u16* labels, u32* changed, u32* areas, u32* reseeded)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < padded) {
        const bool keep = i < num_cells && !is_warm && (!clustered || clustered[i]);
        labels[i] = keep ? initial[i] : NONE;
    }
    if (i < num_rounds)
        changed[i] = 0;
    if (i < num_slots) {
        areas[i] = 0;
        reseeded[i] = 0;
    }
}

// Nearest centroid of every cell: a product [cells × depth] · [depth × clusters] of which only the largest value per cell is
// kept; ties go to the lowest label. Block: CELL_TILE cells × all clusters, 128 threads with 4 cells × 4 clusters each; the
// cells' columns stay in shared memory, clusters come by in tiles of CLUSTER_TILE.
// columns [depth][padded_cells] from kmeans_prepare, centroids [depth][padded_slots]. dynamic shared memory is not used.
extern "C" __global__ void __launch_bounds__(128)
    kmeans_assign(const float* columns, const float* centroids, const u8* clustered, int num_cells, int padded_cells,
                  int num_slots, int padded_slots, int depth, int round, u16* labels, float* similarities, u32* areas,
                  u32* changed)
{
    enum { STEP = 16 };
    __shared__ float4 cells4[(MAX_DIM + 2) * CELL_TILE / 4];
    __shared__ float4 clusters4[STEP * CLUSTER_TILE / 4];
    if (is_settled(changed, round))
        return;
    const int thread = threadIdx.x;
    const int tx = thread % 16, ty = thread / 16;
    const int first = blockIdx.x * CELL_TILE;

    for (int i = thread; i < depth * (CELL_TILE / 4); i += 128) {
        const int d = i / (CELL_TILE / 4), quarter = i % (CELL_TILE / 4);
        cells4[i] = *(const float4*)(columns + (u64)d * padded_cells + first + 4 * quarter);
    }
    float best[4];
    int label[4];
    for (int i = 0; i < 4; i++) {
        best[i] = -INFINITE;
        label[i] = 0;
    }
    for (int first_slot = 0; first_slot < num_slots; first_slot += CLUSTER_TILE) {
        float sums[4][4] = {};
        // The next step's centroids are on their way while this step multiplies.
        float4 next[2];
        for (int j = 0; j < 2; j++) {
            const int i = thread + 128 * j, d = i / (CLUSTER_TILE / 4);
            if (d < depth)
                next[j] = *(const float4*)(centroids + (u64)d * padded_slots + first_slot + 4 * (i % (CLUSTER_TILE / 4)));
        }
        for (int first_depth = 0; first_depth < depth; first_depth += STEP) {
            __syncthreads();
            for (int j = 0; j < 2; j++)
                clusters4[thread + 128 * j] = next[j];
            __syncthreads();
            for (int j = 0; j < 2; j++) {
                const int i = thread + 128 * j, d = first_depth + STEP + i / (CLUSTER_TILE / 4);
                if (d < depth)
                    next[j] =
                        *(const float4*)(centroids + (u64)d * padded_slots + first_slot + 4 * (i % (CLUSTER_TILE / 4)));
            }
            const int steps = depth - first_depth < STEP ? depth - first_depth : STEP;
#pragma unroll 8
            for (int d = 0; d < steps; d++) {
                const float4 a = cells4[(first_depth + d) * (CELL_TILE / 4) + ty];
                const float4 b = clusters4[d * (CLUSTER_TILE / 4) + tx];
                const float cell[4] = {a.x, a.y, a.z, a.w}, cluster[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        sums[i][j] = fmaf(cell[i], cluster[j], sums[i][j]);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int slot = first_slot + 4 * tx + j;
                if (slot < num_slots && sums[i][j] > best[i]) {
                    best[i] = sums[i][j];
                    label[i] = slot;
                }
            }
    }
    // The best of the 16 threads that share a cell: they are half a warp.
#pragma unroll
    for (int i = 0; i < 4; i++)
        for (int distance = 8; distance > 0; distance /= 2) {
            const float other = __shfl_xor_sync(WHOLE_WARP, best[i], distance);
            const int other_label = __shfl_xor_sync(WHOLE_WARP, label[i], distance);
            if (other > best[i] || (other == best[i] && other_label < label[i])) {
                best[i] = other;
                label[i] = other_label;
            }
        }
    if (tx != 0)
        return;
    u32 num_changed = 0;
    for (int i = 0; i < 4; i++) {
        const int cell = first + 4 * ty + i;
        if (cell >= num_cells)
            break;
        const bool keep = !clustered || clustered[cell];
        const u16 chosen = keep ? label[i] : NONE;
        num_changed += labels[cell] != chosen;
        labels[cell] = chosen;
        similarities[cell] = best[i];
        if (keep)
            atomicAdd(&areas[chosen], 1u);
    }
    if (num_changed)
        atomicAdd(&changed[round], num_changed);
}

// Gives each empty cluster, in order, the cell with the lowest similarity to its own centroid (ties to the first cell) of
// those that are not alone in their cluster. One block.
extern "C" __global__ void kmeans_reseed(const float* similarities, int num_cells, int num_slots, int round,
                                         const u32* changed, u16* labels, u32* areas, u32* reseeded)
{
    __shared__ u64 worst_of[WARP];
    __shared__ int is_full;
    if (is_settled(changed, round))
        return;
    const int thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP, num_warps = blockDim.x / WARP;
    // Mostly there is none, and one look by all threads at once is all that this kernel does.
    int any = 0;
    for (int slot = thread; slot < num_slots; slot += blockDim.x)
        any |= areas[slot] == 0;
    if (!__syncthreads_or(any))
        return;
    for (int slot = 0; slot < num_slots; slot++) {
        // Areas change below only, between barriers: all threads see the same.
        if (areas[slot] > 0)
            continue;
        // The lowest similarity, then the lowest cell, as one number.
        u64 worst = ~0ull;
        for (int i = thread; i < num_cells; i += blockDim.x) {
            const u32 label = labels[i];
            if (label < (u32)num_slots && areas[label] > 1) {
                const u64 key = (u64)ordered(similarities[i]) << 32 | (u32)i;
                worst = key < worst ? key : worst;
            }
        }
        for (int distance = WARP / 2; distance > 0; distance /= 2) {
            const u64 other = __shfl_xor_sync(WHOLE_WARP, worst, distance);
            worst = other < worst ? other : worst;
        }
        if (lane == 0)
            worst_of[warp] = worst;
        __syncthreads();
        if (thread == 0) {
            for (int i = 1; i < num_warps; i++)
                worst = worst_of[i] < worst ? worst_of[i] : worst;
            is_full = worst == ~0ull;
            if (!is_full) {
                const u32 cell = (u32)worst;
                areas[labels[cell]] -= 1;
                areas[slot] = 1;
                labels[cell] = slot;
                reseeded[slot] = 1;
            }
        }
        __syncthreads();
        // Fewer cells than clusters: the rest stays empty.
        if (is_full)
            return;
    }
}

// Normalised sum of a cluster's members. Block: one cluster, 8 warps. The labels are read 2048 at a time, the members among
// them listed in order; warp w adds every eighth of them from the w-th on, and the eight sums are added in order.
// SCALED: rows are the scaled [feature; location], the result is a centroid; else features alone, a prototype.
template <bool SCALED>
__device__ inline void cluster_mean(const float* features, const float* scales, const float* row_places,
                                    const float* column_places, const u16* labels, int num_cells, int width, int dim,
                                    int padded_slots, float* mean, float* mean_place, float* mean_columns)
{
    enum { WARPS = 8, LISTED = 2048, REGISTERS = MAX_DIM / (4 * WARP) };
    __shared__ u32 members[LISTED];
    __shared__ u32 counts[WARPS];
    __shared__ float4 partial[WARPS][MAX_DIM / 4];
    __shared__ float partial_place[WARPS][2];
    const u32 slot = blockIdx.x;
    const int thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    float4 sums[REGISTERS];
    for (int r = 0; r < REGISTERS; r++)
        sums[r].x = sums[r].y = sums[r].z = sums[r].w = 0.0f;
    float place = 0.0f;
    // How many members came before: who adds a member must not depend on where chunks begin.
    u32 seen = 0;

    for (int first = 0; first < num_cells; first += LISTED) {
        // Eight labels per thread, 16 bytes; the buffer is padded with NONE to whole chunks.
        const uint4 packed = *(const uint4*)(labels + first + 8 * thread);
        const u32 words[4] = {packed.x, packed.y, packed.z, packed.w};
        u32 hits = 0;
#pragma unroll
        for (int i = 0; i < 8; i++)
            hits |= (u32)((words[i / 2] >> (i % 2 * 16) & 0xffffu) == slot) << i;
        u32 before = __popc(hits);
        for (int distance = 1; distance < WARP; distance *= 2) {
            const u32 other = __shfl_up_sync(WHOLE_WARP, before, distance);
            if (lane >= distance)
                before += other;
        }
        if (lane == WARP - 1)
            counts[warp] = before;
        before -= __popc(hits);
        __syncthreads();
        u32 total = 0;
        for (int w = 0; w < WARPS; w++) {
            if (w < warp)
                before += counts[w];
            total += counts[w];
        }
        while (hits) {
            const int i = __ffs(hits) - 1;
            members[before++] = first + 8 * thread + i;
            hits &= hits - 1;
        }
        __syncthreads();
        for (u32 m = (warp + WARPS - seen % WARPS) % WARPS; m < total; m += WARPS) {
            const u32 cell = members[m];
            const float scale = scales[cell];
            if (scale == 0.0f)
                continue;
            const float factor = SCALED ? scale : 1.0f;
#pragma unroll
            for (int r = 0; r < REGISTERS; r++) {
                const int quarter = r * WARP + lane;
                if (4 * quarter < dim) {
                    const float4 row = *(const float4*)(features + (u64)cell * dim + 4 * quarter);
                    sums[r].x += row.x * factor;
                    sums[r].y += row.y * factor;
                    sums[r].z += row.z * factor;
                    sums[r].w += row.w * factor;
                }
            }
            if (SCALED && lane < 2)
                place += (lane == 0 ? row_places[cell / width] : column_places[cell % width]) * scale;
        }
        // No barrier: lists and counts of the next chunk are written after one that all reach when they have read these.
        seen += total;
    }
#pragma unroll
    for (int r = 0; r < REGISTERS; r++)
        if (4 * (r * WARP + lane) < dim)
            partial[warp][r * WARP + lane] = sums[r];
    if (lane < 2)
        partial_place[warp][lane] = place;
    __syncthreads();
    if (warp != 0)
        return;
    float squared = 0.0f;
#pragma unroll
    for (int r = 0; r < REGISTERS; r++) {
        const int quarter = r * WARP + lane;
        if (4 * quarter < dim) {
            float4 sum = partial[0][quarter];
            for (int w = 1; w < WARPS; w++) {
                const float4 other = partial[w][quarter];
                sum.x += other.x;
                sum.y += other.y;
                sum.z += other.z;
                sum.w += other.w;
            }
            sums[r] = sum;
            squared += (sum.x * sum.x + sum.y * sum.y) + (sum.z * sum.z + sum.w * sum.w);
        }
    }
    place = 0.0f;
    if (SCALED && lane < 2)
        for (int w = 0; w < WARPS; w++)
            place += partial_place[w][lane];
    const float scale = inverse_norm(warp_sum(squared + place * place));
#pragma unroll
    for (int r = 0; r < REGISTERS; r++) {
        const int quarter = r * WARP + lane;
        if (4 * quarter < dim) {
            float4 value;
            value.x = scale == 0.0f ? 0.0f : sums[r].x * scale;
            value.y = scale == 0.0f ? 0.0f : sums[r].y * scale;
            value.z = scale == 0.0f ? 0.0f : sums[r].z * scale;
            value.w = scale == 0.0f ? 0.0f : sums[r].w * scale;
            *(float4*)(mean + (u64)slot * dim + 4 * quarter) = value;
            if (SCALED) {
                float* column = mean_columns + (u64)(4 * quarter) * padded_slots + slot;
                column[0] = value.x;
                column[padded_slots] = value.y;
                column[2 * padded_slots] = value.z;
                column[3 * padded_slots] = value.w;
            }
        }
    }
    if (SCALED && lane < 2) {
        const float value = scale == 0.0f ? 0.0f : place * scale;
        mean_place[2 * slot + lane] = value;
        mean_columns[(u64)(dim + lane) * padded_slots + slot] = value;
    }
}

// Centroids of the present labels, in both layouts that others read: features [k][dim] with places [k][2] (y, x), and
// columns [dim + 2][padded_slots]. Clears the areas for the assignment that follows.
extern "C" __global__ void __launch_bounds__(256)
    kmeans_centroids(const float* features, const float* scales, const float* row_places, const float* column_places,
                     const u16* labels, int num_cells, int width, int dim, int padded_slots, int round, const u32* changed,
                     u32* areas, float* centroids, float* places, float* columns)
{
    if (is_settled(changed, round))
        return;
    if (threadIdx.x == 0)
        areas[blockIdx.x] = 0;
    cluster_mean<true>(features, scales, row_places, column_places, labels, num_cells, width, dim, padded_slots, centroids,
                       places, columns);
}

// Unit mean features of the clusters, without location: [k][dim].
extern "C" __global__ void __launch_bounds__(256)
    kmeans_prototypes(const float* features, const float* scales, const u16* labels, int num_cells, int dim,
                      float* prototypes)
{
    cluster_mean<false>(features, scales, 0, 0, labels, num_cells, 1, dim, 0, prototypes, 0, 0);
}
