"""Measures exported graphs in ONNX Runtime: ``python -m pochade.evaluation.profile.graphs``, a job on the input.

The process holds ONNX Runtime, numpy and the tokenizer, never torch.
"""

import json
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from pochade.allocator import release_memory
from pochade.evaluation.profile import IN_TURN, PICTURE, measure
from pochade.evaluation.profile.figures import Graphs, GraphsJob
from pochade.evaluation.profile.sampling import PROMPT, sample, seeded
from pochade.runtime.graphs import session

_KINDS = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(bool)": "bool"}


def inputs_of(graph: Any) -> dict[str, np.ndarray]:
    """Values for every input of a graph of fixed shapes."""
    return {i.name: seeded(i.name, tuple(i.shape), _KINDS[i.type]) for i in graph.get_inputs()}


def one(path: str, threads: int) -> Callable[[], object]:
    """Loads a graph, gives a call of it."""
    graph = session(path, threads)
    return partial(graph.run, None, inputs_of(graph))


def picture(
    files: dict[str, str], tokenizer: str | None, steps: int, threads: int, *, in_turn: bool = False
) -> Callable[[], np.ndarray]:
    """Loads all graphs, gives the whole sampling from a prompt to pixels; ``in_turn`` loads each when it is needed."""
    if in_turn:
        graph, words = partial(_in_place_of_the_last, threads=threads), _tokenizer
    else:
        graph, words = cache(partial(session, threads=threads)), cache(_tokenizer)
        for path in files.values():
            graph(path)

    def call() -> np.ndarray:
        # What is loaded here goes when the function that it is handed to returns.
        text = {} if tokenizer is None else _encode(graph(files["text_encoder"]), words(tokenizer))
        latents = _denoise(graph(files["denoiser"]), text, steps)
        return graph(files["decoder"]).run(None, {"latents": latents})[0]

    return call


def _in_place_of_the_last(path: str, threads: int) -> Any:
    """A session that uses its weights as mapped, after what the one before has left is given back (on Linux)."""
    release_memory()
    return session(path, threads, as_mapped=True)


def _tokenizer(path: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(path)


def _encode(graph: Any, tokenizer: Any) -> dict[str, np.ndarray]:
    batch, length = graph.get_inputs()[0].shape
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    rows = [tokenizer.encode(PROMPT)] * batch
    ids = np.array([row.ids for row in rows], dtype=np.int64)
    mask = np.array([row.attention_mask for row in rows], dtype=bool)
    tokens, pooled = graph.run(None, {"ids": ids, "mask": mask})
    return {"tokens": tokens, "mask": mask, "pooled": pooled}


def _denoise(graph: Any, text: dict[str, np.ndarray], steps: int) -> np.ndarray:
    given = inputs_of(graph)

    def call(values: Any) -> tuple[np.ndarray, np.ndarray | None]:
        velocity, *state = graph.run(None, values)
        return velocity, state[0] if state else None

    return sample(call, given | {name: value for name, value in text.items() if name in given}, steps)


def main() -> None:
    """Reads a job, writes what was measured, both as JSON."""
    job: GraphsJob = json.load(sys.stdin)
    files, threads = job["files"], job["threads"]
    if job["component"] in (PICTURE, IN_TURN):
        in_turn = job["component"] == IN_TURN
        load = partial(picture, files, job["tokenizer"], job["steps"], threads, in_turn=in_turn)
    else:
        load = partial(one, files[job["component"]], threads)
    measured = measure(load, job["repeats"])
    weights = sum(p.stat().st_size for f in files.values() for p in _parts(Path(f))) / 1e6
    found: Graphs = {**measured, "weights_mb": weights, "torch": "torch" in sys.modules}
    json.dump(found, sys.stdout)


def _parts(path: Path) -> list[Path]:
    """A graph, and the file of its weights where they lie beside it."""
    return [p for p in (path, path.with_name(path.name + ".data")) if p.is_file()]


if __name__ == "__main__":
    main()
