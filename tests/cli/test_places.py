"""Every command with each of its paths as whatever a path can be: one line that names it, and nothing half written."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cli.places import full_disk, permissions_count
from cli.run import Outcome
from pochade.cli.commands import app
from pochade.cli.data import data
from pochade.pipelines.text_to_image import TextToImagePipeline

PLACES = ("missing", "file", "folder", "unreadable", "unwritable", "full disk", "odd bytes", "url")


@dataclass(frozen=True)
class Case:
    """A command line with ``{}`` where the path stands, and what a good path is."""

    line: str
    good: str
    """picture, list, folder, model, autoencoder, bundle, lora, or out: a place to write; ``.png`` where a suffix is
    needed. ``large``: what a good path starts takes seconds, and is tested elsewhere; ``graphs`` are not opened in odd
    bytes."""

    def __str__(self) -> str:
        return self.line.replace("MODEL", "toy").replace("{}", "PATH")


GENERATE = "generate fox --steps 1 --model MODEL -o OUT"
EDIT = "--steps 1 --model MODEL -o OUT/x.png"
TRAIN = "train lrf-folder steps=1 batch_size=2 warmup_steps=0 sample_every=0 data.size=32 initialise_from=none"
CACHE = "cache lrf-folder data.size=32 initialise_from=none task.text_encoder=bag task.autoencoder=AUTOENCODER"
NETWORK = "task.options=dim=16,heads=2,hidden=24,blocks=1 task.text_encoder=bag"
CASES = [
    Case("generate fox --steps 1 --model MODEL -o {}", "out"),
    Case("generate fox --steps 1 --model MODEL --sheet {}", "out.png"),
    Case("generate fox --steps 1 --model MODEL --preview -o {}", "out"),
    Case("generate fox --steps 1 -o OUT --model {}", "model"),
    Case(f"{GENERATE} --decoder {{}}", "autoencoder"),
    Case(f"{GENERATE} --control {{}}", "picture"),
    Case(f"{GENERATE} --edges-of {{}}", "picture"),
    Case(f"{GENERATE} --image-prompt {{}}", "picture"),
    Case(f"{GENERATE} --embedding {{}}", "embedding"),
    Case("generate --steps 1 -o OUT --like {}", "picture"),
    Case("generate --steps 1 --model MODEL -o OUT @{}", "list"),
    Case(f"edit {{}} fox {EDIT}", "picture"),
    Case("edit PICTURE fox --steps 1 --model MODEL -o {}", "out.png"),
    Case("edit PICTURE fox --steps 1 -o OUT/x.png --model {}", "model"),
    Case(f"edit PICTURE fox {EDIT} --lora {{}}", "lora"),
    Case(f"edit PICTURE fox {EDIT} --embedding {{}}", "embedding"),
    Case("edit -o OUT/x.png --like {}", "picture"),
    Case(f"inpaint {{}} fox --mask PICTURE {EDIT}", "picture"),
    Case(f"inpaint PICTURE fox {EDIT} --mask {{}}", "picture"),
    Case("inpaint PICTURE fox --mask PICTURE --steps 1 --model MODEL -o {}", "out.png"),
    Case("inpaint PICTURE fox --mask PICTURE --steps 1 -o OUT/x.png --model {}", "model"),
    Case("inpaint -o OUT/x.png --like {}", "picture"),
    Case(f"upscale {{}} {EDIT}", "picture"),
    Case("upscale PICTURE --steps 1 -o OUT/x.png --model {}", "model"),
    Case("upscale -o OUT/x.png --like {}", "picture"),
    Case("upscale PICTURE --compare --steps 1 --model MODEL -o {}", "out.png"),
    Case("info {}", "model"),
    Case(f"{TRAIN} {NETWORK} task.autoencoder=AUTOENCODER --out OUT data.source={{}}", "folder"),
    Case(f"{TRAIN} {NETWORK} task.autoencoder=AUTOENCODER data.source=FOLDER --out {{}}", "out"),
    Case(f"{TRAIN} {NETWORK} --out OUT data.source=FOLDER task.autoencoder={{}}", "autoencoder"),
    Case(f"{TRAIN.replace('=none', '={}')} {NETWORK} --out OUT data.source=FOLDER", "weights"),
    Case(f"{CACHE} --out OUT data.source={{}}", "folder"),
    Case(f"{CACHE} data.source=FOLDER --out {{}}", "out"),
    Case("train lora steps=1 batch_size=2 data.size=32 task.base=MODEL --out OUT data.source={}", "large folder"),
    Case("train lora steps=1 batch_size=2 data.size=32 data.source=FOLDER --out OUT task.base={}", "large model"),
    Case(f"{TRAIN} task.text_encoder={{}} task.autoencoder=AUTOENCODER --out OUT data.source=FOLDER", "text encoder"),
    Case(f"{TRAIN} {NETWORK} task.autoencoder=AUTOENCODER data.source=FOLDER --resume --out {{}}", "out"),
    Case("train textual-inversion steps=1 batch_size=2 data.source=FOLDER --out OUT task.base={}", "model"),
    Case("train edit --out OUT task.model={}", "editor"),
    Case("train edit --out OUT task.model=MODEL data.size=32 data.source=FOLDER data.pairs={}", "pairs"),
    Case("train distil --out OUT data.source=FOLDER data.size=32 steps=1 batch_size=2 task.teacher={}", "model"),
    Case("data prepare folder OUT/set --size 16 --split all --path {}", "folder"),
    Case("data prepare folder {} --size 16 --split all --path FOLDER", "out"),
    Case("data prepare folder {} --size 16 --split all --format folder --path FOLDER", "out"),
    Case("data prepare cifar10 OUT/set --path {}", "archive"),
    Case("data prepare openclipart OUT/set --path {}", "drawings"),
    Case("data prepare datasets OUT/set --path {}", "data set"),
    Case("data pairs folder OUT/set --size 16 --path {}", "pairs"),
    Case("data pairs openmoji --limit 2 --size 16 {}", "out"),
    Case("data pairs instructpix2pix OUT/set --path {}", "pairs"),
    Case("data generate {} OUT/set --count 2 --steps 1 --split all --model MODEL", "large folder"),
    Case("data generate FOLDER {} --count 2 --steps 1 --split all --model MODEL", "large out"),
    Case("data generate FOLDER OUT/set --count 2 --steps 1 --split all --model {}", "large model"),
    Case("data check {} --model MODEL -o OUT", "large folder"),
    Case("data check FOLDER --model MODEL -o {}", "out"),
    Case("data check FOLDER -o OUT --model {}", "large model"),
    Case("data check FOLDER -o OUT --autoencoder {}", "large autoencoder"),
    Case("run {} fox --steps 1 -o OUT.png", "bundle"),
    Case("run BUNDLE fox --steps 1 -o {}", "out.png"),
    Case("run BUNDLE fox --steps 1 -o OUT.png --preview {}", "out.png"),
    Case("run BUNDLE fox --steps 1 -o OUT.png --edit {}", "picture"),
    Case("run BUNDLE fox --steps 1 -o OUT.png --inpaint {} --mask PICTURE", "picture"),
    Case("run BUNDLE --steps 1 -o OUT.png --upscale {}", "picture"),
    Case("run BUNDLE fox --steps 1 -o OUT.png --inpaint PICTURE --mask {}", "picture"),
    Case("run BUNDLE -o OUT.png --like {}", "picture"),
    Case("generate fox --steps 1 --model MODEL -o OUT --lora {}", "lora"),
    Case("merge MODEL -o OUT/set --lora {}", "lora"),
    Case("merge MODEL --lora LORA -o {}", "out"),
    Case("merge {} --lora LORA -o OUT/set", "model"),
    Case("runs {}", "folder"),
    Case("runs FOLDER --page {}", "out"),
    Case("evaluate MODEL {} -o OUT", "large folder"),
    Case("evaluate MODEL FOLDER -o {}", "large out"),
    Case("evaluate {} FOLDER -o OUT", "model of a size"),
    Case("evaluate MODEL {} FOLDER --sheet -o OUT", "model of a size"),
    Case("evaluate MODEL FOLDER --grid 1 -o {}", "large out"),
    Case("evaluate MODEL FOLDER -o OUT --clip {}", "clip"),
    Case("evaluate MODEL FOLDER -o OUT --inception {}", "inception"),
    Case("export MODEL {}", "large graphs out"),
    Case("export {} OUT/set", "large model"),
    Case("export MODEL OUT/set --decoder {}", "large decoder"),
    Case("export MODEL OUT/set --for web --onnxruntime-web {}", "large package"),
    Case("profile {} --runtime eager", "large model"),
    Case("profile lrf:nano --runtime eager --text-encoder {}", "large text encoder"),
    Case("profile MODEL --runtime onnx --keep {}", "large graphs out"),
    Case("ablate lira --cases loop data.source=FOLDER --out {}", "large out"),
]
BEFORE_WORK = (
    f"{TRAIN} {NETWORK} task.autoencoder=AUTOENCODER data.source=FOLDER --out {{}}",
    f"{TRAIN} {NETWORK} task.autoencoder=AUTOENCODER data.source=FOLDER --resume --out {{}}",
    f"{CACHE} data.source=FOLDER --out {{}}",
    "train lora steps=1 batch_size=2 data.size=32 task.base=MODEL data.source=FOLDER --out {}",
    "ablate lira --cases loop data.source=FOLDER --out {}",
    "data prepare folder {} --size 16 --split all --path FOLDER",
    "data prepare folder {} --size 16 --deduplicate --path FOLDER",
    "data pairs folder {} --size 16 --path FOLDER",
    "data generate FOLDER {} --count 2 --steps 1 --split all --model MODEL",
    "data check FOLDER -o {}",
    "evaluate MODEL FOLDER -o {}",
    "evaluate MODEL FOLDER --grid 1 -o {}",
    "export MODEL {}",
    "profile MODEL --runtime onnx --keep {}",
)
"""Commands with long work before they write."""
TAKES = {
    *("generate", "edit", "inpaint", "upscale", "info", "train", "ablate", "evaluate", "profile", "merge", "export"),
    *("run", "runs", "data prepare", "data pairs", "data check", "data generate", "cache"),
}
"""The commands that take a path."""


@pytest.fixture(scope="module")
def toy_lora(toy_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig

    pipe: Any = TextToImagePipeline.from_pretrained(toy_pipeline_folder)
    pipe.denoiser.add_adapter(LoraConfig(r=2, target_modules=pipe.denoiser.adaptable_layers()))
    folder = tmp_path_factory.mktemp("loras") / "toy"
    pipe.save_lora_weights(folder, metadata={}, dtype=None)
    return folder


@pytest.fixture
def world(
    toy_pipeline_folder: Path, toy_bundle: Path, toy_lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Path]:
    """The good paths of a command line, by the words that stand for them."""
    monkeypatch.chdir(tmp_path)
    picture, folder = tmp_path / "picture.png", tmp_path / "pictures"
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(picture)
    folder.mkdir()
    for i in range(3):
        shutil.copyfile(picture, folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a gradient {i}")
    words = {"PICTURE": picture, "FOLDER": folder, "MODEL": toy_pipeline_folder, "OUT": tmp_path / "out"}
    return words | {"AUTOENCODER": toy_pipeline_folder / "autoencoder", "BUNDLE": toy_bundle, "LORA": toy_lora}


def copied(kind: str, world: dict[str, Path], place: Path) -> Path:
    """A good input of a kind at ``place``, as far as there is one at hand: else something that is not."""
    source = {
        "picture": world["PICTURE"],
        "folder": world["FOLDER"],
        "model": world["MODEL"],
        "autoencoder": world["AUTOENCODER"],
        "bundle": world["BUNDLE"],
        "lora": world["LORA"],
        "list": world["FOLDER"] / "0.txt",
    }.get(kind, world["FOLDER"])
    place = place.with_suffix(source.suffix) if source.is_file() else place
    if source.is_file():
        shutil.copyfile(source, place)
    else:
        shutil.copytree(source, place)
    return place


def run(capsys: Any, arguments: list[str]) -> tuple[int, Outcome]:
    from pochade.cli import main

    capsys.readouterr()
    with pytest.raises(SystemExit) as leave:
        main(arguments)
    printed = capsys.readouterr()
    assert isinstance(leave.value.code, int)
    return leave.value.code, Outcome(printed.out, printed.err.strip())


def arguments(line: str, world: dict[str, Path], path: Path) -> list[str]:
    found: list[str] = []
    for word in line.split():
        for name, value in world.items():
            word = word.replace(name, str(value))
        found.append(word.replace("{}", str(path)))
    return found


def test_every_command_that_takes_a_path_is_here() -> None:
    without = {"models", "plan"}
    found = set[str]()
    for command in app.registered_commands:
        found.add(str(command.name))
    for command in data.registered_commands:
        found.add(f"data {command.name}")
    assert found - without == TAKES
    assert {" ".join(case.line.split()[: 2 if case.line.startswith("data ") else 1]) for case in CASES} == TAKES


@pytest.mark.parametrize("line", BEFORE_WORK)
def test_what_cannot_be_written_to_is_said_before_any_work(
    capsys: Any, world: dict[str, Path], tmp_path: Path, line: str
) -> None:
    near = tmp_path / "near"
    near.mkdir()
    near.chmod(0o555)
    before = set(tmp_path.rglob("*"))
    with permissions_count():
        code, done = run(capsys, arguments(line, world, near / "a" / "out"))
    near.chmod(0o755)
    name = "keep" if "--keep" in line else "out"
    assert done.error.splitlines()[-1].startswith(f"error: {name}: '{near / 'a'}")
    assert done.error.endswith(f"cannot be written to: '{near}' is read-only, or another's")
    assert code == 2
    assert set(tmp_path.rglob("*")) == before  # nothing of the pictures was read and remembered


@pytest.mark.parametrize(
    "line", [case.line for case in CASES if case.good == "out" and not case.line.startswith(("merge", "runs"))]
)
def test_a_folder_may_be_a_link(capsys: Any, world: dict[str, Path], tmp_path: Path, line: str) -> None:
    """To an empty one on another disk."""
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.mkdir(parents=True)
    link.symlink_to(real)
    code, done = run(capsys, arguments(line, world, link))
    assert code == 0 or line.startswith("data check"), done.error
    assert link.is_symlink()
    assert any(real.iterdir())
    assert list(real.parent.iterdir()) == [real]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_path_of_every_command(
    capsys: Any, world: dict[str, Path], tmp_path: Path, case: Case, place: str
) -> None:
    suffix = ".png" if case.good.endswith(".png") else ""
    writes = "out" in case.good
    near = tmp_path / "near"
    near.mkdir()
    path = near / f"path{suffix}"
    starts = ("missing", "odd bytes", "full disk", "folder") if writes else ("odd bytes", "full disk")
    if "large" in case.good and place in starts and not ("graphs" in case.good and place == "odd bytes"):
        pytest.skip("takes seconds, and is tested elsewhere")
    if place in ("full disk", "url") and not writes:
        pytest.skip("nothing is written there")
    match place:
        case "missing":
            path = near / "not" / "there" / f"path{suffix}"
        case "file":
            path.write_text("no picture\n")
        case "folder":
            path.mkdir()
            (path / "something").write_text("mine")
        case "unreadable":
            path = copied(case.good, world, near / "path") if not writes else path
            if writes:
                path.mkdir()
            path.chmod(0)
        case "unwritable":
            path = copied(case.good, world, near / "path") if not writes else path
            near.chmod(0o555)
        case "odd bytes":
            odd = Path(os.fsdecode(b"n\xff\xe9me"))
            path = near / f"{odd}{suffix}" if writes else copied(case.good, world, near / odd)
        case "url":
            path = Path(f"az://account/path{suffix}")
        case _:
            path = near / "in" / f"path{suffix}"
            path.parent.mkdir()
    before = set(tmp_path.rglob("*"))
    given = arguments(case.line, world, path)
    try:
        with permissions_count():
            if place == "full disk":
                with full_disk(path.parent):
                    code, done = run(capsys, given)
                    left = [p.name for p in path.parent.rglob("*") if p.name.endswith(".tmp")]
            else:
                code, done = run(capsys, given)
                left = []
    finally:
        near.chmod(0o755)
        if path.exists() and not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    errors = [line for line in done.error.splitlines() if line.startswith("error: ")]
    print(given, code, done.error)
    assert "unexpected" not in done.error
    assert "Traceback" not in done.error
    assert code in (0, 1, 2)
    finds = case.line.startswith("data check") and code == 1  # something to be mended in the pictures
    assert len(errors) == (code != 0) or (finds and not errors)
    left += [str(p) for p in tmp_path.rglob("*") if p not in before and p.name.endswith((".tmp", ".claim"))]
    assert not left
    if place == "url":
        assert code == 2
        assert "az://account/path" in done.error
        assert set(tmp_path.rglob("*")) == before
    if place == "folder" and path.is_dir():
        assert (path / "something").read_text() == "mine"
    if place == "file":
        assert path.read_text() == "no picture\n"
