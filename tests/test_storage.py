"""Files by URL: whole or not at all, from real servers of S3 and HTTP, and the memory of fsspec."""

import functools
import http.server
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
import torch
from PIL import Image

from cli.run import cli
from pochade import storage
from pochade.data.prepare.target import png
from pochade.data.prepare.writer import ShardWriter, picture_record
from pochade.data.samples import PixelSamples
from pochade.data.sources import FolderSource, open_source, parse_source
from pochade.data.sources.image_files import Reading
from pochade.data.sources.pairs import parse_pairs
from pochade.data.sources.streamed import open_streamed
from pochade.errors import FailureError, PochadeError, as_given
from pochade.files import cache_folder, check_here, write_text
from pochade.pipelines import hub
from pochade.pipelines.text_to_image import TextToImagePipeline
from pochade.recipes import stages_of
from pochade.storage import ATTEMPTS, Mirror, fetch, fetch_file, fetch_if_any, send, url_of
from pochade.training.executor import mirror_of, run
from pochade.training.loader import Loader
from pochade.training.overrides import override
from stored import files, fill

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A real S3 server, with the bucket "things"."""
    pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    patch = pytest.MonkeyPatch()
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "key")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_CONFIG_FILE", "/nowhere")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    fsspec.filesystem("s3").mkdir("things")
    yield "s3://things"
    moto.stop()
    patch.undo()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_urls_are_known_also_as_paths() -> None:
    for given in (Path("s3://bucket/a/b"), "s3://bucket/a/b", "S3://bucket/a/b/", "s3:/bucket//a/b"):
        assert url_of("out", given) == "s3://bucket/a/b"
    plain = ("c:/windows", "openmoji:groups", "folder/a", "/a", "/a/s3:/b", "a:")
    assert [url_of("out", text) for text in plain] == [None] * len(plain)
    source = parse_source("classes:s3://bucket/a")
    assert source == FolderSource(Path("s3://bucket/a"), classes=True)
    assert str(source) == "classes:s3://bucket/a"
    assert not source.paths()
    for text in ("pictures:gs://b/a", "cifar10:https://x.org/c.tar.gz", "openclipart:s3://b/a"):
        assert str(parse_source(text)) == text
        assert not parse_source(text).paths()
    pairs = parse_pairs("s3://bucket/pairs")
    assert (str(pairs), pairs.paths()) == ("s3://bucket/pairs", ())


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("s3://", "'s3://' given, allowed is s3://BUCKET/NAME"),
        ("GS://", "'GS://' given, allowed is gs://BUCKET/NAME"),
        ("s3:///shards", "'s3:///shards' given, allowed is s3://BUCKET/NAME"),
        ("s3:bucket/a", "'s3:bucket/a' given, allowed is s3://BUCKET/NAME"),
        ("http:///a", "'http:///a' given, allowed is http://HOST/NAME"),
        ("AZ://c/x", "az://c/x given, allowed are a path on this machine, and URLs with s3://, gs:// and"),
    ],
)
def test_what_is_no_url_is_refused_wherever_one_may_be_given(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, allowed: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, line in (
        ("out", f"data prepare synthetic:8 {text}"),
        ("out", f"data pairs synthetic:8 {text}"),
        ("out", f"train denoiser task.family=lrf data.source=synthetic:8 --out {text}"),
        ("path", f"data prepare folder --path {text} made"),
        ("path", f"data pairs folder --path {text} made"),
        ("source", f"data prepare classes:{text} made"),
        ("pairs", f"data pairs {text} made"),
        ("data.source", f"train denoiser task.family=lrf data.source={text}"),
        ("model", f"generate apple --model {text}"),
    ):
        error = cli(capsys, *line.split(), code=2).error
        assert error.startswith(f"error: {name}: {allowed}"), line
    assert not list(tmp_path.iterdir())


def test_an_empty_path_is_not_the_working_folder(capsys: Any) -> None:
    for command in ("prepare", "pairs"):
        error = cli(capsys, "data", command, "folder", "--path", "", "made", code=2).error
        assert error == "error: path: '' given, allowed is a path"


def test_a_place_for_this_machine_alone_refuses_a_url_in_any_form() -> None:
    for given, shown in (("S3://b/x", "S3://b/x"), ("s3:", "s3://"), ("gs:/b", "gs://b")):
        with pytest.raises(PochadeError, match=f"^out: {shown} given, allowed is a path on this machine$"):
            check_here("out", Path(given))


def test_what_is_sent_is_fetched_once(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", one="1", sub__two="22", index="")
    send(folder, "memory://plain/a")
    found = fetch("memory://plain/a")
    assert files(found) == files(folder)
    fsspec.filesystem("memory").store["/plain/a/one"].write(b"")  # nothing of it is read again
    before = (found / "one").stat().st_mtime_ns
    assert fetch("memory://plain/a") == found
    assert (found / "one").stat().st_mtime_ns == before
    assert fetch("memory://plain/a/sub/two").read_text() == "22"
    assert files(fetch("memory://plain/a", lambda name: name == "one")) == {"one": "1"}
    fill(folder, one="changed")
    send(folder, "memory://plain/a")
    assert (fetch("memory://plain/a") / "one").read_text() == "changed"
    assert (found / "one").read_text() == "1"
    assert not [name for name in fsspec.filesystem("memory").find("/plain") if "tmp" in name]


def test_an_interrupted_transfer_is_repeated_and_never_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(fill(tmp_path / "a", one="0123456789"), "memory://cut/a")
    system = type(fsspec.filesystem("memory"))
    whole, calls = system.get_file, list[str]()

    def cut(times: int) -> Any:
        def get_file(self: Any, remote: str, local: str, **options: Any) -> None:
            calls.append(remote)
            whole(self, remote, local, **options)
            if len(calls) <= times:
                Path(local).write_text(Path(local).read_text()[:4])

        return get_file

    monkeypatch.setattr(system, "get_file", cut(2))
    assert (fetch("memory://cut/a") / "one").read_text() == "0123456789"
    assert len(calls) == 3
    calls.clear()
    monkeypatch.setattr(system, "get_file", cut(ATTEMPTS))
    send(fill(tmp_path / "a", one="abcdefghijk"), "memory://cut/a")
    with pytest.raises(FailureError, match=f"cut/a/one: OSError: 4 of 11 bytes came, {ATTEMPTS} times"):
        fetch("memory://cut/a")
    assert sorted(files(cache_folder("remote")).values()) == ["0123456789"]


def test_a_file_that_changes_while_it_is_read_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send(fill(tmp_path / "a", one="old"), "memory://change/a")
    system = type(fsspec.filesystem("memory"))
    whole = system.get_file

    def get_file(self: Any, remote: str, local: str, **options: Any) -> None:
        whole(self, remote, local, **options)
        self.pipe_file(remote, b"newer")

    monkeypatch.setattr(system, "get_file", get_file)
    with pytest.raises(FailureError, match=r"changed while it was read|bytes came"):
        fetch("memory://change/a")
    assert not files(cache_folder("remote"))


def test_errors_are_one_line(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(PochadeError, match=r"s3://nobucket/a: there is (no such bucket|nothing)"):
        fetch("s3://nobucket/a")
    with pytest.raises(PochadeError, match="s3://things/nothing: there is nothing"):
        fetch("s3://things/nothing")
    with pytest.raises(PochadeError, match=r"https://x\.org/a/one: it can be read alone"):
        send(fill(tmp_path / "a", one="1"), "https://x.org/a")
    with pytest.raises(PochadeError, match=r"out: https://x\.org/a given, which can be read alone"):
        storage.check_empty("out", "https://x.org/a")

    def missing(scheme: str, **_: Any) -> None:
        raise ImportError("Install gcsfs")

    with monkeypatch.context() as patch:
        patch.setattr(fsspec, "filesystem", missing)
        with pytest.raises(PochadeError, match=r"gcsfs is not installed: pip install 'pochade\[scale\]'"):
            fetch("gs://bucket/a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(PochadeError, match="s3://things/a: no credentials were found"):
        fetch("s3://things/a")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def reader(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within it the server is used by someone who may read and list alone."""
    import boto3
    import requests

    iam, name = boto3.client("iam"), uuid4().hex
    iam.create_user(UserName=name)
    allowed = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    checks = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    requests.post(checks, data="0", timeout=10).raise_for_status()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield
    requests.post(checks, data="inf", timeout=10).raise_for_status()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_file_under_a_key_of_its_own_is_fetched_from_s3(server: str, tmp_path: Path) -> None:
    """There its ETag looks like an MD5 and is none."""
    from moto.s3.models import s3_backends

    send(fill(tmp_path / "a", one="1", two="2"), f"{server}/keys")
    stored = next(iter(s3_backends.values()))["aws"].buckets["things"].keys
    for name in ("one", "two"):
        stored[f"keys/{name}"]._etag = "0" * 32
    stored["keys/one"].encryption = "aws:kms"
    assert fetch(f"{server}/keys/one").read_text() == "1"
    with pytest.raises(FailureError, match="its MD5 is another one at its source"):
        fetch(f"{server}/keys/two")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("AWS_PROFILE", "nobody", r"ProfileNotFound: The config profile \(nobody\) could not be found"),
        ("AWS_ENDPOINT_URL", "127.0.0.1:80", "ValueError: Invalid endpoint: 127.0.0.1:80"),
        ("AWS_DEFAULT_REGION", "no region", "InvalidRegionError: Provided region_name 'no region'"),
        ("", "", "ParamValidationError: .*Invalid bucket name"),
    ],
)
def test_wrong_settings_are_an_error_at_once(
    server: str, capsys: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    if name:
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_CONFIG_FILE")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    bucket = server if name else "s3://no bucket"
    with pytest.raises(PochadeError, match=f"^out: {bucket}/a: {reason}") as error:
        storage.check_empty("out", f"{bucket}/a")
    assert error.value.exit_code == 2
    assert "attempt" not in capsys.readouterr().err
    fsspec.get_filesystem_class("s3").clear_instance_cache()


NET = "task.options=sample_size=4,dim=16,heads=2,hidden=24,blocks=1"
WRITING = (
    f"train denoiser {NET} task.family=lrf data.source=synthetic:8 data.size=32 steps=1 --out",
    "data prepare synthetic:8 --size 16",
    "data prepare folder --path SHARDS --size 16 --on local",
    "data pairs synthetic:8 --size 16",
)


@pytest.mark.parametrize("line", WRITING)
def test_a_place_that_is_not_there_is_found_before_any_work(
    server: str, capsys: Any, tmp_path: Path, line: str
) -> None:
    done = cli(capsys, *line.replace("SHARDS", str(tmp_path)).split(), "s3://nobucket/a", code=2)
    assert (done.out, done.error) == ("", "error: out: s3://nobucket/a: there is no such bucket")


@pytest.mark.parametrize("line", WRITING)
@pytest.mark.usefixtures("reader")
def test_a_place_without_the_right_to_write_is_found_before_any_work(
    server: str, capsys: Any, tmp_path: Path, line: str
) -> None:
    done = cli(capsys, *line.replace("SHARDS", str(tmp_path)).split(), f"{server}/denied", code=2)
    assert done.out == ""
    assert done.error.startswith(f"error: out: {server}/denied: access is denied (")
    assert done.error.count("\n") == 0


def test_looking_whether_a_place_can_be_written_leaves_nothing_there(server: str) -> None:
    storage.check_writable("out", f"{server}/looked/at")
    storage.check_empty("out", f"{server}/looked/at")
    assert not fsspec.filesystem("s3").find("things/looked")


def test_an_empty_bucket_or_folder_is_written_to(server: str, capsys: Any) -> None:
    import boto3

    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="bare")
    out = cli(capsys, "data", "prepare", "synthetic:12", "s3://bare", "--size", "16").out
    assert out.startswith("s3://bare: ")
    s3.create_bucket(Bucket="placeholders")
    for key in ("data/", "data/inner/"):  # as the web page of S3 makes a folder
        s3.put_object(Bucket="placeholders", Key=key, Body=b"")
    storage.check_empty("out", "s3://placeholders")
    with pytest.raises(PochadeError, match="s3://placeholders/data: there is nothing"):
        fetch("s3://placeholders/data")
    cli(capsys, "data", "prepare", "synthetic:12", "s3://placeholders/data", "--size", "16")
    assert len(open_source("s3://placeholders/data", "all")) == 12
    assert len(open_source("S3://placeholders", "all")) == 12
    with pytest.raises(PochadeError, match="out: s3://placeholders holds something already"):
        storage.check_empty("out", "s3://placeholders")


def test_a_run_begins_in_an_empty_bucket(server: str, tmp_path: Path) -> None:
    import boto3

    boto3.client("s3").create_bucket(Bucket="runs")
    Mirror(tmp_path / "here", "s3://runs").pull()
    assert not files(tmp_path / "here")


def test_shards_are_written_to_and_read_from_s3(server: str, capsys: Any, tmp_path: Path) -> None:
    place = f"{server}/data"
    out = cli(capsys, "data", "prepare", "synthetic:12", place, "--size", "16").out
    assert out.startswith(f"{place}: ")
    cli(capsys, "data", "prepare", "synthetic:12", str(tmp_path / "here"), "--size", "16")
    there, here = open_source(place, "all"), open_source(tmp_path / "here", "all")
    assert len(there) == len(here) == 12
    assert [there.identity(i) for i in range(12)] == [here.identity(i) for i in range(12)]
    assert there.fingerprint() == here.fingerprint()
    error = cli(capsys, "data", "prepare", "synthetic:12", place, "--size", "16", code=2).error
    assert error == f"error: out: {place} holds something already, and nothing is overwritten; choose another place"
    pattern = open_source(f"{place}/train/{{000000..000000}}.tar", "all")
    assert 0 < len(pattern) < 12


def test_an_interrupted_choice_of_shards_for_s3_goes_on(
    server: str, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pochade.data.prepare import curate

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write, calls = curate.png, list[int]()

    def interrupted(image: Image.Image) -> bytes:
        calls.append(1)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return write(image)

    with ShardWriter(tmp_path / "shards", samples_per_shard=5) as writer:
        for number in range(20):
            image = Image.new("RGB", (16, 16), (number, 0, 0))
            writer.add(picture_record(f"{number}", write(image), ".png", [f"picture {number}"]))
    monkeypatch.setattr(curate, "png", interrupted)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # no other thread goes on after the interruption
    given = ["data", "prepare", "folder", "--path", str(tmp_path / "shards"), f"{server}/chosen", "--on", "local"]
    cli(capsys, *given, code=130)
    left = len(list((tmp_path / "cache").rglob("written-*.json")))
    assert left > 0
    cli(capsys, *given)
    assert len(calls) <= 15 + 20 - 5 * left  # what was written is not made again
    assert len(open_source(f"{server}/chosen", "all")) == 20
    assert not list((tmp_path / "cache" / "pochade" / "prepared").iterdir())


def test_a_shard_is_read_from_s3_by_one_request_and_its_pictures_by_none(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ShardWriter(tmp_path / "shards", samples_per_shard=5) as writer:
        for number in range(20):
            image = Image.new("RGB", (16, 16), (number, 0, 0))
            writer.add(picture_record(f"{number}", png(image), ".png", [f"picture {number}"]))
    send(tmp_path / "shards", f"{server}/many")
    system = fsspec.get_filesystem_class("s3")
    call, requests = system._call_s3, list[tuple[str, str]]()

    async def counted(self: Any, method: str, *given: Any, **options: Any) -> Any:
        requests.append((method, options.get("Key", "")))
        return await call(self, method, *given, **options)

    monkeypatch.setattr(system, "_call_s3", counted)
    data = open_source(f"{server}/many", "all")
    read = sorted(key for method, key in requests if method == "get_object")
    assert [key for key in read if key.endswith(".tar")] == [f"many/{shard:06d}.tar" for shard in range(4)]
    assert len(read) == len(set(read)) == 5  # and the index
    requests.clear()
    assert {data.image(index, 16).getpixel((0, 0))[0] for index in range(len(data))} == set(range(20))
    assert not requests


def test_shards_are_streamed_from_s3_one_request_each(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ShardWriter(tmp_path / "shards", samples_per_shard=5, decoded=True) as writer:
        for number in range(40):
            image = Image.new("RGB", (16, 16), (number, 0, 0))
            writer.add(picture_record(f"{number}", png(image), ".png", [f"picture {number}"]))
    send(tmp_path / "shards", f"{server}/streamed")
    system = fsspec.get_filesystem_class("s3")
    call, read = system._call_s3, list[str]()

    async def counted(self: Any, method: str, *given: Any, **options: Any) -> Any:
        read.extend([options["Key"]] if method == "get_object" else [])
        return await call(self, method, *given, **options)

    monkeypatch.setattr(system, "_call_s3", counted)
    limit = 6 * max(path.stat().st_size for path in (tmp_path / "shards").glob("*.tar"))
    data = open_streamed(f"{server}/streamed", "all", classes=None, limit=limit, reading=Reading())
    loader = Loader(PixelSamples(data, 16), seed=0, batch_size=4, start=0, stop=10)
    pictures = torch.cat([batch["image"] for batch in loader])
    loader.close()
    assert sorted(((pictures[:, 0, 0, 0] + 1) * 127.5).round().tolist()) == list(range(40))
    shards = [key for key in read if key.endswith(".tar")]
    assert set(shards) == {f"streamed/{shard.name}" for shard in data.shards}
    assert len(shards) <= len(data.shards) + 1 + data.windows.shards  # the first look, and the window after the pass
    held = 0
    for path in data.cache.folder.iterdir():  # of which the threads may still make and delete some
        with suppress(FileNotFoundError):
            held += path.stat().st_size if ".tar" in path.name else 0
    assert held <= limit


def test_a_model_is_read_from_s3(server: str, toy_pipeline_folder: Path, tmp_path: Path) -> None:
    send(toy_pipeline_folder, f"{server}/models/toy")
    found = hub.resolve(f"{server}/models/toy")
    assert hub.model_sha256(found) == hub.model_sha256(toy_pipeline_folder)
    run = fill(tmp_path / "run", log="")
    for place in ("1-flow/checkpoint-000002", "1-flow/checkpoint-000004", "2-edit/checkpoint-000001"):
        shutil.copytree(toy_pipeline_folder, run / place / "model")
        send(run, f"{server}/models/run")
        with pytest.warns(hub.UnfinishedWarning):
            local, found = hub.resolve(run), hub.resolve(f"{server}/models/run")
        assert local == run / place / "model"
        assert as_given(str(found)) == f"{server}/models/run/{place}/model"
        assert hub.model_sha256(found) == hub.model_sha256(local)
    assert hub.resolve(f"{server}/models/run/1-flow/checkpoint-000002") != found
    send(toy_pipeline_folder / "denoiser", f"{server}/models/part")
    with pytest.raises(PochadeError, match=r"holds no model_index\.json"):
        hub.resolve(f"{server}/models/part")


def test_shards_are_read_from_a_web_server(capsys: Any, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    cli(capsys, "data", "prepare", "synthetic:12", str(tmp_path / "here"), "--size", "16")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    handler = functools.partial(Quiet, directory=str(tmp_path / "here"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{web.server_port}/train/{{000000..000000}}.tar"
            found = open_source(url, "all")
            assert len(found) == len(open_source(tmp_path / "here" / "train", "all"))
        finally:
            web.shutdown()
            thread.join()


def test_errors_name_the_url_and_not_the_copy(server: str, tmp_path: Path, toy_pipeline_folder: Path) -> None:
    with ShardWriter(tmp_path / "shards", samples_per_shard=5) as writer:
        for number in range(20):
            writer.add(picture_record(f"{number}", png(Image.new("RGB", (16, 16))), ".png", [f"picture {number}"]))
    for shard in (1, 2):
        (tmp_path / "shards" / f"{shard:06d}.tar").write_bytes(b"0" * 10240)
    url = f"{server}/damaged"
    send(tmp_path / "shards", url)
    with pytest.raises(FailureError, match=rf"^{url}: 10 of 20 samples cannot be used"):
        open_source(url, "all")
    report = open_source(url, "all", reading=Reading(max_skipped=1)).report
    assert report is not None
    assert report.summary().startswith(f"{url}: 10 used, 10 skipped")
    (tmp_path / "shards" / "000000.tar").write_bytes(b"\x1f\x8b" + bytes(10))
    send(tmp_path / "shards", f"{url}/packed")
    with pytest.raises(PochadeError, match=rf"^{url}/packed/000000\.tar: compressed"):
        open_source(f"{url}/packed", "all")
    pattern = f"{url}/packed/{{000000..000001}}.tar"
    with pytest.raises(PochadeError, match=rf"^{url}/packed/000000\.tar: compressed"):
        open_source(pattern, "all")
    (tmp_path / "shards" / "index.json").write_text("{")
    send(tmp_path / "shards", f"{url}/index")
    with pytest.raises(PochadeError, match=rf"^{url}/index/index\.json: not an index of shards"):
        open_source(f"{url}/index", "all")
    model = tmp_path / "model"
    shutil.copytree(toy_pipeline_folder, model)
    for path in model.glob("denoiser/*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    send(model, f"{url}/model")
    with pytest.raises(PochadeError, match=rf"{url}/model/denoiser"):
        TextToImagePipeline.from_pretrained(f"{url}/model")


def test_a_full_disk_is_named_by_its_own_path(server: str, tmp_path: Path) -> None:
    send(fill(tmp_path / "a", one="1"), f"{server}/full")
    copy = fetch(f"{server}/full")
    with pytest.raises(FailureError, match=f"^{copy}/one/two: could not be written"):
        write_text(copy / "one" / "two", "")


@pytest.mark.parametrize("error", [OSError("reset"), KeyboardInterrupt()])
def test_what_was_prepared_and_cannot_be_sent_is_kept(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, error: BaseException
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def put(*_: Any) -> None:
        raise error

    before = set(tmp_path.glob("pochade-data-*"))
    cli(capsys, "data", "prepare", "synthetic:8", f"{server}/{tmp_path.name}", "--size", "0", code=2)
    assert set(tmp_path.glob("pochade-data-*")) == before
    with monkeypatch.context() as patch:
        patch.setattr(storage._Remote, "put", put)
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
        line = ("data", "prepare", "synthetic:8", f"{server}/{tmp_path.name}", "--size", "16")
        said = cli(capsys, *line, code=code).error.splitlines()[-1]
    kept = next(iter(tmp_path.glob("pochade-data-*/data")))
    assert said.endswith(f"; what was made is kept in {kept}")
    send(kept, f"{server}/{tmp_path.name}")
    assert len(open_source(f"{server}/{tmp_path.name}", "all")) == 8


def test_a_mirror_sends_what_is_new_and_follows_what_is_deleted(tmp_path: Path) -> None:
    url = "memory://mirror/run"
    first = Mirror(fill(tmp_path / "one", a="1", b__c="2", running="me"), url, but=("running",))
    first.pull()
    first.push()
    second = Mirror(tmp_path / "two", url)
    second.pull()
    assert files(second.folder) | {".mirror.json": ""} == {"a": "1", "b/c": "2", ".mirror.json": ""}
    (second.folder / "a").unlink()
    fill(second.folder, b__c="22", d="3")
    second.push()
    assert sorted(fsspec.filesystem("memory").find("/mirror/run")) == ["/mirror/run/b/c", "/mirror/run/d"]
    again = Mirror(first.folder, url, but=("running",))  # what is there counts
    again.pull()
    assert (first.folder / "b" / "c").read_text() == "22"
    assert (first.folder / "d").read_text() == "3"


def test_a_run_at_a_url_goes_on_on_another_machine(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps here, two more elsewhere: the weights of four in one go."""
    net = "task.options=sample_size=4,dim=16,heads=2,hidden=24,blocks=1"
    changes = [net, "task.family=lrf", "data.source=synthetic:8", "data.size=32", "batch_size=2", "sample_every=0"]
    stages = override(stages_of("denoiser"), [*changes, "save_every=1", "keep=1", "schedule=constant", "device=cpu"])
    whole = run(override(stages, ["steps=4"]), tmp_path / "whole")
    url = f"{server}/runs/a"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    run(override(stages, ["steps=2"]), Path(url))
    names = [name.removeprefix("things/runs/a/") for name in fsspec.filesystem("s3").find("things/runs/a")]
    assert "1-flow/checkpoint-00000002/manifest.json" in names
    assert not [name for name in names if "00000001" in name or "running" in name]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    with pytest.raises(PochadeError, match="already holds a run"):
        run(override(stages, ["steps=2"]), Path(url))
    capsys.readouterr()
    model = run(override(stages, ["steps=4"]), Path(url), resume=True)
    said = "".join(capsys.readouterr().err.split())  # lines are wrapped
    assert f"resumedfrom{url}/1-flow/checkpoint-00000002" in said
    assert f"{url}/1-flow/final/model.safetensors" in said
    assert "pochade/runs" not in said
    assert model.is_relative_to(mirror_of(url).folder)
    weights = "final/model.safetensors"
    assert (model.parent / weights).read_bytes() == (whole.parent / weights).read_bytes()
    assert json.loads((hub.resolve(f"{url}/1-flow/model") / "training.json").read_text())["stage"]["steps"] == 4


def test_a_web_server_that_tells_no_size_is_named(tmp_path: Path) -> None:
    """It is not said that there is nothing; and what is not there still is not."""
    pytest.importorskip("aiohttp")

    class Chunked(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if "missing" in self.path:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"3\r\nabc\r\n0\r\n\r\n")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Chunked) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{web.server_port}"
            silent = "the server does not tell its size"
            for take in (fetch, fetch_if_any, lambda u: fetch_file(u, tmp_path / "copy", lambda _: None, 3)):
                with pytest.raises(PochadeError, match=rf"^{url}/a\.tar: {silent} \(Content-Length\), by which"):
                    take(f"{url}/a.tar")
            with pytest.raises(PochadeError, match=rf"^{url}/a0\.tar: {silent}"):
                fetch(f"{url}/a{{0..1}}.tar")
            assert fetch_if_any(f"{url}/missing") is None
            with pytest.raises(PochadeError, match=r"missing: there is nothing$"):
                fetch(f"{url}/missing")
        finally:
            web.shutdown()
            thread.join()
    assert not (tmp_path / "copy").exists()
