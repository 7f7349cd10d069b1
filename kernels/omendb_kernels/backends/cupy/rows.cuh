// Rows of user vectors as the arithmetic of contract.py sees them: float64 values, and the eight lanes of its sum.
//
// A team of eight threads reads a row: lane l adds the terms l, l + 8, l + 16, ... in that order. All kinds come as words of
// 32 bits, lane after lane, a sector of 32 bytes of the row at a time. A word holds VALUES neighbours, terms of other lanes:
// lane l has its value from the lane that loaded it, by one shuffle. STEPS terms a lane are loaded before any is added, so that
// a thread has 8 to 32 bytes of each of its rows on the way.
// Values widen by the pipe that has most room: the bits of 16-bit floats in float64's places times a power of two (exact, of
// subnormals too), those of integers behind the exponent of 2^52. A conversion is taken for four times as slow on an H100.
#pragma once
#include "common.cuh"

#define FLOAT32 0  // the kinds, in the order of arrays.VECTOR_KINDS
#define FLOAT16 1
#define BFLOAT16 2
#define INT8 3
#define UINT8 4
#ifndef KIND
#define KIND FLOAT32
#endif

#define L2 0  // metrics.py
#define COSINE 1
#define IP 2

#if KIND == FLOAT32
typedef float Stored;
#elif KIND == INT8
typedef i8 Stored;
#elif KIND == UINT8
typedef unsigned char Stored;
#else
typedef unsigned short Stored;
#endif

#define TEAM 8                            // lanes of a sum
#define STEPS 8                           // terms that a lane loads at a time
#define VALUES (4 / (int)sizeof(Stored))  // of a word
#define BITS (32 / VALUES)                // of a value
#define WORDS (STEPS / VALUES)            // that a lane loads at a time
#define SPAN (TEAM * STEPS)               // values of a row that a team loads at a time
#define PAIR 2                            // rows that a team compares with a query at the same time

__device__ __forceinline__ int team_lane() { return threadIdx.x % TEAM; }

// The value in the low bits, whatever lies above them.
__device__ __forceinline__ double value_of(u32 bits) {
#if KIND == FLOAT32
    return (double)__int_as_float((int)bits);
#elif KIND == FLOAT16
    const u32 high = (bits & 0x7fffu) << 10 | (bits & 0x8000u) << 16;
    return __dmul_rn(__longlong_as_double((i64)((u64)high << 32)), 0x1p1008);
#elif KIND == BFLOAT16
    const u32 high = (bits & 0x7fffu) << 13 | (bits & 0x8000u) << 16;
    return __dmul_rn(__longlong_as_double((i64)((u64)high << 32)), 0x1p896);
#elif KIND == INT8
    return __dsub_rn(__longlong_as_double(0x4330000000000000ll | ((bits & 0xffu) ^ 0x80u)), 0x1p52 + 128.0);
#else
    return __dsub_rn(__longlong_as_double(0x4330000000000000ll | (bits & 0xffu)), 0x1p52);
#endif
}

// The values first .. first + VALUES - 1 of a row, zeros from dim on. whole: every row begins and ends at a whole word.
__device__ __forceinline__ u32 word_of(const Stored* __restrict__ row, int first, int dim, bool whole) {
    if (first >= dim) return 0;
    if (VALUES == 1 || whole) return *(const u32*)(row + first);
    u32 word = 0;
#pragma unroll
    for (int i = 0; i < VALUES; i++)
        if (first + i < dim) word |= ((u32)row[first + i] & 0xffffffffu >> (32 - BITS)) << i * BITS;
    return word;
}

// What a lane loads of the values first .. first + SPAN - 1 of a row; zeros where there is no row.
__device__ __forceinline__ void load(const Stored* __restrict__ row, int first, int dim, bool whole, u32 (&words)[WORDS]) {
#pragma unroll
    for (int w = 0; w < WORDS; w++)
        words[w] = row ? word_of(row, first + (w * TEAM + team_lane()) * VALUES, dim, whole) : 0;
}

// A lane's own value number first + step * TEAM + lane of what its team loaded. All of the warp take part.
__device__ __forceinline__ double own_value(const u32 (&words)[WORDS], int step) {
    u32 word = words[step / VALUES];
    if (VALUES > 1) {
        word = __shfl_sync(FULL_WARP, word, step % VALUES * (TEAM / VALUES) + team_lane() / VALUES, TEAM);
        word >>= team_lane() % VALUES * BITS;
    }
    return value_of(word);
}

// The lane sum, in every lane, of what the team's lanes have added up.
__device__ __forceinline__ double folded(double sum) {
#pragma unroll
    for (int apart = TEAM / 2; apart; apart /= 2) sum = __dadd_rn(sum, __shfl_xor_sync(FULL_WARP, sum, apart));
    return sum;
}

// The length of the team's row; 0 where there is none.
__device__ __forceinline__ double length_of(const Stored* __restrict__ row, int dim, bool whole) {
    double sum = 0.0;
    for (int first = 0; first < dim; first += SPAN) {
        u32 words[WORDS];
        load(row, first, dim, whole, words);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            const double x = own_value(words, step);
            sum = __dadd_rn(sum, __dmul_rn(x, x));
        }
    }
    return __dsqrt_rn(folded(sum));
}

// float32, a zero to +0.0. sum: of squared differences, or of products; lengths are read by cosine only.
__device__ __forceinline__ float final_distance(int metric, double sum, double query_length, double length) {
    double distance = sum;
    if (metric == IP) distance = __dsub_rn(0.0, sum);
    if (metric == COSINE) distance = fmax(0.0, __dsub_rn(1.0, __ddiv_rn(sum, __dmul_rn(query_length, length))));
    return __fadd_rn(__double2float_rn(distance), 0.0f);
}

// The sums of one lane: of the terms with two rows, and of squares where lengths are computed.
struct Sums {
    double pair[PAIR], squares[PAIR], query_squares;
};

// The next terms. METRIC: IP stands for plain products. SQUARES: those of the rows too.
template <int METRIC, bool SQUARES>
__device__ __forceinline__ void add_terms(const double (&query)[STEPS], const u32 (&words)[PAIR][WORDS], Sums& sums) {
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const double q = query[step];
        if (METRIC == COSINE) sums.query_squares = __dadd_rn(sums.query_squares, __dmul_rn(q, q));
#pragma unroll
        for (int r = 0; r < PAIR; r++) {
            const double x = own_value(words[r], step), gap = METRIC == L2 ? __dsub_rn(q, x) : 0.0;
            sums.pair[r] = __dadd_rn(sums.pair[r], METRIC == L2 ? __dmul_rn(gap, gap) : __dmul_rn(q, x));
            if (SQUARES) sums.squares[r] = __dadd_rn(sums.squares[r], __dmul_rn(x, x));
        }
    }
}

// What a lane is told of rows[lane % PAIR] (null: none, and any numbers): the sum of terms with the query, and the sums of
// squares for cosine. Those of the query are added up along the way: that takes no load, and teams would wait for them else.
struct Compared {
    double sum, squares, query_squares;
};
__device__ __forceinline__ Compared compare(
    const float* __restrict__ query, const Stored* const (&rows)[PAIR], int dim, bool whole, int metric, bool squares
) {
    Sums sums = {};
    for (int first = 0; first < dim; first += SPAN) {
        u32 words[PAIR][WORDS];
        double own[STEPS];
#pragma unroll
        for (int r = 0; r < PAIR; r++) load(rows[r], first, dim, whole, words[r]);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            const int j = first + step * TEAM + team_lane();
            own[step] = j < dim ? (double)query[j] : 0.0;
        }
        if (metric == L2) add_terms<L2, false>(own, words, sums);
        else if (metric == IP) add_terms<IP, false>(own, words, sums);
        else if (squares) add_terms<COSINE, true>(own, words, sums);
        else add_terms<COSINE, false>(own, words, sums);
    }
    const double sum0 = folded(sums.pair[0]), sum1 = folded(sums.pair[1]);
    Compared found = {team_lane() % PAIR ? sum1 : sum0, 0.0, 0.0};
    if (metric == COSINE) {
        const double squares0 = folded(sums.squares[0]), squares1 = folded(sums.squares[1]);
        found.squares = team_lane() % PAIR ? squares1 : squares0;
        found.query_squares = folded(sums.query_squares);
    }
    return found;
}
