"""Seconds and memory of the figures of an evaluation at size, on random features and pictures, without a model.

    python benchmarks/evaluation_size.py

50,000 generated pictures beside as many real ones, of 64 px; prints a line for each figure, with the highest resident
memory of the process so far. Takes 11 minutes of a core of an AMD EPYC; `--count 2500` one.
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch

from pochade.evaluation import bootstrap, contrast, copying
from pochade.evaluation.frechet import frechet_distance
from pochade.evaluation.kid import kid
from pochade.evaluation.retrieval import RetrievalProbe
from pochade.features.lite0 import FEATURES

CAPTION = 384
"""Width of the embedding of a caption."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    count, size = options.count, options.size
    generator = torch.Generator().manual_seed(0)
    real, made = (torch.randn(count, FEATURES, generator=generator) for _ in range(2))
    embeddings = torch.randn(count, CAPTION, generator=generator)
    pictures = [torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8) for _ in range(2)]
    thumbnails = [copying.thumbnails(images) for images in pictures]
    names = [str(i) for i in range(count)]
    values = torch.rand(count, generator=generator)
    few = [images[: copying.MOST] for images in pictures]
    probe = RetrievalProbe.fit(real, embeddings)
    figures: dict[str, Callable[[], object]] = {
        "pictures and features": lambda: None,
        "KID": lambda: kid(real, made),
        "interval of KID": lambda: bootstrap.of_kid(0.0, real, made),
        "Frechet distance": lambda: frechet_distance(real, made),
        "interval of the Frechet distance": lambda: bootstrap.of_frechet(0.0, real, made),
        "retrieval": lambda: probe.hits(made, embeddings, names),
        "interval of a mean": lambda: bootstrap.of_mean(values),
        "interval of a median": lambda: bootstrap.of_median(values),
        "contrast": lambda: contrast.check(pictures[1], pictures[0], names),
        "typical distance": lambda: copying.typical(thumbnails[0]),
        "copies": lambda: copying.nearest_in_pixels(thumbnails[1], thumbnails[0]),
        "nearest by features": lambda: copying.nearest_in_features(made, real),
        "nearest by pixels": lambda: copying.nearest_in_pixels(few[1], few[0]),
    }
    for name, figure in figures.items():
        start = time.perf_counter(), time.process_time()
        figure()
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name}: {wall:.1f} s, {cpu:.1f} s of a processor, {peak:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
