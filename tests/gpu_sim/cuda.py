"""`cupy.cuda`: devices, streams, events and memory. All work is done when it is asked for, so streams order nothing here."""

from __future__ import annotations

import json
import time
import types
from typing import Any

from . import real
from .double import sync
from .state import SIM

ATTRIBUTES = {
    "MultiProcessorCount": 132, "MaxSharedMemoryPerBlock": 48 * 1024, "MaxSharedMemoryPerBlockOptin": 227 * 1024,
    "MaxSharedMemoryPerMultiprocessor": 228 * 1024, "MaxThreadsPerBlock": 1024, "MaxThreadsPerMultiProcessor": 2048,
    "WarpSize": 32, "MaxGridDimX": 2**31 - 1, "MaxGridDimY": 65_535, "MaxGridDimZ": 65_535, "L2CacheSize": 50 * 2**20,
    "ComputeCapabilityMajor": 9, "ComputeCapabilityMinor": 0, "MaxRegistersPerBlock": 65_536,
}  # fmt: skip
INSUFFICIENT_DRIVER, INVALID_DEVICE = 35, 101


def _require(device: int = 0) -> None:
    if not SIM.devices:
        raise real.CUDARuntimeError(INSUFFICIENT_DRIVER)
    if not 0 <= device < SIM.devices:
        raise real.CUDARuntimeError(INVALID_DEVICE)


class Device:
    """The device number `id`; entering it changes nothing, as there is one memory."""

    def __init__(self, device: Any = None) -> None:
        self.id = 0 if device is None else int(device.id if isinstance(device, Device) else device)

    def __enter__(self) -> Device:
        _require(self.id)
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def use(self) -> Device:
        return self.__enter__()

    def synchronize(self) -> None:
        sync("Device.synchronize")

    @property
    def compute_capability(self) -> str:
        _require(self.id)
        return "90"

    @property
    def attributes(self) -> dict[str, int]:
        _require(self.id)
        return dict(ATTRIBUTES)

    @property
    def mem_info(self) -> tuple[int, int]:
        return _memory_info()


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        _require()
        self.disable_timing = disable_timing
        self.recorded: float | None = None
        self.ptr = id(self)

    done = True

    def record(self, stream: Any = None) -> None:
        self.recorded = time.perf_counter()

    def synchronize(self) -> None:
        sync("Event.synchronize")


class Stream:
    """A stream. Synchronising it is counted."""

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None) -> None:
        _require()
        self.is_non_blocking, self.priority = non_blocking, priority
        self.ptr = 0 if null else id(self)

    done = True

    def __enter__(self) -> Stream:
        _streams.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        _streams.pop()

    def use(self) -> Stream:
        _streams[-1] = self
        return self

    @classmethod
    def from_external(cls, obj: Any) -> Stream:
        version, address = obj.__cuda_stream__()
        if version != 0 or not isinstance(address, int):
            raise TypeError("__cuda_stream__ gives (0, address)")
        made = cls()
        made.ptr = address
        return made

    def synchronize(self) -> None:
        sync("Stream.synchronize")

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if not isinstance(event, Event):
            raise TypeError("wait_event wants an Event")


Stream.null = Stream(null=True)
_streams = [Stream.null]


def _get_elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds."""
    if start.disable_timing or end.disable_timing or start.recorded is None or end.recorded is None:
        raise real.CUDARuntimeError(400)
    return (end.recorded - start.recorded) * 1e3


class PinnedMemory(bytearray):
    """Page-locked memory: rubbish, and often more than was asked for."""

    ptr = property(id)

    def size(self) -> int:
        return len(self)


def _alloc_pinned_memory(size: int) -> PinnedMemory:
    return PinnedMemory(b"\xa5" * max(512, -(-int(size) // 512) * 512))


class MemoryPool:
    """A pool that gives back at once what is freed."""

    def free_bytes(self) -> int:
        return 0

    def used_bytes(self) -> int:
        return SIM.used

    def total_bytes(self) -> int:
        return SIM.used

    def free_all_blocks(self, stream: Any = None) -> None:
        pass

    def get_limit(self) -> int:
        return 0


memory_pool = MemoryPool()


def _memory_info() -> tuple[int, int]:
    _require()
    return max(0, SIM.memory - SIM.used), SIM.memory


def _device_count() -> int:
    _require()
    return SIM.devices


def _device_properties(device: int) -> dict[str, Any]:
    _require(device)
    return {
        "name": b"NVIDIA H100 (simulated)", "totalGlobalMem": SIM.memory, "sharedMemPerBlock": 48 * 1024,
        "sharedMemPerBlockOptin": 227 * 1024, "sharedMemPerMultiprocessor": 228 * 1024, "warpSize": 32,
        "maxThreadsPerBlock": 1024, "multiProcessorCount": 132, "major": 9, "minor": 0, "l2CacheSize": 50 * 2**20,
        "regsPerBlock": 65_536, "clockRate": 1_980_000, "uuid": b"simulated-device",
    }  # fmt: skip


def _module(name: str, **members: Any) -> types.ModuleType:
    made = types.ModuleType(f"cupy.{name}")
    made.__dict__.update(members)
    return made


runtime = _module(
    "cuda.runtime", getDeviceCount=_device_count, memGetInfo=_memory_info, getDeviceProperties=_device_properties,
    getDevice=lambda: 0, setDevice=_require, deviceSynchronize=lambda: sync("deviceSynchronize"),
    driverGetVersion=lambda: 13_000, runtimeGetVersion=lambda: 13_000, CUDARuntimeError=real.CUDARuntimeError, is_hip=False,
)  # fmt: skip
memory = _module("cuda.memory", OutOfMemoryError=real.OutOfMemoryError, MemoryPool=MemoryPool)
class NVRTCError(RuntimeError):
    """What `cupy.cuda.nvrtc` raises."""


_programs: dict[int, dict[str, Any]] = {}


def _create_program(source: str, name: str, headers: tuple[str, ...], include_names: tuple[str, ...]) -> int:
    if headers or include_names:
        raise NotImplementedError("the double takes headers by -I")
    _programs[number := len(_programs) + 1] = {"code": source}
    return number


def _compile_program(program: int, options: tuple[str, ...]) -> None:
    arch, *rest = options
    if arch != "--gpu-architecture=sm_90a":
        raise NVRTCError(f"the double compiles for its own architecture alone, not for {arch}")
    _programs[program]["options"] = rest


nvrtc = _module(
    "cuda.nvrtc", getVersion=lambda: (13, 0), NVRTCError=NVRTCError, createProgram=_create_program,
    compileProgram=_compile_program, getCUBIN=lambda program: json.dumps(_programs[program]).encode(),
    getProgramLog=lambda program: "", destroyProgram=lambda program: _programs.update({program: {}}),
)  # fmt: skip
stream = _module("cuda.stream", Stream=Stream, Event=Event, get_current_stream=lambda device_id=-1: _streams[-1])
device = _module("cuda.device", Device=Device, get_compute_capability=lambda: "90")
cuda = _module(
    "cuda", Device=Device, Stream=Stream, Event=Event, MemoryPool=MemoryPool, runtime=runtime, memory=memory, nvrtc=nvrtc,
    stream=stream, device=device, get_current_stream=stream.get_current_stream, get_elapsed_time=_get_elapsed_time,
    alloc_pinned_memory=_alloc_pinned_memory, is_available=lambda: SIM.devices > 0, get_device_id=lambda: 0,
)  # fmt: skip
SUBMODULES = {module.__name__: module for module in (cuda, runtime, memory, nvrtc, stream, device)}
