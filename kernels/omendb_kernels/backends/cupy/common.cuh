// What every kernel file shares: keys, and the arithmetic of contract.py with no fused multiply-add.
#pragma once

typedef long long i64;
typedef unsigned long long u64;
typedef unsigned int u32;
typedef signed char i8;

#define FULL_WARP 0xffffffffu
#define NO_SCORE 0x7fffffff
#define NO_KEY 0x7fffffffffffffffll  // (INT32_MAX << 32) | 0xFFFFFFFF: contract.py

__device__ __forceinline__ i64 pack_key(int score, u32 id) { return ((i64)score << 32) | id; }
__device__ __forceinline__ int score_of(i64 key) { return (int)(key >> 32); }
__device__ __forceinline__ u32 id_of(i64 key) { return (u32)(key & 0xffffffffll); }

// Four products of int8 pairs added to `sum`: exact, as all sums of contract.py are.
__device__ __forceinline__ int dot16(int4 a, int4 b, int sum) {
    sum = __dp4a(a.x, b.x, sum);
    sum = __dp4a(a.y, b.y, sum);
    sum = __dp4a(a.z, b.z, sum);
    return __dp4a(a.w, b.w, sum);
}

// How many of the ascending values are below `value`.
template <class T>
__device__ __forceinline__ int count_below(const T* values, int count, i64 value) {
    int low = 0, high = count;
    while (low < high) {
        const int middle = low + ((high - low) >> 1);
        if (values[middle] < value) low = middle + 1;
        else high = middle;
    }
    return low;
}
