"""``pochade run`` and the host alone, in processes that have no torch."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from cli.run import cli
from pochade.files import sha256
from processes import python, started

BLOCKED = ("torch", "diffusers", "transformers", "safetensors", "onnx", "typer", "rich", "numba", "huggingface_hub")
PROCESS = f"""
import sys
sys.modules.update(dict.fromkeys({BLOCKED!r}))
from pochade.stopping import run_stoppable
def work(stop):
    from pochade.runtime.command import start
    start(None, stop)
run_stoppable(work)
"""


def alone(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = python("-c", PROCESS, *arguments)
    assert done.returncode == code, done.stderr
    return done


def test_a_process_without_torch_gives_the_same_picture(toy_bundle: Path, tmp_path: Path, capsys: object) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    given = (str(toy_bundle), "a red apple", "--seed", "7", "--steps", "2")
    assert alone(*given, "-o", str(one)).stdout.strip() == str(one)
    cli(capsys, "run", *given, "-o", str(two))
    assert one.read_bytes() == two.read_bytes()
    assert alone(str(toy_bundle), "--like", str(one), "-o", str(one)).stdout.strip() == str(tmp_path / "one-2.png")
    assert (tmp_path / "one-2.png").read_bytes() == one.read_bytes()


def test_edits_previews_and_repeats(
    toy_bundle: Path, tmp_path: Path, capsys: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save("source.png")
    mask = Image.new("L", (40, 30))
    mask.paste(255, (10, 10, 30, 20))
    mask.save("mask.png")
    bundle = str(toy_bundle)
    for task, more in (
        ("edit", ("make it red",)),
        ("edit", ("a red house", "--describe", "--strength", "0.5")),
        ("inpaint", ("a red house", "--mask", "mask.png")),
        ("upscale", ("--factor", "2")),
    ):
        given = (bundle, f"--{task}", "source.png", *more, "--steps", "2", "--seed", "3")
        first = Path(cli(capsys, "run", *given, "--preview", "preview.png").out.strip())
        again = Path(cli(capsys, "run", bundle, "--like", str(first)).out.strip())
        assert again != first
        assert again.read_bytes() == first.read_bytes()
        with Image.open("preview.png") as preview:
            assert preview.size[0] >= 32
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").rotate(90).save("source.png")
    done = cli(capsys, "run", bundle, "--like", str(first), code=2)
    assert "like: the source of" in done.error
    assert "which is not there, or another file" in done.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "prompt: none given, generate needs one"),
        (("a cat", "-o", "cat.jpg"), "out: 'cat.jpg' given, allowed is a name that ends in .png"),
        (("a cat", "--mask", "m.png"), "mask: 'm.png' given to generate, allowed is none"),
        (("a cat", "--inpaint", "m.png"), "mask: none given, inpaint needs one"),
        (("",), "prompt: empty, allowed is a sentence such as 'a red apple'"),
        ((" ", "--inpaint", "plain.png", "--mask", "plain.png"), "prompt: empty, allowed is a sentence such as"),
        (("a cat", "--describe"), "describe: given without edit, allowed is none"),
        (("--like", "plain.png", "--describe"), "describe: given without edit, allowed is none"),
        (("a cat", "-o", "plain.png/cat.png"), "out: 'plain.png' is a file, so 'plain.png' cannot be a folder"),
        (
            ("a cat", "--preview", "plain.png/b.png"),
            "preview: 'plain.png' is a file, so 'plain.png' cannot be a folder",
        ),
        (("a cat", "--threads", "9999"), "threads: 9999 given, allowed is a whole number from 1 to 256"),
        (("a cat", "--strength", "0.5"), "strength: 0.5 given to generate, allowed is none"),
        (("--like", "none.png"), "like: 'none.png' is no readable PNG"),
        (("--like", "plain.png"), "like: 'plain.png' holds no recipe"),
    ],
)
def test_wrong_use_is_one_line(
    toy_bundle: Path,
    tmp_path: Path,
    capsys: object,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("plain.png")
    done = cli(capsys, "run", str(toy_bundle), *arguments, code=2)
    assert message in done.error
    assert "\n" not in done.error


def test_another_mask_changes_what_is_repeated(toy_bundle: Path, tmp_path: Path, capsys: object) -> None:
    source, left, right = (tmp_path / name for name in ("source.png", "left.png", "right.png"))
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(source)
    for path, x in ((left, 0), (right, 16)):
        mask = Image.new("L", (32, 32))
        mask.paste(255, (x, 0, x + 16, 32))
        mask.save(path)
    given = ("run", str(toy_bundle), "a cat", "--inpaint", str(source), "--seed", "7", "--steps", "2")
    cli(capsys, *given, "--mask", str(left), "-o", str(tmp_path / "a.png"))
    cli(capsys, *given, "--mask", str(right), "-o", str(tmp_path / "b.png"))
    like = ("--like", str(tmp_path / "a.png"), "--mask", str(right))
    cli(capsys, "run", str(toy_bundle), *like, "-o", str(tmp_path / "c.png"))
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("during", ["onnxruntime", "steps"])
def test_ctrl_c_is_one_line(toy_bundle: Path, tmp_path: Path, during: str) -> None:
    """While a library is imported, which answers an exception with one of its own, and while steps are taken."""
    interrupt = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(0.2)\n"
    (tmp_path / "onnxruntime.py").write_text(f"try:\n    {interrupt}finally:\n    raise ImportError('half')\n")
    out = tmp_path / "cat.png"
    given = (str(toy_bundle), "a cat", "--steps", "9999", "-o", str(out))
    own = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"} if during == "onnxruntime" else {}
    preview = () if own else ("--preview", str(tmp_path / "preview.png"))
    with started("-c", PROCESS, *given, *preview, **own) as process:
        while not own and not (tmp_path / "preview.png").exists():
            assert process.poll() is None
            time.sleep(0.05)
        if not own:
            process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "interrupted: stopped by Ctrl-C\n")
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_a_picture_of_another_size_is_not_repeated(
    toy_bundle: Path, toy_editor_folder: Path, tmp_path: Path, capsys: object
) -> None:
    given = ("--model", str(toy_editor_folder), "--size", "48x32", "--steps", "1", "-o", str(tmp_path))
    made = cli(capsys, "generate", "a cat", *given).out.strip()
    done = cli(capsys, "run", str(toy_bundle), "--like", made, code=2)
    assert done.error == f"error: like: {made!r} has 48 x 32 pixels, the bundle makes 32 x 32"


def test_a_bundle_lies_on_this_machine(capsys: object) -> None:
    done = cli(capsys, "run", "s3://bucket/bundle", "a cat", code=2)
    assert done.error == "error: bundle: s3://bucket/bundle given, allowed is a path on this machine"


def test_files_of_a_recipe_may_lie_beside_the_picture(
    toy_bundle: Path, tmp_path: Path, capsys: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those that a browser saved, or those of a folder that was moved."""
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save("source.png")
    cli(capsys, "run", str(toy_bundle), "a cat", "--edit", "source.png", "--steps", "1", "-o", "saved/a.png")
    Path("source.png").rename("saved/source.png")
    cli(capsys, "run", str(toy_bundle), "--like", "saved/a.png", "-o", "b.png")
    assert Image.open("b.png").tobytes() == Image.open("saved/a.png").tobytes()


def test_errors_of_libraries_are_one_line(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(toy_bundle, tmp_path / "b")
    (bundle / "tokenizer.json").write_text("{}")
    said = json.loads((bundle / "manifest.json").read_text())
    said["files"]["tokenizer.json"] = {"bytes": 2, "sha256": sha256(bundle / "tokenizer.json")}
    (bundle / "manifest.json").write_text(json.dumps(said))
    done = alone(str(bundle), "a cat", "-o", str(tmp_path / "cat.png"), code=2)
    assert done.stderr.startswith(f"error: {bundle / 'tokenizer.json'}: no tokenizer (Model missing")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "cat.png").exists()


def test_a_preview_replaces_previews_alone(
    toy_bundle: Path, tmp_path: Path, capsys: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("run", str(toy_bundle), "a cat", "--steps", "1", "--preview")
    for _ in range(2):
        cli(capsys, *given, "new.png")
    Image.new("RGB", (4, 4)).save("holiday.png")
    before = Path("holiday.png").read_bytes()
    done = cli(capsys, *given, "holiday.png", code=2)
    assert done.error == "error: preview: 'holiday.png' is there, and no preview: allowed is a new name"
    assert Path("holiday.png").read_bytes() == before


def test_help_says_what_there_is(capsys: object) -> None:
    assert "--low-memory" in cli(capsys, "run", "--help").out
