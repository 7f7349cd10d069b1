// Products of codes by integer tensor cores, and the same where there are none.
#pragma once
#include "common.cuh"

// sums += a b^T for a of 16 rows and b of 8, 32 bytes each. Lane 4 r + c has words c and 4 + c of rows r and r + 8 of a and of
// row r of b; and the sums (r, 2 c), (r, 2 c + 1), (r + 8, 2 c), (r + 8, 2 c + 1).
__device__ __forceinline__ void multiply_16x8(const int (&a)[4], const int (&b)[2], int (&sums)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDA_ARCH__)
#pragma unroll
    for (int i = 0; i < 4; i++) {  // rows r and r + 8, bytes below 16 and the others
        asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
            : "+r"(sums[i % 2 * 2]), "+r"(sums[i % 2 * 2 + 1])
            : "r"(a[i]), "r"(b[i / 2]));
    }
#else  // the same on a device without tensor cores, such as a simulated one
    int row = threadIdx.x % 32 / 4 * 4, column = threadIdx.x % 4 * 8;
    for (int c = 0; c < 4; c++) {
        for (int half = 0; half < 2; half++) {
            int low = __shfl_sync(FULL_WARP, a[half * 2], row + c), high = __shfl_sync(FULL_WARP, a[half * 2 + 1], row + c);
            int even = __shfl_sync(FULL_WARP, b[half], column + c), odd = __shfl_sync(FULL_WARP, b[half], column + 4 + c);
            sums[0] = __dp4a(low, even, sums[0]);
            sums[1] = __dp4a(low, odd, sums[1]);
            sums[2] = __dp4a(high, even, sums[2]);
            sums[3] = __dp4a(high, odd, sums[3]);
        }
    }
#endif
}
