// The k nearest prototypes of every query by cosine, the same as retrieval::Bank::nearest finds (spec: method.md, section 7).
//
// `top_k_queries` makes unit queries; `top_k_scan` multiplies them with the bank in 32 bits and keeps, per query and part of
// the bank, the KEPT best; `top_k_decide` takes the KEPT best of all parts, computes their similarities once more from the
// stored values in 64 bits, in the order of the Rust code, and sorts by them, equal ones by index. A 32-bit product is off by
// at most `margin`; when the last one kept is within twice that of the k-th, a nearer neighbour may have been left out: then
// the query is marked in `doubtful`, and the caller searches it on the CPU.
//
// The bank lies in panels of BANK_PANEL prototypes, [panel][dim][BANK_PANEL], as float or half, with 1 / norm of each
// (0 for the filling of the last panel). Products cost 2 · queries · prototypes · dim operations; the bank is read once per
// QUERY_TILE queries, and blocks that share a part of it run side by side, so that most reads hit the cache.
#include "kernels.h"

enum { STEP = 16, TOP_DIM = 128, THREADS = 128 };

#define NOTHING 0ull

// Product and index as one number: larger products first, lower indices first among equals. NOTHING is below all.
__device__ inline u64 candidate(float product, u32 index) { return (u64)ordered(product) << 32 | (~index & 0xffffffffu); }
__device__ inline float product_of(u64 candidate) { return from_ordered((u32)(candidate >> 32)); }
__device__ inline u32 index_of(u64 candidate) { return ~(u32)candidate; }

// Largest of one number per lane of a warp.
__device__ inline u64 warp_maximum(u64 value)
{
    const u32 high = __reduce_max_sync(WHOLE_WARP, (u32)(value >> 32));
    const u32 low = __reduce_max_sync(WHOLE_WARP, (u32)(value >> 32) == high ? (u32)value : 0u);
    return (u64)high << 32 | low;
}

// The KEPT largest of 4 · 32 different candidates (or NOTHING), in order: lane i returns the i-th.
__device__ inline u64 kept_of(u64 held[4])
{
    const int lane = threadIdx.x % WARP;
    u64 kept = NOTHING;
    for (int i = 0; i < KEPT; i++) {
        u64 largest = held[0];
        for (int j = 1; j < 4; j++)
            largest = held[j] > largest ? held[j] : largest;
        const u64 best = warp_maximum(largest);
        if (best == NOTHING)
            break;
        if (lane == i)
            kept = best;
        for (int j = 0; j < 4; j++)
            if (held[j] == best)
                held[j] = NOTHING;
    }
    return kept;
}

// queries [num][dim] → unit vectors in tiles [tile][dim][QUERY_TILE], the last one filled with zeros. kinds[q]: 2 has a
// direction, 1 is too short for one, 0 is not finite. One thread per query place.
extern "C" __global__ void top_k_queries(const float* queries, int num, int dim, float* tiles, u32* kinds)
{
    const int q = blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= rounded_up(num, QUERY_TILE))
        return;
    double squared = 0.0;
    bool finite = true;
    for (int d = 0; q < num && d < dim; d++) {
        const double value = queries[(u64)q * dim + d];
        finite = finite && is_finite(queries[(u64)q * dim + d]);
        squared += value * value;
    }
    const double norm = sqrt(squared);
    const bool has_direction = q < num && finite && norm > 1e-12;
    const double scale = has_direction ? 1.0 / norm : 0.0;
    for (int d = 0; d < dim; d++) {
        const float unit = has_direction ? (float)((double)queries[(u64)q * dim + d] * scale) : 0.0f;
        tiles[((u64)(q / QUERY_TILE) * dim + d) * QUERY_TILE + q % QUERY_TILE] = unit;
    }
    if (q < num)
        kinds[q] = has_direction ? 2 : finite ? 1 : 0;
}

__device__ inline float4 load4(const float* place) { return *(const float4*)place; }

__device__ inline float4 load4(const u16* place)
{
    const ushort4 half = *(const ushort4*)place;
    float4 value;
    value.x = half_to_float(half.x);
    value.y = half_to_float(half.y);
    value.z = half_to_float(half.z);
    value.w = half_to_float(half.w);
    return value;
}

// Block: one tile of queries and one part of the bank (grid: tiles × parts). 128 threads with 8 queries × 4 prototypes each.
// candidates: [part][padded query][CANDIDATES], room for the block alone; the KEPT first are the result, in order.
template <class Stored>
__device__ inline void scan(const float* query_tiles, const Stored* bank, const float* inverse_norms, int num_queries,
                            int num_prototypes, int dim, int panels_per_part, u64* all_candidates)
{
    __shared__ float4 queries4[TOP_DIM * QUERY_TILE / 4];
    __shared__ float4 panel4[STEP * BANK_PANEL / 4];
    __shared__ float threshold[QUERY_TILE];
    __shared__ int counts[QUERY_TILE];
    const int thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    const int tx = thread % 16, ty = thread / 16;
    const int num_panels = (num_prototypes + BANK_PANEL - 1) / BANK_PANEL;
    const int first_panel = blockIdx.y * panels_per_part;
    const int end_panel = first_panel + panels_per_part < num_panels ? first_panel + panels_per_part : num_panels;
    const int padded_queries = rounded_up(num_queries, QUERY_TILE);
    u64* candidates = all_candidates + ((u64)blockIdx.y * padded_queries + (u64)blockIdx.x * QUERY_TILE) * CANDIDATES;

    for (int i = thread; i < dim * (QUERY_TILE / 4); i += THREADS)
        queries4[i] = *(const float4*)(query_tiles + (u64)blockIdx.x * dim * QUERY_TILE + 4 * i);
    if (thread < QUERY_TILE) {
        counts[thread] = 0;
        // Nothing is above infinity: the filling of the last tile collects nothing.
        threshold[thread] = (int)blockIdx.x * QUERY_TILE + thread < num_queries ? -INFINITE : INFINITE;
    }
    for (int p = first_panel; p < end_panel; p++) {
        const Stored* panel = bank + (u64)p * dim * BANK_PANEL;
        float sums[8][4] = {};
        float4 next[2];
        for (int j = 0; j < 2; j++)
            next[j] = load4(panel + 4 * (thread + THREADS * j));
        for (int first_depth = 0; first_depth < dim; first_depth += STEP) {
            __syncthreads();
            for (int j = 0; j < 2; j++)
                panel4[thread + THREADS * j] = next[j];
            __syncthreads();
            if (first_depth + STEP < dim)
                for (int j = 0; j < 2; j++)
                    next[j] = load4(panel + (first_depth + STEP) * BANK_PANEL + 4 * (thread + THREADS * j));
#pragma unroll
            for (int d = 0; d < STEP; d++) {
                const float4 a = queries4[(first_depth + d) * (QUERY_TILE / 4) + 2 * ty];
                const float4 b = queries4[(first_depth + d) * (QUERY_TILE / 4) + 2 * ty + 1];
                const float4 c = panel4[d * (BANK_PANEL / 4) + tx];
                const float query[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
                const float prototype[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
                for (int i = 0; i < 8; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        sums[i][j] = fmaf(query[i], prototype[j], sums[i][j]);
            }
        }
        const float4 norms4 = *(const float4*)(inverse_norms + (u64)p * BANK_PANEL + 4 * tx);
        const float norms[4] = {norms4.x, norms4.y, norms4.z, norms4.w};
        int is_full = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int q = 8 * ty + i;
            const float limit = threshold[q];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const u32 index = p * BANK_PANEL + 4 * tx + j;
                const float product = sums[i][j] * norms[j];
                // An equal product later in the bank loses against those that are kept.
                if (product > limit && index < (u32)num_prototypes) {
                    const int place = atomicAdd(&counts[q], 1);
                    candidates[q * CANDIDATES + place] = candidate(product, index);
                    // The next panel may bring BANK_PANEL more.
                    is_full |= place >= CANDIDATES - BANK_PANEL;
                }
            }
        }
        if (__syncthreads_or(is_full || p + 1 == end_panel)) {
            for (int q = warp; q < QUERY_TILE; q += THREADS / WARP) {
                const int count = counts[q];
                if (count <= CANDIDATES - BANK_PANEL && p + 1 < end_panel)
                    continue;
                u64 held[4];
                for (int j = 0; j < 4; j++)
                    held[j] = j * WARP + lane < count ? candidates[q * CANDIDATES + j * WARP + lane] : NOTHING;
                const u64 kept = kept_of(held);
                // All have read before any writes.
                __syncwarp();
                candidates[q * CANDIDATES + lane] = kept;
                if (lane == KEPT - 1 && kept != NOTHING)
                    threshold[q] = product_of(kept);
                if (lane == 0)
                    counts[q] = count < KEPT ? count : KEPT;
            }
            __syncthreads();
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    top_k_scan(const float* query_tiles, const float* bank, const float* inverse_norms, int num_queries, int num_prototypes,
               int dim, int panels_per_part, u64* candidates)
{
    scan<float>(query_tiles, bank, inverse_norms, num_queries, num_prototypes, dim, panels_per_part, candidates);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    top_k_scan_half(const float* query_tiles, const u16* bank, const float* inverse_norms, int num_queries,
                    int num_prototypes, int dim, int panels_per_part, u64* candidates)
{
    scan<u16>(query_tiles, bank, inverse_norms, num_queries, num_prototypes, dim, panels_per_part, candidates);
}

__device__ inline double stored(const float* bank, u64 place) { return bank[place]; }
__device__ inline double stored(const u16* bank, u64 place) { return half_to_float(bank[place]); }

// Block: one query, one warp. indices, similarities: [query][k]; index 0xffffffff where there is no neighbour.
template <class Stored>
__device__ inline void decide(const float* queries, const u32* kinds, const Stored* bank, const u64* candidates,
                              int num_queries, int num_prototypes, int dim, int num_parts, int k, float margin, u32* indices,
                              float* similarities, u32* doubtful)
{
    __shared__ double similarity_of[KEPT];
    __shared__ u32 number_of[KEPT];
    const int q = blockIdx.x, lane = threadIdx.x;
    const int padded_queries = rounded_up(num_queries, QUERY_TILE);
    if (kinds[q] != 2) {
        // Without direction everything is equally far; what is not finite has no neighbours.
        if (lane < k) {
            const bool has = kinds[q] == 1 && lane < num_prototypes;
            indices[q * k + lane] = has ? lane : 0xffffffffu;
            similarities[q * k + lane] = 0.0f;
        }
        if (lane == 0)
            doubtful[q] = 0;
        return;
    }
    u64 kept = NOTHING;
    for (int part = 0; part < num_parts; part += 3) {
        u64 held[4] = {kept, NOTHING, NOTHING, NOTHING};
        for (int j = 0; j < 3 && part + j < num_parts; j++)
            held[j + 1] = candidates[((u64)(part + j) * padded_queries + q) * CANDIDATES + lane];
        kept = kept_of(held);
    }
    // The stored values once more, in 64 bits, one candidate per lane and one dimension after the other.
    double dot = 0.0, squared = 0.0, query_squared = 0.0;
    const u32 index = index_of(kept);
    if (kept != NOTHING) {
        const u64 first = (u64)(index / BANK_PANEL) * dim * BANK_PANEL + index % BANK_PANEL;
        for (int d = 0; d < dim; d++) {
            const double query = queries[(u64)q * dim + d], value = stored(bank, first + (u64)d * BANK_PANEL);
            dot += value * query;
            squared += value * value;
            query_squared += query * query;
        }
    }
    const double similarity = dot / sqrt(query_squared * squared);
    similarity_of[lane] = similarity;
    number_of[lane] = kept == NOTHING ? 0xffffffffu : index;
    if (lane < k) {
        indices[q * k + lane] = 0xffffffffu;
        similarities[q * k + lane] = 0.0f;
    }
    __syncwarp();
    if (kept != NOTHING) {
        int place = 0;
        for (int i = 0; i < KEPT; i++)
            place += number_of[i] != 0xffffffffu &&
                     (similarity_of[i] > similarity || (similarity_of[i] == similarity && number_of[i] < index));
        if (place < k) {
            indices[q * k + place] = index;
            similarities[q * k + place] = (float)similarity;
        }
    }
    const float kth = product_of(__shfl_sync(WHOLE_WARP, kept, k - 1));
    if (lane == KEPT - 1)
        doubtful[q] = kept != NOTHING && num_prototypes > KEPT && product_of(kept) >= kth - 2.0f * margin;
}

extern "C" __global__ void __launch_bounds__(WARP)
    top_k_decide(const float* queries, const u32* kinds, const float* bank, const u64* candidates, int num_queries,
                 int num_prototypes, int dim, int num_parts, int k, float margin, u32* indices, float* similarities,
                 u32* doubtful)
{
    decide<float>(queries, kinds, bank, candidates, num_queries, num_prototypes, dim, num_parts, k, margin, indices,
                  similarities, doubtful);
}

extern "C" __global__ void __launch_bounds__(WARP)
    top_k_decide_half(const float* queries, const u32* kinds, const u16* bank, const u64* candidates, int num_queries,
                      int num_prototypes, int dim, int num_parts, int k, float margin, u32* indices, float* similarities,
                      u32* doubtful)
{
    decide<u16>(queries, kinds, bank, candidates, num_queries, num_prototypes, dim, num_parts, k, margin, indices,
                similarities, doubtful);
}
