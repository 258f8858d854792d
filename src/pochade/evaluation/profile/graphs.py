"""Measures exported graphs in ONNX Runtime: ``python -m pochade.evaluation.profile.graphs``, a job on the input.

The process holds ONNX Runtime, numpy and the tokenizer, never torch.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from pochade.evaluation.profile import COMPONENTS, PICTURE, measure
from pochade.evaluation.profile.sampling import PROMPT, paint, seeded

_KINDS = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(bool)": "bool"}


def session(path: str, threads: int) -> Any:
    """A session on the CPU with so many threads, that gives back what a call does not need any more.

    From the second call on ONNX Runtime would hold a plan of the memory beside the memory itself, and each graph the
    most that it ever needed: 300 MB of 970 for LiRA small at 1024 px, for no time.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def inputs_of(graph: Any) -> dict[str, np.ndarray]:
    """Values for every input of a graph of fixed shapes."""
    return {i.name: seeded(i.name, tuple(i.shape), _KINDS[i.type]) for i in graph.get_inputs()}


def one(path: str, threads: int) -> Callable[[], object]:
    """Loads a graph, gives a call of it."""
    graph = session(path, threads)
    return partial(graph.run, None, inputs_of(graph))


def picture(files: dict[str, str], tokenizer: str | None, steps: int, threads: int) -> Callable[[], np.ndarray]:
    """Loads all graphs, gives what paints from a prompt to pixels."""
    graphs = {name: session(files[name], threads) for name in COMPONENTS if name in files}
    encode = None if tokenizer is None else _encoder(graphs["text_encoder"], tokenizer)
    denoiser, decoder = graphs["denoiser"], graphs["decoder"]
    given = inputs_of(denoiser)

    def denoise(values: Any) -> tuple[np.ndarray, np.ndarray | None]:
        velocity, *state = denoiser.run(None, values)
        return velocity, state[0] if state else None

    def call() -> np.ndarray:
        text = {} if encode is None else encode(PROMPT)
        told = given | {name: value for name, value in text.items() if name in given}
        return paint(denoise, lambda z: decoder.run(None, {"latents": z})[0], told, steps)

    return call


def _encoder(graph: Any, path: str) -> Callable[[str], dict[str, np.ndarray]]:
    from tokenizers import Tokenizer

    batch, length = graph.get_inputs()[0].shape
    tokenizer = Tokenizer.from_file(path)
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)

    def encode(prompt: str) -> dict[str, np.ndarray]:
        rows = [tokenizer.encode(prompt)] * batch
        ids = np.array([row.ids for row in rows], dtype=np.int64)
        mask = np.array([row.attention_mask for row in rows], dtype=bool)
        tokens, pooled = graph.run(None, {"ids": ids, "mask": mask})
        return {"tokens": tokens, "mask": mask, "pooled": pooled}

    return encode


def main() -> None:
    """Reads a job, writes what was measured, both as JSON."""
    job = json.load(sys.stdin)
    files, threads = job["files"], job["threads"]
    if job["component"] == PICTURE:
        load = partial(picture, files, job["tokenizer"], job["steps"], threads)
    else:
        load = partial(one, files[job["component"]], threads)
    found = measure(load, job["repeats"])
    found["weights_mb"] = sum(p.stat().st_size for f in files.values() for p in _parts(Path(f))) / 1e6
    found["torch"] = "torch" in sys.modules
    json.dump(found, sys.stdout)


def _parts(path: Path) -> list[Path]:
    """A graph, and the file of its weights where they lie beside it."""
    return [p for p in (path, path.with_name(path.name + ".data")) if p.is_file()]


if __name__ == "__main__":
    main()
