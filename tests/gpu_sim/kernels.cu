// Toy kernels of tests/test_gpu_sim.py. SORT, PART and CLAIM are a barrier or an atomic, or what is wrong instead.
typedef unsigned long long u64;

__device__ int read_then_write(int* place, int expected, int value) {
    int old = *place;
    if (old == expected) *place = value;
    return old;
}

extern "C" {

// The k smallest of each row: a bitonic sort of 2 * blockDim keys in shared memory, again and again.
__global__ void block_top(const float* __restrict__ rows, int n, int k, float* values, int* ids) {
    extern __shared__ __align__(16) u64 keys[];
    const int t = threadIdx.x, threads = blockDim.x, row = blockIdx.x;
    keys[t] = ~0ull;
    for (int first = 0; first < n; first += threads) {
        int i = first + t;
        keys[threads + t] = i < n ? (u64)__float_as_uint(rows[(size_t)row * n + i]) << 32 | (unsigned)i : ~0ull;
        __syncthreads();
        for (int size = 2; size <= 2 * threads; size <<= 1)
            for (int stride = size >> 1; stride > 0; stride >>= 1) {
                int low = 2 * t - (t & (stride - 1)), high = low + stride;
                u64 a = keys[low], b = keys[high];
                if ((a > b) == ((low & size) == 0)) {
                    keys[low] = b;
                    keys[high] = a;
                }
                SORT;
            }
    }
    if (t < k) {
        values[row * k + t] = __uint_as_float((unsigned)(keys[t] >> 32));
        ids[row * k + t] = (int)(keys[t] & 0xffffffffu);
    }
}

// One warp for each row.
__global__ void warp_sum(const double* rows, double* sums, int n, int dim) {
    int lane = threadIdx.x & 31, row = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    if (row >= n) return;
    double sum = 0;
    for (int i = lane; i < dim; i += 32) sum = __dadd_rn(sum, rows[(size_t)row * dim + i]);
    for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0) sums[row] = sum;
}

// A hash set with open addressing: each id is claimed once.
__global__ void claim(const int* ids, int n, int* table, int mask, int* fresh, int* count) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        int id = __ldg(ids + i), first = 0;
        for (int probe = 0; probe <= mask; ++probe) {
            int old = CLAIM(&table[(((unsigned)id * 2654435761u >> 7) + probe) & mask], -1, id);
            first = old == -1;
            if (old == -1 || old == id) break;
        }
        fresh[i] = first;
        if (first) atomicAdd(count, 1);
    }
}

// The least of each row, and how many are below 0.1.
__global__ void block_least(const float* rows, int n, float* out, int* below) {
    __shared__ float part[32];
    __shared__ int count;
    int t = threadIdx.x, lane = t & 31, warp = t >> 5, warps = blockDim.x >> 5;
    float least = 3.4e38f;
    if (t == 0) count = 0;
    __syncthreads();
    for (int first = 0; first < n; first += blockDim.x) {
        float value = first + t < n ? rows[(size_t)blockIdx.x * n + first + t] : 3.4e38f;
        least = fminf(least, value);
        unsigned votes = __ballot_sync(0xffffffffu, value < 0.1f);
        if (lane == 0) atomicAdd(&count, __popc(votes));
    }
    for (int step = 16; step; step >>= 1) least = fminf(least, __shfl_down_sync(0xffffffffu, least, step));
    if (lane == 0) part[warp] = least;
    PART;
    if (warp) return;
    least = lane < warps ? part[lane] : 3.4e38f;
    for (int step = 16; step; step >>= 1) least = fminf(least, __shfl_down_sync(0xffffffffu, least, step));
    if (lane == 0) {
        out[blockIdx.x] = least;
        below[blockIdx.x] = count;
    }
}

// Vectors of bytes, 64-bit shuffles, exact doubles.
__global__ void __launch_bounds__(32)
dialect(const signed char* a, const signed char* b, int* dots, long long* wide, double* real, double three) {
    extern __shared__ int4 rows[];
    int t = threadIdx.x;
    rows[t] = __ldg((const int4*)a + t);
    __syncthreads();
    int4 x = rows[t], y = ((const int4*)b)[t];
    int sum = __dp4a(x.x, y.x, 0);
    sum = __dp4a(x.y, y.y, sum);
    sum = __dp4a(x.z, y.z, sum);
    dots[t] = __dp4a(x.w, y.w, sum);
    long long far = __shfl_sync(0xffffffffu, (long long)t << 40, 31 - t);
    wide[t] = far + __reduce_add_sync(0xffffffffu, t) + __syncthreads_count(t < 100);
    real[t] = __dsub_rn(__dsqrt_rn(__ddiv_rn((double)t, three)), __dmul_rn(__dmul_rn((double)t, 0.1), three));
}
}
