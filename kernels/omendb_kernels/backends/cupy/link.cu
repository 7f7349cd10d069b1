// score: the keys of given pairs. merge.cu makes sorted lines of them, and all of link.
//
// A team of lanes has four pairs of a line: it reads 16 bytes a lane of the row's code and of the four others', whose loads
// are on their way together, multiplies with dp4a and adds up. Eight lanes read 128 bytes; codes of 32 and 64 bytes have
// teams of two and four.
//
// A pair costs D + 4 bytes from anywhere, D / 4 dp4a, and 16 bytes for its key, written and read by the merge. A million lines
// of 64 ids, D = 128: 9.5 GB, 4 ms of an H100's HBM at 70 %, which limits it; the dp4a take 0.2 ms. Teams of lanes: CAGRA
// (arXiv 2308.15136).
#include "common.cuh"

#define BLOCK 256
#define PAIRS 4  // of a team

// keys[line][i] = (D(row, id), id) for the i-th id of each line, NO_KEY for -1 and the row itself. team: lanes, a power of two.
extern "C" __global__ void __launch_bounds__(BLOCK) line_keys(
    const i8* __restrict__ codes, const int* __restrict__ norms, const int* __restrict__ wide, int dim,
    const int* __restrict__ rows, const int* __restrict__ ids, int lines, int most, int team, i64* __restrict__ keys
) {
    int groups = (most + PAIRS - 1) / PAIRS, lane = threadIdx.x & (team - 1);
    u32 task = (u32)(((i64)blockIdx.x * BLOCK + threadIdx.x) / team);
    int line = task / groups, first = task % groups * PAIRS, row = line < lines ? rows[line] : 0;
    int others[PAIRS], sums[PAIRS] = {};
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        others[i] = line < lines && first + i < most ? ids[(i64)line * most + first + i] : -1;
        if (others[i] == row) others[i] = -1;
    }
    const i8* own = codes + (i64)row * dim;
    for (int byte = lane * 16; byte < dim; byte += team * 16) {
        int4 part = make_int4(0, 0, 0, 0), parts[PAIRS];
        if (line < lines) part = *(const int4*)(own + byte);
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            parts[i] = make_int4(0, 0, 0, 0);
            if (others[i] >= 0) parts[i] = *(const int4*)(codes + (i64)others[i] * dim + byte);
        }
#pragma unroll
        for (int i = 0; i < PAIRS; i++) sums[i] = dot16(part, parts[i], sums[i]);
    }
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        for (int step = team / 2; step > 0; step /= 2) sums[i] += __shfl_xor_sync(FULL_WARP, sums[i], step);
        if (line >= lines || first + i >= most || lane != i % team) continue;
        i64 key = NO_KEY;
        if (others[i] >= 0) {
            u32 dot = (u32)sums[i] + (wide ? (u32)wide[row] * (u32)wide[others[i]] : 0);
            key = pack_key((int)((u32)norms[row] + (u32)norms[others[i]] - 2u * dot), others[i]);
        }
        keys[(i64)line * most + first + i] = key;
    }
}
