"""What ``export --for web`` writes, and what it refuses before any work."""

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cli.run import cli
from conftest import toy_components
from pochade.errors import FailureError, PochadeError
from pochade.export import onnxruntime_web as vendored
from pochade.export.icons import MASKABLE, SIZES
from pochade.export.onnxruntime_web import FILES, VERSION, onnxruntime_web
from pochade.export.site import export_site
from pochade.files import sha256
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.runtime.manifest import Model


def test_every_file_is_in_the_table(toy_site: Path) -> None:
    table = json.loads((toy_site / "files.json").read_text())["files"]
    there = {path.relative_to(toy_site).as_posix() for path in toy_site.rglob("*") if path.is_file()}
    assert {name + ".gz" * entry["gzip"] for name, entry in table.items()} == there - {"files.json", "sw.js"}
    for name, entry in table.items():
        path = toy_site / (name + ".gz" * entry["gzip"])
        content = gzip.decompress(path.read_bytes()) if entry["gzip"] else path.read_bytes()
        assert (path.stat().st_size, len(content)) == (entry["bytes"], entry["size"])
    assert f'"{sha256(toy_site / "files.json")}"' in (toy_site / "sw.js").read_text()
    assert {name.partition("/")[0] for name, entry in table.items() if entry["gzip"]} == {"model", "onnxruntime"}


def test_the_page_installs(toy_site: Path) -> None:
    said = json.loads((toy_site / "manifest.webmanifest").read_text())
    assert (said["start_url"], said["scope"], said["display"]) == ("./", "./", "standalone")
    assert len(said["icons"]) == len({*SIZES, MASKABLE})
    for icon in said["icons"]:
        with Image.open(toy_site / icon["src"]) as image:
            assert f"{image.width}x{image.height}" == icon["sizes"]
    licence = (toy_site / "onnxruntime" / "LICENSE.txt").read_text()
    assert "Copyright (c) Microsoft Corporation" in licence


def test_no_script_names_another_host(toy_site: Path) -> None:
    ours = [path for path in toy_site.iterdir() if path.suffix in (".js", ".css", ".html", ".webmanifest")]
    assert len(ours) > 10
    assert not [path.name for path in ours if "http://" in path.read_text() or "https://" in path.read_text()]


def test_a_tokenizer_that_the_page_cannot_read(tmp_path: Path) -> None:
    pipe = TextToImagePipeline(**toy_components())
    given = json.loads(pipe.text_encoder.tokenizer_json())
    given["pre_tokenizer"] = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}
    from tokenizers import Tokenizer

    pipe.text_encoder._tokenizer = Tokenizer.from_str(json.dumps(given))
    with pytest.raises(PochadeError, match="has a tokenizer with the pre_tokenizer Metaspace, a page reads BertPre"):
        export_site(pipe, tmp_path / "site", Model("toy"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--for", "webb"], "for: 'webb' given, allowed are onnx, web, openvino, coreml, executorch, litert (did"),
        (["--for", "web", "--batch", "0"], "batch: given for web, allowed is onnx and openvino"),
        (["--onnxruntime-web", "x.tgz"], "onnxruntime_web: given for onnx, allowed is web"),
    ],
)
def test_options_that_do_not_go_together(capsys: Any, tmp_path: Path, given: list[str], message: str) -> None:
    assert message in cli(capsys, "export", "lrf-openmoji", str(tmp_path / "site"), *given, code=2).error
    assert not list(tmp_path.iterdir())


def test_another_onnxruntime_web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = onnxruntime_web()
    assert onnxruntime_web(whole) == whole
    (tmp_path / "node_modules" / "dist").mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(whole / name, tmp_path / "node_modules" / "dist" / name)
    assert onnxruntime_web(tmp_path / "node_modules") == tmp_path / "node_modules" / "dist"
    (tmp_path / "node_modules" / "dist" / "ort.wasm.bundle.min.mjs").write_text("")
    with pytest.raises(
        PochadeError, match=r"ort.wasm.bundle.min.mjs in .* is altered or of another version, allowed is"
    ):
        onnxruntime_web(tmp_path / "node_modules")
    with pytest.raises(PochadeError, match="is not there, allowed is the npm package onnxruntime-web@"):
        onnxruntime_web(tmp_path / "nothing.tgz")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("package/dist/other.js"), io.BytesIO())
    with pytest.raises(PochadeError, match="is not the npm package onnxruntime-web@"):
        onnxruntime_web(tmp_path / "other.tgz")
    with tarfile.open(tmp_path / "this.tgz", "w:gz", compresslevel=1) as archive:
        for name in FILES:
            archive.add(whole / name, f"package/dist/{name}")
    assert onnxruntime_web(tmp_path / "this.tgz") == tmp_path / "cache" / "pochade" / f"onnxruntime-web-{VERSION}"
    assert onnxruntime_web() == tmp_path / "cache" / "pochade" / f"onnxruntime-web-{VERSION}"


def test_npm_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(vendored.shutil, "which", lambda _: None)
    with pytest.raises(FailureError, match=rf"npm is not installed, .* run: npm pack onnxruntime-web@{VERSION}; then"):
        onnxruntime_web()
    assert not list(tmp_path.iterdir())
