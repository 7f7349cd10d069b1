// Vectors of users as kernels read them, and the float64 arithmetic of contract.py: eight lanes a row, one thread a lane.
// Compiled with KIND, one of the VECTOR_KINDS: 0 float32, 1 float16, 2 bfloat16, 3 int8, 4 uint8. Values fit a double exactly.
#pragma once
#include "common.cuh"

#ifndef KIND
#define KIND 0
#endif

#define LANES 8
#define L2 0
#define COSINE 1
#define IP 2

#if KIND == 0
typedef float Stored;
#elif KIND == 1 || KIND == 2
typedef unsigned short Stored;
#elif KIND == 3
typedef i8 Stored;
#else
typedef unsigned char Stored;
#endif

__device__ __forceinline__ double value_of(Stored x) {
#if KIND == 1  // exponent and mantissa in the place of a float's, 2^112 too small; subnormal ones are right as well
    const double size = __dmul_rn(__int_as_float((x & 0x7fff) << 13), 0x1p112);
    return x & 0x8000 ? -size : size;
#elif KIND == 2
    return __int_as_float((int)x << 16);
#else
    return x;
#endif
}

// The sum of eight lanes' sums, in all of them: lanes 4, then 2, then 1 apart.
__device__ __forceinline__ double lane_tree(double lane) {
    lane = __dadd_rn(lane, __shfl_xor_sync(FULL_WARP, lane, 4));
    lane = __dadd_rn(lane, __shfl_xor_sync(FULL_WARP, lane, 2));
    return __dadd_rn(lane, __shfl_xor_sync(FULL_WARP, lane, 1));
}

__device__ __forceinline__ double add_square(double sum, double x) { return __dadd_rn(sum, __dmul_rn(x, x)); }

// The distance of contract.py as a float32 whose zero is +0. sum: of squared differences (l2) or of products.
__device__ __forceinline__ float distance_of(int metric, double sum, double query_length, double length) {
    double distance = sum;
    if (metric == COSINE) distance = fmax(__dsub_rn(1.0, __ddiv_rn(sum, __dmul_rn(query_length, length))), 0.0);
    if (metric == IP) distance = __dsub_rn(0.0, sum);
    return __fadd_rn(__double2float_rn(distance), 0.0f);
}

// float32 bits in the order of the numbers: keys.py `ordered`.
__device__ __forceinline__ int ordered_bits(float x) {
    const int bits = __float_as_int(x);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

__device__ __forceinline__ float float_of(int ordered) { return __int_as_float(ordered ^ ((ordered >> 31) & 0x7fffffff)); }
