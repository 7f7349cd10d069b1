// lengths and encode: rows of users to their lengths, and to int8 codes.
//
// lengths   eight threads a row, a lane of the contract's sum each: neighbours in a row are read together, 32 bytes of float32
//           at a time. d bytes times the size of a value, 2 d float64 operations a row. Limiter: memory.
// encode    a warp a row. The row lies as doubles in shared memory, or, of many dimensions, in global: divided by its length,
//           moved by the offset, turned (two passes of signs and log2(size) steps of a + b, a - b), then rounded to codes; what
//           is left is kept in its place for the error, whose eight lanes are summed by eight threads in the contract's order.
//           About 2 d log2(d) float64 operations a row. Limiter: memory on data centre cards, float64 on others.
// No fused multiply-add anywhere: the bits are those of every other backend.
#include "rows.cuh"

extern "C" __global__ void __launch_bounds__(256) lengths(const Stored* __restrict__ data, i64 n, int dim, double* out) {
    const i64 row = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    const int lane = threadIdx.x % LANES;
    const Stored* values = data + (row < n ? row : n - 1) * dim;
    double sum = 0.0;
    for (int j = lane; j < dim; j += LANES) sum = add_square(sum, value_of(values[j]));
    sum = lane_tree(sum);
    if (lane == 0 && row < n) out[row] = __dsqrt_rn(sum);
}

struct Pass {
    const i8* signs;
    int first, blocks;
};

// One pass of codec.rotate by a warp.
__device__ __forceinline__ void rotate(double* y, int dim, int size, double shrink, const Pass& pass) {
    const int lane = threadIdx.x % 32;
    for (int j = lane; j < dim; j += 32) y[j] = __dmul_rn(y[j], pass.signs[j]);
    __syncwarp();
    for (int step = 1; step < size; step *= 2) {
        for (int pair = lane; pair < pass.blocks * (size / 2); pair += 32) {
            double* low = y + pass.first + 2 * pair - (pair & (step - 1));
            const double a = low[0], b = low[step];
            low[0] = __dadd_rn(a, b);
            low[step] = __dsub_rn(a, b);
        }
        __syncwarp();
    }
    for (int j = lane; j < pass.blocks * size; j += 32) y[pass.first + j] = __dmul_rn(y[pass.first + j], shrink);
    __syncwarp();
}

extern "C" __global__ void __launch_bounds__(256) encode(
    const Stored* __restrict__ data, i64 n, int dim, const double* __restrict__ row_lengths, const float* __restrict__ offset,
    const i8* __restrict__ signs, int size, double shrink, int first0, int blocks0, int first1, int blocks1,
    const double* __restrict__ scales, int own_scales, double* scratch, int in_scratch, int code_dim,
    i8* codes, int* norms, double* errors
) {
    extern __shared__ double shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const i64 row = (i64)blockIdx.x * (blockDim.x / 32) + warp;
    if (row >= n) return;  // the whole warp: no barrier of the block follows
    double* y = in_scratch ? scratch + row * dim : shared + warp * dim;
    const Stored* values = data + row * dim;
    for (int j = lane; j < dim; j += 32) {
        double value = value_of(values[j]);
        if (row_lengths) value = __ddiv_rn(value, row_lengths[row]);
        y[j] = __dsub_rn(value, offset[j]);
    }
    __syncwarp();
    if (size) {
        rotate(y, dim, size, shrink, Pass{signs, first0, blocks0});
        rotate(y, dim, size, shrink, Pass{signs + dim, first1, blocks1});
    }
    const double scale = scales[own_scales ? row : 0];
    i8* code = codes + row * code_dim;
    int norm = 0;
    for (int j = lane; j < code_dim; j += 32) {
        double rounded = 0.0;
        if (j < dim) {
            rounded = fmin(fmax(rint(__ddiv_rn(y[j], scale)), -128.0), 127.0);
            y[j] = __dsub_rn(y[j], __dmul_rn(scale, rounded));
        }
        code[j] = (i8)rounded;
        norm += (int)rounded * (int)rounded;
    }
    __syncwarp();
    double sum = 0.0;
    for (int j = lane % LANES; j < dim; j += LANES) sum = add_square(sum, y[j]);  // four times the same, by the four teams
    sum = lane_tree(sum);
    for (int apart = 16; apart; apart >>= 1) norm += __shfl_xor_sync(FULL_WARP, norm, apart);
    if (lane == 0) {
        norms[row] = norm;
        errors[row] = sum;
    }
}
