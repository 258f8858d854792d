"""What docs/scale.md has for clusters: scripts that parse, and name what is there."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pochade.cli.commands import app
from pochade.recipes import RECIPES

PAGE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = blocks(language)
    return found


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def manifest(kind: str) -> Any:
    (found,) = (job for job in map(yaml.safe_load, blocks("yaml")) if job["kind"] == kind)
    return found


def check_train(words: list[str]) -> None:
    """Words from ``-m`` on: a recipe that is there, changes, a folder and --resume, without which a restart fails."""
    assert words[:3] == ["-m", "pochade", "train"]
    assert words[3] in RECIPES
    assert "--resume" in words
    assert words[words.index("--out") + 1].startswith("/runs/")
    assert any(word.startswith("data.source=") for word in words)


def test_the_slurm_script_parses(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    script = block("slurm")
    (tmp_path / "job.sh").write_text(script)
    done = subprocess.run(["bash", "-n", str(tmp_path / "job.sh")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))
    assert options["ntasks-per-node"] == "1"  # torchrun starts the processes of a machine
    command = script[script.index("srun") :].replace("\\\n", " ")
    words = shlex.split(command)
    assert f"--nproc-per-node={options['gpus-per-node']}" in words
    assert any(word.startswith("--max-restarts=") for word in words)
    check_train(words[words.index("-m") :])


def test_the_manifest_has_what_a_pytorchjob_needs() -> None:
    job: Any = manifest("PyTorchJob")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert job["metadata"]["name"]
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    policy = job["spec"]["elasticPolicy"]
    assert policy["minReplicas"] <= worker["replicas"] <= policy["maxReplicas"]
    assert policy["maxRestarts"] > 0
    assert worker["restartPolicy"] in ("OnFailure", "Always", "Never", "ExitCode")
    (container,) = worker["template"]["spec"]["containers"]
    assert container["name"] == "pytorch"  # by which the operator knows it
    assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == job["spec"]["nprocPerNode"]
    volumes = {volume["name"] for volume in worker["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    words = [*container["command"], *container["args"]]
    assert words[0] == "torchrun"
    check_train(words[1:])


def check_prepare(words: list[str]) -> None:
    """A command that the command line takes, on Ray, all of whose folders are in the volume."""
    command: Any = typer.main.get_command(app)
    assert words.pop(0) == "pochade"
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    given = command.make_context("pochade", list(words)).params
    assert given["on"] == "ray"
    folders = [word for word in words if word.startswith("/")] + re.findall(r"=(/\S+)", " ".join(words))
    assert len(folders) == 2
    assert all(folder.startswith("/data/") for folder in folders)


def test_the_manifest_has_what_a_rayjob_needs() -> None:
    job: Any = manifest("RayJob")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["metadata"]["name"]
    spec = job["spec"]
    check_prepare(shlex.split(spec["entrypoint"]))
    (latents,) = re.findall(r"the entrypoint is `(.*?)`", PAGE)
    check_prepare(shlex.split(latents))
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["groupName"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # as the operator wants them
        (container,) = group["template"]["spec"]["containers"]
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data"}
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] > 0  # the command asks for GPUs
