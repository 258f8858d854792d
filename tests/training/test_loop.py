"""The loop in one process."""

import errno
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pochade.errors import FailureError, PochadeError
from pochade.training import checkpoint
from pochade.training.checkpoint import load_weights
from pochade.training.interruption import TrainingInterrupted
from pochade.training.loop import train
from pochade.training.task import Batch
from training.toy import PlainTask, ToyData, ToyDataset, ToySettings, ToyTask, fingerprint, order, toy_stage


def run(folder: Path, task: ToyTask | None = None, data: Any = None, options: dict | None = None, **changes: Any):
    settings = {"console": False} | (options or {})
    return train(toy_stage(**changes), task or ToyTask(), ToyDataset() if data is None else data, folder, **settings)


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_whole_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    task = ToyTask()
    start = {name: tensor.clone() for name, tensor in task.net.state_dict().items()}
    frozen = task.frozen.weight.clone()
    modes: list[bool] = []

    def sheet() -> Image.Image:
        modes.extend([task.net.training, torch.is_grad_enabled()])
        random.random(), np.random.rand(), torch.rand(3)  # noqa: NPY002
        shade = task.net[0].weight.abs().mean().mul(255).clamp(0, 255).int().item()
        return Image.new("RGB", (4, 4), (shade, 0, 0))

    threads = torch.get_num_threads()
    options = {"sample_sheet": sheet, "console": True}
    result = run(tmp_path, task, options=options, sample_every=5, save_every=5, keep=2)
    assert (result.step, result.folder) == (12, tmp_path)
    assert torch.get_num_threads() == threads
    assert task.seen == order(40, 0, 96)
    assert torch.equal(task.frozen.weight, frozen)
    assert modes == [False, False] * 4

    names = {
        "checkpoint-00000010",
        "checkpoint-00000012",
        "latest",
        "metrics.jsonl",
        "final",
        "samples",
        "tensorboard",
    }
    assert {p.name for p in tmp_path.iterdir()} == names
    assert [p.name for p in sorted((tmp_path / "samples").iterdir())] == [
        "step-000001.png",
        "step-000005.png",
        "step-000010.png",
        "step-000012.png",
    ]
    lines = log(tmp_path)
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert result.loss == lines[-1]["loss"]
    for line in lines:
        assert line["processes"] == 1
        assert len(line["loss_by_t"]) == 10
        assert line["gradient_norm"] > 0
        assert line["size"] > 0
        assert line["seconds_data"] + line["seconds_compute"] == pytest.approx(line["seconds_per_step"])
    assert lines[0]["learning_rate"] == pytest.approx(1e-2 * 0.9755283)  # a tenth down the cosine

    ema = load_file(tmp_path / "checkpoint-00000012" / "ema.safetensors")
    raw = load_file(tmp_path / "checkpoint-00000012" / "model.safetensors")
    final = load_file(result.weights)
    for name, tensor in task.net.state_dict().items():
        assert torch.equal(tensor, ema[name])
        assert torch.equal(tensor, final[name])
    assert not torch.equal(raw["0.weight"], ema["0.weight"])
    assert not torch.equal(raw["0.weight"], start["0.weight"])
    printed = capfd.readouterr().err
    assert "1 process on cpu" in printed
    assert "steps 0 to 12, 2.4 passes over the data" in printed
    assert "warning" not in printed
    assert "step 8/12" in printed

    # Sheets, which draw random numbers and swap weights, leave the run as it was without them.
    run(tmp_path / "plain", save_every=5)
    assert fingerprint(tmp_path / "plain" / "checkpoint-00000012") == fingerprint(tmp_path / "checkpoint-00000012")

    # A finished run answers at once; with more steps it goes on.
    again = ToyTask()
    assert run(tmp_path, again, options={"resume": True}).loss == result.loss
    assert again.calls == 0
    assert torch.equal(again.net[0].weight, task.net[0].weight)
    assert run(tmp_path, again, options={"resume": True}, steps=14, log_every=1).step == 14
    assert again.calls == 2

    with pytest.raises(PochadeError, match="--resume or choose another folder"):
        run(tmp_path)


def test_a_resumed_run_may_have_another_rate_and_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, steps=4)
    run(tmp_path, options={"resume": True, "console": True}, steps=8, learning_rate=3e-3, schedule="cosine")
    printed = capfd.readouterr().err
    assert "from step 4 on steps 8 instead of 4\n" in printed
    assert "from step 4 on learning_rate 0.003 instead of 0.01\n" in printed
    assert log(tmp_path)[-1]["learning_rate"] < 3e-3


def test_a_resumed_run_cannot_end_before_it_stands(tmp_path: Path) -> None:
    run(tmp_path, steps=5)
    with pytest.raises(PochadeError, match=r"steps: 3 given, but .*checkpoint-00000005 is of step 5: allowed are 5,"):
        run(tmp_path, options={"resume": True}, steps=3)
    assert run(tmp_path, options={"resume": True}, steps=5).step == 5


def test_a_resumed_run_must_be_the_same_run(tmp_path: Path) -> None:
    run(tmp_path, steps=4)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    resume = {"resume": True}
    with pytest.raises(PochadeError) as caught:
        run(tmp_path, options=resume, weight_decay=0.5, task=ToyTask(), data=ToyDataset())
    assert "weight_decay 0.01 (now 0.5)" in str(caught.value)
    changed = toy_stage(task=ToySettings(dropout=0.5), batch_size=4, data=ToyData(size=3))
    with pytest.raises(PochadeError) as caught:
        train(changed, ToyTask(), ToyDataset(), tmp_path, resume=True, console=False)
    for part in ("task.dropout 0.2 (now 0.5)", "batch_size 8 (now 4)", "data.size 40 (now 3)"):
        assert part in str(caught.value)
    with pytest.raises(PochadeError, match=r"samples 40 \(now 41\)"):
        run(tmp_path, data=ToyDataset(41), options=resume)
    with pytest.raises(PochadeError, match=r"missing: .*2\.weight"):
        run(tmp_path, PlainTask(), options=resume)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_accumulation_does_not_change_the_mathematics(tmp_path: Path) -> None:
    for parts in (1, 4):
        run(tmp_path / str(parts), PlainTask(), accumulate=parts)
    a, b = (load_file(tmp_path / x / "final" / "model.safetensors") for x in "14")
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-4, atol=1e-6)
    curve = [line["loss"] for line in log(tmp_path / "1")]
    assert curve[-1] < curve[0]
    for x, y in zip(log(tmp_path / "1"), log(tmp_path / "4"), strict=True):
        assert x["loss"] == pytest.approx(y["loss"], rel=1e-5)
        assert [b or 0 for b in x["loss_by_t"]] == pytest.approx([b or 0 for b in y["loss_by_t"]], rel=1e-4)


def test_the_gradient_is_clipped_and_its_norm_logged(tmp_path: Path) -> None:
    class Steep(PlainTask):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return {"loss": 1000 * super().forward(batch)["loss"]}

    run(tmp_path, Steep(), clip=0.5, log_every=1, steps=1)
    assert log(tmp_path)[0]["gradient_norm"] > 100
    moments = load_file(tmp_path / "checkpoint-00000001" / "optimizer.safetensors")
    first = [value / (1 - 0.9) for name, value in moments.items() if name.startswith("exp_avg/")]
    assert torch.stack([m.norm() for m in first]).norm() == pytest.approx(0.5, rel=1e-3)


def test_parameter_groups_spare_vectors_embeddings_and_marked_ones() -> None:
    task = ToyTask()
    task.net.append(torch.nn.Embedding(3, 4))
    task.net[4].weight.no_weight_decay = True
    task.net[4].bias.requires_grad_(False)
    decayed, kept = task.parameter_groups(0.1, 1e-3)
    assert [p.shape for p in decayed["params"]] == [(16, 8)]
    assert (decayed["weight_decay"], kept["weight_decay"], kept["lr"]) == (0.1, 0.0, 1e-3)
    assert len(kept["params"]) == 5


def test_parameters_outside_the_network_are_refused(tmp_path: Path) -> None:
    class OtherParameters(ToyTask):
        def parameter_groups(self, weight_decay: float, learning_rate: float) -> list[dict[str, Any]]:
            return [{"params": [self.frozen.weight.requires_grad_()], "lr": learning_rate}]

    with pytest.raises(PochadeError, match="not in trainable"):
        run(tmp_path / "run", OtherParameters())
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Poisoned(ToyDataset):
        def batch(self, indices: Tensor, keys: Tensor) -> Batch:
            batch = super().batch(indices, keys)
            return {**batch, "x": torch.where(indices[:, None] == bad, torch.nan, batch["x"])}

    bad = order(40, 0, 40)[35]  # position 35 is in the fifth step
    with pytest.raises(FailureError) as caught:
        run(tmp_path, PlainTask(), Poisoned())
    text = str(caught.value)
    for part in ("step 5:", f"loss is nan on row{bad};", "checkpoint-00000004"):
        assert part in text
    assert "\n" not in text
    assert caught.value.exit_code == 1
    assert all(t.isfinite().all() for t in load_file(tmp_path / "checkpoint-00000004" / "model.safetensors").values())

    # Nothing is written of the step itself, due or not.
    due = tmp_path / "due"
    with pytest.raises(FailureError, match=r"step 5: the loss is nan.*no earlier checkpoint"):
        run(due, PlainTask(), Poisoned(), save_every=5, log_every=5, sample_every=5)
    assert (due / "metrics.jsonl").read_text() == ""


def test_many_passes_over_few_samples_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, PlainTask(), ToyDataset(1), {"console": True}, steps=126, log_every=126, sample_every=0)
    printed = capfd.readouterr().err
    assert "warning: steps: 126 of 8 given, 1,008 passes over 1 samples" in printed
    assert "steps 0 to 126, 1,008 passes over the data" in printed


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Kink(PlainTask):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return {"loss": (self.net(batch["x"]) * 0).abs().sqrt().mean()}

    with pytest.raises(FailureError, match=r"step 1: the norm of the gradient is nan.*no earlier checkpoint"):
        run(tmp_path, Kink())


def test_a_full_disk_names_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint.write_tensors

    def write(path: Path, tensors: dict[str, Tensor]) -> None:
        if "00000008" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", write)
    with pytest.raises(FailureError, match=r"00000008: could not be written.*No space.*checkpoint-00000004$"):
        run(tmp_path)
    monkeypatch.undo()
    assert run(tmp_path, options={"resume": True}).step == 12


@pytest.mark.parametrize(
    ("what", "last"), [("best", 4), ("samples/step-000008.png", 8), ("final/model.safetensors", 12)]
)
def test_whatever_cannot_be_written_names_the_last_good_checkpoint(tmp_path: Path, what: str, last: int) -> None:
    place, saved = tmp_path / "run" / what, tmp_path / "run" / "checkpoint-00000004"

    class Taken(ToyTask):
        """A folder stands in the place of the file once the fourth step is saved."""

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            if saved.is_dir() and what != "best":
                place.mkdir(parents=True, exist_ok=True)
            return super().forward(batch)

    def save_model(folder: Path) -> None:
        if saved.is_dir() and what == "best":
            raise OSError(errno.ENOSPC, "No space left on device")
        (folder / "model").touch()

    options = {"held_out": ToyDataset(), "save_model": save_model, "sample_sheet": lambda: Image.new("RGB", (4, 4))}
    with pytest.raises(FailureError, match=rf"{what}.*; the last good checkpoint is .*{last:08d}$"):
        run(tmp_path / "run", Taken(), options=options, sample_every=8 if "samples" in what else 0)


def test_a_full_disk_elsewhere_and_a_folder_that_cannot_be(tmp_path: Path) -> None:
    room = [Image.new("RGB", (4, 4))]

    def sheet() -> Image.Image:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return room.pop()

    with pytest.raises(FailureError, match=r"the disk is full .*; the last good checkpoint is .*00000004$"):
        run(tmp_path / "run", options={"sample_sheet": sheet}, sample_every=5)
    (tmp_path / "file").touch()
    with pytest.raises(PochadeError, match=r"^folder: .* cannot be created \(Not a directory\)$"):
        run(tmp_path / "file" / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_and_saves(tmp_path: Path, number: signal.Signals) -> None:
    class Interrupted(ToyTask):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            if self.calls == 5:
                os.kill(os.getpid(), number)
            return super().forward(batch)

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(TrainingInterrupted, match="saved at step 6; --resume continues") as caught:
        run(tmp_path, Interrupted())
    assert isinstance(caught.value, KeyboardInterrupt)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (tmp_path / "latest").read_text().strip() == "checkpoint-00000006"
    run(tmp_path, options={"resume": True})
    run(tmp_path / "whole")
    last = [fingerprint(folder / "checkpoint-00000012") for folder in (tmp_path, tmp_path / "whole")]
    assert last[0] == last[1]
    assert [line["step"] for line in log(tmp_path)] == [4, 6, 8, 12]


def test_initialise_from(tmp_path: Path) -> None:
    run(tmp_path / "first")
    trained = load_file(tmp_path / "first" / "final" / "model.safetensors")
    start = str(tmp_path / "first")
    run(tmp_path / "second", initialise_from=start, steps=1, learning_rate=1e-12, weight_decay=0.0)
    for name, tensor in load_file(tmp_path / "second" / "final" / "model.safetensors").items():
        if name.startswith(("0.", "4.")):
            torch.testing.assert_close(tensor, trained[name], rtol=0, atol=1e-9)
    with pytest.raises(PochadeError, match="extra: 1"):
        run(tmp_path / "third", PlainTask(), initialise_from=start)
    assert not (tmp_path / "third").exists()
    # A resumed run has its own weights and does not read the first ones again.
    assert run(tmp_path / "second", options={"resume": True}, steps=1, learning_rate=1e-12, weight_decay=0.0).step == 1
    load_weights(ToyTask().net, start)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's compiler, on import
def test_precision_and_compilation_are_settings(tmp_path: Path) -> None:
    class Watching(PlainTask):
        kind: torch.dtype | None = None
        compiled: bool | None = None

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            self.kind = self.net(batch["x"]).dtype
            self.compiled = self.net._compiled_call_impl is not None
            return super().forward(batch)

    task = Watching()
    with torch.compiler.set_stance("force_eager"):
        result = run(tmp_path, task, precision="bf16", compile=True, steps=2)
    assert (task.kind, task.compiled) == (torch.bfloat16, True)
    assert task.net._compiled_call_impl is None
    assert {t.dtype for t in load_file(result.weights).values()} == {torch.float32}


def test_a_batch_that_cannot_be_shared_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match="empty"):
        run(tmp_path / "run", data=ToyDataset(0))
    assert not (tmp_path / "run").exists()
