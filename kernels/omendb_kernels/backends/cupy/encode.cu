// lengths and encode: from user vectors to int8 codes, their norms and their squared errors (contract.py, codec.py).
//
// lengths       a team of eight lanes a row (rows.cuh). 4 bytes and 3 float64 operations a value of float32.
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
//               at a time. H100: 5 bytes last 1.5 ps, 11 operations at 64 a cycle and SM 0.75 ps: memory; rotated, 0.5 cycles of
//               shared memory a step of four take 2.5 ps. Rows that come from the host take 80 ps.
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

// Where value j of a row lies.
__device__ __forceinline__ int place(int j) { return j ^ (j >> 4 & 3) * 5; }

// Of one pass of the rotation: its blocks follow each other from `first` on.
struct Pass {
    int first, blocks;
};

// The butterflies of one pass, two steps at a time. t: the thread's number of `group` that share the row; none where !there.
__device__ __forceinline__ void turn(double* y, const Pass& pass, int size, int t, int group, bool there) {
    const int quads = there ? pass.blocks * (size / 4) : 0;
    for (int step = 1; step < size; step *= 4) {
        __syncthreads();
        for (int quad = t; quad < quads; quad += group) {
            const int low = pass.first + 4 * quad - 3 * (quad & (step - 1));
            double* at[4];
#pragma unroll
            for (int i = 0; i < 4; i++) at[i] = y + place(low + i * step);
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

// Whether value j was turned by this pass.
__device__ __forceinline__ bool turned(const Pass& pass, int size, int j) {
    return j >= pass.first && j < pass.first + pass.blocks * size;
}

// The code of y, and the square of its error into y.
__device__ __forceinline__ int code_of(double& y, double scale, double inverse) {
    double units = fmin(fmax(__dmul_rn(y, inverse), -128.0), 127.0);
    if (fabs(__dsub_rn(units, __dsub_rn(__dadd_rn(units, ROUNDER), ROUNDER))) > NEARLY_HALF)
        units = fmin(fmax(__ddiv_rn(y, scale), -128.0), 127.0);
    const double shifted = __dadd_rn(units, ROUNDER);
    const double error = __dsub_rn(y, __dmul_rn(scale, __dsub_rn(shifted, ROUNDER)));
    y = __dmul_rn(error, error);
    return (int)(u32)__double_as_longlong(shifted);
}

// Values of a row into y: divided by its length, less the offset, with the signs of the first pass.
__device__ __forceinline__ void fetch(
    const Stored* __restrict__ row, int count, int dim, bool whole, bool divide, double length,
    const float* __restrict__ offset, const i8* __restrict__ signs, double* y, int t, int group
) {
#pragma unroll 4
    for (int first = t * VALUES; first < count; first += group * VALUES) {
        const u32 word = word_of(row, first, dim, whole);
#pragma unroll
        for (int i = 0; i < VALUES; i++) {
            const int j = first + i;
            if (j >= count) break;
            double value = value_of(word >> i * BITS);
            if (divide) value = __ddiv_rn(value, length);
            value = __dsub_rn(value, (double)offset[j]);
            y[place(j)] = signs ? __dmul_rn(value, (double)signs[j]) : value;
        }
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK) encode(
    const Stored* __restrict__ rows, int n, int dim, int whole, int group, int room, const double* __restrict__ lengths,
    const float* __restrict__ offset, const i8* __restrict__ signs, int size, double shrink, int first0, int blocks0,
    int first1, int blocks1, const double* __restrict__ scales, int own_scales, double* scratch, i8* codes, int* norms,
    double* errors
) {
#if SCRATCH
    double* const values = scratch + (i64)blockIdx.x * room;
#else
    extern __shared__ double values[];
#endif
    __shared__ int norm_of[BLOCK / TEAM];
    const int together = BLOCK / group, own = threadIdx.x / group, t = threadIdx.x % group;
    const int code_words = (dim + CODE_ALIGN - 1) / CODE_ALIGN * (CODE_ALIGN / 4);
    const Pass passes[2] = {{first0, blocks0}, {first1, blocks1}};
    double* const y = values + own * room;
    for (i64 first = (i64)blockIdx.x * together; first < n; first += (i64)gridDim.x * together) {
        const i64 row = first + own;
        const bool there = row < n;
        const int count = there ? dim : 0;
        const double scale = there ? scales[own_scales ? row : 0] : 1.0, inverse = __ddiv_rn(1.0, scale);
        if (t == 0) norm_of[own] = 0;
        fetch(rows + row * dim, count, dim, whole, lengths, lengths && there ? lengths[row] : 1.0, offset, signs, y, t, group);
        if (size) {
            turn(y, passes[0], size, t, group, there);
            for (int j = t; j < count; j += group) {
                double value = y[place(j)];
                if (turned(passes[0], size, j)) value = __dmul_rn(value, shrink);
                y[place(j)] = __dmul_rn(value, (double)signs[dim + j]);
            }
            turn(y, passes[1], size, t, group, there);
        }
        __syncthreads();
        int norm = 0;
        for (int w = t; there && w < code_words; w += group) {
            u32 word = 0;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int j = 4 * w + i;
                if (j >= dim) break;
                double value = y[place(j)];
                if (size && turned(passes[1], size, j)) value = __dmul_rn(value, shrink);
                const int code = code_of(value, scale, inverse);
                y[place(j)] = value;
                norm += code * code;
                word |= ((u32)code & 0xffu) << 8 * i;
            }
            ((u32*)codes)[row * code_words + w] = word;
        }
        for (int apart = min(group, 32) / 2; apart; apart /= 2) norm += __shfl_xor_sync(FULL_WARP, norm, apart);
        if (t % 32 == 0 && there) atomicAdd(&norm_of[own], norm);
        __syncthreads();
        double sum = 0.0;
        if (t < TEAM) {
#pragma unroll 8
            for (int j = t; j < count; j += TEAM) sum = __dadd_rn(sum, y[place(j)]);
        }
        sum = folded(sum);
        if (t == 0 && there) {
            errors[row] = sum;
            norms[row] = norm_of[own];
        }
        __syncthreads();  // the next row takes their place
    }
}
