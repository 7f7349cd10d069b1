"""The simulated GPU itself: it must find the errors it is there for, and let correct kernels pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gpu_sim import CompileError, KernelError, LaunchError, gpu_fixture  # noqa: F401  # the fixture `gpu`

KERNELS = (Path(__file__).parent / "gpu_sim" / "kernels.cu").read_text(encoding="utf-8")
BARRIER, NOTHING = "__syncthreads()", "((void)0)"
BUILDS = [(checked, order) for checked in (False, True) for order in (0, 1, 2)]


def kernels(**defines: str):
    """The toy kernels; SORT, PART and CLAIM may be replaced by what is wrong."""
    import cupy

    names = {"SORT": BARRIER, "PART": BARRIER, "CLAIM": "atomicCAS", **defines}
    return cupy.RawModule(code=KERNELS, options=("--fmad=false", *(f"-D{key}={value}" for key, value in names.items())))


def run(code: str, block: int, *args, grid: int = 1, shared: int = 0, name: str = "k") -> None:
    import cupy

    cupy.RawModule(code=code).get_function(name)((grid,), (block,), args, shared_mem=shared)


def top(module, rng) -> bool:
    import cupy

    scores = rng.random((3, 500), dtype=np.float32)
    values, ids = cupy.empty((3, 32), np.float32), cupy.empty((3, 32), np.int32)
    args = (cupy.asarray(scores), np.int32(500), np.int32(32), values, ids)
    module.get_function("block_top")((3,), (64,), args, shared_mem=128 * 8)
    return np.array_equal(ids.get(), np.argsort(scores, axis=1, kind="stable")[:, :32])


def sums(module, rng) -> bool:
    import cupy

    rows = rng.integers(-100, 100, (37, 100)).astype(np.float64)
    out = cupy.empty(37, np.float64)
    module.get_function("warp_sum")((10,), (128,), (cupy.asarray(rows), out, np.int32(37), np.int32(100)))
    return np.array_equal(out.get(), rows.sum(axis=1))


def claims(module, rng) -> bool:
    import cupy

    ids = rng.integers(0, 200, 1000).astype(np.int32)
    table, fresh, count = cupy.full(512, -1, np.int32), cupy.zeros(1000, np.int32), cupy.zeros(1, np.int32)
    args = (cupy.asarray(ids), np.int32(1000), table, np.int32(511), fresh, count)
    module.get_function("claim")((4,), (64,), args)
    return int(count[0]) == len(np.unique(ids)) and set(ids[fresh.get() == 1]) == set(ids)


def least(module, rng) -> bool:
    import cupy

    rows = rng.random((4, 300), dtype=np.float32)
    out, below = cupy.empty(4, np.float32), cupy.empty(4, np.int32)
    module.get_function("block_least")((4,), (128,), (cupy.asarray(rows), np.int32(300), out, below))
    return np.array_equal(out.get(), rows.min(axis=1)) and np.array_equal(below.get(), (rows < 0.1).sum(axis=1))


@pytest.mark.parametrize(("checked", "order"), BUILDS)
@pytest.mark.parametrize("job", [top, sums, claims, least])
def test_correct_kernels_pass_in_every_order(gpu, job, checked, order, rng):
    gpu.checked, gpu.order, gpu.seed = checked, order, int(rng.integers(2**31))
    assert job(kernels(), rng)


@pytest.mark.parametrize("job", [top, sums, claims, least])
def test_correct_kernels_pass_when_threads_are_interrupted(gpu, job, rng):
    gpu.checked, gpu.order, gpu.preempt, gpu.seed = True, 2, 8, int(rng.integers(2**31))
    assert job(kernels(), rng)


@pytest.mark.parametrize(
    ("job", "wrong"),
    [(top, {"SORT": NOTHING}), (least, {"PART": NOTHING}), (claims, {"CLAIM": "read_then_write"})],
    ids=["sort without its barrier", "partial results without a barrier", "no atomic"],
)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_races_are_reported_with_their_lines(gpu, job, wrong, order, rng):
    gpu.checked, gpu.order = True, order
    with pytest.raises(KernelError, match=r"race on .*kernel\.cu:\d+.*kernel\.cu:\d+|uninitialised"):
        job(kernels(**wrong), rng)


def test_a_missing_barrier_gives_wrong_answers_in_the_plain_build(gpu, rng):
    answers = []
    for gpu.order in (0, 1, 2):
        answers.append(top(kernels(SORT=NOTHING), rng))
    assert not all(answers)


BLOCKS_RACE = 'extern "C" __global__ void k(int* a) { if (threadIdx.x == 0) a[0] = blockIdx.x; }'
WARP_EXCHANGE = """extern "C" __global__ void k(int* a) {
    __shared__ int x[32];
    x[threadIdx.x] = a[threadIdx.x];
    %s;
    a[threadIdx.x] = x[threadIdx.x ^ 1];
}"""
READ_AFTER = """extern "C" __global__ void k(int* a) {
    __shared__ int x;
    if (threadIdx.x == 0) x = 1;
    __syncthreads();
    a[threadIdx.x] = x;
    %s;
    if (threadIdx.x == 0) x = 2;
}"""


def test_blocks_are_never_ordered(gpu):
    import cupy

    gpu.checked = True
    run(BLOCKS_RACE, 32, cupy.zeros(1, np.int32))
    with pytest.raises(KernelError, match="race on global memory"):
        run(BLOCKS_RACE, 32, cupy.zeros(1, np.int32), grid=2)


@pytest.mark.parametrize(("code", "cure"), [(WARP_EXCHANGE, "__syncwarp()"), (READ_AFTER, BARRIER)])
def test_an_exchange_needs_its_barrier(gpu, code, cure):
    import cupy

    gpu.checked = True
    numbers = cupy.arange(32, dtype=np.int32)
    run(code % cure, 32, numbers)
    with pytest.raises(KernelError, match=r"race on shared memory|uninitialised"):
        run(code % "", 32, numbers)


def test_neighbouring_bytes_are_no_race(gpu):
    import cupy

    gpu.checked = True
    flags = cupy.zeros(64, np.uint8)
    run('extern "C" __global__ void k(unsigned char* f) { f[threadIdx.x] = threadIdx.x & 1; }', 64, flags)
    assert flags.get().sum() == 32


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a[threadIdx.x + 1] = 1", r"out of bounds.* 31 .*writes 4 bytes \(kernel\.cu:1\), \+0 bytes"),
        ("int v = a[(int)threadIdx.x - 1]; if (v) a[threadIdx.x] = v", "out of bounds.* 0 .*reads"),
        ("atomicAdd(a + 40, 1)", "out of bounds"),
        ("*(int4*)(a + 30) = make_int4(1, 2, 3, 4)", "out of bounds|misaligned"),
        ("*(int4*)(a + 1) = make_int4(1, 2, 3, 4)", "misaligned"),
        ("*(long long*)(a + 1) = 1", "misaligned"),
        ("__shared__ int x[8], y[64]; y[threadIdx.x] = 1; x[threadIdx.x] = 1", "out of bounds.*index 8"),
        ("extern __shared__ int x[]; x[threadIdx.x] = 1", "out of bounds"),
    ],
)
def test_accesses_stay_within_the_arguments(gpu, body, message):
    import cupy

    gpu.checked = True
    around = cupy.zeros(96, np.int32)
    with pytest.raises(KernelError, match=message):
        run(f'extern "C" __global__ void k(int* a) {{ {body}; }}', 32, around[32:64], shared=64)


def test_a_wild_address_is_an_error_and_no_end_of_the_process(gpu):
    import cupy

    for code in ("a[1ll << 40] = 1", "a[0] = 7 / a[0]", "while (!*(volatile int*)a) {}", "atomicAdd((int*)8, 1)"):
        gpu.seconds = 1
        with pytest.raises(KernelError, match=r"crash in block 0|no end within 1 s"):
            run(f'extern "C" __global__ void k(int* a) {{ {code}; }}', 1, cupy.zeros(1, np.int32))
    run('extern "C" __global__ void k(int* a) { a[0] = 1; }', 1, cupy.zeros(1, np.int32))


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (t < 40) __syncthreads()", "divergent barrier.*40 threads wait and 24 have exited"),
        ("if (t < 40) __syncthreads();\nelse __syncthreads()", "divergent barrier.* lines 1 and 2"),
        ("if (t < 16) a[t] = __shfl_xor_sync(0xffffffffu, t, 1)", "divergent warp collective.*thread 16, which has exited"),
        ("if (t % 2) __syncwarp(); else __syncthreads()", "divergent"),
        ("if (t < 16) a[t] = __ballot_sync(0xffff0000u, 1)", "not in the mask"),
        ("if (t < 16) a[t] = __shfl_sync(0x0000ffffu, t, 20)", "reads lane 20, which its mask leaves out"),
    ],
)
def test_collectives_that_not_all_reach(gpu, body, message, checked):
    import cupy

    gpu.checked = checked
    with pytest.raises(KernelError, match=message):
        run(f'extern "C" __global__ void k(int* a) {{ int t = threadIdx.x; {body}; }}', 64, cupy.zeros(64, np.int32))


def test_lanes_that_exited_may_be_left_out_of_the_mask(gpu):
    import cupy

    gpu.checked = True
    out = cupy.zeros(16, np.int32)
    code = """extern "C" __global__ void k(int* a) {
        if (threadIdx.x >= 16) return;
        a[threadIdx.x] = __popc(__ballot_sync(0xffffu, threadIdx.x & 1));
    }"""
    run(code, 32, out)
    assert out.get().tolist() == [8] * 16


UNWRITTEN = """extern "C" __global__ void k(int* a) {
    %s
    if (threadIdx.x < 16) x[threadIdx.x] = 1;
    __syncthreads();
    a[threadIdx.x] = x[threadIdx.x];
}"""


@pytest.mark.parametrize("where", ["__shared__ int x[32];", "extern __shared__ int x[];"])
def test_shared_memory_that_nobody_wrote(gpu, where):
    import cupy

    out = cupy.zeros(32, np.int32)
    run(UNWRITTEN % where, 32, out, shared=128)
    assert out.get().tolist() == [1] * 16 + [int(np.uint32(0xA5A5A5A5).astype(np.int32))] * 16
    gpu.checked = True
    with pytest.raises(KernelError, match=r"uninitialised shared memory.*kernel\.cu:5"):
        run(UNWRITTEN % where, 32, out, shared=128)


@pytest.mark.parametrize("checked", [False, True])
def test_the_dialect(gpu, checked, rng):
    import cupy

    gpu.checked = checked
    bytes_ = rng.integers(-128, 128, (2, 32, 16)).astype(np.int8)
    a, b = map(cupy.asarray, bytes_)
    dots, wide, real = cupy.empty(32, np.int32), cupy.empty(32, np.int64), cupy.empty(32, np.float64)
    module = kernels()
    module.get_function("dialect")((1,), (32,), (a, b, dots, wide, real, np.float64(3)), shared_mem=32 * 16)
    assert np.array_equal(dots.get(), (bytes_[0].astype(np.int32) * bytes_[1]).sum(axis=1))
    lanes = np.arange(32, dtype=np.int64)
    assert np.array_equal(wide.get(), (lanes[::-1] << 40) + lanes.sum() + 32)
    assert np.array_equal(real.get(), np.sqrt(lanes / 3.0) - lanes * 0.1 * 3)


def test_templates_by_name_expression(gpu):
    import cupy

    code = """template <class T> __device__ T other(T v) {
        __shared__ T all[32];
        all[threadIdx.x] = v;
        __syncwarp();
        return all[31 - threadIdx.x];
    }
    template <class T> __global__ void turn(T* a) { a[threadIdx.x] = other(a[threadIdx.x]); }"""
    module = cupy.RawModule(code=code, name_expressions=("turn<float>", "turn<long long>"))
    for dtype, name in ((np.float32, "turn<float>"), (np.int64, "turn<long long>")):
        numbers = cupy.arange(32, dtype=dtype)
        module.get_function(name)((1,), (32,), (numbers,))
        assert numbers.get().tolist() == list(range(31, -1, -1))
    with pytest.raises(ValueError, match="name_expressions"):
        module.get_function("turn<double>")


TYPES = 'extern "C" __global__ void k(int* a, const unsigned char* b, int n, long long m, double d) { a[0] = n; }'


@pytest.mark.parametrize(
    ("at", "wrong"),
    [
        *((0, np.zeros(4, np.int64)), (0, np.zeros(4, np.uint32)), (0, np.zeros((4, 2), np.int32)[:, 0]), (0, np.int32(0))),
        *((1, np.zeros(4, np.int8)), (2, 1), (2, np.int64(1)), (2, np.uint32(1)), (2, True), (2, None)),
        *((3, np.int32(1)), (3, 1.0), (4, 1), (4, np.float32(1))),
    ],
)
def test_arguments_have_the_type_of_the_parameter(gpu, at, wrong):
    import cupy

    right = [cupy.zeros(4, np.int32), cupy.zeros(4, bool), np.int32(1), 5, 0.5]
    run(TYPES, 1, *right)
    right[at] = cupy.asarray(wrong) if isinstance(wrong, np.ndarray) and wrong.flags.c_contiguous else wrong
    if isinstance(wrong, np.ndarray) and not wrong.flags.c_contiguous:
        right[at] = cupy.zeros((4, 2), np.int32)[:, 0]
    with pytest.raises(LaunchError, match=f"argument {at}"):
        run(TYPES, 1, *right)


def test_arrays_of_the_host_are_no_arguments(gpu):
    with pytest.raises(LaunchError, match="array of the host"):
        run(TYPES, 1, np.zeros(4, np.int32), np.zeros(4, bool), np.int32(1), 5, 0.5)
    with pytest.raises(LaunchError, match="5 parameters, 1 argument"):
        run(TYPES, 1, np.int32(1))


LIMITED = """
extern "C" __global__ void k(int* a) { extern __shared__ int x[]; a[0] = 1; }
extern "C" __global__ void __launch_bounds__(128) few(int* a) {
    __shared__ int y[1024];
    y[threadIdx.x] = 1;
    if (threadIdx.x == 0) a[0] = y[0];
}"""


def test_limits_of_a_launch(gpu):
    import cupy

    module, out = cupy.RawModule(code=LIMITED), cupy.zeros(1, np.int32)
    kernel, few = module.get_function("k"), module.get_function("few")
    for grid, block, shared in [
        ((0,), (1,), 0),
        ((1, 65_536), (1,), 0),
        ((1,), (1025,), 0),
        ((1,), (32, 33), 0),
        ((1,), (1,), 49_153),
    ]:
        with pytest.raises(LaunchError):
            kernel(grid, block, (out,), shared_mem=shared)
    kernel.max_dynamic_shared_size_bytes = 100_000
    kernel((1,), (1,), (out,), shared_mem=100_000)
    with pytest.raises(LaunchError, match="shared memory"):
        kernel((1,), (1,), (out,), shared_mem=100_001)
    with pytest.raises(RuntimeError):
        kernel.max_dynamic_shared_size_bytes = 232_449
    assert few.shared_size_bytes == 4096
    few((1,), (128,), (out,))
    with pytest.raises(LaunchError, match="the most is 128"):
        few((1,), (129,), (out,))
    with pytest.raises(LaunchError, match="shared memory"):
        few((1,), (1,), (out,), shared_mem=48 * 1024 - 4095)
    assert gpu.launches == {"k": 1, "few": 1}


def test_what_nvcc_would_refuse(gpu):
    import cupy

    for body in ("no_such_function();", "long long v = 0; atomicAdd(&v, 1ll);", "__shfl_sync(~0u, (short)1, 0);"):
        with pytest.raises(CompileError):
            cupy.RawModule(code=f'extern "C" __global__ void k() {{ {body} }}').get_function("k")
    with pytest.raises(CompileError, match="other bits"):
        cupy.RawModule(code=TYPES, options=("--use_fast_math",)).get_function("k")
    with pytest.raises(LookupError):
        cupy.RawModule(code=TYPES).get_function("no_such_kernel")


def test_an_included_header_is_part_of_the_source(gpu, tmp_path):
    import cupy

    out = cupy.zeros(1, np.int32)
    for number in (1, 2):
        (tmp_path / "common.cuh").write_text(f"#pragma once\n#define NUMBER {number}\n")
        code = f'// {number}\n#include "common.cuh"\nextern "C" __global__ void k(int* a) {{ a[0] = NUMBER; }}'
        cupy.RawModule(code=code, options=(f"-I{tmp_path}",)).get_function("k")((1,), (1,), (out,))
        assert out.get() == [number]


MANY_READERS = """extern "C" __global__ void k(int* a) {
    __shared__ int x;
    int t = threadIdx.x, v = 0;
    if (t == 0) x = 1;
    __syncthreads();
    if (t == first || t == second) v = x;
    if (t == second) x = 2;
    a[t] = v;
}"""


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (0, 40), (40, 0)])
@pytest.mark.parametrize("order", [0, 1])
def test_the_last_reader_does_not_hide_the_others(gpu, first, second, order):
    import cupy

    gpu.checked, gpu.order = True, order
    code = MANY_READERS.replace("first", str(first)).replace("second", str(second))
    with pytest.raises(KernelError, match="race on shared memory"):
        run(code, 64, cupy.zeros(64, np.int32))
