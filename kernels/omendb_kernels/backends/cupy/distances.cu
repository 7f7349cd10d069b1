// pairwise, precision "exact": every distance by the contract's float64 arithmetic, bit for bit.
//
// Eight threads a point, a lane of the sum each; four queries at once, which lie in shared memory as doubles (or, of many
// dimensions, in global), so that a value of a point is read and widened once for four distances. A block: 32 points, 4 queries.
// Cost: 3 float64 operations and half of a shared load a dimension and pair. Limiter: float64 (H100 34 TFLOP/s; on consumer
// cards a sixty-fourth of float32: there the CPU may be as fast).
#include "rows.cuh"

#define QUERIES 4

extern "C" __global__ void __launch_bounds__(256) distances(
    const float* __restrict__ queries, i64 m, const Stored* __restrict__ points, i64 n, int dim, int metric,
    const double* __restrict__ query_lengths, const double* __restrict__ lengths, int staged, float* out, i64 line
) {
    extern __shared__ double shared[];
    const i64 first = (i64)blockIdx.y * QUERIES;
    const i64 point = (i64)blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
    const int lane = threadIdx.x % LANES;
    if (staged)
        for (int j = threadIdx.x; j < QUERIES * dim; j += blockDim.x)
            shared[j] = queries[min(first + j / dim, m - 1) * dim + j % dim];
    __syncthreads();
    const Stored* values = points + min(point, n - 1) * dim;
    double sums[QUERIES] = {0.0, 0.0, 0.0, 0.0};
    for (int j = lane; j < dim; j += LANES) {
        const double x = value_of(values[j]);
#pragma unroll
        for (int i = 0; i < QUERIES; i++) {
            const double query = staged ? shared[i * dim + j] : (double)queries[min(first + i, m - 1) * dim + j];
            sums[i] = metric == L2 ? add_square(sums[i], __dsub_rn(query, x)) : __dadd_rn(sums[i], __dmul_rn(query, x));
        }
    }
#pragma unroll
    for (int i = 0; i < QUERIES; i++) {
        const double sum = lane_tree(sums[i]);
        if (lane == i && point < n && first + i < m) {
            const double a = metric == COSINE ? query_lengths[first + i] : 1.0, b = metric == COSINE ? lengths[point] : 1.0;
            out[(first + i) * line + point] = distance_of(metric, sum, a, b);
        }
    }
}
