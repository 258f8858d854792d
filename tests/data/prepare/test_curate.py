"""Shards in, chosen pictures out: each picture once, wherever the work is done and whatever dies on the way."""

import io
import json
import os
import signal
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from cli.run import cli
from data.test_near_duplicates import photograph
from pochade.cli import main
from pochade.data.cache import latents
from pochade.data.cache.claims import take
from pochade.data.cache.parts import Part
from pochade.data.prepare import curate as curation
from pochade.data.prepare.curate import Curation, curate
from pochade.data.prepare.executors import each_piece
from pochade.data.prepare.pictures import prepare
from pochade.data.prepare.target import Target, png
from pochade.data.prepare.writer import ShardWriter, picture_record
from pochade.data.sources import FolderSource
from pochade.data.sources.image_files import Reading
from pochade.errors import FailureError, PochadeError
from pochade.files import remove_folder, write_json
from pochade.recipes import stages_of
from pochade.training.executor import Encoding
from pochade.training.overrides import override

SHARDS, EACH = 4, 12
ALL = Curation(size=32, min_side=32, min_score=0.2, deduplicate=True)
SMALL, GREY, AGAIN = 5, 17, (30, 41)
"""A small picture, one of low score, and two that look like the first."""


def picture(number: int, side: int = 48) -> Image.Image:
    if number == GREY:
        return Image.new("RGB", (side, side), (120, 122, 120))
    return photograph(0 if number in AGAIN else number, 20 if number == SMALL else side)


def write(folder: Path, shards: int, each: int, side: int = 48) -> FolderSource:
    with ShardWriter(folder, samples_per_shard=each) as writer:
        for number in range(shards * each):
            writer.add(picture_record(f"p{number:03d}", png(picture(number, side)), ".png", [f"picture {number}"]))
    return FolderSource(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    return write(tmp_path_factory.mktemp("data") / "shards", SHARDS, EACH)


def names(out: Path) -> list[int]:
    """The numbers of the pictures in the shards of ``out``, as often as they are there."""
    found: list[int] = []
    for path in sorted(out.glob("*/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    file = tar.extractfile(member)
                    assert file is not None
                    found.append(int(json.load(file)["name"].rpartition("/p")[2].removesuffix(".png")))
    return sorted(found)


def files(out: Path) -> dict[str, bytes]:
    found = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".pochade")}


@pytest.fixture(scope="module")
def expected(source: FolderSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "chosen"
    curate(source, out, ALL, progress=False)
    return out


def test_each_picture_is_kept_once_or_counted(expected: Path) -> None:
    report = json.loads((expected / "report.json").read_text())
    assert names(expected) == sorted({*range(SHARDS * EACH)} - {SMALL, GREY, *AGAIN})
    counts = {name: report[name] for name in ("pictures", "too small", "below the score", "duplicates", "kept")}
    assert counts == {"pictures": 48, "too small": 1, "below the score": 1, "duplicates": 2, "kept": 44}
    assert not expected.with_name("chosen.partial").exists()


def test_what_is_written_is_a_data_set(source: FolderSource, expected: Path) -> None:
    for split in ("train", "held_out"):
        before, after = source.open(split), FolderSource(expected).open(split)
        captions = {item.captions: item.group for item in (before.item(i) for i in range(len(before)))}
        for index in range(len(after)):
            item = after.item(index)
            assert captions[item.captions] == item.group  # on the same side as before
            number = int(item.captions[0].rpartition(" ")[2])
            given = np.asarray(picture(number).resize((32, 32), Image.Resampling.LANCZOS), np.int16)
            assert np.abs(np.asarray(after.image(index, 32), np.int16) - given).max() <= 1


def test_an_interrupted_call_goes_on(
    source: FolderSource, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fail(image: Image.Image) -> bytes:
        calls.append(1)
        if len(calls) == 20:
            raise OSError(28, "No space left on device")
        return png(image)

    monkeypatch.setattr(curation, "png", fail)
    out = tmp_path / "chosen"
    with pytest.raises(FailureError, match="No space"):
        curate(source, out, ALL, progress=False)
    assert not out.exists()
    with pytest.raises(PochadeError, match=r"chosen\.partial was begun with size 32; finish that, or delete it"):
        curate(source, out, Curation(size=16), progress=False)
    monkeypatch.undo()
    curate(source, out, ALL, progress=False)
    assert files(out) == files(expected)


def test_a_folder_that_appears_meanwhile_and_a_damaged_shard_lose_no_work(
    source: FolderSource, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, choose = tmp_path / "chosen", curation._choose

    def another(*given: Any) -> Any:
        (out / "train").mkdir(parents=True)
        return choose(*given)

    monkeypatch.setattr(curation, "_choose", another)
    with pytest.raises(FailureError, match=r"^out: .*chosen has appeared meanwhile; .* kept in .*partial"):
        curate(source, out, ALL, progress=False)
    monkeypatch.undo()
    remove_folder(out)
    damaged = tmp_path / "chosen.partial" / "train" / "000000.tar"
    damaged.write_bytes(damaged.read_bytes()[:1000])  # and is written again
    curate(source, out, ALL, progress=False)
    assert files(out) == files(expected)


def test_what_a_choice_writes_is_written_by_no_other_call(source: FolderSource, tmp_path: Path) -> None:
    claim = take(tmp_path / ".chosen.claim")
    assert claim is not None
    with claim, pytest.raises(PochadeError, match=r"^out: .* writes .*chosen; wait for its end"):
        prepare(source, Target(out=tmp_path / "chosen", size=16), progress=False)
    with pytest.raises(PochadeError, match="lie within each other"):
        curate(source, source.path / "chosen", ALL, progress=False)


def test_an_empty_folder_is_as_good_as_none(source: FolderSource, expected: Path, tmp_path: Path) -> None:
    curate(source, tmp_path, ALL, progress=False)
    assert files(tmp_path) == files(expected)


def test_an_empty_folder_may_be_a_link_and_not_the_working_folder(
    source: FolderSource, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    with pytest.raises(PochadeError, match=r"^out: '\.' given, the working folder"):
        curate(source, Path(), ALL, progress=False)
    monkeypatch.chdir(tmp_path)
    curate(source, Path("link"), ALL, progress=False)
    assert (tmp_path / "link").is_symlink()
    assert files(tmp_path / "real") == files(expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_few_files_are_mapped_however_many_shards_there_are(
    source: FolderSource, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, compare, most = Path("/proc/self/maps"), curation.first_alike, list[int]()
    if not maps.exists():
        pytest.skip("no list of what is mapped")

    def counted(bits: np.ndarray, copies: Callable[[np.ndarray], np.ndarray], empty: Any) -> np.ndarray:
        found = compare(bits, copies, empty)
        copies(np.arange(len(bits)))
        most.append(maps.read_text().count("inspected-"))
        return found

    monkeypatch.setattr(curation, "first_alike", counted)
    monkeypatch.setattr(curation, "OPEN", 2)
    curate(source, tmp_path / "chosen", ALL, progress=False)
    assert most[0] <= 3 < SHARDS  # two, and the last whose hashes were read
    assert files(tmp_path / "chosen") == files(expected)


COLUMNS = "score: 'column:' given, allowed is column:NAME with the name of a stored number"


def test_wrong_use_is_one_line(source: FolderSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["data", "prepare", "folder", "--path", str(source.path), str(tmp_path / "out")]
    for options, error in (
        (["--on", "rays"], "on: 'rays' given, allowed are local, ray (did you mean 'ray'?)"),
        (["--gpus", "1"], "gpus: 1 given, allowed are 0, and with --on ray more"),
        (["--on", "local", "--gpus", "nan"], "gpus: nan given, allowed are finite numbers"),
        (["--min-score", "nan"], "min_score: nan given, allowed are finite numbers"),
        (["--min-side", "-1"], "min_side: -1 given, at least 0 expected"),
        (["--score", "x"], "score: x given without min_score, by which pictures are chosen"),
        (
            ["--on", "local", "--limit", "3"],
            "limit: does not go with on; both sides are written, as shards",
        ),
        (["--on", "local", "--limit", "0"], "limit: does not go with on; both sides are written, as shards"),
        (["--min-score", "1", "--score", "column:"], COLUMNS),
    ):
        with pytest.raises(SystemExit) as end:
            main([*given, *options])
        assert (end.value.code, capsys.readouterr().err) == (2, f"error: {error}\n")
    assert not list(tmp_path.iterdir())


def toy_captioner(folder: Path) -> Path:
    """A model that describes pictures, with random weights, the same ones each time: some begin with the end."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
    (folder / "vocab.txt").write_text("\n".join(words))
    one = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**one, "vocab_size": len(words), "encoder_hidden_size": 16, "bos_token_id": 2, "sep_token_id": 3}
    vision = {**one, "image_size": 16, "patch_size": 8}
    config = BlipConfig(text_config={**text, "pad_token_id": 0, "eos_token_id": 3}, vision_config=vision)
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 16, "width": 16})
    BlipProcessor(images, BertTokenizer(str(folder / "vocab.txt"))).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")  # of transformers
def test_a_caption_model_speaks_first(source: FolderSource, tmp_path: Path) -> None:
    model = toy_captioner(tmp_path / "model")
    bare = tmp_path / "bare"
    with ShardWriter(bare) as writer:
        for number in range(3):
            writer.add(picture_record(f"p{number}", png(photograph(number)), ".png", ["known"] if number else ["x"]))
    curate(FolderSource(bare), tmp_path / "out", Curation(size=16, caption=str(model)), progress=False)
    data = FolderSource(tmp_path / "out").open("all")
    for index in range(len(data)):
        made, *before = data.item(index).captions
        assert made not in ("known", "x")
        assert before in (["known"], ["x"])
    with pytest.raises(PochadeError, match="caption: no model that describes pictures could be loaded"):
        curate(source, tmp_path / "none", Curation(size=16, caption=str(tmp_path / "missing")), progress=False)
    assert not list(tmp_path.glob("none*"))  # before any work
    with pytest.raises(FailureError, match=r"no picture is kept \(3 below the score\)"):
        curate(FolderSource(bare), tmp_path / "none", Curation(size=16, min_score=100), progress=False)


def test_too_many_unusable_pictures_are_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "in") as writer:
        for number in range(8):
            data = png(photograph(number))
            writer.add(picture_record(f"p{number}", data if number < 5 else data[:90], ".png", ["x"]))
    with pytest.raises(FailureError, match=r"source: 3 of 8 pictures cannot be used \(3 "):
        curate(FolderSource(tmp_path / "in"), tmp_path / "out", Curation(size=16), progress=False)


def test_a_shard_that_has_changed_is_inspected_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was made of it before the call was interrupted, also where it has the same length; and what another
    shard gives anew, of whose pictures it had the first ones."""
    source, out = write(tmp_path / "in", 3, 6), tmp_path / "chosen"
    (source.path / "index.json").unlink()  # whose hashes would tell
    first = source.path / "000000.tar"
    good = first.read_bytes()

    def interrupted(done: Path, value: Any) -> None:
        write_json(done, value)
        if done.name == "report.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(curation, "write_json", interrupted)
    with tarfile.open(first) as tar:
        pictures = [member for member in tar if member.name.endswith(".png")]
    with first.open("r+b") as file:  # its last four are broken now
        for member in pictures[2:]:
            file.seek(member.offset_data + 40)
            file.write(b"broken" * 4)
    given = Curation(size=16, deduplicate=True)
    known = tmp_path / "chosen.partial"
    with pytest.raises(FailureError, match=rf"4 of 18 pictures cannot be used .* the rest is known by {known}$"):
        curate(source, out, given, progress=False)
    unchanged = known / "facts" / "inspected-000001.safetensors"
    inspected = unchanged.stat().st_ino
    some = Reading(max_skipped=0.5)
    with pytest.raises(KeyboardInterrupt):
        curate(source, out, given, reading=some, progress=False)
    assert names(known) == [0, 1, *range(6, 18)]
    first.write_bytes(good)
    other = source.path / "000002.tar"
    other.write_bytes(good)
    with pytest.raises(KeyboardInterrupt):
        curate(source, out, given, progress=False)
    assert names(known) == [*range(12)]
    assert unchanged.stat().st_ino == inspected
    first.write_bytes((source.path / "000001.tar").read_bytes())
    monkeypatch.undo()
    curate(source, out, given, progress=False)
    assert names(out) == [*range(12)]
    fresh = tmp_path / "fresh"
    curate(source, fresh, given, progress=False)
    assert files(out) == files(fresh)


def test_a_shard_that_changes_meanwhile_is_named(
    source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, choose = write(tmp_path / "in", 2, 6), curation._choose

    def changed(*given: Any) -> Any:
        (found.path / "000001.tar").write_bytes((source.path / "000001.tar").read_bytes())
        return choose(*given)

    monkeypatch.setattr(curation, "_choose", changed)
    with pytest.raises(
        FailureError, match=r"in/000001\.tar: it has changed since it was inspected; repeat the command$"
    ):
        curate(found, tmp_path / "out", Curation(size=16), progress=False)
    monkeypatch.undo()
    (found.path / "index.json").unlink()
    curate(found, tmp_path / "out", Curation(size=16), progress=False)
    assert names(tmp_path / "out") == [*range(6), *range(EACH, 2 * EACH)]


def test_what_cannot_be_used_is_said(source: FolderSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        data = (source.path / f"{number:06d}.tar").read_bytes()
        (tmp_path / "in" / f"{number}.tar").write_bytes(data if number else data[: len(data) // 2])
    given = ["data", "prepare", "folder", "--path", str(tmp_path / "in"), str(tmp_path / "out"), "--size", "16"]
    error = cli(capsys, *given, "--on", "local").error
    assert error.startswith(f"warning: {tmp_path / 'in'}: 1 truncated shard cannot be used (0.tar: ")
    assert f"the number lost is unknown); details in {tmp_path / 'out' / 'report.json'}" in error


def kill_workers(marks: Path, killed: list[int]) -> None:
    """Kills, once there is a file below ``marks``, every process of a cluster that is at work."""
    last = time.monotonic() + 600
    while time.monotonic() < last:
        if list(marks.glob("inspected-*")):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::ReadRange"):
                        child.kill()
                        killed.append(child.pid)
            if killed:
                return
        time.sleep(0.01)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two workers on this machine."""
    ray: Any = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
    yield
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")  # of Ray
@pytest.mark.usefixtures("cluster")
def test_a_cluster_whose_workers_are_killed_loses_and_doubles_nothing(tmp_path: Path) -> None:
    def wrong(number: int) -> int:
        raise PochadeError(f"piece {number} is wrong")

    source = write(tmp_path / "in", 10, 12, 128)
    curate(source, tmp_path / "local", ALL, progress=False)
    killed: list[int] = []
    killer = threading.Thread(target=kill_workers, args=(tmp_path / "cluster.partial" / "facts", killed))
    killer.start()
    curate(source, tmp_path / "cluster", ALL, on="ray", progress=False)
    killer.join()
    assert killed
    assert files(tmp_path / "cluster") == files(tmp_path / "local")
    with pytest.raises(PochadeError, match=r"^piece \d is wrong$"):
        list(each_piece(wrong, 2, "ray", tmp_path))


TOY = ("task.options=dim=16,heads=2,hidden=16,blocks=1", "task.autoencoder=lrf-openmoji", "initialise_from=none")


def parts(run: Path) -> dict[str, bytes]:
    found = (run / "cache").glob("*/part-*")
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in found}


def rows(run: Path) -> list[bytes]:
    """The keys of all pictures and captions in the cache of a run."""
    shares = (run / "cache").glob("*/part-*.safetensors")
    return sorted(key for path in shares for key in Part(path).keys)


@pytest.mark.filterwarnings("ignore")  # of Ray
@pytest.mark.usefixtures("cluster")
def test_a_cache_whose_worker_is_killed_is_that_of_one_process(
    expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker to make two parts dies while it has made a third and not written it."""
    stages = tuple(override(stages_of("lrf-folder"), [f"data.source={expected}", *TOY]))
    of_cluster, marks = Encoding(stages, tmp_path / "cluster" / "run"), tmp_path / "marks"
    marks.mkdir()

    def encode(number: int) -> int:
        from pochade.data.cache import build, latents

        (marks / f"worker-{os.getpid()}").touch()
        part, latents.PART = latents.PART, 4  # until it returns: the process serves other tests
        write_part, made = build.write_part, list[Path]()

        def fail(path: Path, *rest: Any) -> None:
            made.append(path)
            if len(made) == 3 and not (marks / "killed").exists():
                (marks / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            write_part(path, *rest)

        build.write_part = fail
        try:
            return of_cluster(number)
        finally:
            build.write_part, latents.PART = write_part, part

    monkeypatch.setattr(latents, "PART", 4)
    of_one = Encoding(stages, tmp_path / "one" / "run")
    pictures = of_one(0)
    assert list(each_piece(encode, 2, "ray", tmp_path)) == [pictures, pictures]
    assert (marks / "killed").exists()
    assert len(list(marks.glob("worker-*"))) > 1
    found = parts(of_cluster.out)
    assert found == parts(of_one.out)
    assert len(found) > 8
    keys = rows(of_cluster.out)
    assert len(keys) == len(set(keys))
    assert not list(of_cluster.out.rglob("*.claim"))


@pytest.mark.filterwarnings("ignore")  # of Ray
@pytest.mark.usefixtures("cluster")
def test_two_commands_make_shards_and_their_latents_on_a_cluster(
    source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/scale.md has them, from a folder that the cluster was not started in."""
    (tmp_path / "raw").symlink_to(source.path)
    monkeypatch.chdir(tmp_path)
    chosen = ("--size", "64", "--min-side", "32", "--deduplicate", "--min-score", "0.2")
    for on in ("ray", "local"):
        several = ("--workers", "2") if on == "ray" else ()
        for command in (
            ("data", "prepare", "folder", "--path", "raw", f"shards-{on}", *chosen, "--on", on),
            ("cache", "lrf-folder", f"data.source=shards-{on}", *TOY, "--out", f"{on}/run", "--on", on, *several),
        ):
            with pytest.raises(SystemExit) as end:
                main(command)
            assert not end.value.code
    assert files(tmp_path / "shards-ray").keys() == files(tmp_path / "shards-local").keys()
    made = parts(tmp_path / "ray" / "run")
    assert made
    assert made == parts(tmp_path / "local" / "run")
    kept = len(FolderSource(tmp_path / "shards-ray").open("all"))
    assert len(rows(tmp_path / "ray" / "run")) == 2 * kept  # pictures and captions, with those held out


def shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.TarFile(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_what_is_lost_or_not_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data = tmp_path / "shards", png(picture(1))
    write(folder / "held_out", 2, 3)
    (folder / "held_out" / "000001.tar").unlink()
    members = {"a.png": data, "a.txt": "café".encode("latin-1"), "b.png": png(picture(2)), "b.txt": b"b"}
    shard(folder / "train" / "000000.tar", members)
    (folder / "extra.png").write_bytes(data)
    given = ("data", "prepare", "folder", "--path", str(folder), str(tmp_path / "out"), "--size", "16", "--on", "local")
    error = cli(capsys, *given, code=1).error
    assert "3 of 8 pictures cannot be used (3 missing shard), held_out/000001.tar for one" in error
    found = cli(capsys, *given, "--max-skipped", "0.5")
    assert "3 missing shard cannot be used (held_out/000001.tar" in found.error
    assert "1 picture beside shards, which alone are read (extra.png)" in found.error
    assert "1 caption in Latin-1, not UTF-8 (train/000000.tar/a.png)" in found.error
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["kept"] == 5
    assert sum(note["files"] for note in report["notes"].values()) == 7  # and five without a group


def test_stored_numbers_stay_beside_a_computed_score(tmp_path: Path) -> None:
    stored = {"score": 6.1, "aes": 3.0, "name": 7.0}
    with ShardWriter(tmp_path / "shards") as writer:
        for number in range(6):
            facts = tuple({**stored, "aes": float(number)}.items())
            writer.add(picture_record(f"p{number}", png(picture(number)), ".png", ["a picture"], scores=facts))
    source = FolderSource(tmp_path / "shards")
    for score, kept in (("contrast", 6), ("column:aes", 4)):
        out = tmp_path / score
        curate(source, out, Curation(size=16, min_score=2 if score == "column:aes" else 0, score=score), progress=False)
        data = FolderSource(out).open("all")
        found = [dict(data.item(index).scores) for index in range(len(data))]
        assert len(found) == kept
        computed = {"score:contrast"} if score == "contrast" else set[str]()
        for numbers in found:
            assert set(numbers) == {*stored, *computed}
            assert {name: numbers[name] for name in ("score", "name")} == {"score": 6.1, "name": 7.0}
            assert "score:contrast" not in numbers or 0 < numbers["score:contrast"] < 6
    before = FolderSource(tmp_path / "contrast")
    curate(before, tmp_path / "again", Curation(size=16, min_score=0, score="column:score:contrast"), progress=False)
    one, two = before.open("all"), FolderSource(tmp_path / "again").open("all")
    assert [one.item(i).scores for i in range(6)] == [two.item(i).scores for i in range(6)]


def test_one_call_at_a_time_writes_a_folder(source: FolderSource, expected: Path, tmp_path: Path) -> None:
    out, errors = tmp_path / "chosen", list[str]()

    def other() -> None:
        try:
            curate(source, out, ALL, progress=False)
        except PochadeError as error:
            errors.append(str(error))

    claim = take(out.with_name(".chosen.claim"))
    assert claim is not None
    with claim:
        other()
    assert errors == [
        f"out: process {os.getpid()} on {socket.gethostname()} writes {out}; wait for its end, or choose another folder"
    ]
    other()
    assert files(out) == files(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["chosen"]


def test_a_choice_that_keeps_nothing_leaves_nothing(source: FolderSource, tmp_path: Path) -> None:
    out = tmp_path / "chosen"
    with pytest.raises(PochadeError, match="score: column:zzz given, but no picture has that number; stored are none"):
        curate(source, out, Curation(size=16, min_score=0, score="column:zzz"), progress=False)
    with pytest.raises(FailureError, match=r"no picture is kept \(48 too small\)"):
        curate(source, out, Curation(size=16, min_side=999), progress=False)
    shard(tmp_path / "empty" / "a.tar", {})
    with pytest.raises(FailureError, match=r"no picture is kept \(there are none\)"):
        curate(FolderSource(tmp_path / "empty"), out, Curation(size=16), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    curate(source, out, Curation(size=16), progress=False)


def test_other_limits_do_not_go_on(source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curation, "png", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(FailureError, match="No space"):
        curate(source, tmp_path / "chosen", Curation(size=16), progress=False)
    with pytest.raises(PochadeError, match="was begun with max_megapixels"):
        curate(source, tmp_path / "chosen", Curation(size=16), reading=Reading(max_megapixels=1), progress=False)
