// seek: what a whole search of the graph needs between the ops. Little work each, one launch each, so that one query is quick.
//
// query_scales   ip: each query's own scale, a block a query (codec.query_scales). Rows are turned where they lie, in shared
//                memory or, of many dimensions, in global: log2(size) steps of adding and subtracting, twice; then a maximum.
// enter          the node of the router that is nearest to each query, a thread a query.
// candidates     a warp a query: the rows of a pool and of the further rows of its nodes, and lower bounds of their distances
//                (codec.lower_bounds, for one pair at a time) by which rerank may pass over most of them. With `counting` it
//                only tells how many further rows there are.
// Cost: 12 bytes written a row and 20 float64 operations. Limiter: none; launches.
#include "common.cuh"

#define COSINE 1
#define IP 2
#define EPS 0x1p-40  // codec.py
#define ROUNDING 0x1p-44

struct Turn {
    const i8* signs;  // of a pass
    int first, blocks;
};

__device__ __forceinline__ void rotate(double* values, int dim, int size, double shrink, const Turn& turn) {
    for (int i = threadIdx.x; i < dim; i += blockDim.x) values[i] = __dmul_rn(values[i], turn.signs[i]);
    for (int step = 1; step < size; step *= 2) {
        __syncthreads();
        for (int pair = threadIdx.x; pair < turn.blocks * (size / 2); pair += blockDim.x) {
            double* low = values + turn.first + 2 * pair - (pair & (step - 1));
            const double a = low[0], b = low[step];
            low[0] = __dadd_rn(a, b);
            low[step] = __dsub_rn(a, b);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < turn.blocks * size; i += blockDim.x)
        values[turn.first + i] = __dmul_rn(values[turn.first + i], shrink);
    __syncthreads();
}

// The largest of all threads' values, none negative.
__device__ __forceinline__ double block_max(double value, double* of_warps) {
    for (int apart = 16; apart; apart >>= 1) value = fmax(value, __shfl_xor_sync(FULL_WARP, value, apart));
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    for (int w = 0; w < blockDim.x / 32; w++) value = fmax(value, of_warps[w]);
    return value;
}

extern "C" __global__ void __launch_bounds__(128) query_scales(
    const float* __restrict__ queries, int dim, const i8* __restrict__ signs, int size, double shrink,
    int first0, int blocks0, int first1, int blocks1, int lossless, double* scratch, int in_scratch, double* scales
) {
    extern __shared__ double shared[];
    __shared__ double of_warps[4];
    const i64 q = blockIdx.x;
    double* values = in_scratch ? scratch + q * dim : shared;
    for (int i = threadIdx.x; i < dim; i += blockDim.x) values[i] = queries[q * dim + i];
    if (size) {  // each thread turns the signs of values that it wrote itself
        rotate(values, dim, size, shrink, Turn{signs, first0, blocks0});
        rotate(values, dim, size, shrink, Turn{signs + dim, first1, blocks1});
    }
    double peak = 0.0;
    bool whole = lossless;  // a code already
    for (int i = threadIdx.x; i < dim; i += blockDim.x) {
        peak = fmax(peak, fabs(values[i]));
        whole &= values[i] == rint(values[i]) && values[i] >= -128.0 && values[i] <= 127.0;
    }
    peak = block_max(peak, of_warps);
    whole = __syncthreads_and(whole);
    if (threadIdx.x) return;
    const double wanted = __ddiv_rn(peak, 127.0);
    float scale = __double2float_rn(wanted);
    if (scale < wanted) scale = __int_as_float(__float_as_int(scale) + 1);  // rounded up
    scales[q] = whole ? 1.0 : fmax((double)scale, 0x1p-126);
}

extern "C" __global__ void __launch_bounds__(256) enter(
    const i64* __restrict__ nearest, const int* __restrict__ router, int m, int* entries
) {
    const int q = blockIdx.x * blockDim.x + threadIdx.x;
    if (q < m) entries[q] = router[id_of(nearest[q])];
}

struct Bounds {
    int metric;
    double scale, own_scale, off, length, max_length;  // off: the query's residual
};

__device__ __forceinline__ double lower_bound(const Bounds& b, int score, double residual) {
    if (b.metric == IP) {
        const double estimate = __dmul_rn(__dmul_rn(b.own_scale, __dmul_rn(b.scale, score)), 0.5);
        const double slack = __dadd_rn(__dmul_rn(__dadd_rn(b.length, b.off), residual), __dmul_rn(b.off, b.max_length));
        const double rounding = __dmul_rn(EPS, __dadd_rn(fabs(estimate), __dmul_rn(b.length, b.max_length)));
        return __dsub_rn(__dsub_rn(estimate, __dmul_rn(slack, 1.0 + EPS)), rounding);
    }
    const double apart = __dmul_rn(__dmul_rn(b.scale, __dsqrt_rn(score)), 1.0 - EPS);
    const double near = fmax(__dsub_rn(apart, __dmul_rn(__dadd_rn(b.off, residual), 1.0 + EPS)), 0.0);
    const double squared = __dmul_rn(__dmul_rn(near, near), 1.0 - EPS);
    return b.metric == COSINE ? fmax(__dsub_rn(__dmul_rn(squared, 0.5), EPS), 0.0) : squared;
}

extern "C" __global__ void __launch_bounds__(128) candidates(
    const i64* __restrict__ pools, int m, int beam, const int* __restrict__ heads, const int* __restrict__ twins, int pairs,
    int most, int counting, const float* __restrict__ residuals, const double* __restrict__ errors,
    const double* __restrict__ lengths, const double* __restrict__ scales, int own_scales, int metric, double scale,
    double root_dim, double furthest, double max_length, int width, int* rows, double* lower, int* found
) {
    const int lane = threadIdx.x & 31;
    const i64 q = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (q >= m) return;
    const i64* pool = pools + q * beam;
    int* own_rows = rows + q * width;
    double* own_lower = lower + q * width;
    const double length = lengths[q], own_scale = scales[own_scales ? q : 0], coded = metric == COSINE ? 1.0 : length;
    const double size = __dadd_rn(coded, __dmul_rn(root_dim, __dadd_rn(furthest, __dmul_rn(128.0, own_scale))));
    const double off = __dadd_rn(__dmul_rn(__dsqrt_rn(errors[q]), 1.0 + EPS), __dmul_rn(ROUNDING, size));
    const Bounds bounds = {metric, scale, own_scale, metric == COSINE ? __dadd_rn(off, EPS) : off, length, max_length};
    int filled = 0, further = 0;
    for (int start = 0; start < beam; start += 32) {
        const i64 key = start + lane < beam ? pool[start + lane] : NO_KEY;
        const bool there = key != NO_KEY;
        filled += __popc(__ballot_sync(FULL_WARP, there));
        if (!counting && start + lane < beam) {
            own_rows[start + lane] = there ? (int)id_of(key) : -1;
            own_lower[start + lane] = there ? lower_bound(bounds, score_of(key), residuals[id_of(key)]) : 0.0;
        }
        if (!pairs) continue;
        const int first = there ? count_below(heads, pairs, id_of(key)) : 0;
        int more = there ? count_below(heads, pairs, (i64)id_of(key) + 1) - first : 0;
        int up_to = more;
        for (int apart = 1; apart < 32; apart *= 2) {
            const int below = __shfl_up_sync(FULL_WARP, up_to, apart);
            if (lane >= apart) up_to += below;
        }
        const int before = further + up_to - more;
        more = max(0, min(more, most - before));
        further += __shfl_sync(FULL_WARP, up_to, 31);
        for (u32 left = counting ? 0 : __ballot_sync(FULL_WARP, more > 0); left; left &= left - 1) {
            const int owner = __ffs(left) - 1, count = __shfl_sync(FULL_WARP, more, owner);
            const int from = __shfl_sync(FULL_WARP, first, owner), to = beam + __shfl_sync(FULL_WARP, before, owner);
            const int score = score_of(__shfl_sync(FULL_WARP, key, owner));
            for (int i = lane; i < count; i += 32) {
                const int row = twins[from + i];
                own_rows[to + i] = row;
                own_lower[to + i] = lower_bound(bounds, score, residuals[row]);
            }
        }
    }
    further = min(further, most);
    for (int i = beam + further + lane; !counting && i < width; i += 32) {
        own_rows[i] = -1;
        own_lower[i] = 0.0;
    }
    if (lane == 0) found[q] = counting ? further : filled + further;
}
