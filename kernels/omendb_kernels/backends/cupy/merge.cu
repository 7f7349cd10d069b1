// Reservoirs: to each target the `width` smallest different keys of its own and of the edges to it (pick, link, score).
//
// An edge is a key (D, x) in the line of a row p, its source, and gives row x the key (D, p); where every row is a target, it
// counts in both directions. Keys are brought together by target as in a counting sort: count_edges counts, the host has the
// counts summed up, place_edges writes each key to the next free place of its target. Atomics decide the order there, which
// the sort undoes. smallest_warp (width <= 96) then has a warp a target, smallest_block a block.
//
// Bytes for an edge in both directions: 8 read twice, 2 x 8 written as sectors of 32 (k keys of a source at once, one of the
// other end) and read again. 160 M keys, one million rows of 20 leaves and k = 4: 8 GB, 3 ms of an H100's HBM; two atomics on
// counters in the second cache, 2 ms. A sort of 128 keys takes 600 instructions of a warp, two a row 1.5 ms.
// Segments instead of a radix sort of all pairs (Jasper, arXiv 2601.07048): 12 bytes a pair would be moved 8 times.
#include "common.cuh"

#define BLOCK 256
#define WARPS (BLOCK / 32)
#define POOL 128  // keys that a warp sorts, four a lane

// The place of a row among the targets, -1 if it is none. They ascend, none twice: it is at most as far from either end as
// the numbers are apart, and without gaps between targets there is nothing to search.
__device__ __forceinline__ int place_of(const int* __restrict__ targets, int count, int row) {
    if (!targets) return row;
    if (count == 0 || row < targets[0] || row > targets[count - 1]) return -1;
    i64 high = min((i64)count - 1, (i64)row - targets[0]), low = max((i64)0, (i64)row - targets[count - 1] + count - 1);
    while (low < high) {
        i64 middle = (low + high) / 2;
        if (targets[middle] < row) low = middle + 1;
        else high = middle;
    }
    return targets[low] == row ? (int)low : -1;
}

// counts[t] += keys for target t. keys (lines, most), `team` lanes (a power of two) a line. targets: null if every row is one.
extern "C" __global__ void __launch_bounds__(BLOCK) count_edges(
    const i64* __restrict__ keys, const int* __restrict__ sources, int lines, int most, int team,
    const int* __restrict__ targets, int count, int* counts
) {
    i64 thread = (i64)blockIdx.x * BLOCK + threadIdx.x, line = thread / team;
    int lane = (int)thread & (team - 1), forward = 0;
    for (int i = lane; line < lines && i < most; i += team) {
        i64 key = keys[line * most + i];
        if (key == NO_KEY) continue;
        forward++;
        int target = place_of(targets, count, (int)id_of(key));
        if (target >= 0) atomicAdd(&counts[target], 1);
    }
    if (targets) return;  // all of them
    for (int step = team / 2; step > 0; step /= 2) forward += __shfl_xor_sync(FULL_WARP, forward, step);
    if (lane == 0 && forward) atomicAdd(&counts[sources[line]], forward);
}

// The keys of target t to edges[ends[t - 1] .. ends[t]] in any order; counts go back to zero.
extern "C" __global__ void __launch_bounds__(BLOCK) place_edges(
    const i64* __restrict__ keys, const int* __restrict__ sources, int lines, int most, int team,
    const int* __restrict__ targets, int count, const i64* __restrict__ ends, int* counts, i64* edges
) {
    i64 thread = (i64)blockIdx.x * BLOCK + threadIdx.x, line = thread / team;
    int lane = (int)thread & (team - 1), source = line < lines ? sources[line] : 0;
    u32 others = (team == 32 ? FULL_WARP : (1u << team) - 1) << (threadIdx.x % 32 - lane);
    for (int i = lane; i - lane < most; i += team) {
        i64 key = line < lines && i < most ? keys[line * most + i] : NO_KEY;
        if (!targets) {  // the keys of a line for its source, side by side
            u32 there = __ballot_sync(FULL_WARP, key != NO_KEY) & others;
            int left = 0;
            if (lane == 0 && there) left = atomicSub(&counts[source], __popc(there)) - __popc(there);
            left = __shfl_sync(FULL_WARP, left, 0, team);
            i64 start = source ? ends[source - 1] : 0;
            if (key != NO_KEY) edges[start + left + __popc(there & ((1u << threadIdx.x % 32) - 1))] = key;
        }
        int target = key == NO_KEY ? -1 : place_of(targets, count, (int)id_of(key));
        if (target < 0) continue;
        i64 start = target ? ends[target - 1] : 0;
        edges[start + atomicSub(&counts[target], 1) - 1] = pack_key(score_of(key), source);
    }
}

// Key i of a target: its own first, then those of edges.
__device__ __forceinline__ i64 key_at(const i64* own, int own_width, const i64* edges, i64 i) {
    return i < own_width ? own[i] : edges[i - own_width];
}

// Keys of the warp's four a lane, ascending by 4 lane + j: a bitonic sort, steps of one and two inside a lane.
__device__ __forceinline__ void sort(i64 (&keys)[4], int lane) {
#pragma unroll
    for (int size = 2; size <= POOL; size *= 2) {
#pragma unroll
        for (int step = size / 2; step > 0; step /= 2) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                bool up = ((lane * 4 + j) & size) == 0;
                if (step >= 4) {
                    i64 other = __shfl_xor_sync(FULL_WARP, keys[j], step / 4);
                    bool smaller = ((lane * 4 & step) == 0) == up;
                    keys[j] = (keys[j] < other) == smaller ? keys[j] : other;
                } else if (!(j & step) && (keys[j] > keys[j | step]) == up) {
                    i64 key = keys[j];
                    keys[j] = keys[j | step];
                    keys[j | step] = key;
                }
            }
        }
    }
}

// Sorts the first `count` keys of the pool and drops repeats and all but the smallest `width`; gives how many are left.
__device__ __forceinline__ int settle(i64* pool, int count, int width, int lane) {
    i64 keys[4];
    __syncwarp();  // the pool is whole
#pragma unroll
    for (int j = 0; j < 4; j++) keys[j] = j * 32 + lane < count ? pool[j * 32 + lane] : NO_KEY;
    sort(keys, lane);
    i64 before = __shfl_up_sync(FULL_WARP, keys[3], 1);
    u32 below = (1u << lane) - 1;
    int place = 0, kept = 0;
    bool keep[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        keep[j] = keys[j] != NO_KEY && (j ? keys[j] != keys[j - 1] : lane == 0 || keys[0] != before);
        u32 lanes = __ballot_sync(FULL_WARP, keep[j]);
        place += __popc(lanes & below);
        kept += __popc(lanes);
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (keep[j] && place < width) pool[place] = keys[j];
        place += keep[j];
    }
    __syncwarp();
    return min(kept, width);
}

// out (count, width) from own (count, own_width), in any order, and the edges of each target; ends: null if there are none. A
// warp a target, width <= 96: keys below the worst so far are gathered in a pool and sorted when it is full. out may be own
// if own is ascending.
extern "C" __global__ void __launch_bounds__(BLOCK) smallest_warp(
    const i64* own, int own_width, const i64* __restrict__ ends, const i64* __restrict__ edges, int count, int width, i64* out
) {
    __shared__ i64 pools[WARPS][POOL];
    int lane = threadIdx.x % 32;
    i64 target = (i64)blockIdx.x * WARPS + threadIdx.x / 32, start = 0, stop = 0;
    if (target >= count) return;
    if (ends) start = target ? ends[target - 1] : 0, stop = ends[target];
    if (start == stop && own == out) return;
    i64 *pool = pools[threadIdx.x / 32], next = 0, total = own_width + stop - start, worst = NO_KEY;
    own += target * own_width;
    edges += start;
    int held = 0;
    while (next < total) {
        while (next < total && held <= POOL - 32) {
            i64 keys[4];
            int groups = (POOL - held) / 32;  // of 32 keys that fit whatever they are
#pragma unroll
            for (int j = 0; j < 4; j++) {
                i64 i = next + j * 32 + lane;
                keys[j] = j < groups && i < total ? key_at(own, own_width, edges, i) : NO_KEY;
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                u32 better = __ballot_sync(FULL_WARP, keys[j] < worst);
                if (keys[j] < worst) pool[held + __popc(better & ((1u << lane) - 1))] = keys[j];
                held += __popc(better);
            }
            next += groups * 32;
        }
        held = settle(pool, held, width, lane);
        if (held == width) worst = pool[width - 1];
        __syncwarp();
    }
    for (int i = lane; i < width; i += 32) out[target * width + i] = i < held ? pool[i] : NO_KEY;
}

// A bitonic sort of `size` keys, a power of two, by a block.
__device__ __forceinline__ void sort_pool(i64* pool, int size) {
    for (int span = 2; span <= size; span *= 2) {
        for (int step = span / 2; step > 0; step /= 2) {
            for (int pair = threadIdx.x; pair < size / 2; pair += BLOCK) {
                int i = 2 * pair - (pair & (step - 1));
                i64 low = pool[i], high = pool[i + step];
                if ((low > high) == ((i & span) == 0)) pool[i] = high, pool[i + step] = low;
            }
            __syncthreads();
        }
    }
}

// Drops repeats from sorted keys and all but the smallest `width`; gives how many are left. A key never moves up, so that the
// one before the next BLOCK keys is still what it was.
__device__ __forceinline__ int drop_repeats(i64* pool, int size, int width, int* kept_by) {
    int kept = 0, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int base = 0; base < size && kept < width; base += BLOCK) {
        int i = base + threadIdx.x;
        i64 key = i < size ? pool[i] : NO_KEY;
        bool keep = key != NO_KEY && (i == 0 || pool[i - 1] != key);
        u32 lanes = __ballot_sync(FULL_WARP, keep);
        if (lane == 0) kept_by[warp] = __popc(lanes);
        __syncthreads();
        int place = kept + __popc(lanes & ((1u << lane) - 1));
        for (int w = 0; w < WARPS; w++) {
            if (w < warp) place += kept_by[w];
            kept += kept_by[w];
        }
        if (keep && place < width) pool[place] = key;
        __syncthreads();
    }
    return min(kept, width);
}

// The same by blocks, for any width: the pool of `room` keys, a power of two of at least 2 width, is in shared memory, or
// where that is too small in `pools`, one for each block.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) smallest_block(
    const i64* own, int own_width, const i64* __restrict__ ends, const i64* __restrict__ edges, int count, int width,
    i64* out, int room, i64* pools
) {
    extern __shared__ i64 shared_pool[];
    __shared__ int kept_by[WARPS], filled;
    i64* pool = pools ? pools + (i64)blockIdx.x * room : shared_pool;
    for (i64 target = blockIdx.x; target < count; target += gridDim.x) {
        i64 start = ends && target ? ends[target - 1] : 0, stop = ends ? ends[target] : 0;
        if (start == stop && own == out) continue;
        i64 total = own_width + stop - start, worst = NO_KEY;
        int held = 0;
        for (i64 next = 0; next < total;) {
            if (threadIdx.x == 0) filled = held;
            __syncthreads();
            int step = (int)min(total - next, (i64)(room - held));
            for (int i = threadIdx.x; i < step; i += BLOCK) {
                i64 key = key_at(own + target * own_width, own_width, edges + start, next + i);
                if (key < worst) pool[atomicAdd(&filled, 1)] = key;
            }
            next += step;
            __syncthreads();
            int size = 2;
            while (size < filled) size *= 2;
            for (int i = filled + threadIdx.x; i < size; i += BLOCK) pool[i] = NO_KEY;
            __syncthreads();
            sort_pool(pool, size);
            held = drop_repeats(pool, size, width, kept_by);
            if (held == width) worst = pool[width - 1];
            __syncthreads();
        }
        for (int i = threadIdx.x; i < width; i += BLOCK) out[target * width + i] = i < held ? pool[i] : NO_KEY;
        __syncthreads();
    }
}
