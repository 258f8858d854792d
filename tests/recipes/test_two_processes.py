"""A whole curriculum by two processes: shards, encoders, caches, all stages, a model that generates."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from pochade.data.prepare.pictures import prepare
from pochade.data.prepare.target import Target
from pochade.data.sources import SyntheticSource
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of

STAGES = ("autoencoder", "flow_low", "flow_middle", "flow_high", "consistency", "edit")
TINY = (
    *("steps=2", "batch_size=4", "warmup_steps=1", "sample_every=2", "log_every=1", "save_every=2", "precision=fp32"),
    *("data.size=32", "flow_high.data.size=64", "consistency.data.size=64", "edit.data.size=64", "ema_decay=0.5"),
    *("autoencoder.task.width=8", "autoencoder.task.encoder_blocks=0,0,1,0", "autoencoder.task.decoder_blocks=0,1,0,0"),
    *("autoencoder.task.latent_channels=4", "autoencoder.task.perceptual=0", "task.variant=nano"),
    *("task.options=sample_size=8,dim=16,heads=2,hidden=24,blocks=1", "edit.task.options="),
    *("task.last_intervals=8", "edit.task.tasks=inpaint,super_resolution", "data.pairs=pictures"),
)


def test_a_curriculum_runs_from_shards_on_two_processes(tmp_path: Path) -> None:
    shards, out = tmp_path / "shards", tmp_path / "run"
    prepare(SyntheticSource(40), Target(out=shards, size=64, samples_per_shard=8), progress=False)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "pochade", "train", "lrf-curriculum", "--device", "cpu"]
    command += ["--out", str(out), f"data.source={shards}", *TINY]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 processes on cpu") == len(STAGES)
    assert "stride" not in done.stderr
    assert done.stdout == f"{out / '6-edit' / 'model'}\n"
    for number, stage in enumerate(stages_of("lrf-curriculum"), 1):
        lines = (out / f"{number}-{stage.name}" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["processes"] for line in lines] == [2, 2]
    model = out / "6-edit" / "model"
    record = json.loads((model / "training.json").read_text())
    assert record["sources"] == [str(shards)]
    assert record["held_out"]
    assert record["before"]["before"]["before"]["before"] is None  # edit, high, middle, low
    pipe = TextToImagePipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red circle", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np")
    assert image.images[0].shape == (64, 64, 3)
    assert np.isfinite(image.images).all()
