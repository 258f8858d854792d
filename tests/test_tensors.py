import errno
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors import SafetensorError, safe_open

from pochade import tensors
from pochade.errors import FailureError, PochadeError
from pochade.tensors import TensorEntry, read_tensors, tensor_entries, write_tensors


def test_round_trip(tmp_path: Path) -> None:
    written = {"b": torch.arange(6.0).view(2, 3).t(), "a": torch.ones(4, dtype=torch.float16, requires_grad=True)}
    write_tensors(tmp_path / "x.safetensors", written, {"z": "1", "y": "2"})
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.keys() == written.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in written.items())
    entries = tensor_entries(tmp_path / "x.safetensors")
    assert entries == {"a": TensorEntry("F16", (4,)), "b": TensorEntry("F32", (3, 2))}
    assert entries["b"].count == 6
    sizes = {name: TensorEntry(name, (3,)).size for name in ("F32", "BF16", "F8_E4M3", "BOOL", "I64")}
    assert sizes == {"F32": 12, "BF16": 6, "F8_E4M3": 3, "BOOL": 3, "I64": 24}
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "z": "1", "y": "2"}


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    words = {f"key {i}": str(i) for i in range(6)}
    for name, order in (("x", sorted(words)), ("y", sorted(words, reverse=True))):
        write_tensors(tmp_path / name, {"a": torch.ones(2)}, {key: words[key] for key in order})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left")])
def test_a_full_disk_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def save(*_: Any, **__: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(tensors, "save_file", save)
    with pytest.raises(FailureError, match=r"x\.safetensors: could not be written \(No space left"):
        write_tensors(tmp_path / "x.safetensors", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"not one", b"\xff" * 64, None])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    for read in (read_tensors, tensor_entries):
        with pytest.raises(PochadeError, match=r"x\.safetensors: not a readable safetensors file"):
            read(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit to the size of files")
def test_what_a_library_cannot_write_whole_is_a_failure(tmp_path: Path, toy_pipeline_folder: Path) -> None:
    """Weights that diffusers writes by safetensors, whose error is no OSError."""
    import resource
    import signal

    from pochade.pipelines.text_to_image import TextToImagePipeline

    pipe = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(FailureError, match="model: could not be written"):
            pipe.save_pretrained(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
