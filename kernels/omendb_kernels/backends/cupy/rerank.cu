// rerank: true distances of candidates, and the k nearest of them.
//
// A block a query. Eight threads a candidate, a lane of the contract's float64 sum each, so that a row is read 32 bytes of
// float32 at a time; the query lies in shared memory as doubles. The first k candidates come first: a later one whose lower
// bound is above the largest distance among them is passed over, which cannot change the answer. With `sorting` the keys of up
// to 2,048 candidates are sorted in shared memory (bitonic) and the answer is written; else keys go out to be sorted.
// Cost: a row of d values and 3 d float64 operations a candidate that is looked at: 10 to 20 of 64. Limiter: latency of the
// rows' reads, then float64 on consumer cards.
#include "rows.cuh"

// Ascending, `size` a power of two. All threads call it; it ends with a barrier.
__device__ __forceinline__ void sort_keys(i64* keys, int size) {
    for (int run = 2; run <= size; run *= 2)
        for (int step = run / 2; step; step /= 2) {
            for (int pair = threadIdx.x; pair < size / 2; pair += blockDim.x) {
                const int low = 2 * pair - (pair & (step - 1)), high = low + step;
                const i64 a = keys[low], b = keys[high];
                if ((a > b) == ((low & run) == 0)) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
            __syncthreads();
        }
}

struct Rows {
    const Stored* data;
    const double* lengths;
    int dim, metric;
};

// The key of one candidate by a team of eight; all lanes of a warp call it, row -1 gives NO_KEY.
__device__ __forceinline__ i64 key_of(const Rows& rows, const double* query, double query_length, int row) {
    const Stored* values = rows.data + (i64)max(row, 0) * rows.dim;
    const bool own_length = rows.metric == COSINE && !rows.lengths;
    double sum = 0.0, squares = 0.0;
    if (row >= 0)
        for (int j = threadIdx.x % LANES; j < rows.dim; j += LANES) {
            const double x = value_of(values[j]);
            sum = rows.metric == L2 ? add_square(sum, __dsub_rn(query[j], x)) : __dadd_rn(sum, __dmul_rn(query[j], x));
            if (own_length) squares = add_square(squares, x);
        }
    sum = lane_tree(sum);
    double length = 1.0;
    if (own_length) length = __dsqrt_rn(lane_tree(squares));
    else if (rows.metric == COSINE && row >= 0) length = rows.lengths[row];
    return row < 0 ? NO_KEY : pack_key(ordered_bits(distance_of(rows.metric, sum, query_length, length)), (u32)row);
}

extern "C" __global__ void __launch_bounds__(256) rerank(
    const float* __restrict__ queries, const Stored* __restrict__ points, const double* __restrict__ lengths, int dim,
    const int* __restrict__ candidates, const double* __restrict__ lower, int width, int k, int metric, int sorting, int places,
    double* scratch, i64* keys, const int* __restrict__ names, float* distances, i64* ids
) {
    extern __shared__ double shared[];
    __shared__ double query_length;
    __shared__ int largest;
    const i64 q = blockIdx.x;
    const int team = threadIdx.x / LANES, teams = blockDim.x / LANES, lane = threadIdx.x % LANES;
    double* query = scratch ? scratch + q * dim : shared;
    i64* own = sorting ? (i64*)(shared + (scratch ? 0 : dim)) : keys + q * width;
    for (int j = threadIdx.x; j < dim; j += blockDim.x) query[j] = queries[q * dim + j];
    if (sorting)
        for (int j = width + threadIdx.x; j < places; j += blockDim.x) own[j] = NO_KEY;
    if (threadIdx.x == 0) {
        largest = (int)0x80000000;
        query_length = 1.0;
    }
    __syncthreads();
    if (metric == COSINE && threadIdx.x < 32) {
        double sum = 0.0;
        for (int j = lane; j < dim; j += LANES) sum = add_square(sum, query[j]);
        sum = lane_tree(sum);
        if (threadIdx.x == 0) query_length = __dsqrt_rn(sum);
    }
    __syncthreads();
    const Rows rows = {points, lengths, dim, metric};
    const int first = min(k, width);
    for (int start = 0; start < first; start += teams) {
        const int place = start + team;
        const int row = place < first ? candidates[q * width + place] : -1;
        const i64 key = key_of(rows, query, query_length, row);
        if (lane == 0 && place < first) {
            own[place] = key;
            atomicMax(&largest, score_of(key));
        }
    }
    __syncthreads();
    // A value just above the k-th distance may round down to it: only beyond the next float32 is it out.
    const int limit_bits = first == k && largest != NO_SCORE ? largest + 1 : NO_SCORE;
    const double limit = limit_bits == NO_SCORE ? 0.0 : (double)float_of(limit_bits);
    for (int start = first; start < width; start += teams) {
        const int place = start + team;
        int row = place < width ? candidates[q * width + place] : -1;
        if (lower && limit_bits != NO_SCORE && row >= 0 && lower[q * width + place] > limit) row = -1;
        const i64 key = key_of(rows, query, query_length, row);
        if (lane == 0 && place < width) own[place] = key;
    }
    if (!sorting) return;
    __syncthreads();
    sort_keys(own, places);
    for (int j = threadIdx.x; j < k; j += blockDim.x) {
        const i64 key = j < places ? own[j] : NO_KEY;
        const bool there = key != NO_KEY;
        distances[q * k + j] = there ? float_of(score_of(key)) : __int_as_float(0x7f800000);
        ids[q * k + j] = there ? (names ? names[id_of(key)] : (i64)id_of(key)) : -1;
    }
}

// Sorted keys, `width` a line, to distances and ids.
extern "C" __global__ void __launch_bounds__(256) unpack(
    const i64* __restrict__ keys, i64 m, int width, int k, const int* __restrict__ names, float* distances, i64* ids
) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= m * k) return;
    const int place = (int)(i % k);
    const i64 key = place < width ? keys[i / k * width + place] : NO_KEY;
    const bool there = key != NO_KEY;
    distances[i] = there ? float_of(score_of(key)) : __int_as_float(0x7f800000);
    ids[i] = there ? (names ? names[id_of(key)] : (i64)id_of(key)) : -1;
}
