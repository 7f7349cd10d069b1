// nearest: all queries with all points by integer tensor cores; lists of what may be among the k nearest. select.cu ends it.
//
// A block has 128 queries (16 where there are few: ROWS) and a part of the points; the blocks beside it have the other parts.
//   stage     128 bytes of the codes of 128 points into shared memory while the products of those before are made; the
//             queries' codes stay there where they fit;
//   multiply  eight warps, 64 x 32 dot products each, or (WGMMA, an H100) two warpgroups, 64 x 128 each: exact in int32;
//   narrow    at tiles 1, 2, 4, 8, ...: every score of a query falls into one of its 16 to 128 bins, which hold the smallest.
//             At least k bins are at or below the k-th smallest of these, so no score above it counts: that is the query's
//             gate. The blocks of a query have their bins in common;
//   add       a score below the gate goes to the list of the query and the block, in any order, and into its bin. A list that
//             could run over is cut to little more than k by bisection, which lowers the gate too.
// Gates decide how much is listed, never what is among the k nearest; they differ from run to run, the answer does not.
//
// A score costs D multiply-adds and three instructions of a lane. 10,000 queries, a million points, D = 128, on an H100: 1.28 T
// multiply-adds, 1.3 ms at the peak, which mma.sync reaches .62 of (arXiv 2402.13499), warpgroups beside other work .58 (arXiv
// 2407.08608): 2.2 ms, or 2.1 before anything is chosen; 10 GB from the second cache, 1.9 ms; 3 x 10^10 instructions of lanes,
// 0.9 ms at the peak of issue. Two blocks of an SM overlap them but for barriers. About 200 keys a query are listed for k = 10,
// 1,300 for k = 52, at 25 instructions of a warp: 0.05 to 0.3 ms. Scores written and read again: 80 GB, 24 ms.
// 16 queries read 128 MB once, 38 us. Bins are the partial reduce of TPU-KNN (arXiv 2206.14286), gates FAISS's (1702.08734).
#include "tensor.cuh"
#include "warpgroup.cuh"

#define BLOCK 256
#define WARPS (BLOCK / 32)
#define POINTS 128  // of a tile
#define PIECE 128   // bytes of each row's codes that are staged at a time
#ifndef ROWS
#define ROWS 128  // queries of a block: 128, or 16
#endif
#ifdef WGMMA  // a warp's share of what a warpgroup multiplies
#define DOWN WARPS
#else
#define DOWN (ROWS == 128 ? 2 : 1)            // warps one below the other; the others are side by side
#endif
#define HIGH (ROWS / DOWN / 16)               // fragments of 16 queries of a warp
#define ACROSS (POINTS / 8 / (WARPS / DOWN))  // fragments of 8 points
#define LANES (WARPS / DOWN * 4)              // that have a query's scores, 2 ACROSS of a tile each

struct Scan {  // a launch
    const i8 *query_codes, *codes;
    const int *query_norms, *query_wide, *norms, *wide, *ids;
    int queries, origin, dim, k, capacity, bins, resident;
    int *minima, *limits;
    i64* lists;
};

struct Room {  // shared memory
    i8* others;
    int *bias, *wide;                             // of two tiles of points: norms, NO_SCORE for what is no point
    int *gates, *norms, *wides, *counts, *worst;  // of the queries; gates without the query's norm
    int* span;                                    // points in all, first tile, the one behind the last, first query
    int* bins;                                    // a line of bins + 4 for each query
    i8* own;                                      // codes
};

// Where a lane's scores are: [i][j][e] is of query row + 16 i + 8 (e / 2) and of point column + 8 j + e % 2 of the tile; of a
// query's bins, one in LANES is only its. Found anew where it is asked for: registers are short.
struct Place {
    int lane, first_row, first_column, row, column, bin;
    __device__ __forceinline__ Place() {
        int thread = threadIdx.x;
#ifdef __CUDA_ARCH__
        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
#endif
        int warp = thread / 32, side = warp % (WARPS / DOWN);
        lane = thread % 32, first_row = warp / (WARPS / DOWN) * HIGH * 16, first_column = side * ACROSS * 8;
        row = first_row + lane / 4, column = first_column + lane % 4 * 2, bin = side * 4 + lane % 4;
    }
};

#ifdef WGMMA

// The warpgroup's products of all of a piece, zeros behind the codes included, added to the sums unless these are fresh.
__device__ __forceinline__ void multiply(const i8* own, const i8* others, int, bool fresh, int (&sums)[HIGH][ACROSS][4]) {
    multiply_64x128(own + threadIdx.x / 128 * 64 * PIECE, others, fresh, sums[0]);
}

#else

// Four matrices of 8 x 16 bytes: lane 8 i + r says where row r of the i-th is, lane 4 r + c gets word c of row r of each.
__device__ __forceinline__ void load_matrices(const i8* row, int (&words)[4]) {
#ifdef __CUDA_ARCH__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"((u32)__cvta_generic_to_shared(row)));
#else
    int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) words[i] = ((const int*)__shfl_sync(FULL_WARP, (i64)row, i * 8 + lane / 4))[lane % 4];
#endif
}

// The warp's products of `steps` times 32 bytes of the staged codes, added to the sums unless these are fresh.
__device__ __forceinline__ void multiply(const i8* own, const i8* others, int steps, bool fresh, int (&sums)[HIGH][ACROSS][4]) {
    Place at;
    if (fresh)
#pragma unroll
        for (int i = 0; i < HIGH * ACROSS * 4; i++) sums[i / 4 / ACROSS][i / 4 % ACROSS][i % 4] = 0;
    own += (at.first_row + at.lane % 16) * PIECE, others += (at.first_column + at.lane / 16 * 8 + at.lane % 8) * PIECE;
    int own_byte = (at.lane / 16 ^ at.lane % 8) * 16, byte = (at.lane / 8 % 2 ^ at.lane % 8) * 16;
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        int left[4], right[ACROSS / 2][4];
#pragma unroll
        for (int j = 0; j < ACROSS / 2; j++) load_matrices(others + j * 16 * PIECE + (byte ^ step * 32), right[j]);
#pragma unroll
        for (int i = 0; i < HIGH; i++) {
            load_matrices(own + i * 16 * PIECE + (own_byte ^ step * 32), left);
#pragma unroll
            for (int j = 0; j < ACROSS; j++)
                multiply_16x8(left, {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]}, sums[i][j]);
        }
    }
}
#endif

// A word or 16 bytes from global to shared memory without waiting, where a device can.
template <class T>
__device__ __forceinline__ void copy(T* to, const T* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u32 there = (u32)__cvta_generic_to_shared(to);
    size_t here = __cvta_generic_to_global(from);
    if (sizeof(T) == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(there), "l"(here) : "memory");
    else asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(there), "l"(here) : "memory");
#else
    *to = *from;
#endif
}

// This thread's copies have come.
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
#ifdef WGMMA
    publish_to_warpgroups();
#endif
}

// Bytes from .. from + PIECE of `most` rows, those of number first + i or ids[first + i]; zeros beyond `count`, and behind the
// codes where all of a piece is multiplied. Eight lanes a
// row, 16 bytes each, whose places change from row to row: eight rows' bytes of one place are in different banks.
__device__ __forceinline__ void stage(
    const i8* __restrict__ codes, int dim, int from, const int* __restrict__ ids, int first, int count, int most, i8* to
) {
#pragma unroll 1
    for (int i = threadIdx.x; i < most * 8; i += BLOCK) {
        int row = i / 8, byte = i % 8 * 16;
#ifndef WGMMA
        if (from + byte >= dim) continue;
#endif
        int4* at = (int4*)(to + row * PIECE + (byte ^ row % 8 * 16));
        i64 source = row < count ? ids ? ids[first + row] : first + row : 0;
        if (row < count && from + byte < dim) copy(at, (const int4*)(codes + source * dim + from + byte));
        else *at = make_int4(0, 0, 0, 0);
    }
}

// A piece of a tile of points, and of the queries unless they stay. step: of all of the block, its parity says where to.
__device__ __forceinline__ void stage_piece(const Scan& scan, const Room& room, int tile, int piece, int step, int total) {
    int first = tile * POINTS, count = total - first, query = blockIdx.x * ROWS, from = piece * PIECE, turn = step % 2 * PIECE;
    stage(scan.codes, scan.dim, from, scan.ids, first, count, POINTS, room.others + turn * POINTS);
    if (!scan.resident)
        stage(scan.query_codes, scan.dim, from, nullptr, query, scan.queries - query, ROWS, room.own + turn * ROWS);
    int i = threadIdx.x, at = tile % 2 * POINTS + i;
    if (piece || i >= POINTS) return;
    if (i < count) {
        int id = scan.ids ? scan.ids[first + i] : first + i;
        copy(room.bias + at, scan.norms + id);
        if (scan.wide) copy(room.wide + at, scan.wide + id);
        else room.wide[at] = 0;
    } else {  // the codes are zeros: the score will be NO_SCORE
        room.bias[at] = NO_SCORE, room.wide[at] = 0;
    }
}

// The n-th smallest, from 0, of 16: a bitonic sort.
__device__ __forceinline__ int nth_of_16(const int* values, int n) {
    int v[16], found = 0;
#pragma unroll
    for (int i = 0; i < 16; i += 4) *(int4*)(v + i) = *(const int4*)(values + i);
#pragma unroll
    for (int size = 2; size <= 16; size *= 2)
#pragma unroll
        for (int step = size / 2; step > 0; step /= 2)
#pragma unroll
            for (int i = 0; i < 16; i++) {
                if (i & step) continue;
                int low = min(v[i], v[i + step]), high = max(v[i], v[i + step]);
                v[i] = i & size ? high : low, v[i + step] = i & size ? low : high;
            }
#pragma unroll
    for (int i = 0; i < 16; i++) found = i == n ? v[i] : found;
    return found;
}

// Lowers a query's gate: k points are at or below `worst`. The other blocks of the query learn it, this one what they know.
// later: it holds for points that come later, which lose a tie.
__device__ __forceinline__ void lower_gate(const Scan& scan, const Room& room, int query, int row, int worst, bool later) {
    int known = scan.limits ? atomicMin(scan.limits + query, worst) : NO_SCORE, norm = room.norms[row], gate = room.gates[row];
    if (worst != NO_SCORE) gate = min(gate, worst - norm + !later);
    if (known != NO_SCORE) gate = min(gate, known + 1 - norm);
    room.gates[row] = gate;
}

// Gates from the bins, which the blocks of a query make each other's. Bins go in groups of 16: the k-th smallest of all is at
// most the largest of the groups' (k / groups)-th.
__device__ __forceinline__ void narrow(const Scan& scan, const Room& room) {
    int first = blockIdx.x * ROWS, bins = scan.bins, groups = bins / 16, row = threadIdx.x;
    __syncthreads();
    if (gridDim.y > 1 && bins) {
        int bin = threadIdx.x & (bins - 1);
#pragma unroll 4
        for (int i = threadIdx.x / bins; i < min(ROWS, scan.queries - first); i += BLOCK / bins) {
            int *own = room.bins + i * (bins + 4) + bin, known = atomicMin(scan.minima + (i64)(first + i) * bins + bin, *own);
            *own = min(*own, known);
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < ROWS * groups; i += BLOCK) {
        const int* group = room.bins + i / groups * (bins + 4) + i % groups * 16;
        atomicMax(room.worst + i / groups, nth_of_16(group, (scan.k + groups - 1) / groups - 1));
    }
    __syncthreads();
    if (row < ROWS && first + row < scan.queries) {
        int worst = groups ? room.worst[row] : NO_SCORE;
        lower_gate(scan, room, first + row, row, worst == NO_SCORE ? NO_SCORE : worst + room.norms[row], false);
        room.worst[row] = -NO_SCORE - 1;
    }
    __syncthreads();
}

// Cuts a list of different keys to its smallest, k to `most`, and `count` to their number; a warp. Returns a key that none of
// these is above.
__device__ __forceinline__ i64 cut(i64* list, int& count, int k, int most) {
    int lane = threadIdx.x % 32, kept = count, place = 0;
    i64 low = NO_KEY, high = -NO_KEY - 1;
    for (int i = lane; i < count; i += 32) low = min(low, list[i]), high = max(high, list[i]);
    for (int step = 16; step > 0; step /= 2) {
        low = min(low, __shfl_xor_sync(FULL_WARP, low, step));
        high = max(high, __shfl_xor_sync(FULL_WARP, high, step));
    }
    low--;  // fewer than k are at or below `low`, `kept` at or below `high`
    while (kept > most) {
        i64 middle = low + (i64)(((u64)high - (u64)low) / 2);
        int below = 0;
        for (int i = lane; i - lane < count; i += 32) below += __popc(__ballot_sync(FULL_WARP, i < count && list[i] <= middle));
        if (below < k) low = middle;
        else high = middle, kept = below;
    }
    for (int i = lane; i - lane < count; i += 32) {
        i64 key = i < count ? list[i] : NO_KEY;
        u32 keep = __ballot_sync(FULL_WARP, key <= high);
        if (key <= high) list[place + __popc(keep & ((1u << lane) - 1))] = key;
        place += __popc(keep);
    }
    count = kept;
    return high;
}

__device__ __forceinline__ i64* list_of(const Scan& scan, int query) {
    return scan.lists + ((i64)query * gridDim.y + blockIdx.y) * scan.capacity;
}

// Cuts every list that a tile could fill beyond its capacity.
__device__ __forceinline__ void make_room(const Scan& scan, const Room& room) {
    for (int row = threadIdx.x / 32; row < ROWS; row += WARPS) {
        int count = room.counts[row], query = blockIdx.x * ROWS + row;
        if (count <= scan.capacity - POINTS) continue;
        i64 last = cut(list_of(scan, query), count, scan.k, scan.k + scan.k / 2 + 16);
        if (threadIdx.x % 32) continue;
        room.counts[row] = count;
        lower_gate(scan, room, query, row, score_of(last), true);
    }
    __syncthreads();
}

// Products to scores without the query's norm, in place.
__device__ __forceinline__ void score(const Scan& scan, const Room& room, int tile, int (&sums)[HIGH][ACROSS][4]) {
    Place at;
    int points = tile % 2 * POINTS + at.column;
#pragma unroll
    for (int j = 0; j < ACROSS; j++) {
        int2 bias = *(const int2*)(room.bias + points + j * 8), wide = *(const int2*)(room.wide + points + j * 8);
#pragma unroll
        for (int i = 0; i < HIGH * 4; i++) {
            int* sum = &sums[i / 4][j][i % 4];
            if (scan.wide) *sum += room.wides[at.row + i / 2 * 8] * (i % 2 ? wide.y : wide.x);
            *sum = (int)((u32)(i % 2 ? bias.y : bias.x) - 2u * (u32)*sum);
        }
    }
}

// Every score into its bin.
__device__ __forceinline__ void fill_bins(const Scan& scan, const Room& room, const int (&scores)[HIGH][ACROSS][4]) {
    Place at;
    int groups = scan.bins / LANES;  // bins that are a lane's own: a power of two
#pragma unroll
    for (int i = 0; i < HIGH * 2; i++) {
#pragma unroll 1
        for (int group = 0; group < groups; group++) {
            int *bin = room.bins + (at.row + i * 8) * (scan.bins + 4) + group * LANES + at.bin, least = *bin;
#pragma unroll
            for (int j = 0; j < ACROSS * 2; j++)
                if ((j & (groups - 1)) == group) least = min(least, scores[i / 2][j / 2][i % 2 * 2 + j % 2]);
            *bin = least;
        }
    }
}

// Scores below the gate to the lists; whether one of these could run over in the next tile.
__device__ __forceinline__ bool add(const Scan& scan, const Room& room, int tile, const int (&scores)[HIGH][ACROSS][4]) {
    Place at;
    bool full = false;
#pragma unroll
    for (int i = 0; i < HIGH * 2; i++) {
        int row = at.row + i * 8, gate = room.gates[row], least = NO_SCORE;
#pragma unroll
        for (int j = 0; j < ACROSS * 2; j++) least = min(least, scores[i / 2][j / 2][i % 2 * 2 + j % 2]);
        if (least >= gate) continue;
        u32 below = 0;
#pragma unroll
        for (int j = 0; j < ACROSS * 2; j++) below |= scores[i / 2][j / 2][i % 2 * 2 + j % 2] < gate ? 1u << j : 0;
#pragma unroll 1
        for (; below; below &= below - 1) {  // rare: small code rather than fast
            int which = __ffs(below) - 1, found = 0;
#pragma unroll
            for (int j = 0; j < ACROSS * 2; j++) found = j == which ? scores[i / 2][j / 2][i % 2 * 2 + j % 2] : found;
            int slot = atomicAdd(room.counts + row, 1), place = tile * POINTS + at.column + which / 2 * 8 + which % 2;
            i64 key = pack_key(found + room.norms[row], scan.origin + (scan.ids ? scan.ids[place] : place));
            list_of(scan, room.span[3] + row)[slot] = key;
            full = full || slot >= scan.capacity - POINTS;
            int* bin = room.bins + row * (scan.bins + 4) + (which & (scan.bins / LANES - 1)) * LANES + at.bin;
            if (scan.bins) *bin = min(*bin, found);
        }
    }
    return full;
}

// The queries before the first tile; their codes where they stay.
__device__ __forceinline__ void begin(const Scan& scan, const Room& room) {
    int first = blockIdx.x * ROWS, row = threadIdx.x;
    if (row < ROWS) {
        bool is = first + row < scan.queries;
        room.norms[row] = is ? scan.query_norms[first + row] : 0;
        room.wides[row] = is && scan.wide ? scan.query_wide[first + row] : 0;
        room.gates[row] = is ? NO_SCORE : -NO_SCORE - 1;
        room.counts[row] = 0, room.worst[row] = -NO_SCORE - 1;
    }
    for (int i = threadIdx.x; scan.bins && i < ROWS * (scan.bins + 4); i += BLOCK) room.bins[i] = NO_SCORE;
    for (int from = 0; scan.resident && from < scan.dim; from += PIECE)
        stage(scan.query_codes, scan.dim, from, nullptr, first, scan.queries - first, ROWS, room.own + from * ROWS);
}

// counts[query][part]: keys in lists[query][part][capacity], among them those of the part that are among the k nearest of all
// points so far. Tiles are shared out evenly to gridDim.y parts. ids: the rows that count, *total_ids of them, ascending, null
// if all do. A key's id is origin + row. limits[query]: not below the k-th smallest score; holds what is known from before, and
// may be null for one part. bins: LANES times a power of two, 0 for none; minima: of the queries' bins, NO_SCORE at first, null
// for one part. resident: the queries' codes stay in shared memory, whose bytes nearest.py counts.
extern "C" __global__ void __launch_bounds__(BLOCK, ROWS == 128 ? 2 : 3) scan_points(
    const i8* __restrict__ query_codes, const int* __restrict__ query_norms, const int* __restrict__ query_wide, int queries,
    const i8* __restrict__ codes, const int* __restrict__ norms, const int* __restrict__ wide, const int* __restrict__ ids,
    const int* __restrict__ total_ids, int points, int origin, int dim, int k, int capacity, int bins, int resident,
    int* minima, int* limits, i64* lists, int* counts
) {
    extern __shared__ __align__(1024) int4 memory[];
    int pieces = (dim + PIECE - 1) / PIECE;
    i8 *others = (i8*)memory, *own = others + 2 * POINTS * PIECE;
    int *words = (int*)(own + (resident ? pieces : 2) * ROWS * PIECE), *rows = words + 4 * POINTS, *lines = rows + 5 * ROWS + 4;
    Scan scan = {query_codes, codes, query_norms, query_wide, norms, wide, ids,
                 queries, origin, dim, k, capacity, bins, resident, minima, limits, lists};
    Room room = {others, words, words + 2 * POINTS, rows, rows + ROWS, rows + 2 * ROWS, rows + 3 * ROWS, rows + 4 * ROWS,
                 rows + 5 * ROWS, lines, own};
    int total = total_ids ? *total_ids : points, tiles = (total + POINTS - 1u) / POINTS;
    int each = (tiles + gridDim.y - 1) / gridDim.y, first = blockIdx.y * each, last = min(tiles, first + each), step = 0;
    bool full = false;
    if (threadIdx.x == 0) room.span[0] = total, room.span[1] = first, room.span[2] = last, room.span[3] = blockIdx.x * ROWS;
    begin(scan, room);
    if (first < last) stage_piece(scan, room, first, 0, 0, total);
    for (int tile = first; tile < last; tile++) {
        wait_for_copies();
        if (__syncthreads_or(full)) make_room(scan, room);
        int sums[HIGH][ACROSS][4];
        for (int piece = 0; piece < pieces; piece++, step++) {
            if (piece) wait_for_copies(), __syncthreads();
            bool more = piece + 1 < pieces;
            if (more || tile + 1 < room.span[2])
                stage_piece(scan, room, more ? tile : tile + 1, more ? piece + 1 : 0, step + 1, room.span[0]);
            const i8* own = room.own + (resident ? piece : step % 2) * ROWS * PIECE;
            multiply(own, room.others + step % 2 * POINTS * PIECE, min(PIECE, dim - piece * PIECE) / 32, piece == 0, sums);
        }
        score(scan, room, tile, sums);
        int done = tile - room.span[1];
        if ((done & (done + 1)) == 0) fill_bins(scan, room, sums), narrow(scan, room);
        full = add(scan, room, tile, sums);
    }
    __syncthreads();
    i64 query = (i64)blockIdx.x * ROWS + threadIdx.x;
    if (threadIdx.x < ROWS && query < queries) counts[query * gridDim.y + blockIdx.y] = room.counts[threadIdx.x];
}
