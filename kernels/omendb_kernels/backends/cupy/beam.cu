// beam: best-first search of the graph, one block a query (GreedySearch, DiskANN, NeurIPS 2019; CAGRA, ICDE 2024, has one
// block a query as well).
//
// What a block holds: the pool, `capacity` sorted keys (D << 32) | (node << 1) | expanded; the codes of its query; a table of
// nodes seen; `room` places for what one step brings. All in shared memory, or, compiled with SCRATCH=1, pool and table in
// global memory: pools of more than about 1,000 places. A step, the threads of the block together:
//     choose   a warp reads the pool from the cursor on and marks the `width` first keys not yet expanded
//     gather   a thread a place of their lists; nodes not in the table go to `ids`
//     score    a team of lanes a node, 16 bytes of its codes a lane at a time, two nodes at once so that four loads a lane are
//              under way; keys below the pool's last are kept
//     merge    each new key counts what is before it, in the pool by bisection and among the new ones one by one: that is its
//              place; the pool's keys behind the first of them move up, the last first, and leave the holes
// Lists and entries of more than `room` places take several rounds of gather, score and merge: the pool of all is the pool of
// the parts, one after another.
//
// Why the table may forget. A node is in the table only where the thread that put it there goes on to score it, so no node is
// left out. A node that the table has forgotten is scored again, and that changes nothing: either it is in the pool now, where
// merge finds the equal key and drops the new one (expanded or not, the old key stays); or it was refused or pushed out, when
// the pool was full of smaller keys; the last key of a full pool never grows, so it is refused again. So pool, choice and
// answer are those of a search that scores every node once, whatever the table does, in any order of the threads. The table
// is sets of four places; a set that is full loses one of them. With 16 places for one of the pool, 5 in 100 nodes are scored
// twice (200,000 SIFT rows, pools of 32 to 256); a table without sets would score 25 in 100 twice.
//
// Cost: a pool of 64 on those rows takes 33 steps of two lists, which bring 54 nodes, 33 of them new and 6 near enough: 1,090
// nodes of D + 4 bytes and D / 4 dp4a, and 6 barriers a step; in all 150 KB at D = 128. An H100 holds 18 blocks of 64 threads
// a multiprocessor (56 registers, 6 KB): the reads of some 2,400 queries at a time hide each other's latency. Limiter, by
// counting: memory would allow 22 million queries a second, issue slots about as many, dependent loads half of that; of fewer
// queries latency alone, 80 us a query.
#include "common.cuh"

#ifndef SCRATCH
#define SCRATCH 0
#endif

#define EMPTY 0xffffffffu
#define WAYS 4  // places of a set

enum Counter { FRESH, KEPT, REPEATED, TAKEN, COUNTERS };

struct Points {
    const int4* codes;
    const int *norms, *wide;
    int chunks;  // of 16 codes a row
};

struct Query {
    const int4* codes;
    int norm, wide;
};

// A place behind the counter for each lane of the warp that wants one. All lanes call it.
__device__ __forceinline__ int append(int* counter, bool wanted) {
    const int lane = threadIdx.x & 31;
    const u32 mask = __ballot_sync(FULL_WARP, wanted);
    int first = 0;
    if (lane == 0 && mask) first = atomicAdd(counter, __popc(mask));
    first = __shfl_sync(FULL_WARP, first, 0);
    return first + __popc(mask & ((1u << lane) - 1));
}

// Whether the table does not know the node; it does from now on, until another takes its place.
__device__ __forceinline__ bool unseen(u32* seen, int set_bits, u32 node) {
    const u32 hash = node * 2654435761u;
    u32* set = seen + WAYS * (hash >> (32 - set_bits));
    for (int i = 0; i < WAYS; i++) {
        const u32 there = atomicCAS(set + i, EMPTY, node);
        if (there == EMPTY) return true;
        if (there == node) return false;
    }
    return atomicExch(set + hash % WAYS, node) != node;
}

// The keys of nodes ids[0..count) that are below `bound` go to keys; their number is counted in *kept.
__device__ __forceinline__ void score(
    const Points& points, const Query& query, const int* ids, int count, i64 bound, int team, i64* keys, int* kept
) {
    const int teams = blockDim.x / team, own = threadIdx.x / team, lane = threadIdx.x % team;
    const int first_of_warp = (threadIdx.x & ~31) / team;
    for (int start = 0; start + first_of_warp < count; start += 2 * teams) {  // the same number of turns for a warp's lanes
        const int a = start + own, b = a + teams;
        const int node_a = ids[min(a, count - 1)], node_b = ids[min(b, count - 1)];
        const int4* row_a = points.codes + (i64)node_a * points.chunks;
        const int4* row_b = points.codes + (i64)node_b * points.chunks;
        const int norm_a = points.norms[node_a], norm_b = points.norms[node_b];
        int dot_a = 0, dot_b = 0;
        for (int c = lane; c < points.chunks; c += 2 * team) {  // four loads, then their products
            const bool more = c + team < points.chunks;
            const int d = more ? c + team : c;
            const int4 a0 = row_a[c], b0 = row_b[c], a1 = row_a[d], b1 = row_b[d];
            const int4 part = query.codes[c], next = more ? query.codes[d] : make_int4(0, 0, 0, 0);
            dot_a = dot16(next, a1, dot16(part, a0, dot_a));
            dot_b = dot16(next, b1, dot16(part, b0, dot_b));
        }
        for (int apart = team >> 1; apart; apart >>= 1) {
            dot_a += __shfl_xor_sync(FULL_WARP, dot_a, apart);
            dot_b += __shfl_xor_sync(FULL_WARP, dot_b, apart);
        }
        if (points.wide) {
            dot_a += query.wide * points.wide[node_a];
            dot_b += query.wide * points.wide[node_b];
        }
        const i64 key_a = pack_key(query.norm + norm_a - 2 * dot_a, (u32)node_a << 1);
        const i64 key_b = pack_key(query.norm + norm_b - 2 * dot_b, (u32)node_b << 1);
        const bool keep_a = lane == 0 && a < count && key_a < bound, keep_b = lane == 0 && b < count && key_b < bound;
        const int place_a = append(kept, keep_a);
        if (keep_a) keys[place_a] = key_a;
        const int place_b = append(kept, keep_b);
        if (keep_b) keys[place_b] = key_b;
    }
}

// Sort the new keys[0..count) by counting; places[r] is where the r-th of them belongs in the pool. Keys that are in the pool
// already, or among the new ones before, are left out. Gives how many are new. All threads call it; it ends with a barrier.
__device__ __forceinline__ int rank(
    const i64* pool, int filled, i64* keys, int count, i64* sorted, int* places, int* repeated
) {
    for (int left = count;;) {
        u32 again = 0;  // bit i: the thread's i-th key
        for (int j = threadIdx.x, i = 0; j < count; j += blockDim.x, i++) {
            const i64 key = keys[j];
            if (key == NO_KEY) continue;
            const int before = count_below(pool, filled, key);
            bool known = before < filled && pool[before] >> 1 == key >> 1;
            int smaller = 0;
            for (int other = 0; other < count; other++) {
                smaller += keys[other] < key;
                known |= keys[other] == key && other < j;
            }
            if (known) {
                again |= 1u << i;
            } else {
                sorted[smaller] = key;
                places[smaller] = before + smaller;
            }
        }
        if (again) atomicAdd(repeated, __popc(again));
        __syncthreads();
        const int fresh = count - *repeated;
        if (fresh == left) return fresh;
        left = fresh;  // rare: once more without them
        for (int j = threadIdx.x, i = 0; j < count; j += blockDim.x, i++)
            if (again >> i & 1) keys[j] = NO_KEY;
        __syncthreads();
    }
}

// The ranked keys into the pool of `filled` keys, as far as its capacity goes. No barrier behind.
__device__ __forceinline__ void insert(
    i64* pool, int capacity, int filled, const i64* sorted, const int* places, int fresh
) {
    const int low = places[0];
    for (int top = filled; top > low; top -= blockDim.x) {
        const int place = top - 1 - (int)threadIdx.x;
        i64 key = 0;
        int to = capacity;
        if (place >= low) {
            key = pool[place];
            to = place + count_below(sorted, fresh, key);
        }
        __syncthreads();  // what is written now was read before: by this turn, or by those above it
        if (to < capacity) pool[to] = key;
    }
    for (int r = threadIdx.x; r < fresh; r += blockDim.x)
        if (places[r] < capacity) pool[places[r]] = sorted[r];
}

// The first `width` nodes that are not expanded, from the cursor on, are chosen and marked: by one warp. Gives their number and
// moves the cursor: all before it is expanded.
__device__ __forceinline__ int choose(i64* pool, int filled, int& cursor, int width, int* chosen) {
    const int lane = threadIdx.x;
    int taken = 0;
    for (; cursor < filled; cursor += 32) {
        const i64 key = cursor + lane < filled ? pool[cursor + lane] : NO_KEY;  // which is odd
        const u32 ready = __ballot_sync(FULL_WARP, !(key & 1));
        const int turn = taken + __popc(ready & ((1u << lane) - 1));
        if (!(key & 1) && turn < width) {
            pool[cursor + lane] = key | 1;
            chosen[turn] = id_of(key) >> 1;
        }
        taken = min(width, taken + __popc(ready));
        if (taken == width) break;
    }
    return taken;
}

extern "C" __global__ void __launch_bounds__(256, 4) beam(
    const i8* __restrict__ query_codes, const int* __restrict__ query_norms, const int* __restrict__ query_wide,
    const i8* __restrict__ codes, const int* __restrict__ norms, const int* __restrict__ wide, int has_wide,
    const int* __restrict__ lists, const int* __restrict__ entries, int n, int chunks, int degree, int starts,
    int beam, int capacity, int width, int room, int set_bits, int team, char* scratch, i64 scratch_bytes, i64* pools
) {
    extern __shared__ int4 shared[];
    __shared__ int counters[COUNTERS];
    const int t = threadIdx.x;
    int4* codes_of_query = shared;
    i64* keys = (i64*)(shared + chunks);
    i64* sorted = keys + room;
    int* ids = (int*)(sorted + room);
    int* places = ids + room;
#if SCRATCH
    i64* pool = (i64*)(scratch + blockIdx.x * scratch_bytes);
    u32* seen = (u32*)(pool + capacity);
#else
    i64* pool = (i64*)(places + room);
    u32* seen = (u32*)(pool + capacity);
#endif
    int* chosen = (int*)(seen + (WAYS << set_bits));

    const i64 q = blockIdx.x;
    for (int c = t; c < chunks; c += blockDim.x) codes_of_query[c] = ((const int4*)query_codes)[q * chunks + c];
    for (int i = t; i < WAYS << set_bits; i += blockDim.x) seen[i] = EMPTY;
    if (t == 0) counters[FRESH] = 0;
    const Points points = {(const int4*)codes, norms, has_wide ? wide : nullptr, chunks};
    const Query query = {codes_of_query, query_norms[q], has_wide ? query_wide[q] : 0};
    const int* own_starts = entries + q * starts;
    int filled = 0, cursor = 0;  // the cursor is the first warp's
    u32 total = starts;
    bool starting = true;
    __syncthreads();
    for (;;) {
        for (u32 start = 0; start < total; start += room) {
            const u32 stop = min(total, start + room);
            for (u32 first = start; first < stop; first += blockDim.x) {
                const u32 slot = first + t;
                int node = -1;
                if (slot < stop && starting) node = own_starts[slot];
                if (slot < stop && !starting) node = lists[(i64)chosen[slot / degree] * degree + slot % degree];
                const bool fresh = (u32)node < (u32)n && unseen(seen, set_bits, node);
                const int place = append(&counters[FRESH], fresh);
                if (fresh) ids[place] = node;
            }
            if (t == 0) counters[KEPT] = counters[REPEATED] = 0;
            __syncthreads();
            const i64 bound = filled < capacity ? NO_KEY : pool[capacity - 1];
            score(points, query, ids, counters[FRESH], bound, team, keys, &counters[KEPT]);
            __syncthreads();
            const int count = counters[KEPT];
            if (t == 0) counters[FRESH] = 0;
            const int fresh = count ? rank(pool, filled, keys, count, sorted, places, &counters[REPEATED]) : 0;
            if (fresh) {
                insert(pool, capacity, filled, sorted, places, fresh);
                cursor = min(cursor, places[0]);
                filled = min(capacity, filled + fresh);
            }
            __syncthreads();
        }
        if (t < 32) {
            const int taken = choose(pool, filled, cursor, width, chosen);
            if (t == 0) counters[TAKEN] = taken;
        }
        __syncthreads();
        starting = false;
        total = (u32)counters[TAKEN] * degree;
        if (!total) break;  // nothing to expand, or lists of no places: then all is found
    }
    for (int i = t; i < beam; i += blockDim.x) {
        const i64 key = i < filled ? pool[i] : NO_KEY;
        pools[q * beam + i] = i < filled ? pack_key(score_of(key), id_of(key) >> 1) : NO_KEY;
    }
}
