"""Checkpoints: whole or absent, whatever happens while they are written."""

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pochade import files
from pochade.errors import FailureError, PochadeError
from pochade.training.checkpoint import (
    checkpoints,
    find_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from processes import python

HERE = Path(__file__).parent


def tensors(value: float) -> dict[str, dict[str, Tensor]]:
    return {"model": {"a": torch.full((3,), value)}, "optimizer": {"step/a": torch.tensor(value)}}


def save(folder: Path, *steps: int, keep: int = 10) -> None:
    for step in steps:
        save_checkpoint(folder, step, tensors(step), {"note": f"at {step}"}, keep)


def test_round_trip_and_pruning(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-00000003",
        "checkpoint-00000004",
        "latest",
    ]
    assert (tmp_path / "latest").read_text().strip() == "checkpoint-00000004"
    found = find_checkpoint(tmp_path)
    assert found is not None
    saved = load_checkpoint(found)
    assert (saved.step, saved.state["note"]) == (4, "at 4")
    assert saved.tensors.keys() == {"model", "optimizer"}
    assert torch.equal(saved.tensors["model"]["a"], torch.full((3,), 4.0))
    assert saved.tensors["optimizer"]["step/a"].shape == ()


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a", 7)
    save(tmp_path / "b", 7)
    manifests = [(tmp_path / x / "checkpoint-00000007" / "manifest.json").read_text() for x in "ab"]
    assert manifests[0] == manifests[1]


def test_a_damaged_latest_checkpoint_falls_back_with_a_message(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4)
    weights = tmp_path / "checkpoint-00000004" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (tmp_path / "checkpoint-00000003" / "optimizer.safetensors").unlink()
    messages: list[str] = []
    assert find_checkpoint(tmp_path, messages.append) == tmp_path / "checkpoint-00000002"
    assert len(messages) == 2
    assert "checkpoint-00000004 is damaged: model.safetensors" in messages[0]
    assert "checkpoint-00000003" in messages[1]
    assert "optimizer.safetensors" in messages[1]
    save(tmp_path, 4)  # the run gets there again and replaces it
    assert find_checkpoint(tmp_path, messages.append) == tmp_path / "checkpoint-00000004"
    assert len(messages) == 2


@pytest.mark.parametrize("pointer", ["", "checkpoint-00000099", "\x00\xff", None])
def test_a_damaged_pointer_falls_back_to_the_newest(tmp_path: Path, pointer: str | None) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "latest").unlink()
    if pointer is not None:
        (tmp_path / "latest").write_text(pointer, encoding="latin-1")
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoint-00000002"


@pytest.mark.parametrize("manifest", ["{}", "[]", "null", "{", '{"state.json": 1}'])
def test_all_damaged_is_a_failure_and_none_is_none(tmp_path: Path, manifest: str) -> None:
    assert find_checkpoint(tmp_path) is None
    save(tmp_path, 1)
    (tmp_path / "checkpoint-00000001" / "manifest.json").write_text(manifest)
    with pytest.raises(FailureError, match="all 1 checkpoints are damaged"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("synced", range(5))
def test_a_full_disk_keeps_the_previous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: int) -> None:
    save(tmp_path, 1, 2)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    real, left = files._sync, [synced]

    def sync(path: Path) -> None:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        left[0] -= 1
        real(path)

    monkeypatch.setattr(files, "_sync", sync)
    with pytest.raises(FailureError) as caught:
        save(tmp_path, 3, keep=1)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'checkpoint-00000003'}")
    assert "could not be written (No space left on device)" in message
    assert message.endswith(f"the last good checkpoint is {tmp_path / 'checkpoint-00000002'}")
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in before} == before
    assert not list(tmp_path.glob(".*"))
    save(tmp_path, 3)
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoint-00000003"


def test_the_first_checkpoint_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "_sync", sync)
    with pytest.raises(FailureError, match="there is no earlier checkpoint"):
        save(tmp_path, 1)


def test_killed_at_twenty_moments_of_writing(tmp_path: Path) -> None:
    done = python(HERE / "kill_writer.py", tmp_path / "run", "20")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["complaints"] == []
    assert report["orphans"] > 0  # some were killed in the middle
    assert len(checkpoints(tmp_path / "run")) <= 3


def test_load_weights_from_all_that_holds_them(tmp_path: Path) -> None:
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    half = {name: tensor.half() for name, tensor in source.state_dict().items()}
    save_file(half, tmp_path / "x.safetensors")
    (tmp_path / "run" / "final").mkdir(parents=True)
    save_file(half, tmp_path / "run" / "final" / "model.safetensors")
    for path in (tmp_path / "x.safetensors", tmp_path / "run", tmp_path / "run" / "final"):
        nn.init.zeros_(target.weight)
        load_weights(target, path)
        assert target.weight.dtype == torch.float32
        assert torch.equal(target.weight, source.weight.half().float())
    save_checkpoint(tmp_path, 1, {"model": half, "ema": source.state_dict()}, {}, 1)
    assert load_weights(target, tmp_path / "checkpoint-00000001").name == "ema.safetensors"
    assert torch.equal(target.weight, source.weight)


def test_load_weights_refuses_and_names_every_tensor(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2, 2), "scale": torch.ones(1)}, tmp_path / "x.safetensors")
    net = nn.Linear(2, 3)
    before = net.weight.clone()
    with pytest.raises(PochadeError) as caught:
        load_weights(net, tmp_path / "x.safetensors")
    for part in ("missing: bias", "extra: scale", "wrongly shaped: weight [2, 2] for [3, 2]"):
        assert part in str(caught.value)
    assert torch.equal(net.weight, before)
    (tmp_path / "x.pt").write_bytes(b"\x80\x02")
    (tmp_path / "bad.safetensors").write_bytes(b"not one")
    for name, message in [
        ("x.pt", "only safetensors"),
        ("bad.safetensors", "not a readable"),
        ("no", "neither"),
    ]:
        with pytest.raises(PochadeError, match=message):
            load_weights(net, tmp_path / name)
