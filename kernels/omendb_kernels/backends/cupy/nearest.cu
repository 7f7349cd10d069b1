// nearest: all queries with all points by integer tensor cores, and lists of what may be among the k nearest. select.cu ends it.
//
// A block has 128 queries (or 16, where there are few) and a range of the points, the others of its column have the rest:
//   stage     128 bytes of the codes of 128 points into shared memory while the products of those before are made; the
//             queries' codes stay there where they fit;
//   multiply  eight warps, 64 x 32 dot products each: exact in int32;
//   narrow    at tiles 1, 2, 4, 8, ...: every score of a query falls into one of its 16 to 128 bins, which hold their minimum;
//             at least k bins are at or below the k-th smallest minimum, so no score above it counts. Blocks tell each other;
//   add       a score below its query's gate goes to the list of the query and the block, in any order, and into its bin.
//             A list that could run over is cut to little more than k by bisection, which lowers the gate too.
// Gates decide how much is listed, never what is among the k nearest; they differ from run to run, the answer does not.
//
// A score costs D multiply-adds, and three instructions of a lane: its score, the smaller of two, a share of comparisons. 10,000
// queries, a million points, D = 128, on an H100: 1.28 T multiply-adds, 2.1 ms at 62% of the tensor cores, which is what
// mma.sync reaches (arXiv 2402.13499); 96 KB of fragments from shared memory for each tile of 128 x 128, 1.6 ms; 10 GB from the
// second cache, 1.8 ms at 5.5 TB/s; 3 x 10^10 lane instructions, 1.1 ms. They overlap in the two blocks of an SM but for
// barriers: 4 ms hoped for. About 250 keys a query are listed for k = 10, 1,500 for k = 52: 20 instructions each, 0.05 to 0.3 ms.
// Scores written out and read again would be 80 GB, 24 ms. 16 queries read 128 MB once: 38 us, the bound there.
// Bins are the partial reduce of TPU-KNN (arXiv 2206.14286); the gate before the list is FAISS's WarpSelect (1702.08734).
#include "common.cuh"

#define BLOCK 256
#define WARPS (BLOCK / 32)
#define POINTS 128  // of a tile
#define PIECE 128   // bytes of each row's codes that are staged at a time
#define CHUNK 64    // of them that lie side by side: a lane reads 16, the four lanes of a row 64
#define MASKED NO_SCORE

struct Scan {  // a launch
    const i8 *query_codes, *codes;
    const int *query_norms, *query_wide, *norms, *wide, *ids, *total;
    int queries, points, origin, dim, k, capacity, bins, resident;
    int* limits;
    i64* lists;
    int* counts;
};

struct Room {  // shared memory
    i8 *own, *others;
    int *bias, *wide;                                // of two tiles of points: norms, MASKED for what is no point
    int *gates, *norms, *wides, *counts, *worst;     // of the queries; gates without the query's norm
    int* range;                                      // points in all, first tile of the block, the one behind its last, first query
    int* bins;                                       // a line of bins + 4 for each query
};

// ---- products -------------------------------------------------------------------------------------------------------------

// sums += a b^T for a of 16 rows and b of 8, 32 bytes each. Lane 4 r + c has words c and 4 + c of rows r and r + 8 of a and of
// row r of b; and the sums (r, 2 c), (r, 2 c + 1), (r + 8, 2 c), (r + 8, 2 c + 1).
__device__ __forceinline__ void multiply_16x8(u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, int (&sums)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#elif defined(__CUDA_ARCH__)
#define HALF_PRODUCT(at, a, b) \
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};" \
        : "+r"(sums[at]), "+r"(sums[at + 1]) : "r"(a), "r"(b))
    HALF_PRODUCT(0, a0, b0);
    HALF_PRODUCT(2, a1, b0);
    HALF_PRODUCT(0, a2, b1);
    HALF_PRODUCT(2, a3, b1);
#else  // the same on a device without tensor cores, such as a simulated one
    __shared__ u32 words[WARPS][6][32];
    u32(*mine)[32] = words[threadIdx.x / 32], given[6] = {a0, a1, a2, a3, b0, b1};
    int lane = threadIdx.x % 32, row = lane & ~3, column = lane % 4 * 8;
    for (int i = 0; i < 6; i++) mine[i][lane] = given[i];
    __syncwarp();
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 4; i++)
            for (int half = 0; half < 2; half++)
                sums[i] = __dp4a((int)mine[half * 2 + i / 2][row + c], (int)mine[4 + half][column + i % 2 * 4 + c], sums[i]);
    __syncwarp();
#endif
}

// The warp's products of the staged codes of `chunks` chunks; own and others begin with the warp's first rows. Which of its
// words a lane takes for which coordinates is no matter as long as both sides do the same: 16 bytes are read at once.
template <int ROWS, int HIGH, int ACROSS>
__device__ __forceinline__ void multiply(const i8* own, const i8* others, int chunks, int (&sums)[HIGH][ACROSS][4]) {
    int row = threadIdx.x % 32 / 4, byte = threadIdx.x % 4 * 16;
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; chunk++) {
        int at = (row ^ chunk) * CHUNK + byte;
        const i8 *a = own + chunk * ROWS * CHUNK + at, *b = others + chunk * POINTS * CHUNK + at;
        int4 right[ACROSS];
#pragma unroll
        for (int j = 0; j < ACROSS; j++) right[j] = *(const int4*)(b + j * 8 * CHUNK);
#pragma unroll
        for (int i = 0; i < HIGH; i++) {
            int4 low = *(const int4*)(a + i * 16 * CHUNK), high = *(const int4*)(a + i * 16 * CHUNK + 8 * CHUNK);
#pragma unroll
            for (int j = 0; j < ACROSS; j++) {
                multiply_16x8(low.x, high.x, low.y, high.y, right[j].x, right[j].y, sums[i][j]);
                multiply_16x8(low.z, high.z, low.w, high.w, right[j].z, right[j].w, sums[i][j]);
            }
        }
    }
}

// ---- staging --------------------------------------------------------------------------------------------------------------

// From global to shared memory without waiting; by way of a register where a device cannot.
__device__ __forceinline__ void copy16(void* to, const void* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :: "r"((u32)__cvta_generic_to_shared(to)), "l"(__cvta_generic_to_global(from)) : "memory");
#else
    *(int4*)to = *(const int4*)from;
#endif
}

__device__ __forceinline__ void copy4(int* to, const int* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                 :: "r"((u32)__cvta_generic_to_shared(to)), "l"(__cvta_generic_to_global(from)) : "memory");
#else
    *to = *from;
#endif
}

// This thread's copies have come; a barrier says so to the others.
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Bytes from .. from + PIECE of ROWS rows, those of number first + i or ids[first + i]; zeros beyond `count` and beyond dim.
// Eight lanes a row: 64 bytes to the first chunk, 64 to the second, whose rows change places in pairs so that the eight write to
// different banks.
template <int ROWS>
__device__ __forceinline__ void stage(
    const i8* __restrict__ codes, int dim, int from, const int* __restrict__ ids, int first, int count, i8* to
) {
#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * 8; i += BLOCK) {
        int row = i / 8, byte = i % 8 * 16, chunk = byte / CHUNK;
        if (from + chunk * CHUNK >= dim) continue;  // will not be multiplied
        i8* at = to + chunk * ROWS * CHUNK + (row ^ chunk) * CHUNK + byte % CHUNK;
        if (row < count && from + byte < dim) copy16(at, codes + (i64)(ids ? ids[first + row] : first + row) * dim + from + byte);
        else *(int4*)at = make_int4(0, 0, 0, 0);
    }
}

// A piece of a tile of points, and of the queries unless they stay. step: of all of the block, its parity says where to.
template <int ROWS>
__device__ __forceinline__ void stage_piece(const Scan& scan, const Room& room, int tile, int piece, int step, int total) {
    int first = tile * POINTS, count = total - first, from = piece * PIECE, turn = step & 1;
    stage<POINTS>(scan.codes, scan.dim, from, scan.ids, first, count, room.others + turn * POINTS * PIECE);
    if (!scan.resident) {
        int query = blockIdx.x * ROWS;
        stage<ROWS>(scan.query_codes, scan.dim, from, nullptr, query, scan.queries - query, room.own + turn * ROWS * PIECE);
    }
    if (piece || threadIdx.x >= POINTS) return;
    int i = threadIdx.x, at = (tile & 1) * POINTS + i;
    if (i < count) {
        int id = scan.ids ? scan.ids[first + i] : first + i;
        copy4(room.bias + at, scan.norms + id);
        if (scan.wide) copy4(room.wide + at, scan.wide + id);
    } else {
        room.bias[at] = MASKED;  // and the codes are zeros, so that the score is MASKED
        room.wide[at] = 0;
    }
}

// ---- gates ----------------------------------------------------------------------------------------------------------------

// The n-th smallest, from 0, of 16: a bitonic sort.
__device__ __forceinline__ int nth_of_16(const int* values, int n) {
    int v[16];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int4 four = *(const int4*)(values + i * 4);
        v[i * 4] = four.x, v[i * 4 + 1] = four.y, v[i * 4 + 2] = four.z, v[i * 4 + 3] = four.w;
    }
#pragma unroll
    for (int size = 2; size <= 16; size *= 2)
#pragma unroll
        for (int step = size / 2; step > 0; step /= 2)
#pragma unroll
            for (int i = 0; i < 16; i++) {
                if (i & step) continue;
                int low = min(v[i], v[i + step]), high = max(v[i], v[i + step]);
                v[i] = i & size ? high : low;
                v[i + step] = i & size ? low : high;
            }
    int found = v[0];
#pragma unroll
    for (int i = 1; i < 16; i++) found = i == n ? v[i] : found;
    return found;
}

// Lowers a query's gate: k points are at or below `worst`. The other blocks of the query learn it, this one what they know.
// later: it holds for points that come later, which lose a tie.
__device__ __forceinline__ void lower_gate(const Scan& scan, const Room& room, int query, int row, int worst, bool later) {
    int known = atomicMin(scan.limits + query, worst), norm = room.norms[row], gate = room.gates[row];
    if (worst != NO_SCORE) gate = min(gate, worst - norm + !later);
    if (known != NO_SCORE) gate = min(gate, known + 1 - norm);
    room.gates[row] = gate;
}

// Gates from the bins, and from what other blocks know. Bins of a query go in groups of 16: the k-th smallest of all is at most
// the largest of the groups' (k / groups)-th.
template <int ROWS>
__device__ __forceinline__ void narrow(const Scan& scan, const Room& room) {
    int groups = scan.bins / 16, query = blockIdx.x * ROWS + threadIdx.x;
    __syncthreads();
    if (groups) {
        int rank = (scan.k + groups - 1) / groups - 1;
        for (int i = threadIdx.x; i < ROWS * groups; i += BLOCK) {
            int row = i / groups;
            atomicMax(room.worst + row, nth_of_16(room.bins + row * (scan.bins + 4) + i % groups * 16, rank));
        }
        __syncthreads();
    }
    if (threadIdx.x < ROWS && query < scan.queries) {
        int row = threadIdx.x, worst = groups ? room.worst[row] : NO_SCORE;
        lower_gate(scan, room, query, row, worst == NO_SCORE ? NO_SCORE : worst + room.norms[row], false);
        room.worst[row] = -NO_SCORE - 1;
    }
    __syncthreads();
}

// Cuts a list to its k to `most` smallest keys, all different; a warp. last: no key that is kept is above it.
__device__ __forceinline__ int shrink(i64* list, int count, int k, int most, i64& last) {
    int lane = threadIdx.x % 32, kept = count;
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
        for (int base = 0; base < count; base += 32)
            below += __popc(__ballot_sync(FULL_WARP, base + lane < count && list[base + lane] <= middle));
        if (below < k) low = middle;
        else high = middle, kept = below;
    }
    int place = 0;
    for (int base = 0; base < count; base += 32) {
        i64 key = base + lane < count ? list[base + lane] : NO_KEY;
        u32 keep = __ballot_sync(FULL_WARP, base + lane < count && key <= high);
        if (keep >> lane & 1) list[place + __popc(keep & ((1u << lane) - 1))] = key;
        place += __popc(keep);
    }
    last = high;
    return kept;
}

// The block's list of a query.
__device__ __forceinline__ i64* list_of(const Scan& scan, int query) {
    return scan.lists + ((i64)query * gridDim.y + blockIdx.y) * scan.capacity;
}

// Cuts every list that a tile could fill beyond its capacity.
template <int ROWS>
__device__ __forceinline__ void make_room(const Scan& scan, const Room& room) {
    for (int row = threadIdx.x / 32; row < ROWS; row += WARPS) {
        int count = room.counts[row], query = blockIdx.x * ROWS + row;
        if (count <= scan.capacity - POINTS) continue;
        i64 last;
        int kept = shrink(list_of(scan, query), count, scan.k, scan.k + scan.k / 2 + 16, last);
        __syncwarp();
        if (threadIdx.x % 32 == 0) {
            room.counts[row] = kept;
            lower_gate(scan, room, query, row, score_of(last), true);
        }
    }
    __syncthreads();
}

// ---- a tile's scores ------------------------------------------------------------------------------------------------------

// Where a lane's scores are: (i, j, e) is of query row + 16 i + 8 (e / 2) and point column + 8 j + e % 2 of the tile. LANES
// lanes have a query; of its bins, one in LANES is only theirs.
template <int DOWN, int HIGH, int ACROSS>
struct Shape {
    static constexpr int ROWS = DOWN * HIGH * 16, OVER = WARPS / DOWN, LANES = OVER * 4;
    static_assert(OVER * ACROSS * 8 == POINTS, "the warps share the points of a tile");
    int warp_row, warp_column, row, column, bin;
    __device__ __forceinline__ Shape() {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        warp_row = warp / OVER * HIGH * 16, warp_column = warp % OVER * ACROSS * 8;
        row = warp_row + lane / 4, column = warp_column + lane % 4 * 2, bin = warp % OVER * 4 + lane % 4;
    }
};

// Products to scores without the query's norm, in place.
template <class S, int HIGH, int ACROSS>
__device__ __forceinline__ void score(const Scan& scan, const Room& room, const S& at, int tile, int (&sums)[HIGH][ACROSS][4]) {
    int points = (tile & 1) * POINTS + at.column;
    if (scan.wide) {
#pragma unroll
        for (int j = 0; j < ACROSS; j++) {
            int2 wide = *(const int2*)(room.wide + points + j * 8);
#pragma unroll
            for (int i = 0; i < HIGH; i++) {
                int low = room.wides[at.row + i * 16], high = room.wides[at.row + i * 16 + 8];
                sums[i][j][0] += low * wide.x, sums[i][j][1] += low * wide.y;
                sums[i][j][2] += high * wide.x, sums[i][j][3] += high * wide.y;
            }
        }
    }
#pragma unroll
    for (int j = 0; j < ACROSS; j++) {
        int2 bias = *(const int2*)(room.bias + points + j * 8);
#pragma unroll
        for (int i = 0; i < HIGH; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) sums[i][j][e] = (int)((u32)(e % 2 ? bias.y : bias.x) - 2u * (u32)sums[i][j][e]);
    }
}

// Every score into its bin.
template <class S, int HIGH, int ACROSS>
__device__ __forceinline__ void fill_bins(const Scan& scan, const Room& room, const S& at, const int (&scores)[HIGH][ACROSS][4]) {
    int groups = scan.bins / S::LANES - 1;  // of bins that are a lane's own: a power of two, less one
#pragma unroll
    for (int i = 0; i < HIGH * 2; i++) {
        int* line = room.bins + (at.row + i * 8) * (scan.bins + 4) + at.bin;
        if (groups == 0) {
            int least = *line;
#pragma unroll
            for (int j = 0; j < ACROSS; j++) least = min(least, min(scores[i / 2][j][i % 2 * 2], scores[i / 2][j][i % 2 * 2 + 1]));
            *line = least;
            continue;
        }
#pragma unroll
        for (int j = 0; j < ACROSS * 2; j++) {
            int* own = line + (j & groups) * S::LANES;
            *own = min(*own, scores[i / 2][j / 2][i % 2 * 2 + j % 2]);
        }
    }
}

// Scores below the gate to the lists; whether one of these could run over in the next tile.
template <class S, int HIGH, int ACROSS>
__device__ __forceinline__ bool
add(const Scan& scan, const Room& room, const S& at, int tile, const int (&scores)[HIGH][ACROSS][4]) {
    bool full = false;
    int groups = scan.bins / S::LANES - 1;
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
            list_of(scan, room.range[3] + row)[slot] = key;
            full = full || slot >= scan.capacity - POINTS;
            int* own = room.bins + row * (scan.bins + 4) + (which & groups) * S::LANES + at.bin;
            if (scan.bins) *own = min(*own, found);
        }
    }
    return full;
}

// ---- the kernels ----------------------------------------------------------------------------------------------------------

// The shared memory of a block; nearest.py counts its bytes.
template <int ROWS>
__device__ __forceinline__ Room rooms_of(const Scan& scan, int4* memory) {
    Room room;
    room.others = (i8*)memory;
    room.bias = (int*)(room.others + 2 * POINTS * PIECE);
    room.wide = room.bias + 2 * POINTS;
    room.gates = room.wide + 2 * POINTS;
    room.norms = room.gates + ROWS;
    room.wides = room.norms + ROWS;
    room.counts = room.wides + ROWS;
    room.worst = room.counts + ROWS;
    room.range = room.worst + ROWS;
    room.bins = room.range + 4;
    room.own = (i8*)(room.bins + (scan.bins ? ROWS * (scan.bins + 4) : 0));  // the only place that is not known beforehand
    return room;
}

// What is known of the queries before the first tile; their codes where they stay.
template <int ROWS>
__device__ __forceinline__ void begin(const Scan& scan, const Room& room, int pieces) {
    int first = blockIdx.x * ROWS, row = threadIdx.x, query = first + row;
    if (row < ROWS) {
        bool is = query < scan.queries;
        room.norms[row] = is ? scan.query_norms[query] : 0;
        room.wides[row] = is && scan.wide ? scan.query_wide[query] : 0;
        room.gates[row] = is ? NO_SCORE : -NO_SCORE - 1;
        room.counts[row] = 0;
        room.worst[row] = -NO_SCORE - 1;
    }
    if (scan.bins)
        for (int i = threadIdx.x; i < ROWS * (scan.bins + 4); i += BLOCK) room.bins[i] = NO_SCORE;
    for (int piece = 0; scan.resident && piece < pieces; piece++)
        stage<ROWS>(scan.query_codes, scan.dim, piece * PIECE, nullptr, first, scan.queries - first, room.own + piece * ROWS * PIECE);
}

template <int DOWN, int HIGH, int ACROSS>
__device__ __forceinline__ void scan_points(const Scan& scan, int4* memory) {
    typedef Shape<DOWN, HIGH, ACROSS> S;
    S at;
    int pieces = (scan.dim + PIECE - 1) / PIECE, total = scan.total ? *scan.total : scan.points;
    int tiles = (total + POINTS - 1) / POINTS, each = (tiles + gridDim.y - 1) / gridDim.y;
    int first = blockIdx.y * each, last = min(tiles, first + each), step = 0;
    Room room = rooms_of<S::ROWS>(scan, memory);
    begin<S::ROWS>(scan, room, pieces);
    if (threadIdx.x == 0) room.range[0] = total, room.range[1] = first, room.range[2] = last, room.range[3] = blockIdx.x * S::ROWS;  // registers are short
    if (first < last) stage_piece<S::ROWS>(scan, room, first, 0, 0, total);
    bool full = false;
    for (int tile = first; tile < last; tile++) {
        int sums[HIGH][ACROSS][4] = {};
        for (int piece = 0; piece < pieces; piece++, step++) {
            wait_for_copies();
            if (piece) __syncthreads();
            else if (__syncthreads_or(full)) make_room<S::ROWS>(scan, room);
            bool more = piece + 1 < pieces;
            if (more || tile + 1 < room.range[2])
                stage_piece<S::ROWS>(scan, room, more ? tile : tile + 1, more ? piece + 1 : 0, step + 1, room.range[0]);
            const i8* own = room.own + (scan.resident ? piece : step & 1) * S::ROWS * PIECE + at.warp_row * CHUNK;
            const i8* others = room.others + (step & 1) * POINTS * PIECE + at.warp_column * CHUNK;
            multiply<S::ROWS, HIGH, ACROSS>(own, others, min(2, (scan.dim - piece * PIECE + CHUNK - 1) / CHUNK), sums);
        }
        score(scan, room, at, tile, sums);
        int done = tile - room.range[1];
        if ((done & (done + 1)) == 0) {
            if (scan.bins) fill_bins(scan, room, at, sums);
            narrow<S::ROWS>(scan, room);
        }
        full = add(scan, room, at, tile, sums);
    }
    __syncthreads();
    int query = blockIdx.x * S::ROWS + threadIdx.x;
    if (threadIdx.x < S::ROWS && query < scan.queries) scan.counts[(i64)query * gridDim.y + blockIdx.y] = room.counts[threadIdx.x];
}

// counts[query][part]: keys in lists[query][part][capacity], among them those of the part that are among the k nearest of all
// points so far. The tiles are shared out evenly to gridDim.y parts. ids: the rows that count, `total` of them,
// ascending; null if all do. A key's id is origin + row. limits[query]: not below the k-th smallest score; comes from before.
// bins: 16 for each lane of a query, times a power of two; 0 for none. resident: the queries' codes stay in shared memory.
#define SCAN(name, blocks, DOWN, HIGH, ACROSS) \
    extern "C" __global__ void __launch_bounds__(BLOCK, blocks) name( \
        const i8* __restrict__ query_codes, const int* __restrict__ query_norms, const int* __restrict__ query_wide, \
        int queries, const i8* __restrict__ codes, const int* __restrict__ norms, const int* __restrict__ wide, \
        const int* __restrict__ ids, const int* __restrict__ total, int points, int origin, int dim, int k, int capacity, \
        int bins, int resident, int* limits, i64* lists, int* counts \
    ) { \
        extern __shared__ int4 memory[]; \
        Scan scan = {query_codes, codes, query_norms, query_wide, norms, wide, ids, total, queries, points, origin, dim, k, \
                     capacity, bins, resident, limits, lists, counts}; \
        scan_points<DOWN, HIGH, ACROSS>(scan, memory); \
    }
SCAN(scan_many, 2, 2, 4, 4)
SCAN(scan_few, 3, 1, 1, 2)
