// pairwise: every distance of queries and points, exact by the contract's arithmetic, or what a matrix product of cuBLAS needs.
//
// exact_few    of a few queries, a row of blocks each: a team of eight lanes compares two points with the query (rows.cuh).
// exact        a block of 256 threads has 32 queries x 32 points, a team of eight lanes 4 x 8 of them, 32 sums a lane. Of each
//              row 32 values at a time come to shared memory as float64: lane l reads places l, l + 8, l + 16, l + 24 of twelve
//              rows for 32 products. Rows lie 40 places apart: teams of a warp read neighbouring rows from different banks, and
//              the same queries. At the end a lane hands half of its sums over, three times: four distances each are left.
// prepare      float32 rows as a product wants them: less the mean (l2) or of length 1 (cosine), and their squared lengths.
// finish       distances of products, in place or to their columns of a wider answer.
// Cost of exact: 3 float64 operations a value and pair (2 but for l2), 0.06 conversions. 12 reads of shared memory for 96
//              operations, 24 cycles of it to 48. H100: 10,000 x 1,000 x 768 1.4 ms at the peak of float64, the limiter; on
//              other cards it is a sixty-fourth of float32. Product: as cuBLAS; finish 8 bytes a pair, 2.4 ps of memory.
// Peer: FAISS and cuVS expand |q|^2 + |x|^2 - 2 <q, x> in float32, as "float32" does here.
#include "rows.cuh"

#define BLOCK 256
#define TILE 32                       // queries and points of a block
#define DEPTH 32                      // values of a row in shared memory
#define STRIDE 40                     // from row to row there: half of the banks on, for rows that are read together
#define QUERIES 4                     // of a team, the same for all of a warp
#define POINTS 8                      // of a team, every fourth
#define SUMS (QUERIES * POINTS)
#define TEAMS (32 / TEAM)             // of a warp

extern "C" __global__ void __launch_bounds__(BLOCK, 3) exact_few(
    const float* __restrict__ queries, const Stored* __restrict__ points, int n, int dim, int whole, int metric, float* out,
    i64 line, i64 column
) {
    const i64 first = ((i64)blockIdx.x * (BLOCK / TEAM) + threadIdx.x / TEAM) * PAIR, q = blockIdx.y;
    const Stored* pair[PAIR];
#pragma unroll
    for (int r = 0; r < PAIR; r++) pair[r] = first + r < n ? points + (first + r) * dim : nullptr;
    const Compared found = compare(queries + q * dim, pair, dim, whole, metric, true);
    const int lane = team_lane();
    if (lane >= PAIR || first + lane >= n) return;
    double query_length = 1.0, length = 1.0;
    if (metric == COSINE) {
        query_length = __dsqrt_rn(found.query_squares);
        length = __dsqrt_rn(found.squares);
    }
    out[q * line + column + first + lane] = final_distance(metric, found.sum, query_length, length);
}

// The next DEPTH values of the block's queries and points, zeros where there are none.
__device__ __forceinline__ void stage(
    const float* __restrict__ queries, const Stored* __restrict__ points, int q_count, int p_count, int first, int dim,
    bool whole, double* left, double* right
) {
    for (int i = threadIdx.x; i < TILE * DEPTH; i += BLOCK) {
        const int row = i / DEPTH, j = first + i % DEPTH;
        left[row * STRIDE + i % DEPTH] = row < q_count && j < dim ? (double)queries[(i64)row * dim + j] : 0.0;
    }
    for (int i = threadIdx.x; i < TILE * DEPTH / VALUES; i += BLOCK) {
        const int row = i / (DEPTH / VALUES), j = i % (DEPTH / VALUES) * VALUES;
        const u32 word = row < p_count ? word_of(points + (i64)row * dim, first + j, dim, whole) : 0;
#pragma unroll
        for (int v = 0; v < VALUES; v++) right[row * STRIDE + j + v] = value_of(word >> v * BITS);  // no bits are zero
    }
}

template <bool SQUARED>
__device__ __forceinline__ void add_tile(const double* left, const double* right, double (&sums)[SUMS]) {
#pragma unroll
    for (int step = 0; step < DEPTH; step += TEAM) {
        double q[QUERIES];
#pragma unroll
        for (int i = 0; i < QUERIES; i++) q[i] = left[i * STRIDE + step];
#pragma unroll
        for (int p = 0; p < POINTS; p++) {
            const double x = right[p * TEAMS * STRIDE + step];
#pragma unroll
            for (int i = 0; i < QUERIES; i++) {
                const double gap = SQUARED ? __dsub_rn(q[i], x) : 0.0;
                double& sum = sums[i * POINTS + p];
                sum = __dadd_rn(sum, SQUARED ? __dmul_rn(gap, gap) : __dmul_rn(q[i], x));
            }
        }
    }
}

// Each lane hands half of its sums to the lane `apart`, and adds what it is given to the others.
template <int HALF>
__device__ __forceinline__ void hand_over(double (&sums)[SUMS], int apart) {
    const bool upper = team_lane() & apart;
#pragma unroll
    for (int i = 0; i < HALF; i++) {
        const double given = upper ? sums[i] : sums[i + HALF], kept = upper ? sums[i + HALF] : sums[i];
        sums[i] = __dadd_rn(kept, __shfl_xor_sync(FULL_WARP, given, apart));
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 2) exact(
    const float* __restrict__ queries, int m, const Stored* __restrict__ points, int n, int dim, int whole, int metric,
    const double* __restrict__ query_lengths, const double* __restrict__ lengths, float* out, i64 line, i64 column
) {
    __shared__ double left[TILE * STRIDE], right[TILE * STRIDE];
    const i64 q0 = (i64)blockIdx.y * TILE, p0 = (i64)blockIdx.x * TILE;
    const int q_count = (int)min((i64)TILE, m - q0), p_count = (int)min((i64)TILE, n - p0);
    const int q = threadIdx.x / 32 * QUERIES, p = threadIdx.x % 32 / TEAM, lane = team_lane();
    double sums[SUMS] = {};
    for (int first = 0; first < dim; first += DEPTH) {
        __syncthreads();
        stage(queries + q0 * dim, points + p0 * dim, q_count, p_count, first, dim, whole, left, right);
        __syncthreads();
        if (q >= q_count) continue;  // a whole warp
        if (metric == L2) add_tile<true>(left + q * STRIDE + lane, right + p * STRIDE + lane, sums);
        else add_tile<false>(left + q * STRIDE + lane, right + p * STRIDE + lane, sums);
    }
    if (q >= q_count) return;
    hand_over<16>(sums, 4);  // as `folded` adds
    hand_over<8>(sums, 2);
    hand_over<4>(sums, 1);  // lane l has the pairs 4 l .. 4 l + 3
#pragma unroll
    for (int i = 0; i < SUMS / TEAM; i++) {
        const int pair = lane * (SUMS / TEAM) + i, row = q + pair / POINTS, place = p + pair % POINTS * TEAMS;
        if (row >= q_count || place >= p_count) continue;
        const double a = metric == COSINE ? query_lengths[q0 + row] : 1.0, b = metric == COSINE ? lengths[p0 + place] : 1.0;
        out[(q0 + row) * line + column + p0 + place] = final_distance(metric, sums[i], a, b);
    }
}

// values (n, dim), and squares (n) for l2. A team a row.
extern "C" __global__ void __launch_bounds__(BLOCK, 4) prepare(
    const Stored* __restrict__ rows, int n, int dim, int whole, int metric, const float* __restrict__ mean, float* values,
    float* squares
) {
    const i64 row = (i64)blockIdx.x * (BLOCK / TEAM) + threadIdx.x / TEAM;
    const Stored* from = row < n ? rows + row * dim : nullptr;
    const double length = metric == COSINE ? length_of(from, dim, whole) : 1.0;
    double sum = 0.0;
    for (int first = 0; first < dim; first += SPAN) {
        u32 words[WORDS];
        load(from, first, dim, whole, words);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            const int j = first + step * TEAM + team_lane();
            const double x = own_value(words, step);
            if (!from || j >= dim) continue;
            float value = (float)x;
            if (metric == L2) value = __fsub_rn(value, mean[j]);
            if (metric == COSINE) value = __double2float_rn(__ddiv_rn(x, length));
            values[row * dim + j] = value;
            sum = __dadd_rn(sum, __dmul_rn((double)value, (double)value));
        }
    }
    sum = folded(sum);
    if (row < n && metric == L2 && team_lane() == 0) squares[row] = __double2float_rn(sum);
}

// products (m, n) to distances: gemm.py.
extern "C" __global__ void __launch_bounds__(BLOCK) finish(
    const float* products, int n, int metric, const float* __restrict__ left, const float* __restrict__ right, float* out,
    i64 line, i64 column
) {
    const i64 q = blockIdx.y;
    const float own = metric == L2 ? left[q] : 0.0f;
    for (int p = blockIdx.x * BLOCK + threadIdx.x; p < n; p += gridDim.x * BLOCK) {
        const float product = products[q * n + p];
        float distance = __fsub_rn(0.0f, product);
        if (metric == L2) distance = fmaxf(__fadd_rn(__fadd_rn(__fmul_rn(product, -2.0f), own), right[p]), 0.0f);
        if (metric == COSINE) distance = fmaxf(__fsub_rn(1.0f, product), 0.0f);
        out[q * line + column + p] = distance;
    }
}
