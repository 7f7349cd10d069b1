// select: the k smallest keys of each line, ascending. Lines are whole, or lists of several parts that nearest.cu has filled.
//
// select_warp has a warp a line, for k <= 96; select_block a block, where lines are few or k is larger, up to half its pool.
// Both gather keys below the worst of the k so far in a pool in shared memory, in any order, and sort it when it is full: all
// keys differ but NO_KEY, which is never gathered, so that the order of gathering cannot show. select_block first tries all
// keys at once: lists hold little that is above their limit, and one sort will do as a rule.
//
// Bytes: each key is read once, 8 k written a line. 10,000 lines of 10 parts with 30 keys each: 24 MB, 10 us of an H100's HBM;
// 10 reads that wait for each other a warp, two rounds of warps, 8 us; a sort of 128 keys, 600 instructions, 7 us. cupy.sort
// would move the padded lines, 200 MB, eight times. The pool is FAISS's WarpSelect (arXiv 1702.08734), its queues in one.
#include "common.cuh"

#define BLOCK 256
#define WARPS (BLOCK / 32)
#define POOL 128  // keys of a warp
#define BIG_BLOCK 512
#define BIG_WARPS (BIG_BLOCK / 32)
#define AHEAD 4  // reads of a warp on their way

// Keys from here on do not count: those above the line's limit, if it has one.
__device__ __forceinline__ i64 first_worst(const int* __restrict__ limits, i64 line) {
    return limits && limits[line] != NO_SCORE ? pack_key(limits[line] + 1, 0) : NO_KEY;
}

// The warp's 32 N keys, N a lane, ascending by N lane + j: a bitonic sort, steps below N inside a lane.
template <int N>
__device__ __forceinline__ void sort(i64 (&keys)[N], int lane) {
#pragma unroll
    for (int size = 2; size <= 32 * N; size *= 2) {
#pragma unroll
        for (int step = size / 2; step > 0; step /= 2) {
#pragma unroll
            for (int j = 0; j < N; j++) {
                bool up = ((lane * N + j) & size) == 0;
                if (step >= N) {
                    i64 other = __shfl_xor_sync(FULL_WARP, keys[j], step / N);
                    bool smaller = ((lane * N & step) == 0) == up;
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

template <int N>
__device__ __forceinline__ void sort_first(i64* pool, int count, int lane) {
    i64 keys[N];
#pragma unroll
    for (int j = 0; j < N; j++) keys[j] = j * 32 + lane < count ? pool[j * 32 + lane] : NO_KEY;
    __syncwarp();
    sort(keys, lane);
#pragma unroll
    for (int j = 0; j < N; j++) pool[lane * N + j] = keys[j];
    __syncwarp();
}

// Sorts the first `count` keys of a warp's pool.
__device__ __forceinline__ void sort_warp(i64* pool, int count, int lane) {
    __syncwarp();
    if (count <= 32) sort_first<1>(pool, count, lane);
    else if (count <= 64) sort_first<2>(pool, count, lane);
    else sort_first<4>(pool, count, lane);
}

// out (lines, k) from keys (lines, parts, stride), k <= 96: the first counts (lines, parts) of each part, null: all of them.
// limits (lines): no key with a score above it counts; null: there are none.
extern "C" __global__ void __launch_bounds__(BLOCK) select_warp(
    const i64* __restrict__ keys, const int* __restrict__ counts, const int* __restrict__ limits, int lines, int parts,
    int stride, int k, i64* out
) {
    __shared__ i64 pools[WARPS][POOL];
    int lane = threadIdx.x % 32, held = 0, counted = 0;
    i64 line = (i64)blockIdx.x * WARPS + threadIdx.x / 32, *pool = pools[threadIdx.x / 32];
    if (line >= lines) return;
    i64 worst = first_worst(limits, line);
    for (int part = 0; part < parts; part++) {
        if (counts && part % 32 == 0) counted = part + lane < parts ? counts[line * parts + part + lane] : 0;
        int count = counts ? __shfl_sync(FULL_WARP, counted, part % 32) : stride;
        const i64* list = keys + (line * parts + part) * stride;
        for (int next = 0; next < count;) {
            i64 found[POOL / 32];
            int groups = (POOL - held) / 32;  // of 32 keys that fit whatever they are
#pragma unroll
            for (int j = 0; j < POOL / 32; j++) {
                int i = next + j * 32 + lane;
                found[j] = j < groups && i < count ? list[i] : NO_KEY;
            }
#pragma unroll
            for (int j = 0; j < POOL / 32; j++) {
                u32 better = __ballot_sync(FULL_WARP, found[j] < worst);
                if (found[j] < worst) pool[held + __popc(better & ((1u << lane) - 1))] = found[j];
                held += __popc(better);
            }
            next += groups * 32;
            if (held <= POOL - 32) continue;
            sort_warp(pool, held, lane);
            held = min(held, k);
            if (held == k) worst = pool[k - 1];
            __syncwarp();
        }
    }
    sort_warp(pool, held, lane);
    for (int i = lane; i < k; i += 32) out[line * k + i] = i < held ? pool[i] : NO_KEY;
}

// A bitonic sort of `size` keys, a power of two, by a block.
__device__ __forceinline__ void sort_block(i64* pool, int size) {
    for (int span = 2; span <= size; span *= 2) {
        for (int step = span / 2; step > 0; step /= 2) {
            for (int pair = threadIdx.x; pair < size / 2; pair += BIG_BLOCK) {
                int i = 2 * pair - (pair & (step - 1));
                i64 low = pool[i], high = pool[i + step];
                if ((low > high) == ((i & span) == 0)) pool[i] = high, pool[i + step] = low;
            }
            __syncthreads();
        }
    }
}

// Keys below `worst` of the units from `first` on to the pool, as far as there is room; *filled counts them all. A unit is 32
// places of a part; the first of all parts come first, as most lists are short.
__device__ __forceinline__ void gather(
    const i64* __restrict__ keys, const int* __restrict__ counts, int parts, int stride, int first, int last, i64 worst,
    i64* pool, int room, int* filled
) {
    int lane = threadIdx.x % 32;
    for (int unit = first + threadIdx.x / 32; unit < last; unit += BIG_WARPS * AHEAD) {
        i64 found[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            int here = unit + j * BIG_WARPS, part = here % parts, i = here / parts * 32 + lane;
            int count = here < last ? counts ? counts[part] : stride : 0;
            found[j] = i < count ? keys[(i64)part * stride + i] : NO_KEY;
        }
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            u32 better = __ballot_sync(FULL_WARP, found[j] < worst);
            if (!better) continue;
            int place = lane ? 0 : atomicAdd(filled, __popc(better));
            place = __shfl_sync(FULL_WARP, place, 0) + __popc(better & ((1u << lane) - 1));
            if (found[j] < worst && place < room) pool[place] = found[j];
        }
    }
}

// The same by blocks with a pool of `room` keys, a power of two, at least 2 k and k + 32.
extern "C" __global__ void __launch_bounds__(BIG_BLOCK) select_block(
    const i64* __restrict__ keys, const int* __restrict__ counts, const int* __restrict__ limits, int parts, int stride, int k,
    int room, i64* out
) {
    extern __shared__ i64 pool[];
    __shared__ int filled;
    i64 line = blockIdx.x, worst = first_worst(limits, line);
    int units = (stride + 31) / 32 * parts, held = 0, step = units;
    const i64* mine = keys + line * parts * stride;
    if (counts) counts += line * parts;
    for (int next = 0; next < units;) {
        if (threadIdx.x == 0) filled = held;
        __syncthreads();
        gather(mine, counts, parts, stride, next, min(units, next + step), worst, pool, room, &filled);
        __syncthreads();
        int found = filled, size = 2;
        __syncthreads();
        if (found > room) {  // they were not few: as many as fit whatever they are
            step = (room - held) / 32;
            continue;
        }
        while (size < found) size *= 2;
        for (int i = found + threadIdx.x; i < size; i += BIG_BLOCK) pool[i] = NO_KEY;
        __syncthreads();
        sort_block(pool, size);
        next += step;
        held = min(found, k);
        if (held == k) worst = pool[k - 1];
        step = max((room - held) / 32, min(2 * step, next / 2));  // half as many again bring half of k, if in random order
        __syncthreads();
    }
    for (int i = threadIdx.x; i < k; i += BIG_BLOCK) out[line * k + i] = i < held ? pool[i] : NO_KEY;
}

// ids[ends[i] - 1] = i for every i that the mask allows; ends: how many it allows up to there.
extern "C" __global__ void __launch_bounds__(BLOCK) allowed_ids(
    const unsigned char* __restrict__ mask, const int* __restrict__ ends, int count, int* ids
) {
    int i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < count && mask[i]) ids[ends[i] - 1] = i;
}
