// pick, first half: the nearest others of every row of every leaf; merge.cu makes reservoirs of them. And assign: the nearest
// leaders of every member of every item. Both are sets of own rows and of others, among which these look.
//
// A block has 64 own rows of one set and goes over all others of the set, 128 at a time:
//   fetch, lay  128 bytes of all these rows' codes into shared memory, eight lanes a row, 16 bytes a lane;
//   multiply    eight warps, 32 x 32 dot products each, on the int8 tensor cores: exact in int32;
//   measure     distances over the staged codes, which are used up: a line of 128 for each own row;
//   choose      eight lanes a line (32 if take > 8), a sorted list across them: what is below the list's worst is inserted,
//               four lines of a warp at once. Where many are below it, the take-th smallest of the lanes' minima is a bound
//               first. Places of a set ascend as ids do and come in order: a tie is lost to who came before.
// take <= 32. More are found in several launches, each of which passes over what those before have found.
//
// A leaf of s rows costs s^2 D multiply-adds and 3/128 s^2 D bytes from the second cache, which holds the leaf. A million
// rows in 20 leaves of 512 each, D = 128, take = 4, on an H100: 1.3 T multiply-adds, 2.6 ms at half its tensor rate; 31 GB
// from the second cache, 6 ms at 5.5 TB/s; instructions of warps for a line: 40 up to its distances, 70 to choose, 10 ms for
// 80 M lines: the limiter, from D = 256 on the cache. Distances never leave the chip: 10^10 of them would be 80 GB, 24 ms.
// Where a million rows are carved, assign looks at 30 lines a row in all: half of that time.
// As batched GEMMs: PiPNN (arXiv 2602.21247). A list across lanes: WarpSelect of FAISS (arXiv 1702.08734).
#include "tensor.cuh"

#define BLOCK 256
#define OWN 64
#define OTHERS 128
#define PIECE 128               // bytes of a row that are staged at a time
#define STRIDE (PIECE + 16)     // of staged rows: fragments of eight rows lie in different banks
#define LINE (OTHERS + 8)       // of distances: pairs of four rows lie in different banks

// Bytes from..from + size of 32 N rows, eight lanes a row; zero for those beyond `rows`.
template <int N>
__device__ __forceinline__ void fetch(
    const i8* __restrict__ codes, int dim, int from, int size, const int* ids, int rows, int4 (&parts)[N]
) {
    int byte = threadIdx.x % 8 * 16;
#pragma unroll
    for (int i = 0; i < N; i++) {
        int row = threadIdx.x / 8 + i * (BLOCK / 8);
        parts[i] = make_int4(0, 0, 0, 0);
        if (row < rows && byte < size) parts[i] = *(const int4*)(codes + (i64)ids[row] * dim + from + byte);
    }
}

template <int N>
__device__ __forceinline__ void lay(const int4 (&parts)[N], i8* to) {
#pragma unroll
    for (int i = 0; i < N; i++)
        *(int4*)(to + (threadIdx.x / 8 + i * (BLOCK / 8)) * STRIDE + threadIdx.x % 8 * 16) = parts[i];
}

// The warp's 32 x 32 dot products of staged codes; own and others point to the lane's first word.
__device__ __forceinline__ void multiply(const i8* own, const i8* others, int size, int (&sums)[2][4][4]) {
    for (int byte = 0; byte < size; byte += 32) {
        int b[4][2];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const i8* row = others + j * 8 * STRIDE + byte;
            b[j][0] = *(const int*)row;
            b[j][1] = *(const int*)(row + 16);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const i8 *low = own + i * 16 * STRIDE + byte, *high = low + 8 * STRIDE;
            int a[4] = {*(const int*)low, *(const int*)high, *(const int*)(low + 16), *(const int*)(high + 16)};
#pragma unroll
            for (int j = 0; j < 4; j++) multiply_16x8(a, b[j], sums[i][j]);
        }
    }
}

struct Side {  // what is known of own rows or of others, in shared memory
    int *ids, *norms, *wide;
};

// A side of `room` rows, of which the set has `rows`: beyond them lies what is farther than all.
__device__ __forceinline__ void read_side(
    const int* __restrict__ norms, const int* __restrict__ wide, const int* __restrict__ members, int rows, int room, Side side
) {
    int row = threadIdx.x;
    if (row >= room) return;
    int id = row < rows ? members[row] : 0;
    side.ids[row] = id;
    side.norms[row] = row < rows ? norms[id] : NO_SCORE;
    side.wide[row] = row < rows && wide ? wide[id] : 0;
}

// norm - 2 (dot + wide product) of the warp's 32 x 32 pairs into the lines: their distances less the own row's norm.
__device__ __forceinline__ void measure(
    int (&sums)[2][4][4], bool wide, Side own, Side other, int row, int column, int* lines
) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        int2 norm = *(const int2*)(other.norms + column + j * 8), factor = *(const int2*)(other.wide + column + j * 8);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int *pair = sums[i / 2][j] + i % 2 * 2, own_factor = wide ? own.wide[row + i * 8] : 0;
            int first = norm.x - 2 * (pair[0] + own_factor * factor.x), second = norm.y - 2 * (pair[1] + own_factor * factor.y);
            *(int2*)(lines + (row + i * 8) * LINE + column + j * 8) = make_int2(first, second);
        }
    }
}

// The n-th smallest (from 0) value of each GROUP lanes: a bitonic sort.
template <int GROUP>
__device__ __forceinline__ int nth_of_group(int value, int n) {
    int lane = threadIdx.x % GROUP;
#pragma unroll
    for (int size = 2; size <= GROUP; size *= 2) {
#pragma unroll
        for (int step = size / 2; step > 0; step /= 2) {
            int other = __shfl_xor_sync(FULL_WARP, value, step);
            value = ((lane & step) == 0) == ((lane & size) == 0) ? min(value, other) : max(value, other);
        }
    }
    return __shfl_sync(FULL_WARP, value, n, GROUP);
}

struct Lists {  // of the own rows, `take` sorted places each, in shared memory
    int take, *scores, *places;
    const i64* after;  // null, or of each row the key that an earlier launch ended with
    bool apart;        // keys hold places, not rows
};

// Whose bits of a ballot are those of this lane's group, from its first lane on.
template <int GROUP>
__device__ __forceinline__ u32 of_group(u32 lanes) {
    return GROUP == 32 ? lanes : lanes >> (threadIdx.x % 32 / GROUP * GROUP) & ((1u << GROUP % 32) - 1);
}

// Each lane's chosen ones (bit i: line[lane * HERE + i]) into the list of the group, in the order of their places.
template <int GROUP>
__device__ __forceinline__ void insert(u32 chosen, const int* line, int base, int& score, int& place) {
    constexpr int HERE = OTHERS / GROUP;
    int lane = threadIdx.x % GROUP;
    while (u32 lanes = __ballot_sync(FULL_WARP, chosen != 0)) {
        lanes = of_group<GROUP>(lanes);
        int leader = max(__ffs(lanes) - 1, 0);
        int at = leader * HERE + __shfl_sync(FULL_WARP, __ffs(chosen) - 1, leader, GROUP);
        int fresh = lanes ? line[at] : NO_SCORE;  // which changes no list
        if (lane == leader) chosen &= chosen - 1;
        int score_before = __shfl_up_sync(FULL_WARP, score, 1, GROUP);
        int place_before = __shfl_up_sync(FULL_WARP, place, 1, GROUP);
        bool here = lane == 0 || score_before <= fresh;
        place = score <= fresh ? place : here ? base + at : place_before;
        score = score <= fresh ? score : here ? fresh : score_before;
    }
}

// The distances of a row from place `base` of its set on into its list, by GROUP lanes; itself: its own place, from base on.
// A lane has GROUP-ths of the line in a piece, so that lanes in order have places in order: of a tie, the first is kept.
template <int GROUP>
__device__ __forceinline__ void choose(
    const int* line, int row, bool real, int base, int itself, Side own, Side other, Lists lists
) {
    constexpr int HERE = OTHERS / GROUP, PARTS = HERE / 4;
    int lane = threadIdx.x % GROUP, turn = lane * HERE / 32 % PARTS;  // turned, so that eight lanes read different banks
    int take = lists.take, *scores = lists.scores + row * take, *places = lists.places + row * take;
    __align__(16) int found[HERE];
    int least = NO_SCORE, worst = real ? scores[take - 1] : -NO_SCORE;
#pragma unroll
    for (int i = 0; i < PARTS; i++)
        *(int4*)(found + i * 4) = *(const int4*)(line + lane * HERE + (i + turn) % PARTS * 4);
#pragma unroll
    for (int i = 0; i < HERE; i++) {
        if (lists.after) {
            int at = lane * HERE + (i / 4 + turn) % PARTS * 4 + i % 4;
            i64 key = pack_key((u32)found[i] + (u32)own.norms[row], lists.apart ? base + at : other.ids[at]);
            if (key <= lists.after[row]) found[i] = NO_SCORE;
        }
        least = min(least, found[i]);
    }
    u32 lanes = __ballot_sync(FULL_WARP, least < worst);
    if (!lanes) return;
    bool met = itself >= 0 && itself < OTHERS;  // one of the lanes' minima may be the row itself
    int most = worst - 1, last = take - 1 + met;
    if (__any_sync(FULL_WARP, __popc(of_group<GROUP>(lanes)) > last + 1)) {
        int bound = nth_of_group<GROUP>(least, min(last, GROUP - 1));
        if (last < GROUP) most = min(most, bound);
    }
    u32 chosen = 0;
#pragma unroll
    for (int i = 0; i < HERE; i++)
        if (found[i] <= most) chosen |= 1u << i;
    chosen = (chosen << turn * 4 | chosen >> (HERE - turn * 4)) & ((1u << HERE) - 1);
    if (met && itself / HERE == lane) chosen &= ~(1u << itself % HERE);
    int score = lane < take ? scores[lane] : NO_SCORE, place = lane < take ? places[lane] : 0;
    insert<GROUP>(chosen, line, base, score, place);
    if (lane < take) scores[lane] = score, places[lane] = place;
}

// All lines of a block.
template <int GROUP>
__device__ __forceinline__ void choose_all(const int* lines, int rows, int base, int first, Side own, Side other, Lists lists) {
    for (int start = threadIdx.x / 32 * (32 / GROUP); start < rows; start += BLOCK / GROUP) {
        int row = start + threadIdx.x % 32 / GROUP;
        choose<GROUP>(lines + row * LINE, row, row < rows, base, first + row - base, own, other, lists);
    }
}

// found[p - origin][from + i]: key of the i-th nearest of those behind found[p - origin][from - 1], for the row at place p of
// `members`; i < take. Block b has the rows from place tiles[b] on of set sets[b]. In set s members[offsets[s]..offsets[s + 1]]
// look among others[starts[s]..starts[s + 1]]. apart: these are rows of another kind, and keys hold places among them; else they
// are the members, none of which finds itself, and keys hold rows.
extern "C" __global__ void __launch_bounds__(BLOCK, 4) set_nearest(
    const i8* __restrict__ codes, const int* __restrict__ norms, const int* __restrict__ wide, int dim,
    const int* __restrict__ members, const i64* __restrict__ offsets, const int* __restrict__ others,
    const i64* __restrict__ starts, int apart, const int* __restrict__ sets, const i64* __restrict__ tiles, i64 origin, int k,
    int from, int take, i64* found
) {
    extern __shared__ int4 room[];
    int set = sets[blockIdx.x];
    i64 begin = starts[set], tile = tiles[blockIdx.x];
    int size = (int)(starts[set + 1] - begin), rows = (int)min((i64)OWN, offsets[set + 1] - tile);
    int first = apart ? -OWN : (int)(tile - begin);  // place of the block's rows among the others: none, or this
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int row = warp / 4 * 32 + lane / 4, column = warp % 4 * 32;  // of the products
    int *lines = (int*)room, *own_data = lines + OWN * LINE, *other_data = own_data + 3 * OWN;
    i8 *own_codes = (i8*)room, *other_codes = own_codes + OWN * STRIDE;  // where the lines will be
    i64 *after = (i64*)(other_data + 3 * OTHERS), *line = found + (tile - origin) * k;
    Side own = {own_data, own_data + OWN, own_data + 2 * OWN};
    Side other = {other_data, other_data + OTHERS, other_data + 2 * OTHERS};
    Lists lists = {take, (int*)(after + OWN), (int*)(after + OWN) + OWN * take, from ? after : nullptr, apart != 0};

    read_side(norms, wide, members + tile, rows, OWN, own);
    for (int i = threadIdx.x; i < OWN * take; i += BLOCK) lists.scores[i] = NO_SCORE, lists.places[i] = 0;
    if (from && threadIdx.x < OWN) after[threadIdx.x] = threadIdx.x < rows ? line[threadIdx.x * (i64)k + from - 1] : NO_KEY;
    __syncthreads();  // lists are there, whether the set has others or not
    for (int base = 0; base < size; base += OTHERS) {
        int here = min(OTHERS, size - base);
        read_side(norms, wide, others + begin + base, here, OTHERS, other);
        __syncthreads();
        int sums[2][4][4] = {};
        for (int byte = 0; byte < dim; byte += PIECE) {
            int part = min(PIECE, dim - byte);
            int4 own_parts[OWN / 32], other_parts[OTHERS / 32];  // all on their way before the first is waited for
            fetch(codes, dim, byte, part, own.ids, rows, own_parts);
            fetch(codes, dim, byte, part, other.ids, here, other_parts);
            lay(own_parts, own_codes);
            lay(other_parts, other_codes);
            __syncthreads();
            if (warp / 4 * 32 < rows && column < here) {
                int word = lane % 4 * 4;
                multiply(own_codes + row * STRIDE + word, other_codes + (column + lane / 4) * STRIDE + word, part, sums);
            }
            __syncthreads();
        }
        measure(sums, wide != nullptr, own, other, row, column + lane % 4 * 2, lines);
        __syncthreads();  // the lines are whole
        if (take <= 8) choose_all<8>(lines, rows, base, first, own, other, lists);
        else choose_all<32>(lines, rows, base, first, own, other, lists);
        __syncthreads();
    }
    for (int r = warp; r < rows; r += BLOCK / 32) {
        if (lane >= take) continue;
        int score = lists.scores[r * take + lane], place = lists.places[r * take + lane];
        u32 id = apart || score == NO_SCORE ? place : others[begin + place];
        line[r * (i64)k + from + lane] = score == NO_SCORE ? NO_KEY : pack_key(score + own.norms[r], id);
    }
}
