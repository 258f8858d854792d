"""Accelerators by name, with what their makers publish of them."""

import re
from dataclasses import dataclass

from pochade.errors import PochadeError, nearest


@dataclass(frozen=True)
class Accelerator:
    """What a data sheet says of a GPU.

    The rate is that of dense matrix products in bf16 (fp16 where a GPU has no bf16) with sums in float32.
    """

    name: str
    teraflops: float
    """10^12 operations a second."""
    gigabytes: float
    """Memory, 10^9 bytes."""
    bandwidth: float
    """Of its memory, 10^9 bytes a second."""
    link: float
    """To the other GPUs of its machine, 10^9 bytes a second in one direction: NVLink, else PCIe."""
    source: str


ACCELERATORS = {
    a.name.lower(): a
    for a in (
        #           name        TFLOP/s  GB    GB/s   link  source
        Accelerator("B200",       2250, 180,  8000,  900, "NVIDIA DGX B200 data sheet"),
        Accelerator("H200",        989, 141,  4800,  450, "NVIDIA H200 data sheet"),
        Accelerator("H100",        989,  80,  3350,  450, "NVIDIA H100 data sheet, SXM"),
        Accelerator("H100-PCIe",   756,  80,  2000,   64, "NVIDIA H100 data sheet, PCIe"),
        Accelerator("A100",        312,  80,  2039,  300, "NVIDIA A100 data sheet, SXM 80 GB"),
        Accelerator("A100-40GB",   312,  40,  1555,  300, "NVIDIA A100 data sheet, SXM 40 GB"),
        Accelerator("L40S",        362,  48,   864,   32, "NVIDIA L40S data sheet"),
        Accelerator("L4",          121,  24,   300,   32, "NVIDIA L4 data sheet"),
        Accelerator("A10G",         70,  24,   600,   32, "NVIDIA A10G data sheet"),
        Accelerator("V100",        125,  32,   900,  150, "NVIDIA V100 data sheet, SXM 32 GB; fp16"),
        Accelerator("T4",           65,  16,   320,   16, "NVIDIA T4 data sheet; fp16"),
        Accelerator("RTX4090",     165,  24,  1008,   32, "NVIDIA Ada architecture white paper"),
        Accelerator("RTX3090",      71,  24,   936,   32, "NVIDIA GA102 architecture white paper"),
        Accelerator("MI300X",     1307, 192,  5300,  448, "AMD Instinct MI300X data sheet"),
    )
}  # fmt: skip
"""By name in small letters."""


@dataclass(frozen=True)
class Cluster:
    """So many accelerators of one kind."""

    count: int
    accelerator: Accelerator

    def __str__(self) -> str:
        return f"{self.count}x{self.accelerator.name}"


def parse_cluster(text: str) -> Cluster:
    """The cluster that a text such as ``8xH100``, or a name alone, stands for.

    Raises:
        PochadeError: the text is of another form, or there is no such accelerator in the table.
    """
    found = re.fullmatch(r"(?:(\d+)\s*[x*])?\s*([A-Za-z][\w-]*)", text.strip())
    accelerator = None if found is None else ACCELERATORS.get(found[2].lower())
    if found is None or accelerator is None or (found[1] is not None and int(found[1]) < 1):
        names = [a.name for a in ACCELERATORS.values()]
        near = "" if found is None or accelerator is not None else nearest(found[2], names)
        raise PochadeError(f"gpus: {text!r} given, allowed is COUNTxNAME as in 8xH100, of {', '.join(names)}{near}")
    return Cluster(int(found[1] or 1), accelerator)
