"""What this machine is, asked without importing torch: `plan` and the parent of all workers stay light."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmark.workers import available_cores

_BF16_CPU_FLAGS = {"amx_bf16", "avx512_bf16"}
_COMPUTE_CAPABILITY_MAJOR = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR


@dataclass(frozen=True)
class Machine:
    """Device kind, how many of it, cores this process may use, and whether bfloat16 is fast on the device."""

    device: str  # cpu | cuda
    gpus: int
    cores: int
    bf16: bool

    @property
    def precision(self) -> str:
        return "bf16-mixed" if self.bf16 else "32"

    def __str__(self) -> str:
        name = f"{self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus else "no GPU"
        return f"{self.device} ({name}), {self.cores} cores, {platform.machine()} {platform.system()}"


@cache
def this_machine() -> Machine:
    """Look once a process."""
    cores = available_cores()
    capability = _cuda_capabilities() if _torch_has_cuda() else []
    if capability:
        return Machine("cuda", len(capability), cores, bf16=min(capability) >= 8)
    return Machine("cpu", 0, cores, bf16=bool(_BF16_CPU_FLAGS & _cpu_flags()))


def _torch_has_cuda() -> bool:
    """Whether the installed torch was built with CUDA: its version file says so."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = (Path(spec.origin).parent / "version.py").read_text()
    return re.search(r"^cuda\b[^=\n]*= *['\"]", text, re.MULTILINE) is not None


def _cuda_capabilities() -> list[int]:
    """Major compute capability of every GPU that the driver shows (it honours CUDA_VISIBLE_DEVICES)."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, value = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    majors = []
    for index in range(count.value):
        driver.cuDeviceGetAttribute(ctypes.byref(value), _COMPUTE_CAPABILITY_MAJOR, index)
        majors.append(value.value)
    return majors


def _cpu_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    return set(path.read_text().split()) if path.is_file() else set()
