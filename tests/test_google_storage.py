"""Files by URL: a real server of Google Cloud Storage, and what servers may answer."""

import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cli.run import cli
from pochade.data.sources import open_source
from pochade.errors import FailureError, PochadeError
from pochade.pipelines import hub
from pochade.storage import ATTEMPTS, Mirror, fetch, send
from stored import files, fill

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Within it gs:// is at the server of ``STORAGE_EMULATOR_HOST``, which is to be set, and without an account."""
    pytest.importorskip("gcsfs")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    fsspec.get_filesystem_class("gs").clear_instance_cache()
    yield monkeypatch
    fsspec.get_filesystem_class("gs").clear_instance_cache()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (403, r"PochadeError: SOURCE: access is denied \(.*\)"),
        (401, r"PochadeError: SOURCE: access is denied \(.*\)"),
        (404, "PochadeError: SOURCE: there is nothing"),
        (400, rf"FailureError: SOURCE: \w+: .*, {ATTEMPTS} times in 0 s"),
    ],
)
def test_what_a_server_answers_is_told_apart(google: pytest.MonkeyPatch, capsys: Any, code: int, error: str) -> None:
    class Answers(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            body = json.dumps({"error": {"code": code, "message": "As the server says."}}).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command == "GET" else b"")

        do_HEAD = do_GET  # noqa: N815

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as web:
        threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
        host = f"http://127.0.0.1:{web.server_port}"
        google.setenv("STORAGE_EMULATOR_HOST", host)
        for url in (f"{host}/a.tar", f"{host}/{{000..001}}.tar", "gs://things/a"):
            with pytest.raises((PochadeError, FailureError)) as found:
                fetch(url)
            source = re.escape(url.replace("{000..001}", "000"))
            assert re.fullmatch(error.replace("SOURCE", source), f"{found.type.__name__}: {found.value}")
            assert len(capsys.readouterr().err.splitlines()) == (ATTEMPTS - 1 if found.type is FailureError else 0)
        web.shutdown()


@pytest.fixture
def gcs(google: pytest.MonkeyPatch) -> Iterator[str]:
    """A real server of Google Cloud Storage's interface, with the bucket "things"."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    google.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    with emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="things"):
        yield "gs://things"


def test_google_cloud_storage_is_written_and_read(
    gcs: str, tmp_path: Path, capsys: Any, toy_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{gcs}/data"
    cli(capsys, "data", "prepare", "synthetic:12", place, "--size", "16")
    assert len(open_source(place, "all")) == 12
    error = cli(capsys, "data", "prepare", "synthetic:12", "gs://nobucket/a", "--size", "16", code=2).error
    assert error == "error: out: gs://nobucket/a: there is no such bucket"
    send(toy_pipeline_folder, f"{gcs}/models/toy")
    assert hub.model_sha256(hub.resolve(f"{gcs}/models/toy")) == hub.model_sha256(toy_pipeline_folder)

    run = Mirror(fill(tmp_path / "one", a="1", b__c="2"), f"{gcs}/run")
    run.push()
    (run.folder / "a").unlink()
    run.push()
    other = Mirror(tmp_path / "two", f"{gcs}/run")
    other.pull()
    assert files(other.folder).keys() == {"b/c", ".mirror.json"}

    from gcp_storage_emulator.storage import Storage

    monkeypatch.setattr(Storage, "get_file", lambda *_: b"0")  # as many bytes, other ones
    capsys.readouterr()
    with pytest.raises(FailureError, match=f"^{gcs}/run/b/c: OSError: its MD5 is another one at its source, 5 times"):
        fetch(f"{gcs}/run/b/c")
