// lengths and encode: from user vectors to int8 codes, their norms and their squared errors (contract.py, codec.py).
//
// lengths       a team of eight lanes a row (rows.cuh). 4 bytes and 3 float64 operations a value of float32: memory.
// encode        `group` threads a row, a block of 256 threads for 256 / group rows, which lie in shared memory as float64 from
//               the load to the sum of errors: (1) values, divided, less the offset; (2) the rotation, two steps of a
//               butterfly at a time in four registers, as blocks are powers of four; (3) codes, four of them a word, and the
//               squares of their errors in place; (4) eight threads a row add these up, lane by lane, as the contract's order
//               leaves no other way. Rows too long for shared memory go through global (SCRATCH), a block a row.
// Shared memory. Value j lies at j ^ 5 (j / 16 % 4): threads four, sixteen or one value apart all meet different banks, so the
//               butterflies of 1, 4, 16, ... and the reads of four codes are all free of conflicts.
// Codes. y / scale is needed to half a unit only: a product with 1 / scale, and the quotient where that is within 2^-40 of a
//               half. Adding 1.5 * 2^52 rounds to even and leaves the integer in the low bits.
// Cost, for a value of float32: 5 bytes; 11 float64 operations, some 12 more to divide by the length, 20 more to rotate 256
//               at a time. H100: 5 bytes take 1.5 ps, 11 operations at 64 a cycle and SM 0.75 ps: memory; rotated, 16 bytes
//               of shared memory for every two steps, 0.5 ps each time, take 4 ps: that. Rows that come from the host: 80 ps.
// Peer: the fast transform of HadaCore (arXiv 2412.08832) uses tensor cores in 16 bits; the contract wants float64 steps.
#include "rows.cuh"

#ifndef SCRATCH
#define SCRATCH 0
#endif

#define BLOCK 256
#define CODE_ALIGN 32
#define NEARLY_HALF (0.5 - 0x1p-40)
#define ROUNDER 0x1.8p52

extern "C" __global__ void __launch_bounds__(BLOCK) lengths(
    const Stored* __restrict__ rows, int n, int dim, int whole, double* out
) {
    const i64 row = (i64)blockIdx.x * (BLOCK / TEAM) + threadIdx.x / TEAM;
    const double length = length_of(row < n ? rows + row * dim : nullptr, dim, whole);
    if (row < n && team_lane() == 0) out[row] = length;
}

// A row while it is worked on: `count` values (none if there is no row), by the threads t = 0 .. group - 1.
struct Row {
    double* y;
    int count, t, group;
};

// One pass of the rotation: its blocks follow each other from `first` on.
struct Pass {
    const i8* signs;
    int first, blocks, size;
    double shrink;
};

// Where value j of a row lies.
__device__ __forceinline__ int place(int j) { return j ^ (j >> 4 & 3) * 5; }

// Values of a row: divided by its length, less the offset, with the signs of a pass.
__device__ __forceinline__ void fetch(
    const Row& row, const Stored* __restrict__ from, int dim, bool whole, bool divide, double length,
    const float* __restrict__ offset, const i8* __restrict__ signs
) {
#pragma unroll 4
    for (int first = row.t * VALUES; first < row.count; first += row.group * VALUES) {
        const u32 word = word_of(from, first, dim, whole);
#pragma unroll
        for (int i = 0; i < VALUES; i++) {
            const int j = first + i;
            if (j >= dim) break;
            double value = value_of(word >> i * BITS);
            if (divide) value = __ddiv_rn(value, length);
            value = __dsub_rn(value, (double)offset[j]);
            row.y[place(j)] = signs ? __dmul_rn(value, (double)signs[j]) : value;
        }
    }
}

// The butterflies of a pass, two steps at a time. Begins and ends with a barrier.
__device__ __forceinline__ void turn(const Row& row, const Pass& pass) {
    const int quads = row.count ? pass.blocks * (pass.size / 4) : 0;
    for (int step = 1; step < pass.size; step *= 4) {
        __syncthreads();
        for (int quad = row.t; quad < quads; quad += row.group) {
            const int low = pass.first + 4 * quad - 3 * (quad & (step - 1));
            double* at[4];
#pragma unroll
            for (int i = 0; i < 4; i++) at[i] = row.y + place(low + i * step);
            const double a = *at[0], b = *at[1], c = *at[2], d = *at[3];
            const double ab = __dadd_rn(a, b), ba = __dsub_rn(a, b), cd = __dadd_rn(c, d), dc = __dsub_rn(c, d);
            *at[0] = __dadd_rn(ab, cd);
            *at[1] = __dadd_rn(ba, dc);
            *at[2] = __dsub_rn(ab, cd);
            *at[3] = __dsub_rn(ba, dc);
        }
    }
    __syncthreads();
}

// Value j after the pass: those of its blocks shrink.
__device__ __forceinline__ double shrunk(const Pass& pass, double value, int j) {
    return j >= pass.first && j < pass.first + pass.blocks * pass.size ? __dmul_rn(value, pass.shrink) : value;
}

// The code of y; y becomes the square of its error.
__device__ __forceinline__ int code_of(double& y, double scale, double inverse) {
    double units = fmin(fmax(__dmul_rn(y, inverse), -128.0), 127.0);
    if (fabs(__dsub_rn(units, __dsub_rn(__dadd_rn(units, ROUNDER), ROUNDER))) > NEARLY_HALF)
        units = fmin(fmax(__ddiv_rn(y, scale), -128.0), 127.0);
    const double shifted = __dadd_rn(units, ROUNDER);
    const double error = __dsub_rn(y, __dmul_rn(scale, __dsub_rn(shifted, ROUNDER)));
    y = __dmul_rn(error, error);
    return (int)(u32)__double_as_longlong(shifted);
}

// Codes of a row, 32 bits at a time, and squares of errors in place of its values; gives a thread's part of the norm.
__device__ __forceinline__ int write_codes(const Row& row, const Pass& last, double scale, int words, u32* codes) {
    const double inverse = __ddiv_rn(1.0, scale);
    int norm = 0;
    for (int w = row.t; w < words && row.count; w += row.group) {
        u32 word = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int j = 4 * w + i;
            if (j >= row.count) break;
            double value = shrunk(last, row.y[place(j)], j);
            const int code = code_of(value, scale, inverse);
            row.y[place(j)] = value;
            norm += code * code;
            word |= ((u32)code & 0xffu) << 8 * i;
        }
        codes[w] = word;
    }
    return norm;
}

extern "C" __global__ void __launch_bounds__(BLOCK, 3) encode(
    const Stored* __restrict__ rows, int n, int dim, int whole, int group, int room, const double* __restrict__ lengths,
    const float* __restrict__ offset, const i8* __restrict__ signs, int size, double shrink, int first0, int blocks0,
    int first1, int blocks1, const double* __restrict__ scales, int own_scales, double* scratch, u32* codes, int* norms,
    double* errors
) {
#if SCRATCH
    double* const values = scratch + (i64)blockIdx.x * room;
#else
    extern __shared__ double values[];
#endif
    __shared__ int norm_of[BLOCK / TEAM];
    const int together = BLOCK / group, own = threadIdx.x / group;
    const int words = (dim + CODE_ALIGN - 1) / CODE_ALIGN * (CODE_ALIGN / 4);
    const Pass first = {signs, first0, blocks0, size, shrink}, second = {signs + dim, first1, blocks1, size, shrink};
    for (i64 start = (i64)blockIdx.x * together; start < n; start += (i64)gridDim.x * together) {
        const i64 i = start + own;
        const Row row = {values + own * room, i < n ? dim : 0, (int)threadIdx.x % group, group};
        if (row.t == 0) norm_of[own] = 0;
        fetch(row, rows + i * dim, dim, whole, lengths, lengths && i < n ? lengths[i] : 1.0, offset, signs);
        if (size) {
            turn(row, first);
            for (int j = row.t; j < row.count; j += group)
                row.y[place(j)] = __dmul_rn(shrunk(first, row.y[place(j)], j), (double)second.signs[j]);
            turn(row, second);
        }
        __syncthreads();
        int norm = write_codes(row, second, i < n ? scales[own_scales ? i : 0] : 1.0, words, codes + i * words);
        for (int apart = min(group, 32) / 2; apart; apart /= 2) norm += __shfl_xor_sync(FULL_WARP, norm, apart);
        if (row.t % 32 == 0) atomicAdd(&norm_of[own], norm);
        __syncthreads();
        double sum = 0.0;
        if (row.t < TEAM)
#pragma unroll 8
            for (int j = row.t; j < row.count; j += TEAM) sum = __dadd_rn(sum, row.y[place(j)]);
        sum = folded(sum);
        if (row.t == 0 && i < n) {
            errors[i] = sum;
            norms[i] = norm_of[own];
        }
        __syncthreads();  // the next row takes their place
    }
}
