"""ONNX Runtime for browsers: the files of its npm package that a page needs, of one version, checked."""

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from pochade.errors import FailureError, PochadeError
from pochade.files import atomic_folder, cache_folder, sha256, write_bytes

VERSION = "1.30.0"
FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.jspi.bundle.min.mjs": "07ec090355e11b342c95436db54da2d0c2bd5b1d319745bfd3337e6bdcf170ac",
    "ort-wasm-simd-threaded.jspi.wasm": "a54c76f86b0f0d9572380cf1c6292a7b3903716ffcbcd6b0e5c7050bf430eb93",
}
"""Name -> SHA-256. The build for processors alone, and the one that can use a GPU, each a script and its binary."""
_PACKAGE = f"onnxruntime-web@{VERSION}"
_WITHIN = (".", "dist", "package/dist")
"""Where the files may lie in a folder that is given."""


def onnxruntime_web(given: str | os.PathLike[str] | None = None) -> Path:
    """A folder with ``FILES``.

    Args:
        given: the npm package as a ``.tgz`` or a folder. None for the one in the user's cache folder, which npm fetches
            into it at the first call.

    Raises:
        PochadeError: what is given is not there, or of another version.
        FailureError: npm is not installed, or cannot fetch the package.
    """
    if given is None:
        return _cached()
    path = Path(given)
    if path.is_dir():
        folder = next((path / part for part in _WITHIN if (path / part / next(iter(FILES))).is_file()), path)
        _check(folder, path)
        return folder
    if not path.is_file():
        raise PochadeError(f"onnxruntime_web: {str(path)!r} is not there, allowed is the npm package {_PACKAGE}")
    return _unpacked(path)


def _cached() -> Path:
    folder = cache_folder(f"onnxruntime-web-{VERSION}")
    if folder.is_dir():
        _check(folder, folder)
        return folder
    advice = f"where npm is, run: npm pack {_PACKAGE}; then give --onnxruntime-web onnxruntime-web-{VERSION}.tgz"
    npm = shutil.which("npm")
    if npm is None:
        raise FailureError(f"onnxruntime_web: npm is not installed, which fetches {_PACKAGE}; {advice}")
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", _PACKAGE, "--silent", "--pack-destination", temporary]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=temporary)
        packages = list(Path(temporary).glob("*.tgz"))
        if done.returncode or not packages:
            reason = (done.stderr.strip().splitlines() or ["no package came"])[-1]
            raise FailureError(f"onnxruntime_web: npm could not fetch {_PACKAGE} ({reason}); {advice}")
        return _unpacked(packages[0])


def _unpacked(package: Path) -> Path:
    """The files of a package in the user's cache folder."""
    place = cache_folder(f"onnxruntime-web-{VERSION}")
    try:
        with atomic_folder(place, replace=True) as folder, tarfile.open(package) as archive:
            for name in FILES:
                content = archive.extractfile(f"package/dist/{name}")
                assert content is not None  # a member that is no file
                write_bytes(folder / name, content.read())
            _check(folder, package)
    except (tarfile.TarError, KeyError, EOFError, AssertionError):
        raise PochadeError(f"onnxruntime_web: {str(package)!r} is not the npm package {_PACKAGE}") from None
    return place


def _check(folder: Path, given: Path) -> None:
    for name, digest in FILES.items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            state = "altered or of another version" if path.is_file() else "missing"
            raise PochadeError(f"onnxruntime_web: {name} in {str(given)!r} is {state}, allowed is {_PACKAGE}")


def main() -> None:
    """``python -m pochade.export.onnxruntime_web``: fetches it, so that exports need no network."""
    try:
        print(f"{_PACKAGE}: {onnxruntime_web()}")
    except PochadeError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
