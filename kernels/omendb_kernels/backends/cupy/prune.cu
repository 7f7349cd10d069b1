// prune and adopt: which candidates of a line are kept by the rule of relative neighbours (contract.py; RobustPrune, DiskANN,
// NeurIPS 2019), one warp a line. In order of their keys, a kept candidate strikes out the later ones it is close to.
//
// Work. A warp takes the next 8 undecided candidates ("rows") and their products with all candidates that still matter
// ("columns", two a lane: 8 x 64 sums in registers). A struck candidate never becomes a row; a line whose places are full ends.
// The 8 are then decided one after another: two ballots tell every lane which of the 64 a row is close to. For `adopt` only
// newcomers are rows, for two neighbours of old never strike each other out; of a row and a column the earlier strikes out the
// later, so that one product serves whichever of the two comes first.
// Codes are fetched by teams of eight lanes, 16 bytes a lane, 128 bytes of every column at a time, into shared memory. Codes of
// up to 128 bytes are fetched once a line, longer ones once for each 8 rows, of the columns that matter then: 1.3 to 2 times.
//
// Why not all pairs at once (Gram matrix in shared memory): of 64 nearest candidates 16 to 31 become rows (four real sets), and
// their columns dwindle: 1,050 to 1,800 products of codes a line, where tiles over half the matrix are 2,300 and warps that
// share a line need barriers. Why not a row at a time: its products read as much shared memory as those of eight.
//
// Cost of a line of c = 64, D = 128 on H100, 1.7 GHz: 8 KiB of codes, 2 KiB of sectors for norms, 1 KiB of keys and answer:
// 3.3 ns at 3.35 TB/s. 1,600 products of 32 dp4a (SIFT), 64 a cycle and SM: 3.6 ns. All instructions, a third of them no dp4a:
// some 4 ns, the limiter. Shared memory: half busy (8 broadcasts and two loads of 4 cycles for 64 dp4a, 32 cycles).
// adopt of 31 and a few newcomers: 512 products, 1.1 ns; 6 KiB, 1.8 ns, the limiter.
//
// Lines of more than 64 candidates (prune_long, adopt_long): the same, a group of 64 columns after another; what is known of
// the candidates lies in global memory, ten words for each group, and codes are fetched for each 8 rows.
#include "common.cuh"

#define ROWS 8      // candidates that are decided together
#define GROUP 64    // columns of a tile: bits of a word
#define CHUNK 128   // bytes of a code that lie in shared memory
#define STRIDE 144  // from one to the next: an odd number of 16 bytes, so that eight lanes read eight different banks
#define WORDS (2 + ROWS)
#define TEAM 8      // lanes that fetch a chunk of a code, 16 bytes each
#define PLACES ((GROUP + ROWS) * STRIDE)  // shared memory of a line: its columns, its rows, and the places of these
#define ROOM (PLACES + ROWS * 4)
#define INT_MIN (-0x7fffffff - 1)
#define BLOCKS 10   // of an SM, at least: 20 warps with 96 registers a lane
#define WARPS 2     // lines of a block: blocks of little shared memory fill every kind of device best

struct Points {
    const i8* codes;
    const int* norms;
    const int* wide;  // or null
    int dim;
};

struct Rule {
    i64 numerator, denominator;
    int degree;
};

// A lane's two candidates of a group. reach: the largest D(y, candidate) at which y strikes it out.
struct Columns {
    int id[2], norm[2], wide[2], reach[2];
};

__device__ __forceinline__ int lane_number() { return threadIdx.x % 32; }

// numerator * D <= denominator * score as a bound of D. No score of a candidate is negative.
__device__ __forceinline__ int reach_of(const Rule& rule, i64 key) {
    return (int)min(rule.denominator * score_of(key) / rule.numerator, (i64)NO_SCORE);
}

// The candidates from `first` on; gives which of the 64 there are.
__device__ __forceinline__ u64 load(const Points& points, const Rule& rule, const i64* line, int c, int first, Columns& own) {
    u64 there = 0;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int place = first + 32 * half + lane_number();
        const i64 key = place < c ? line[place] : NO_KEY;
        const bool valid = key != NO_KEY;
        own.id[half] = valid ? (int)id_of(key) : 0;
        own.norm[half] = valid ? points.norms[own.id[half]] : 0;
        own.wide[half] = valid && points.wide ? points.wide[own.id[half]] : 0;
        own.reach[half] = valid ? reach_of(rule, key) : 0;
        there |= (u64)__ballot_sync(FULL_WARP, valid) << 32 * half;
    }
    return there;
}

// Which of the 64 are in the list.
__device__ __forceinline__ u64 members(const int* list, int size, const Columns& own) {
    bool in[2] = {false, false};
    for (int start = 0; start < size; start += 32) {
        const int other = start + lane_number() < size ? list[start + lane_number()] : -1;
        const int count = min(32, size - start);
        for (int j = 0; j < count; j++) {
            const int id = __shfl_sync(FULL_WARP, other, j);
            in[0] |= id == own.id[0];
            in[1] |= id == own.id[1];
        }
    }
    const u64 low = __ballot_sync(FULL_WARP, in[0]), high = __ballot_sync(FULL_WARP, in[1]);
    return low | high << 32;
}

// The bytes [start, start + width) of the codes of the columns `wanted` into shared memory.
__device__ __forceinline__ void stage(const Points& points, const Columns& own, u64 wanted, int start, int width, char* room) {
    const int team = lane_number() / TEAM, at = lane_number() % TEAM * 16;
    const i8* codes = points.codes + start + at;
    char* places = room + team * STRIDE + at;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const u32 some = (u32)(wanted >> 32 * half);
        const u32 mine = at < width ? some >> team : 0;
#pragma unroll
        for (int first = 0; first < 32; first += 16) {
            if (!(some >> first & 0xffff)) continue;
            int4 got[4] = {};
#pragma unroll
            for (int i = 0; i < 4; i++) {  // all four are asked for before the first is waited for
                const u32 row = __shfl_sync(FULL_WARP, own.id[half], first + 4 * i + team);
                if (mine >> (first + 4 * i) & 1) got[i] = *(const int4*)(codes + (u64)row * (u32)points.dim);
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (mine >> (first + 4 * i) & 1) *(int4*)(places + (32 * half + first + 4 * i) * STRIDE) = got[i];
        }
    }
}

// The same of the rows, behind the columns: from their place among these (SHORT), or from their codes. source: in lane r the
// place or id of row r.
template <bool SHORT>
__device__ __forceinline__ void stage_rows(const Points& points, int source, int start, int width, char* room) {
    const int team = lane_number() / TEAM, at = lane_number() % TEAM * 16;
#pragma unroll
    for (int i = 0; i < ROWS; i += 32 / TEAM) {
        const u32 row = __shfl_sync(FULL_WARP, source, i + team);
        const void* from = room + row * STRIDE + at;
        if (!SHORT) from = points.codes + (u64)row * (u32)points.dim + start + at;
        if (at < width) *(int4*)(room + (GROUP + i + team) * STRIDE + at) = *(const int4*)from;
    }
}

// Adds the products of `width` bytes of the rows and of HALVES columns, those at `own`.
template <int HALVES>
__device__ __forceinline__ void multiply(const char* rows, const char* const* own, int width, int (*dots)[ROWS]) {
#pragma unroll 1
    for (int unit = 0; unit < width; unit += 16) {
        int4 column[HALVES];
#pragma unroll
        for (int half = 0; half < HALVES; half++) column[half] = *(const int4*)(own[half] + unit);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int4 row = *(const int4*)(rows + r * STRIDE + unit);
#pragma unroll
            for (int half = 0; half < HALVES; half++) dots[half][r] = dot16(row, column[half], dots[half][r]);
        }
    }
}

// Adds those of the rows and the lane's two columns, as far as they are needed.
__device__ __forceinline__ void multiply_needed(const char* room, u64 needed, int width, int (&dots)[2][ROWS]) {
    const int lane = lane_number();
    const char *rows = room + GROUP * STRIDE, *own[2];
#pragma unroll
    for (int half = 0; half < 2; half++)  // a column that is not needed was not fetched: any other one will do
        own[half] = needed >> 32 * half >> lane & 1 ? room + (32 * half + lane) * STRIDE : rows;
    if ((u32)needed && needed >> 32) {
        multiply<2>(rows, own, width, dots);
    } else {  // the products of one half stand for both, those of the other are not looked at
        const char* only = (u32)needed ? own[0] : own[1];
        multiply<1>(rows, &only, width, dots);
#pragma unroll
        for (int r = 0; r < ROWS; r++) dots[1][r] = dots[0][r];
    }
}

// Adds those of the 64 that are `open` to the `rows` rows there are, as long as there is room; gives how many there are then.
__device__ __forceinline__ int take_rows(u64 open, int first, int rows, int* places) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int bit = 32 * half + lane_number(), row = rows + __popcll(open & ((1ull << bit) - 1));
        if ((open >> bit & 1) && row < ROWS) places[row] = first + bit;
    }
    return min(ROWS, rows + __popcll(open));
}

// Which of the 64 are close to row r, so that the later one of the two is struck out where the other is kept. Keys ascend, so
// the larger reach is that one's. reach: of row r, or INT_MIN where only later ones are looked at.
__device__ __forceinline__ u64 close_to(
    const Columns& own, int norm, int wide, int reach, const int (&dots)[2][ROWS], int r) {
    u64 close = 0;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int distance = own.norm[half] + norm - 2 * (dots[half][r] + own.wide[half] * wide);
        close |= (u64)__ballot_sync(FULL_WARP, distance <= max(own.reach[half], reach)) << 32 * half;
    }
    return close;
}

// What the lane that has this place has.
__device__ __forceinline__ int at_place(const int (&both)[2], int place) {
    const int low = __shfl_sync(FULL_WARP, both[0], place & 31), high = __shfl_sync(FULL_WARP, both[1], place & 31);
    return place & 32 ? high : low;
}

// Writes the kept of a group behind the `before` that are kept of earlier ones; gives how many there are now.
template <class OUT>
__device__ __forceinline__ int emit(const i64* line, int first, u64 kept, int before, int degree, OUT* out) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int bit = 32 * half + lane_number(), rank = before + __popcll(kept & ((1ull << bit) - 1));
        if ((kept >> bit & 1) && rank < degree) out[rank] = (OUT)line[first + bit];  // the key, or its low half, the id
    }
    return before + __popcll(kept);
}

// Writes the answer of a line: the first `degree` kept ones, of one group, or of more where they lie in memory.
template <class OUT>
__device__ __forceinline__ void finish(
    const i64* candidates, int c, int line, u64 kept, const u64* words, int degree, OUT* out) {
    const i64 here = __shfl_sync(FULL_WARP, line, 0);  // as it was: but what is made of it is not kept in registers till now
    const int groups = words ? (c + GROUP - 1) / GROUP : 1;
    int size = 0;
    for (int g = 0; g < groups && size < degree; g++) {
        if (words) kept = words[here * WORDS * groups + g];
        size = emit(candidates + here * c, g * GROUP, kept, size, degree, out + here * degree);
    }
    for (int rank = size + lane_number(); rank < degree; rank += 32) out[here * degree + rank] = (OUT)NO_KEY;
}

// Which of a line of at most 64 candidates are kept, and some that come after `degree` kept ones. All that is known of the line
// is in registers. list: the neighbours of old (ADOPT).
template <bool ADOPT>
__device__ __forceinline__ u64 decide(
    const Points& points, const Rule& rule, const i64* line, int c, const int* list, char* room) {
    Columns own;
    u64 alive = load(points, rule, line, c, 0, own);  // neither struck out nor missing
    u64 open = ADOPT ? alive & ~members(list, rule.degree, own) : alive;  // not decided yet
    int* places = (int*)(room + PLACES);
    bool staged = false;
    while (open) {
        const u64 first = open & (0 - open);
        if (__popcll(alive & (first - 1)) >= rule.degree) break;
        const u64 needed = ADOPT ? alive : alive & (0 - first);
        const int rows = take_rows(open, 0, 0, places);
        __syncwarp();
        const int place = places[lane_number() < rows ? lane_number() : 0];  // of row r in lane r
        open &= 0 - (2ull << __shfl_sync(FULL_WARP, place, rows - 1));
        const int norm = at_place(own.norm, place), wide = at_place(own.wide, place);
        const int reach = ADOPT ? at_place(own.reach, place) : INT_MIN;
        int dots[2][ROWS] = {};
        for (int start = 0; start < points.dim; start += CHUNK) {
            const int width = min(CHUNK, points.dim - start);
            __syncwarp();  // the chunk before was read
            if (!staged) stage(points, own, needed, start, width, room);
            __syncwarp();  // the rows are among the columns
            stage_rows<true>(points, place, start, width, room);
            __syncwarp();
            multiply_needed(room, needed, width, dots);
        }
        staged = points.dim <= CHUNK;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int here = __shfl_sync(FULL_WARP, place, r);
            const u64 self = 1ull << here;
            if (r >= rows || !(alive & self)) continue;
            const int row_norm = __shfl_sync(FULL_WARP, norm, r), row_wide = __shfl_sync(FULL_WARP, wide, r);
            const int row_reach = ADOPT ? __shfl_sync(FULL_WARP, reach, r) : INT_MIN;
            const u64 close = close_to(own, row_norm, row_wide, row_reach, dots, r) & needed & ~self;
            const bool struck = ADOPT && (alive & close & (self - 1));
            alive &= ~(struck ? self : close & (0 - self));
        }
        open &= alive;
    }
    return alive;
}

// The bits of word g that stand for places before this one.
__device__ __forceinline__ u64 before(int place, int g) {
    const int bit = place - GROUP * g;
    return bit <= 0 ? 0 : bit >= GROUP ? ~0ull : (1ull << bit) - 1;
}

// Decides the rows, one after another; row r is at `place` of lane r. Each lane has every 32nd word to itself.
__device__ __forceinline__ void decide_rows(int rows, int place, int groups, u64* alive, u64* open, const u64* close) {
    for (int r = 0; r < rows; r++) {
        const int here = __shfl_sync(FULL_WARP, place, r);
        bool hit = false;
        for (int g = lane_number(); g < groups; g += 32) hit |= (alive[g] & close[g * ROWS + r] & before(here, g)) != 0;
        const bool struck = __any_sync(FULL_WARP, hit);
        for (int g = lane_number(); g < groups; g += 32) {
            const u64 self = before(here + 1, g) & ~before(here, g);
            const u64 gone = struck ? self : close[g * ROWS + r] & ~before(here + 1, g);
            alive[g] &= ~gone;
            open[g] &= ~(gone | self);
        }
    }
}

// The same for a line of any length, a group of 64 after another. words: WORDS for each group, of global memory: the first, one
// a group, tell in the end which candidates are kept.
template <bool ADOPT>
__device__ __forceinline__ void decide_long(
    const Points& points, const Rule& rule, const i64* line, int c, const int* list, u64* words, char* room) {
    const int lane = lane_number(), groups = (c + GROUP - 1) / GROUP;
    int* places = (int*)(room + PLACES);
    u64 *alive = words, *open = words + groups, *close = words + 2 * groups;  // close: ROWS words for each group
    Columns own;
    for (int g = 0; g < groups; g++) {
        const u64 there = load(points, rule, line, c, g * GROUP, own);
        const u64 old = ADOPT ? members(list, rule.degree, own) : 0;
        if (lane == 0) alive[g] = there, open[g] = there & ~old;
    }
    for (;;) {
        __syncwarp();  // every lane sees what others know of the candidates
        int rows = 0, kept = 0;  // kept: those before row 0
        for (int g = 0; g < groups && rows < ROWS; g++) {
            const u64 here = open[g];
            if (!rows) kept += __popcll(alive[g] & (here ? (here & (0 - here)) - 1 : ~0ull));
            rows = take_rows(here, g * GROUP, rows, places);
        }
        if (!rows || kept >= rule.degree) break;
        __syncwarp();
        const int place = places[lane < rows ? lane : 0];  // of row r in lane r
        const i64 key = line[place];
        const int id = (int)id_of(key), norm = points.norms[id], wide = points.wide ? points.wide[id] : 0;
        const int reach = reach_of(rule, key);
        const int first = __shfl_sync(FULL_WARP, place, 0);
        for (int g = 0; g < groups; g++) {
            const u64 needed = ADOPT ? alive[g] : alive[g] & ~before(first, g);
            u64 mine = 0;
            if (needed) {
                load(points, rule, line, c, g * GROUP, own);
                int dots[2][ROWS] = {};
                for (int start = 0; start < points.dim; start += CHUNK) {
                    const int width = min(CHUNK, points.dim - start);
                    __syncwarp();  // the chunk and the group before were read
                    stage(points, own, needed, start, width, room);
                    stage_rows<false>(points, id, start, width, room);
                    __syncwarp();
                    multiply_needed(room, needed, width, dots);
                }
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    const int row_norm = __shfl_sync(FULL_WARP, norm, r), row_wide = __shfl_sync(FULL_WARP, wide, r);
                    const int row_reach = __shfl_sync(FULL_WARP, reach, r);
                    const u64 found = close_to(own, row_norm, row_wide, row_reach, dots, r) & needed;
                    if (lane == r) mine = found;
                }
            }
            if (lane < ROWS) close[g * ROWS + lane] = mine;
        }
        __syncwarp();  // the words are written
        decide_rows(rows, place, groups, alive, open, close);
    }
}

#define POINTS const i8 *__restrict__ codes, const int *__restrict__ norms, const int *__restrict__ wide, int dim
#define LINES const i64 *__restrict__ candidates, int lines, int c, int degree, i64 numerator, i64 denominator
#define BEGIN                                                                  \
    __shared__ int4 shared[WARPS * ROOM / 16];                                 \
    char* room = (char*)shared + threadIdx.x / 32 * ROOM;                      \
    const int line = blockIdx.x * WARPS + threadIdx.x / 32;                    \
    const Points points{codes, norms, wide, dim};                              \
    const Rule rule{numerator, denominator, degree};                           \
    if (line >= lines) return;

extern "C" {

// candidates (lines, c), c <= 64, to kept keys (lines, degree).
__global__ void __launch_bounds__(32 * WARPS, BLOCKS) prune_lines(POINTS, LINES, i64* __restrict__ out) {
    BEGIN
    const u64 kept = decide<false>(points, rule, candidates + (i64)line * c, c, 0, room);
    finish(candidates, c, line, kept, 0, degree, out);
}

// The same for any c. words: 10 for each 64 candidates of a line.
__global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    prune_long(POINTS, LINES, u64* __restrict__ words, i64* __restrict__ out) {
    BEGIN
    u64* own = words + (i64)line * WORDS * ((c + GROUP - 1) / GROUP);
    decide_long<false>(points, rule, candidates + (i64)line * c, c, 0, own, room);
    finish(candidates, c, line, 0, words, degree, out);
}

// candidates (lines, c), c <= 64, those in lists (lines, degree) being neighbours of old, to lists (lines, degree).
__global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    adopt_lines(POINTS, LINES, const int* __restrict__ lists, int* __restrict__ out) {
    BEGIN
    const u64 kept = decide<true>(points, rule, candidates + (i64)line * c, c, lists + (i64)line * degree, room);
    finish(candidates, c, line, kept, 0, degree, out);
}

// The same for any c. words: 10 for each 64 candidates of a line.
__global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    adopt_long(POINTS, LINES, const int* __restrict__ lists, u64* __restrict__ words, int* __restrict__ out) {
    BEGIN
    u64* own = words + (i64)line * WORDS * ((c + GROUP - 1) / GROUP);
    decide_long<true>(points, rule, candidates + (i64)line * c, c, lists + (i64)line * degree, own, room);
    finish(candidates, c, line, 0, words, degree, out);
}
}
