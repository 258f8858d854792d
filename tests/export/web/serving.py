"""A static server for the tests of the page, with the faults that real ones have."""

import functools
import gzip
import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Host:
    """A server of one folder.

    Attributes:
        url: of the folder.
        faults: end of a path -> what happens to it: ``missing``, ``altered``, or ``cut``, which breaks the connection
            half-way once, as soon as the test has set ``arrived``.
        arrived: set when the browser has the first half: it drops what it has not read when a connection breaks.
        ranges: whether it continues a file from where a browser has it.
        asked: paths that were requested, and the range of each.
    """

    folder: Path
    prefix: str = "/"
    url: str = ""
    faults: dict[str, str] = field(default_factory=dict)
    arrived: threading.Event = field(default_factory=threading.Event)
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)


KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".png": "image/png",
    ".gz": "application/gzip",
}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, host: Host, *arguments: Any) -> None:
        self.host = host
        super().__init__(*arguments)

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        host, wanted = self.host, urlsplit(self.path).path
        given = self.headers.get("Range")
        host.asked.append((wanted, given))
        path = host.folder / (wanted.removeprefix(host.prefix) or "index.html")
        fault = next((fault for end, fault in host.faults.items() if wanted.endswith(end)), None)
        if not wanted.startswith(host.prefix) or not path.is_file() or fault == "missing":
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        if fault == "altered":
            content = content[:-9] + bytes(b ^ 1 for b in content[-9:])
        found = re.fullmatch(r"bytes=(\d+)-", given or "")
        start = int(found[1]) if found and host.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", KINDS.get(path.suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if fault == "cut":
            host.faults.clear()
            self.wfile.write(content[: len(content) // 2])
            host.arrived.wait()
            self.close_connection = True
            return
        self.wfile.write(content[start:])


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""


@contextmanager
def serve(folder: Path, prefix: str = "/", port: int = 0) -> Iterator[Host]:
    """The folder at ``url``, until the block ends."""
    host = Host(folder, prefix)
    with _Server(("127.0.0.1", port), functools.partial(_Handler, host)) as server:
        host.url = f"http://localhost:{server.server_port}{prefix}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield host
        finally:
            server.shutdown()
            thread.join()


def unpacked(site: Path, folder: Path) -> Path:
    """The bundle that a page holds, in a new folder."""
    folder.mkdir()
    shutil.copyfile(site / "model" / "manifest.json", folder / "manifest.json")
    for path in (site / "model").glob("*.gz"):
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return folder
