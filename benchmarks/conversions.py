"""What a model exports to: bundles for every target and precision, and how near they are to PyTorch.

    python benchmarks/conversions.py [MODEL ...] [--work build/runtimes]

Takes an hour. Into docs/benchmarks/conversions.json; targets that it has of a model are not exported again without
``--force``, so that an interrupted run goes on. Targets that are not installed are left out.
"""

import argparse
import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from measuring import GUIDED_THROUGHOUT
from peer import peer_of
from pochade import TextToImagePipeline
from pochade.errors import PochadeError
from pochade.export.bundle import export_bundle, model_facts
from pochade.export.formats.base import Graphs, Options
from pochade.export.networks import Network
from pochade.export.precision import CALIBRATED
from pochade.export.targets import FORMATS
from pochade.files import write_json
from pochade.pipelines import hub
from pochade.runtime.manifest import Model, read_manifest
from runtimes import DEFAULT, MODELS, PEER, ROOT, place, size

EXPORTED = {
    "executorch": ("fp32", "int8"),
    "coreml": ("fp16", "int8"),
    "litert": ("fp32", "int8"),
    "openvino": ("fp32", "int8"),
    "onnx": ("fp32", "int8", "w8a16"),
}
"""Target -> precisions."""

PICTURES: dict[str, Any] = {"pictures": 2}
AS_PEER: dict[str, Any] = {"pictures": 0, "batch": 1}
"""Its weights are random, and its positions are added to one batch alone."""
Convert = Callable[[Sequence[Network], Path, Options], Graphs]


def exports(model: str, target: str, work: Path, again: bool) -> dict[str, dict[str, Any]]:
    """Precision -> what is known of the bundle of a model, which is written into ``work``, ``again`` where it is there.

    Raises PochadeError where the target's libraries are not installed.
    """
    form = FORMATS[target]
    form.check()
    form.convert = converted_once(type(form).convert.__get__(form))  # pyright: ignore[reportAttributeAccessIssue]
    source = Path(hub.resolve(DEFAULT if model == PEER else model))
    pipe = TextToImagePipeline.from_pretrained(source, **GUIDED_THROUGHOUT)
    facts, options = model_facts(model, source), PICTURES
    if model == PEER:
        pipe, facts, options = peer_of(pipe), Model(PEER), AS_PEER
    found: dict[str, dict[str, Any]] = {}
    for precision in EXPORTED[target]:
        if model == PEER and precision in CALIBRATED:
            continue
        folder = place(work, model, target, precision)
        if again:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            if folder.exists():
                manifest = read_manifest(folder)
            else:
                manifest = export_bundle(pipe, folder, facts, form=form, precision=precision, **options)
        except PochadeError as error:
            if "could not be written" in str(error):
                raise
            found[precision] = {"failed": str(error)}
            if len(found) == 1:  # it was the conversion, which is the same for all
                break
            continue
        graphs = manifest.graphs.values()
        found[precision] = {
            "largest_difference": worst(graph.largest_difference for graph in graphs),
            "precision_error": worst(g.precision_error for name, g in manifest.graphs.items() if "denoiser" in name),
            "picture_psnr": manifest.picture_psnr,
            "disk_mb": size(folder),
            "remarks": form.remarks(folder, manifest.graphs),
        }
    return found


def converted_once(convert: Convert) -> Convert:
    """``convert`` of one model's networks, which keeps what it made in float32 for the next precision."""
    kept = dict[Options, tuple[Path, Graphs]]()

    def once(networks: Sequence[Network], folder: Path, options: Options) -> Graphs:
        if options in kept:
            copy, graphs = kept[options]
            shutil.copytree(copy, folder, dirs_exist_ok=True)
            return graphs
        graphs = convert(networks, folder, options)
        copy = Path(tempfile.mkdtemp(prefix="converted-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        kept[options] = copy, graphs
        return graphs

    return once


def worst(values: Iterable[float | None]) -> float | None:
    """The largest; None where one is not known."""
    known = list(values)
    return None if None in known else max(value for value in known if value is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--only", help="a target")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "runtimes", help="folder of the bundles")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "conversions.json")
    parser.add_argument("--force", action="store_true", help="export again what is there")
    options = parser.parse_args()
    record: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    for model in options.models or MODELS:
        for target in [options.only] if options.only else EXPORTED:
            known = record.setdefault(model, {})
            if target in known and not options.force:
                continue
            try:
                known[target] = exports(model, target, options.work, again=options.force)
            except PochadeError as error:
                print(f"{model}, {target}: {error}", flush=True)
                continue
            print(f"{model}, {target}: {known[target]}", flush=True)
            write_json(options.out, record)


if __name__ == "__main__":
    main()
