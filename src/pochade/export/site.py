"""A model as a web page: a static folder that runs in a browser, offline after the first visit, and asks no server for
anything but its own files. ``web/`` beside this file has its scripts."""

import gzip
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pochade.arguments import check_pipeline, path_text
from pochade.errors import PochadeError
from pochade.export.bundle import README, export_bundle
from pochade.export.icons import MASKABLE, SIZES, write_icons
from pochade.export.onnxruntime_web import FILES, onnxruntime_web
from pochade.files import atomic_folder, check_replaceable, sha256, write_bytes, write_json, write_text
from pochade.pipelines.base import GenerationPipeline
from pochade.runtime.manifest import EMOJI, TOKENIZER, WITHOUT_SOURCE, Manifest, Model, Quality
from pochade.text_encoders.base import PromptEncoder

ASSETS = Path(__file__).with_name("web")
MODEL, ICONS, RUNTIME = "model", "icons", "onnxruntime"
TABLE, WORKER = "files.json", "sw.js"
LICENCE = "onnxruntime-LICENSE.txt"
TOKENIZERS = {
    "model": ("WordPiece", "BPE"),
    "normalizer": ("BertNormalizer", "Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip"),
    "pre_tokenizer": ("BertPreTokenizer", "ByteLevel"),
    "post_processor": ("TemplateProcessing", "ByteLevel"),
}
"""The parts of a ``tokenizer.json`` that ``web/tokenizer.js`` reads, by their types."""


@dataclass(frozen=True)
class Site:
    """What was written.

    Attributes:
        manifest: of the model.
        download: bytes that a browser without a GPU fetches before its first picture.
        editing: bytes that it fetches before its first edit.
    """

    manifest: Manifest
    download: int
    editing: int


def export_site(
    pipe: GenerationPipeline,
    folder: str | os.PathLike[str],
    model: Model,
    *,
    precision: str = "int8",
    size: int | tuple[int, int] | None = None,
    depth: int | None = None,
    decoder: Path | None = None,
    quality: tuple[Quality, ...] = (),
    runtime: str | os.PathLike[str] | None = None,
) -> Site:
    """Writes a model as a page: a bundle in ``model/``, compressed, the page, and ONNX Runtime for browsers.

    The folder is complete or not there at all.

    Args:
        pipe, folder, model, precision, size, depth, decoder, quality: as of ``export_bundle``.
        runtime: see ``onnxruntime_web``.

    Raises:
        PochadeError: as ``export_bundle``; the page cannot read the model's tokenizer; ``runtime`` is another version.
        FailureError: as ``export_bundle``; ONNX Runtime cannot be fetched.
    """
    check_pipeline("pipe", pipe)
    place = Path(path_text("folder", folder))
    check_replaceable("folder", place)
    if isinstance(pipe.text_encoder, PromptEncoder):
        check_tokenizer(pipe.text_encoder)
    library = onnxruntime_web(runtime)
    with atomic_folder(place) as new:
        depths = () if depth is None else (depth,)
        manifest = export_bundle(
            pipe,
            new / MODEL,
            model,
            precision=precision,
            size=size,
            depths=depths,
            decoder=decoder,
            quality=quality,
            standard=True,  # WebAssembly is slower by the runtime's own operator for scans
        )
        (new / MODEL / README).unlink()
        packed = {f"{MODEL}/{name}" for name in manifest.files if name != README}
        for path in ASSETS.iterdir():
            if path.name not in (LICENCE, WORKER):
                shutil.copyfile(path, new / path.name)
        (new / ICONS).mkdir()
        write_icons(new / ICONS)
        (new / RUNTIME).mkdir()
        shutil.copyfile(ASSETS / LICENCE, new / RUNTIME / "LICENSE.txt")
        for name in FILES:
            shutil.copyfile(library / name, new / RUNTIME / name)
        packed |= {f"{RUNTIME}/{name}" for name in FILES if name.endswith(".wasm")}
        write_json(new / "manifest.webmanifest", _web_manifest(model.name))
        table = {name: _entry(new, name, name in packed) for name in _names(new)}
        text = json.dumps({"version": _version(table), "files": table}, indent=1) + "\n"
        write_text(new / TABLE, text)
        worker = (ASSETS / WORKER).read_text(encoding="utf-8")
        write_text(new / WORKER, worker.replace("@VERSION@", hashlib.sha256(text.encode()).hexdigest()))
    shell = sum(entry["bytes"] for entry in table.values() if not entry["gzip"])
    graphs = {name: table[f"{MODEL}/{graph.file}"]["bytes"] for name, graph in manifest.graphs.items()}
    editing = graphs.pop("encoder", 0) + (graphs.pop("denoiser") if WITHOUT_SOURCE in graphs else 0)
    binary = table[f"{RUNTIME}/ort-wasm-simd-threaded.wasm"]["bytes"]
    tokens = sum(table.get(f"{MODEL}/{name}", {"bytes": 0})["bytes"] for name in (TOKENIZER, EMOJI))
    return Site(manifest, shell + binary + tokens + sum(graphs.values()), editing)


def check_tokenizer(encoder: PromptEncoder) -> None:
    """Raises PochadeError where the page cannot read the tokenizer of a text encoder."""
    given = json.loads(encoder.tokenizer_json())
    for part, known in TOKENIZERS.items():
        inner = given[part] or {}
        for value in [inner, *inner.get("normalizers", ())]:
            kind = value.get("type")
            if kind not in (None, *known):
                allowed = ", ".join(known)
                raise PochadeError(
                    f"text_encoder: {encoder.identity} has a tokenizer with the {part} {kind}, a page reads {allowed}"
                )


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _entry(folder: Path, name: str, packed: bool) -> dict[str, Any]:
    """What the page's table says of a file, which is compressed here if it is to be: few servers do it themselves."""
    path = folder / name
    digest, size = sha256(path), path.stat().st_size
    if packed:
        write_bytes(folder / f"{name}.gz", gzip.compress(path.read_bytes(), 9, mtime=0))
        path.unlink()
        path = folder / f"{name}.gz"
    return {"bytes": path.stat().st_size, "size": size, "sha256": digest, "gzip": packed}


def _version(table: dict[str, dict[str, Any]]) -> str:
    return hashlib.sha256("".join(entry["sha256"] for entry in table.values()).encode()).hexdigest()[:16]


def _web_manifest(name: str) -> dict[str, Any]:
    icons = [{"src": f"{ICONS}/{icon}", "sizes": f"{side}x{side}", "type": "image/png"} for icon, side in SIZES.items()]
    maskable = {"src": f"{ICONS}/{MASKABLE}", "sizes": "512x512", "type": "image/png", "purpose": "maskable"}
    return {
        "name": f"{name}, pictures from words",
        "short_name": name[:12],
        "description": "Pictures from words, made on this device.",
        "start_url": "./",
        "scope": "./",
        "id": "./",
        "display": "standalone",
        "background_color": "#f5f0e6",
        "theme_color": "#f5f0e6",
        "icons": [*icons, maskable],
    }
