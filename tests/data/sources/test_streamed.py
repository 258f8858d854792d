"""Shards that are read by windows from a web server: in the order of the seed, whole, and never more than the limit."""

import functools
import http.server
import json
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pochade import storage
from pochade.data.dataset import Split
from pochade.data.prepare.target import png
from pochade.data.prepare.writer import picture_record, write_index, write_shards
from pochade.data.samples import PixelSamples
from pochade.data.shard_cache import ShardCache
from pochade.data.sources import open_source
from pochade.data.sources.image_files import Reading
from pochade.data.sources.streamed import HELD, StreamedShards, open_streamed
from pochade.errors import EmptySplitError, FailureError, PochadeError
from pochade.recipes import stages_of
from pochade.storage import ATTEMPTS
from pochade.training.executor import run
from pochade.training.loader import Loader, draw
from pochade.training.overrides import override

pytest.importorskip("aiohttp")
SHARDS, PER_SHARD, WINDOW = 8, 5, 2
CLASSES = ("cat", "dog")


class Web:
    """A web server of a folder that counts, and fails in the ways that a test sets."""

    def __init__(self, folder: Path, watched: Path) -> None:
        self.folder, self.watched = folder, watched
        self.gets, self.sent, self.most = Counter[str](), 0, 0
        self.cut: set[str] = set()
        web = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                web.gets[name] += 1
                web.most = max(web.most, web.held())
                if name in web.cut:
                    web.cut.remove(name)
                    data = (web.folder / name).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                    return
                super().do_GET()

            def copyfile(self, source: Any, outputfile: Any) -> None:
                data = source.read()
                web.sent += len(data)
                outputfile.write(data)

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def held(self) -> int:
        """Bytes of what lies on the disk, half-written copies included."""
        sizes = list[int]()
        for path in self.watched.rglob("*"):
            if ".tar" in path.name:
                try:
                    sizes.append(path.stat().st_size)
                except FileNotFoundError:
                    continue
        return sum(sizes)

    def shards(self) -> dict[str, int]:
        return {name: count for name, count in sorted(self.gets.items()) if name.endswith(".tar")}


def fill(folder: Path, first: int, shards: int) -> Path:
    noise = random.Random(first)
    records = []
    for number in range(first, first + shards * PER_SHARD):
        image = Image.frombytes("RGB", (16, 16), bytes([number]) * 3 + noise.randbytes(765))
        captions = [f"picture {number}", "one"]
        records.append(picture_record(f"{number:04d}", png(image), ".png", captions, label=number % 2))
    index = write_shards(records, folder, PER_SHARD)
    write_index(folder, index["shards"], CLASSES)
    return folder


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.0)
    fill(tmp_path / "set" / "train", 0, SHARDS)
    fill(tmp_path / "set" / "held_out", 100, 1)
    found = Web(tmp_path / "set", tmp_path / "cache" / "pochade" / "shards")
    yield found
    found.server.shutdown()
    found.server.server_close()


def limit_of(web: Web) -> int:
    return HELD * WINDOW * max(path.stat().st_size for path in web.folder.rglob("*.tar"))


def opened(web: Web, split: Split = "train", limit: int | None = None) -> StreamedShards:
    return open_streamed(web.url, split, classes=None, limit=limit or limit_of(web), reading=Reading())


def names(samples: PixelSamples, positions: range) -> list[Any]:
    return list(draw(samples, 1, positions, len(positions))["name"])


def test_pictures_come_in_the_order_of_the_seed_and_each_shard_once(web: Web) -> None:
    data = opened(web)
    total = SHARDS * PER_SHARD
    assert (len(data), data.windows.shards, data.classes) == (total, WINDOW, ())
    loader = Loader(PixelSamples(data, 16), seed=1, batch_size=4, start=0, stop=total // 4)
    seen = [name for batch in loader for name in batch["name"]]
    loader.close()
    order = data.windows.order(1, torch.arange(total)).tolist()
    assert seen == [f"train/{n // PER_SHARD:06d}.tar/{n:04d}.png" for n in order]
    fetched = web.shards()
    assert fetched == {f"train/{n:06d}.tar": 1 for n in range(SHARDS)} | {
        name: count for name, count in fetched.items() if count > 1
    }
    assert sum(fetched.values()) <= SHARDS + 1 + WINDOW  # that of the first look, and the window after the pass
    assert web.most <= limit_of(web)
    assert 0 < web.held() <= limit_of(web)


def test_pictures_and_facts_are_those_of_the_shards_read_whole(web: Web) -> None:
    data, whole = opened(web), open_source(web.folder / "train", "all")
    for index in (0, 7, 39):
        assert data.item(index).captions == whole.item(index).captions
        assert data.identity(index) == whole.identity(index)
        assert data.dimensions(index) == whole.dimensions(index)
        assert data.image(index, 8).tobytes() == whole.image(index, 8).tobytes()
    assert [opened(web, "held_out").item(n).split for n in range(5)] == ["held_out"] * 5
    assert len(opened(web, "all")) == 45
    assert data.fingerprint() == opened(web).fingerprint()
    assert data.fingerprint() != opened(web, limit=limit_of(web) // 2).fingerprint()


def test_a_run_goes_on_anywhere_and_two_processes_see_the_samples_of_one(web: Web) -> None:
    whole = PixelSamples(opened(web), 16)
    batches = [names(whole, range(4 * step, 4 * step + 4)) for step in range(25)]  # two epochs and a half
    web.gets.clear()
    found: list[list[list[Any]]] = [[], []]

    def work(rank: int) -> None:
        samples = PixelSamples(opened(web), 16)
        loader = Loader(samples, seed=1, batch_size=4, start=13, stop=25, rank=rank, world_size=2)
        found[rank] = [list(batch["name"]) for batch in loader]
        loader.close()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for step, (even, odd) in enumerate(zip(*found, strict=True), 13):
        assert [name for pair in zip(even, odd, strict=True) for name in pair] == batches[step]
    assert web.most <= limit_of(web)
    # 48 of 40 pictures are two windows of an epoch and three of the next one; both share what one of them fetches.
    assert sum(web.shards().values()) <= 2 * SHARDS


def test_a_cut_transfer_is_repeated_and_what_stays_wrong_is_named(web: Web) -> None:
    web.cut = {"train/000003.tar"}
    data = opened(web)
    assert data.item(3 * PER_SHARD).name == "train/000003.tar/0015.png"
    assert web.gets["train/000003.tar"] == 2

    (web.folder / "train" / "000005.tar").unlink()
    with pytest.raises(PochadeError, match=r"train/000005\.tar: there is nothing"):
        data.item(5 * PER_SHARD)
    swapped = web.folder / "train" / "000006.tar"
    raw = bytearray(swapped.read_bytes())
    raw[700] ^= 1
    swapped.write_bytes(raw)
    with pytest.raises(FailureError, match=rf"000006\.tar: OSError: its SHA-256 is not that of the index, {ATTEMPTS}"):
        data.item(6 * PER_SHARD)
    (web.folder / "train" / "000007.tar").write_bytes(raw + b"\0")
    with pytest.raises(PochadeError, match=r"000007\.tar: [\d,]+ bytes, its index says"):
        data.item(7 * PER_SHARD)
    assert sorted(path.suffix for path in data.cache.folder.iterdir()) == [".tar"] * 2


def test_a_missing_shard_ends_a_run_before_its_window(web: Web) -> None:
    (web.folder / "train" / "000005.tar").unlink()
    data = opened(web)
    loader = Loader(PixelSamples(data, 16), seed=1, batch_size=4, start=0, stop=20)
    with pytest.raises(PochadeError, match=r"train/000005\.tar: there is nothing"):
        list(loader)
    loader.close()


def test_what_a_killed_process_left_takes_no_room(web: Web) -> None:
    cache = opened(web).cache
    shard = opened(web).shards[4]
    (cache.folder / f"{shard.key}.claim").write_text("elsewhere 1")
    os.utime(cache.folder / f"{shard.key}.claim", (0, 0))
    left = cache.folder / f".{shard.key}.tar.abcdef.tmp"
    ShardCache(web.url, limit_of(web))
    assert not list(cache.folder.glob("*.claim"))
    assert not left.exists()


def test_what_cannot_be_streamed_is_said(web: Web, tmp_path: Path) -> None:
    for changes, message in (
        (["data.cache_limit=many"], r"data\.cache_limit: 'many' given, allowed are 500MB"),
        (["data.cache_limit=1GB"], r"data\.cached=true, a cache of all: allowed is data\.cached=false"),
        (["data.cache_limit=1GB", "data.cached=false", "data.best=0.5"], r"data\.best: 0\.5 given with data\.cache_l"),
        (["data.cache_limit=1kB", "data.cached=false"], r"1,000 bytes given, 3 times the largest shard"),
    ):
        (stage,) = override(stages_of("denoiser"), [f"data.source={web.url}", *changes])
        data: Any = stage.data
        with pytest.raises(PochadeError, match=message):
            data.open()
    (stage,) = override(stages_of("denoiser"), ["data.source=openmoji", "data.cache_limit=1GB", "data.cached=false"])
    data = stage.data
    with pytest.raises(PochadeError, match=r"data\.cache_limit: given for openmoji, allowed for a folder or a URL"):
        data.open()

    with pytest.raises(FailureError, match=rf"train/index\.json: .*connect.*, {ATTEMPTS} times"):
        open_streamed("http://127.0.0.1:1/set", "all", classes=None, limit=10**9, reading=Reading())
    flat = fill(tmp_path / "flat", 0, 2)
    with pytest.raises(PochadeError, match=r"held_out: true given with data\.cache_limit, but .* has no folders train"):
        open_streamed(f"file://{flat}", "train", classes=None, limit=10**9, reading=Reading())
    assert len(open_streamed(f"file://{flat}", "all", classes=None, limit=10**9, reading=Reading())) == 10
    shutil.rmtree(web.folder / "held_out")
    with pytest.raises(EmptySplitError):
        opened(web, "held_out")
    index = web.folder / "train" / "index.json"
    listed = json.loads(index.read_text())
    index.write_text(json.dumps({**listed, "decoded": False}))
    with pytest.raises(PochadeError, match="not known to be readable; `pochade data prepare` writes"):
        opened(web)
    index.write_text(json.dumps({**listed, "shards": [{**listed["shards"][0], "file": "../../x.tar"}]}))
    with pytest.raises(PochadeError, match="the name leaves the folder"):
        opened(web)
    whole = json.dumps(listed)
    for damaged in (whole[: len(whole) // 2], "[]", '{"shards": [{"file": "000000.tar"}]}', ""):
        index.write_text(damaged)
        with pytest.raises(PochadeError, match=rf"^{web.url}/train/index\.json: not an index of shards \("):
            opened(web)
    index.unlink()
    with pytest.raises(PochadeError, match=r"data\.cache_limit: given, but http.* has no index\.json"):
        opened(web)


def test_classes_are_those_of_the_folder(web: Web) -> None:
    limit = limit_of(web)
    data = open_streamed(web.url, "train", classes=True, limit=limit, reading=Reading())
    assert data.classes == CLASSES
    assert [(data.item(n).label, data.item(n).captions) for n in range(3)] == [(0, ()), (1, ()), (0, ())]
    assert (opened(web).classes, opened(web).class_names) == ((), CLASSES)
    for side in ("train", "held_out"):
        (web.folder / side / "classes.txt").unlink()
    with pytest.raises(PochadeError, match=r"has no classes\.txt or classes\.json that names them"):
        open_streamed(web.url, "train", classes=True, limit=limit, reading=Reading())


def test_a_denoiser_trains_on_what_is_streamed_and_resumes(web: Web, tmp_path: Path) -> None:
    """The weights of a run in one go, and of one that was stopped."""
    net = "task.options=sample_size=2,dim=16,heads=2,hidden=24,blocks=1"
    limit = f"{limit_of(web) / 1000 + 1:.0f}kB"
    changes = [
        net,
        "task.family=lrf",
        "task.text_encoder=none",
        f"data.source=classes:{web.url}",
        "data.size=16",
        "batch_size=4",
        "sample_every=0",
    ]
    changes += [f"data.cache_limit={limit}", "data.cached=false", "save_every=7", "schedule=constant", "device=cpu"]
    stages = override(stages_of("denoiser"), changes)
    whole = run(override(stages, ["steps=14"]), tmp_path / "whole")
    run(override(stages, ["steps=7"]), tmp_path / "part")
    part = run(override(stages, ["steps=14"]), tmp_path / "part", resume=True)
    weights = "final/model.safetensors"
    assert (part.parent / weights).read_bytes() == (whole.parent / weights).read_bytes()
    with pytest.raises(PochadeError, match=r"data\.cache_limit"):
        run(override(stages, ["steps=20", "data.cache_limit=1GB"]), tmp_path / "part", resume=True)
    with pytest.raises(PochadeError, match=r"data\.cache_limit: its smallest window can have 10 pictures, a batch of"):
        run(override(stages, ["steps=20", "batch_size=12"]), tmp_path / "large")
    assert web.most <= limit_of(web) + 1000
    # All is one window: no other one is waited for, also where a batch is of two epochs.
    run(override(stages, ["steps=2", "batch_size=42", "data.cache_limit=1GB"]), tmp_path / "one")
