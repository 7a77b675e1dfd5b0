// Labels of cells → labels of the source's pixels, equal to segcore::refine::Refiner up to the order of sums (spec:
// method.md, section 3, "Refinement to pixels").
//
// Pixels of a cell without a differing 4-neighbour take its label. Elsewhere the features are upsampled bilinearly, scaled to
// unit length, the location is appended, and the best of the clusters present in the 3×3 cells wins, ties to the lowest.
// Upsampling is linear, so products are interpolated instead of features: per border cell those of its 9 cells with the few
// clusters nearby, and those of the cells among themselves for the length of the upsampled vector.
//
// Block: one cell, 128 threads. features [cell][dim], labels [cell], centroids [k][dim], places [k][2] (y, x).
// Per source row: row_sides (0: between the cell above and its own, 1: its own and the one below), row_weights (of the
// lower), row_places. Per source column: weights of the cells left of, at and right of its own, [3][source_width], and
// column_places. Source rows of cell row y: row_starts[y] to row_starts[y + 1]; columns likewise.
#include "kernels.h"

enum { THREADS = 128, MAX_PRODUCTS = 9 * 9 + 29 };

__device__ inline int clamped(int value, int last) { return value < 0 ? 0 : value > last ? last : value; }

extern "C" __global__ void __launch_bounds__(THREADS)
    refine_labels(const float* features, const u16* labels, const float* centroids, const float* places,
                  const u32* row_starts, const u32* column_starts, const u32* row_sides, const float* row_weights,
                  const float* row_places, const float* column_weights, const float* column_places, int height, int width,
                  int dim, int source_width, u16* out)
{
    // Candidates, ascending; products with the 9 cells; of the 9 cells among themselves where they share a 2×2 block.
    __shared__ u32 candidates[9];
    __shared__ int num_shared;
    __shared__ float with_centroid[9][9];
    __shared__ float among[9][9];
    __shared__ float place_of[9][2];
    __shared__ u8 pairs[MAX_PRODUCTS][2];
    __shared__ int num_pairs;
    const int thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    const int y = blockIdx.x / width, x = blockIdx.x % width;
    const u32 own = labels[blockIdx.x];
    const int first_row = row_starts[y], num_rows = row_starts[y + 1] - first_row;
    const int first_column = column_starts[x], num_columns = column_starts[x + 1] - first_column;

    // All threads read the neighbourhood; it is the same for all.
    u32 around[9];
#pragma unroll
    for (int i = 0; i < 9; i++) {
        const int ny = y + i / 3 - 1, nx = x + i % 3 - 1;
        around[i] = ny < 0 || ny >= height || nx < 0 || nx >= width ? own : labels[ny * width + nx];
    }
    // Outside the map nothing differs. A cell of no segment, or one whose differing neighbours are of none, has no choice.
    const bool is_border = around[1] != own || around[3] != own || around[5] != own || around[7] != own;
    bool has_choice = false;
#pragma unroll
    for (int i = 0; i < 9; i++)
        has_choice |= around[i] != own && around[i] != NONE;
    if (own == NONE || !is_border || !has_choice) {
        for (int i = thread; i < num_rows * num_columns; i += THREADS)
            out[(u64)(first_row + i / num_columns) * source_width + first_column + i % num_columns] = own;
        return;
    }
    if (thread == 0) {
        int num = 0;
        for (int i = 0; i < 9; i++) {
            const u32 label = around[i];
            int place = 0;
            while (place < num && candidates[place] < label)
                place++;
            if (label == NONE || (place < num && candidates[place] == label))
                continue;
            for (int j = num; j > place; j--)
                candidates[j] = candidates[j - 1];
            candidates[place] = label;
            num++;
        }
        int count = 0;
        for (int k = 0; k < num; k++)
            for (int i = 0; i < 9; i++) {
                pairs[count][0] = 16 + k;
                pairs[count++][1] = i;
            }
        for (int i = 0; i < 9; i++)
            for (int j = i; j < 9; j++)
                if (j / 3 - i / 3 < 2 && j % 3 - i % 3 < 2 && i % 3 - j % 3 < 2) {
                    pairs[count][0] = i;
                    pairs[count++][1] = j;
                }
        num_shared = num;
        num_pairs = count;
    }
    __syncthreads();
    const int num = num_shared;
    if (thread < 2 * num)
        place_of[thread / 2][thread % 2] = places[2 * candidates[thread / 2] + thread % 2];
    for (int p = warp; p < num_pairs; p += THREADS / WARP) {
        const int a = pairs[p][0], b = pairs[p][1];
        const int ay = clamped(y + a % 16 / 3 - 1, height - 1), ax = clamped(x + a % 16 % 3 - 1, width - 1);
        const int by = clamped(y + b / 3 - 1, height - 1), bx = clamped(x + b % 3 - 1, width - 1);
        const float* left = a >= 16 ? centroids + (u64)candidates[a - 16] * dim : features + (u64)(ay * width + ax) * dim;
        const float* right = features + (u64)(by * width + bx) * dim;
        float sum = 0.0f;
        for (int d = 4 * lane; d < dim; d += 4 * WARP) {
            const float4 l = *(const float4*)(left + d), r = *(const float4*)(right + d);
            sum = fmaf(l.x, r.x, fmaf(l.y, r.y, fmaf(l.z, r.z, fmaf(l.w, r.w, sum))));
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            if (a >= 16)
                with_centroid[a - 16][b] = sum;
            else
                among[a][b] = among[b][a] = sum;
        }
    }
    __syncthreads();
    for (int i = thread; i < num_rows * num_columns; i += THREADS) {
        const int row = first_row + i / num_columns, column = first_column + i % num_columns;
        const int low = (int)row_sides[row] * 3, high = low + 3;
        const float b = row_weights[row], a = 1.0f - b;
        const float w[3] = {column_weights[column], column_weights[source_width + column],
                            column_weights[2 * source_width + column]};
        // Squares and mixed products of the vertically interpolated vectors.
        float s[3], m[2];
#pragma unroll
        for (int c = 0; c < 3; c++)
            s[c] = a * a * among[low + c][low + c] + 2.0f * a * b * among[low + c][high + c] +
                   b * b * among[high + c][high + c];
#pragma unroll
        for (int c = 0; c < 2; c++)
            m[c] = a * a * among[low + c][low + c + 1] +
                   a * b * (among[low + c][high + c + 1] + among[high + c][low + c + 1]) +
                   b * b * among[high + c][high + c + 1];
        const float squares = fmaf(w[0] * w[0], s[0], fmaf(w[1] * w[1], s[1], w[2] * w[2] * s[2]));
        const float squared = fmaf(2.0f * w[1], fmaf(w[0], m[0], w[2] * m[1]), squares);
        const float scale = squared >= MIN_NORM * MIN_NORM ? 1.0f / sqrtf(squared) : 0.0f;
        const float row_place = row_places[row], column_place = column_places[column];
        u32 best = candidates[0];
        float best_score = -INFINITE;
        for (int k = 0; k < num; k++) {
            float d[3];
#pragma unroll
            for (int c = 0; c < 3; c++)
                d[c] = a * with_centroid[k][low + c] + b * with_centroid[k][high + c];
            const float product = fmaf(w[0], d[0], fmaf(w[1], d[1], w[2] * d[2]));
            const float score = fmaf(product, scale, fmaf(column_place, place_of[k][1], row_place * place_of[k][0]));
            if (score > best_score) {
                best_score = score;
                best = candidates[k];
            }
        }
        out[(u64)row * source_width + column] = best;
    }
}
