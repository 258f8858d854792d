"""The tables of quality of the shipped models, by which ``--budget`` chooses: measured, and put into their folders.

    python scripts/quality.py open-drawings iris-nano

Without names, all of ``GRIDS``. Pictures lie below ``report/quality/MODEL`` meanwhile; what was interrupted goes on.
"""

import argparse
from pathlib import Path

from pochade.evaluation.grid import evaluate_grid
from pochade.files import write_bytes
from pochade.pipelines import hub
from pochade.pipelines.budget import QUALITY
from pochade.pipelines.run_request import open_pipeline

GRIDS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], int]] = {
    "open-drawings": ("drawings::sets=openmoji", (1, 2, 4, 8), (), 100),
    "iris-fast": ("openmoji", (1, 2, 4, 8), (4, 8, 12), 150),
    "iris-nano": ("openmoji", (4, 8, 20), (4, 8, 12), 150),
    "lrf-openmoji": ("openmoji", (3, 4, 8, 20), (), 150),
    "lira-nano": ("openmoji", (3, 4, 8, 20), (), 150),
    "microforge-nano": ("openmoji", (4, 8, 20), (), 150),
    "microforge-edit": ("openmoji", (4, 8, 20), (), 150),
}
"""Model -> its data, steps, depths (none: as configured), pictures of each."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the tables of quality of shipped models.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(GRIDS))
    parser.add_argument("--out", type=Path, default=Path("report/quality"))
    given = parser.parse_args()
    for name in given.models or GRIDS:
        data, steps, depths, samples = GRIDS[name]
        folder = hub.resolve(name)
        pipe = open_pipeline("TextToImagePipeline", folder, precision="fp32")
        out = given.out / name
        (out / QUALITY).unlink(missing_ok=True)
        evaluate_grid(pipe, data, steps, depths, samples=samples, guidance=pipe.default_guidance, out=out)
        write_bytes(folder / QUALITY, (out / QUALITY).read_bytes())
        print(folder / QUALITY)


if __name__ == "__main__":
    main()
