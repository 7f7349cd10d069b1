// reach: one front of a walk over the graph, a launch a front (breadth first).
//
// A team of lanes, the power of two from `degree` on, 32 at most, reads the list of a node of the front. Flags of what was
// reached are the answer's own bytes, four to a word: an atomic or says who came first, and that lane puts the node behind the
// queue. The order in the queue differs from run to run, the flags never do. Fronts lie in the queue one behind the other;
// sizes[level] is that of this launch's, sizes[level + 1] counts the next, which a later launch reads: so several fronts need
// no word with the host.
//
// Cost: 4 bytes read and one atomic an edge. Limiter: atomics in the L2, about one a clock and slice.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256) reach(
    const int* __restrict__ lists, int n, int degree, int team, u32* flags, int* queue, i64 start, u64* sizes, int level
) {
    i64 front = start;
    for (int i = 0; i < level; i++) front += sizes[i];
    const i64 size = sizes[level], end = front + size;
    const int lane = threadIdx.x & 31, own = lane / team, place = lane % team, heads = 32 / team;  // of the warp
    const i64 step = (i64)gridDim.x * (blockDim.x / 32) * heads;
    for (i64 first = ((i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * heads; first < size; first += step) {
        const int head = first + own < size ? queue[front + first + own] : -1;
        for (int from = 0; from < degree; from += team) {
            int node = -1;
            if (head >= 0 && from + place < degree) node = lists[(i64)head * degree + from + place];
            bool fresh = false;
            if ((u32)node < (u32)n) {
                const u32 flag = 1u << 8 * (node & 3);
                fresh = !(atomicOr(flags + (node >> 2), flag) & flag);
            }
            const u32 mask = __ballot_sync(FULL_WARP, fresh);
            u64 behind = 0;
            if (lane == 0 && mask) behind = atomicAdd(sizes + level + 1, (u64)__popc(mask));
            behind = __shfl_sync(FULL_WARP, behind, 0);
            if (fresh) queue[end + behind + __popc(mask & ((1u << lane) - 1))] = node;
        }
    }
}
