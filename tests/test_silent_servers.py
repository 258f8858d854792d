"""Servers that take a connection and are silent, or stop in the middle of a file, are given up in one line."""

import functools
import http.server
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cli.run import cli
from pochade import storage
from pochade.errors import FailureError
from pochade.files import cache_folder
from pochade.storage import ATTEMPTS, fetch
from stored import files, fill

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that takes connections and never answers; short limits."""
    for name, seconds in (("SILENCE", 0.2), ("PATIENCE", 0.5), ("NOTICE", 0.05)):
        monkeypatch.setattr(storage, name, seconds)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:  # the system takes them
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("url", ["http://HOST/a.tar", "http://HOST/{000..003}.tar", "s3://bucket/a"])
def test_a_server_that_never_answers_is_given_up_in_one_line(
    silent: str, url: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("s3fs")
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{silent}"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ):
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    url = url.replace("HOST", silent)
    source = url.replace("{000..003}", "000")
    error = cli(capsys, "data", "check", url, "--model", "lrf-openmoji", code=1).error.splitlines()
    assert re.fullmatch(rf"error: {source}: no answer within 0\.2 s, (\d times|once) in \d+ s", error[-1])
    assert error[0] == f"{source}: no answer after 0.05 s, waiting"
    assert set(error[:-1]) - {error[0]} <= {
        f"{source}: no answer within 0.2 s; attempt {n} of {ATTEMPTS}" for n in range(2, ATTEMPTS + 1)
    }
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.parametrize("url", ["http://HOST/a.tar", "s3://bucket/a"])
def test_a_host_that_is_not_there_is_not_tried_again_for_long(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("s3fs")
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"  # where nothing listens in a moment
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "UNREACHED", 0.0)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    error = cli(capsys, "data", "check", url.replace("HOST", host), "--model", "lrf-openmoji", code=1).error
    assert re.fullmatch(r"error: .*: (Client|Endpoint)Connect\w+: .*, once in \d+ s", error)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_transfer_that_stalls_is_given_up(silent: str, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")

    class Stalls(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def copyfile(self, source: Any, outputfile: Any) -> None:
            outputfile.write(source.read(4))
            outputfile.flush()
            done.wait(30)

    fill(tmp_path / "a", one="0123456789")
    done = threading.Event()
    handler = functools.partial(Stalls, directory=str(tmp_path / "a"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        web.daemon_threads = True
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}/one"
        with pytest.raises(FailureError, match=f"^{url}: no answer within 0.2 s, "):
            fetch(url)
        done.set()
        web.shutdown()
    assert not files(cache_folder("remote"))
