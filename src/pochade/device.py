"""Devices and precisions by name, and how much memory a device has.

torch is imported when a function needs it, so that names are checked in a fraction of a second.
"""

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pochade.arguments import check_text
from pochade.errors import PochadeError

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DEVICES = ("auto", "cpu", "cuda", "mps")
"""Names of devices; ``auto`` is the first of cuda, mps and cpu that is present."""

PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
"""Names of precisions; ``auto`` is bf16 on a GPU that computes in it, else fp32."""


def check_device(name: str) -> None:
    """Raises PochadeError where ``name`` is no name of a device; does not look whether the device is present."""
    check_text("device", name, "a name")
    kind, colon, index = name.partition(":")
    if name not in DEVICES and not (kind == "cuda" and colon and index.isdecimal()):
        raise PochadeError(f"device: {name!r} given, allowed are {', '.join(DEVICES)} or cuda:INDEX")


def check_precision(name: str) -> None:
    """Raises PochadeError where ``name`` is no name of a precision."""
    check_text("precision", name, "a name")
    if name not in PRECISIONS:
        raise PochadeError(f"precision: {name!r} given, allowed are {', '.join(PRECISIONS)}")


def present_devices() -> tuple[str, ...]:
    """Kinds of devices that this machine has, the preferred one first; cpu is the last and always there."""
    import torch

    kinds = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    return (*kinds, "cpu")


def may_have_accelerator() -> bool:
    """Whether ``auto`` may be another device than the CPU, as far as it can be told without torch, in milliseconds."""
    import ctypes
    import platform
    from importlib.metadata import version

    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    build = version("torch").partition("+")[2]
    if build == "cpu" or build.startswith("rocm"):
        return build != "cpu"
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True


def resolve_device(name: "str | torch.device" = "auto") -> "torch.device":
    """The device of that name.

    Args:
        name: one of ``DEVICES``, ``cuda:INDEX``, or a ``torch.device``, which is checked likewise.

    Raises:
        PochadeError: the name is unknown, or this machine has no such device.
    """
    import torch

    name = str(name)
    check_device(name)
    present = present_devices()
    device = torch.device(present[0] if name == "auto" else name)
    if device.type not in present:
        raise PochadeError(f"device: {name!r} given, which is not here, allowed are {', '.join(present)}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PochadeError(f"device: {name!r} given, this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def own_device(name: str) -> "torch.device":
    """The device of that name that belongs to this process: of several GPUs that of its local rank.

    Raises as ``resolve_device``.
    """
    import torch

    device = resolve_device(name)
    rank = os.environ.get("LOCAL_RANK")
    return torch.device("cuda", int(rank)) if device.type == "cuda" and rank is not None else device


def resolve_precision(name: str, device: "torch.device") -> "torch.dtype":
    """The floating type in which networks compute on ``device``.

    Args:
        name: one of ``PRECISIONS``.
        device: as ``resolve_device`` gives it.

    Raises:
        PochadeError: the name is unknown.
    """
    import torch

    check_precision(name)
    if name == "auto":
        on_cuda = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        name = "bf16" if on_cuda or device.type == "mps" else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def precision_name(dtype: "torch.dtype") -> str:
    """The name of a floating type: ``fp32``, ``bf16``, ``fp16``; that of torch for any other one."""
    name = str(dtype).removeprefix("torch.")
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(name, name)


@dataclass(frozen=True)
class Memory:
    """Memory of a device in bytes; on the CPU that of the machine, on mps what the system recommends to use."""

    free: int
    total: int


def device_memory(device: "torch.device") -> Memory | None:
    """Free and total memory of ``device``; None where the system does not say."""
    import torch

    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(int(free), int(total))
    if device.type == "mps":
        total = int(torch.mps.recommended_max_memory())
        return Memory(max(0, total - int(torch.mps.driver_allocated_memory())), total)
    try:
        page, total = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
        free = os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    return Memory(_available(free * page), total * page)


def _available(free: int) -> int:
    """Bytes that Linux can give a process: what is free and what caches of files hold; elsewhere ``free``."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 - no file of the user's
            lines = dict(line.split(":", 1) for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return free


def check_memory(needed: int, device: "torch.device", purpose: str) -> None:
    """Raises PochadeError where ``device`` has less than ``needed`` bytes free.

    Args:
        needed: bytes.
        device: as ``resolve_device`` gives it.
        purpose: what the memory is needed for, a noun: the sentence begins with it.
    """
    memory = device_memory(device)
    if memory is not None and needed > memory.free:
        raise PochadeError(
            f"{purpose}: {needed / 1e9:.1f} GB needed, {device} has {memory.free / 1e9:.1f} GB free of "
            f"{memory.total / 1e9:.1f} GB"
        )


def describe_device(device: "torch.device") -> str:
    """One line: the device, its name and its memory in GB."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    memory = device_memory(device)
    size = "" if memory is None else f"{memory.free / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    details = ", ".join(filter(None, (name, size)))
    return f"{device} ({details})" if details else str(device)
