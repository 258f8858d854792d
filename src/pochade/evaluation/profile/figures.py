"""The form of a profile, as ``pochade profile --json`` prints it."""

from typing import TypedDict

Component = TypedDict(
    "Component", {"class": str, "random": bool, "parameters": int, "fp32_mb": float, "fp16_mb": float}
)
"""Class and size of a component, and whether its weights are random."""


class Measured(TypedDict):
    """Memory in MB and time of a process that does one thing alone."""

    libraries_mb: float
    """Resident before loading."""
    loading_mb: float
    """The peak while loading."""
    rest_mb: float
    """Resident after loading."""
    peak_mb: float
    """The peak during the calls."""
    seconds: float
    """Of the fastest call."""


class Row(Measured):
    """A component, or a whole picture, in one runtime and precision."""

    component: str
    runtime: str
    precision: str
    weights_mb: float
    """Of the files; in eager of the parameters."""
    device_mb: float | None
    """The peak of the memory of a GPU; None on the CPU, and where the device does not say."""
    error: float | None
    """Of 8-bit weights, see `pochade.export.quantize`."""


class Export(TypedDict):
    """How long a graph took to write, and how far it is from eager."""

    seconds: float
    difference: float


class Graphs(Measured):
    """What a process of exported graphs reports besides: the size of their files, and whether it has loaded torch."""

    weights_mb: float
    torch: bool


class Settings(TypedDict):
    """What is measured, and how."""

    model: str
    text_encoder: str | None
    latent_size: list[int]
    text_tokens: int
    steps: int
    batch: int
    threads: int
    depth: int | None
    device: str
    """Of eager; exported graphs run on the CPU."""
    precision: str
    """Of denoiser and decoder in eager: fp32, bf16 or fp16."""
    repeats: int


class EagerJob(Settings):
    """What a process measures in eager."""

    component: str


class Eager(Measured):
    """What a process of eager networks reports besides."""

    device_mb: float | None


class GraphsJob(TypedDict):
    """What a process of exported graphs measures: ``files`` and ``tokenizer`` are paths."""

    component: str
    files: dict[str, str]
    tokenizer: str | None
    steps: int
    threads: int
    repeats: int


class Profile(Settings):
    """All of a profile."""

    size: int
    versions: dict[str, str]
    components: dict[str, Component]
    rows: list[Row]
    exports: dict[str, Export]
