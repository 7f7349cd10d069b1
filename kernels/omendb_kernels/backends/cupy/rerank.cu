// rerank: final distances of candidates, and the k nearest of each query.
//
// A block has a slice of the candidates of one query: their keys come to lie in shared memory and are sorted there (bitonic).
// One slice is the rule, and the block writes the answer; of more, `keep` keys of each go on (_merge.py), then `unpack`. A team
// of eight lanes compares the query with two rows at a time (rows.cuh), 256 bytes of float32 of each at once; the query comes
// from the first cache, the same sectors for all teams. Rows that are not there, or whose bound rules them out, are left out
// before teams are given work. With bounds the first few candidates, the best of the search before, come first: the k-th
// distance among them rules out most others. With few queries all come at once, for then the wait is shortest.
// Bytes and operations of a row: its own, 12 of candidate and bound; 3 float64 operations and, of float32, 1.5 conversions a
// value. H100, 768 values: of float32 3 KiB at random take 1.6 ns at 59 % of the peak; the conversions, at 16 a cycle and
// SM, 0.3 ns at the same time: memory. Of int8 0.4 ns of memory, 0.2 ns of float64. L4: 10 ns of memory, 14 ns of float64.
// Peer: FlashLib recomputes the final k of its search by a gather (flashlib, primitives/knn).
#include "rows.cuh"

#define MOST_THREADS 256
#define OF_WARP (32 / TEAM * PAIR)  // rows that a warp compares at the same time
#define INFINITE_BITS 0x7f800000

struct Slice {
    const int* candidates;
    const double* lower;  // or null
    int count;
};

// float32 bits in the order of the numbers (keys.py), and back.
__device__ __forceinline__ int ordered(int bits) { return bits ^ (bits >> 31 & 0x7fffffff); }

// The sort of `count` keys, a power of two. Ends with a barrier, and wants one before.
__device__ __forceinline__ void sort_keys(i64* keys, int count) {
    for (int run = 2; run <= count; run *= 2)
        for (int apart = run / 2; apart; apart /= 2) {
            for (int pair = threadIdx.x; pair < count / 2; pair += blockDim.x) {
                const int low = 2 * pair - (pair & (apart - 1)), high = low + apart;
                const i64 a = keys[low], b = keys[high];
                if ((a > b) == !(low & run)) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
            __syncthreads();
        }
}

// The candidates first .. last - 1 that a bound does not rule out, in any order, and their number. Ends with a barrier.
__device__ __forceinline__ int list_rows(const Slice& slice, int first, int last, double limit, int* rows, int* listed) {
    if (threadIdx.x == 0) *listed = 0;
    __syncthreads();
    for (int i = first + threadIdx.x; i < last; i += blockDim.x) {
        const int row = slice.candidates[i];
        if (row >= 0 && !(slice.lower && slice.lower[i] > limit)) rows[atomicAdd(listed, 1)] = row;
    }
    __syncthreads();
    return *listed;
}

// Place i of an answer.
__device__ __forceinline__ void write_place(i64 key, float* distance, i64* id) {
    const bool there = key != NO_KEY;
    *distance = __int_as_float(there ? ordered(score_of(key)) : INFINITE_BITS);
    *id = there ? (i64)id_of(key) : -1;
}

// kept: null if a slice is all of a query, else its `keep` smallest keys go there. names: of rows that are numbered otherwise.
extern "C" __global__ void __launch_bounds__(MOST_THREADS, 3) rerank(
    const float* __restrict__ queries, const Stored* __restrict__ points, int dim, int whole,
    const int* __restrict__ candidates, const double* __restrict__ lower, int width, int slices, int slice_width, int early,
    const double* __restrict__ lengths, const int* __restrict__ names, int metric, int k, int keep, int room, i64* kept,
    float* distances, i64* ids
) {
    extern __shared__ i64 keys[];  // `room` of them, then the rows of a slice
    __shared__ int listed;
    int* const rows = (int*)(keys + room);
    const i64 q = blockIdx.x / slices;
    const int begin = blockIdx.x % slices * slice_width, lane = team_lane();
    const i64 at = q * width + begin;
    const Slice slice = {candidates + at, lower ? lower + at : nullptr, min(slice_width, width - begin)};
    double limit = __longlong_as_double(0x7ff0000000000000ll);
    int done = 0, sorted = 1;
    for (int first = 0, last = min(early, slice.count); first < slice.count; first = last, last = slice.count) {
        const int count = list_rows(slice, first, last, limit, rows, &listed);
        for (int start = threadIdx.x / 32 * OF_WARP; start < count; start += blockDim.x / 32 * OF_WARP) {
            const int place = start + threadIdx.x % 32 / TEAM * PAIR;
            const Stored* pair[PAIR];
#pragma unroll
            for (int r = 0; r < PAIR; r++)
                pair[r] = place + r < count ? points + (i64)rows[place + r] * dim : nullptr;
            const Compared found = compare(queries + q * dim, pair, dim, whole, metric, !lengths);
            if (lane >= PAIR || place + lane >= count) continue;
            const int row = rows[place + lane];
            double length = 1.0, query_length = 1.0;
            if (metric == COSINE) {
                query_length = __dsqrt_rn(found.query_squares);
                length = lengths ? lengths[row] : __dsqrt_rn(found.squares);
            }
            const float distance = final_distance(metric, found.sum, query_length, length);
            keys[done + place + lane] = pack_key(ordered(__float_as_int(distance)), names ? names[row] : row);
        }
        done += count;
        while (sorted < done) sorted *= 2;
        for (int i = done + threadIdx.x; i < sorted; i += blockDim.x) keys[i] = NO_KEY;
        __syncthreads();
        sort_keys(keys, sorted);
        // A value just above the k-th distance may round down to it: only beyond the next float32 is it out.
        if (k <= done) limit = __int_as_float(ordered(score_of(keys[k - 1]) + 1));
    }
    for (int i = threadIdx.x; i < keep; i += blockDim.x) {
        const i64 key = i < done ? keys[i] : NO_KEY;
        if (kept) kept[(i64)blockIdx.x * keep + i] = key;
        else write_place(key, distances + q * k + i, ids + q * k + i);
    }
}

// The answer of sorted keys.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) unpack(
    const i64* __restrict__ keys, i64 count, float* distances, i64* ids
) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) write_place(keys[i], distances + i, ids + i);
}
