// Products of codes by a warpgroup, four warps: wgmma, which compute capability 9.0 alone has (sm_90a), and the same where
// there are none. Both matrices lie in shared memory, 128 bytes a row; 16 bytes of row r are at place (byte / 16) ^ (r % 8).
#pragma once
#include "common.cuh"

// Where a matrix lies, as the instruction takes it: address / 16; groups of eight rows are 1,024 bytes apart; swizzled by 128
// bytes, so that the matrix must begin at a multiple of 1,024 (PTX ISA, wgmma matrix descriptor; Triton writes the same bits).
__device__ __forceinline__ u64 matrix_at(const i8* rows) {
#ifdef __CUDA_ARCH__
    return ((u32)__cvta_generic_to_shared(rows) & 0x3ffff) >> 4 | (u64)(1024 / 16) << 32 | (u64)1 << 62;
#else
    return (u64)rows;
#endif
}

// What was written to shared memory is there for wgmma: to be called by who wrote it, before the barrier.
__device__ __forceinline__ void publish_to_warpgroups() {
#ifdef __CUDA_ARCH__
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#define SUM(j) "+r"(sums[j][0]), "+r"(sums[j][1]), "+r"(sums[j][2]), "+r"(sums[j][3])

#define STEP(kept)                                                                                                          \
    "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,"  \
    "%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"   \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, left, right, " kept ";"                              \
    "add.s64 left, left, 2; add.s64 right, right, 2;"  // 32 bytes on

// sums (+)= a b^T for a of 64 rows and b of 128, 128 bytes each. Warp w of the group, lane 4 r + c has in sums[j] the products
// of rows (16 w + r, 8 j + 2 c), (.., 8 j + 2 c + 1), (16 w + r + 8, 8 j + 2 c), (.., 8 j + 2 c + 1).
__device__ __forceinline__ void multiply_64x128(const i8* a, const i8* b, bool fresh, int (&sums)[16][4]) {
#ifdef __CUDA_ARCH__
    // All in one: between two of these the compiler would wait.
    asm volatile(
        "{.reg .pred kept; .reg .b64 left, right; setp.ne.b32 kept, %66, 0; mov.b64 left, %64; mov.b64 right, %65;"
        "wgmma.fence.sync.aligned;" STEP("kept") STEP("1") STEP("1") STEP("1")
        "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;}"
        : SUM(0), SUM(1), SUM(2), SUM(3), SUM(4), SUM(5), SUM(6), SUM(7), SUM(8), SUM(9), SUM(10), SUM(11), SUM(12), SUM(13),
          SUM(14), SUM(15)
        : "l"(matrix_at(a)), "l"(matrix_at(b)), "r"((int)!fresh)
        : "memory");
#else  // the same on a device without warpgroups, such as a simulated one
    int lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane / 4, column = lane % 4 * 2;
    for (int j = 0; j < 16; j++)
        for (int e = 0; e < 4; e++) {
            int own = row + e / 2 * 8, other = 8 * j + column + e % 2, sum = fresh ? 0 : sums[j][e];
            for (int byte = 0; byte < 128; byte += 16)
                sum = dot16(*(const int4*)(a + own * 128 + (byte ^ own % 8 * 16)),
                            *(const int4*)(b + other * 128 + (byte ^ other % 8 * 16)), sum);
            sums[j][e] = sum;
        }
#endif
}
