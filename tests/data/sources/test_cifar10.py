import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pochade.data.sources.cifar10 as module
from pochade.data.sources.cifar10 import CIFAR10
from pochade.errors import PochadeError

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
PER_BATCH = 20


def content(batch: str) -> tuple[np.ndarray, list[int]]:
    """Pixels [n, 3072] in the order of the format (a whole colour after the other), and labels."""
    rng = np.random.default_rng(BATCHES.index(batch))
    return rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8), rng.integers(0, 10, PER_BATCH).tolist()


class Python2(pickle._Pickler):
    """Writes as Python 2 and its numpy did: every text as a byte string, numpy under its old name."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_str(self, text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        if len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        else:
            self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(text)

    def save_global(self, obj, name=None):
        if getattr(obj, "__name__", "") == "_reconstruct":
            self.write(pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n")
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    dispatch[str] = dispatch[bytes] = save_str
    dispatch[type(module._reconstruct)] = save_global


def python2(value) -> bytes:
    buffer = io.BytesIO()
    Python2(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def python3(value) -> bytes:
    as_bytes = {k.encode(): v for k, v in value.items()}
    return pickle.dumps(as_bytes, protocol=2)


def python_files(dump=python2) -> dict[str, bytes]:
    files = {"batches.meta": dump({"label_names": NAMES, "num_vis": 3072})}
    for batch in BATCHES:
        pixels, labels = content(batch)
        names = [f"{NAMES[label]}_s_{i:06d}.png" for i, label in enumerate(labels)]
        files[batch] = dump({"data": pixels, "labels": labels, "batch_label": batch, "filenames": names})
    return {f"cifar-10-batches-py/{name}": data for name, data in files.items()}


def binary_files() -> dict[str, bytes]:
    files = {"batches.meta.txt": "\n".join([*NAMES, "", ""]).encode()}
    for batch in BATCHES:
        pixels, labels = content(batch)
        files[f"{batch}.bin"] = np.column_stack([np.array(labels, np.uint8), pixels]).tobytes()
    return {f"cifar-10-batches-bin/{name}": data for name, data in files.items()}


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in {**files, files_folder(files) + "/readme.html": b"<html>"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def files_folder(files: dict[str, bytes]) -> str:
    return next(iter(files)).split("/")[0]


def unpacked(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


FORMS = {
    "python": lambda p: archive(p / "cifar-10-python.tar.gz", python_files()),
    "python 3": lambda p: archive(p / "cifar-10-python.tar.gz", python_files(python3)),
    "binary": lambda p: archive(p / "cifar-10-binary.tar.gz", binary_files()),
    "python folder": lambda p: unpacked(p, python_files()) / "cifar-10-batches-py",
    "binary folder": lambda p: unpacked(p, binary_files()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pictures(tmp_path: Path, form):
    path = FORMS[form](tmp_path)
    sizes = {"train": 5 * PER_BATCH, "held_out": PER_BATCH, "all": 6 * PER_BATCH}
    for split, size in sizes.items():
        data = CIFAR10(path, split)
        assert len(data) == size
        assert data.classes == tuple(NAMES)
        sides = {data.item(i).split for i in range(size)}
        assert sides == ({"train", "held_out"} if split == "all" else {split})
    pixels, labels = content("data_batch_2")
    data = CIFAR10(path, "train")
    item = data.item(PER_BATCH + 3)
    assert (item.name, item.captions, item.label) == ("data_batch_2/3", (), labels[3])
    assert type(item.label) is int
    image = np.asarray(data.image(PER_BATCH + 3, 32))
    assert np.array_equal(image, pixels[3].reshape(3, 32, 32).transpose(1, 2, 0))
    assert len(data.groups()) == len(data)
    assert data.identity(0) == CIFAR10(path, "all").identity(0) != data.identity(1)


def test_nothing_is_unpacked(tmp_path: Path):
    path = FORMS["python"](tmp_path)
    CIFAR10(path, "held_out")
    assert list(tmp_path.iterdir()) == [path]


def test_sizes_and_names_of_classes(tmp_path: Path):
    data = CIFAR10(FORMS["binary"](tmp_path), "held_out")
    assert data.image(0, 64).size == (64, 64)
    assert data.image(0, 64).tobytes() == data.image(0, 32).resize((64, 64), Image.Resampling.LANCZOS).tobytes()
    assert data.stored(0).captions == (NAMES[content("test_batch")[1][0]],)


class Payload:
    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("where", ["value", "label", "meta"])
def test_a_pickle_with_a_payload_does_not_run(tmp_path: Path, where):
    canary = tmp_path / "executed"
    payload = Payload(os.mkdir, str(canary))
    files = python_files()
    if where == "value":
        files["cifar-10-batches-py/test_batch"] = pickle.dumps(payload, protocol=2)
    elif where == "label":
        files["cifar-10-batches-py/test_batch"] = pickle.dumps({b"data": [], b"labels": [payload]}, protocol=2)
    else:
        files["cifar-10-batches-py/batches.meta"] = pickle.dumps({b"label_names": [payload]}, protocol=4)
    with pytest.raises(PochadeError, match=r"the pickle asks for \w+\.mkdir: refused"):
        CIFAR10(unpacked(tmp_path / "data", files), "held_out")
    assert not canary.exists()


@pytest.mark.parametrize(
    "function, arguments",
    [(eval, ("1",)), (getattr, (1, "real")), (np.load, ("x",)), (np.dtype, ("O",)), (np.dtype, ("f8",))],
)
def test_only_byte_arrays_can_be_built(tmp_path: Path, function, arguments):
    files = python_files()
    files["cifar-10-batches-py/test_batch"] = pickle.dumps(Payload(function, *arguments), protocol=2)
    with pytest.raises(PochadeError, match=r"test_batch is no CIFAR-10 batch"):
        CIFAR10(unpacked(tmp_path, files), "held_out")


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        {},
        {b"data": np.zeros((3, 3072), np.uint8), b"labels": [1, 2]},
        {b"data": np.zeros((3, 3000), np.uint8), b"labels": [1, 2, 3]},
        {b"data": np.zeros((1, 3072), np.float32), b"labels": [1]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [-1]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": ["cat"]},
    ],
)
def test_wrong_content_is_one_line_that_names_the_batch(tmp_path: Path, value):
    files = python_files()
    files["cifar-10-batches-py/test_batch"] = pickle.dumps(value, protocol=2)
    with pytest.raises(PochadeError, match=r"test_batch") as caught:
        CIFAR10(unpacked(tmp_path, files), "held_out")
    assert "\n" not in str(caught.value)


def test_a_damaged_array_is_an_error(tmp_path: Path):
    files = python_files()
    name = "cifar-10-batches-py/test_batch"
    for cut in (0, 1, 100, 2000, len(files[name]) - 1):
        folder = unpacked(tmp_path / str(cut), {**files, name: files[name][:cut]})
        with pytest.raises(PochadeError, match=r"test_batch is no CIFAR-10 batch"):
            CIFAR10(folder, "held_out")


def test_binary_files_that_are_cut_short(tmp_path: Path):
    files = binary_files()
    files["cifar-10-batches-bin/test_batch.bin"] = files["cifar-10-batches-bin/test_batch.bin"][:-1]
    with pytest.raises(PochadeError, match=r"test_batch.bin is cut short"):
        CIFAR10(unpacked(tmp_path, files), "held_out")


@pytest.mark.parametrize("share", [0.001, 0.5, 0.95])
def test_a_truncated_archive_is_an_error(tmp_path: Path, share):
    path = FORMS["python"](tmp_path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(PochadeError, match=r"path: "):
        CIFAR10(path, "all")


def test_missing_parts_are_named(tmp_path: Path):
    files = python_files()
    del files["cifar-10-batches-py/data_batch_4"]
    with pytest.raises(PochadeError, match=r"data_batch_4 missing"):
        CIFAR10(unpacked(tmp_path / "a", files), "train")
    del files["cifar-10-batches-py/batches.meta"]
    with pytest.raises(PochadeError, match=r"0 names, ten expected"):
        CIFAR10(unpacked(tmp_path / "b", files), "held_out")


def test_wrong_arguments(tmp_path: Path):
    with pytest.raises(PochadeError, match="split: 'test'"):
        CIFAR10(tmp_path, "test")  # type: ignore[arg-type]
    with pytest.raises(PochadeError, match="size: 0"):
        CIFAR10(FORMS["binary"](tmp_path), "held_out").image(0, 0)


def test_no_such_path(tmp_path: Path):
    with pytest.raises(PochadeError, match=r"does not exist; cifar-10-python.tar.gz"):
        CIFAR10(tmp_path / "absent")


def test_the_standard_archive_must_have_its_hash(tmp_path: Path, monkeypatch):
    path = FORMS["binary"](tmp_path)
    import hashlib

    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(module, "STANDARD_ARCHIVES", {path.stat().st_size: digest})
    assert len(CIFAR10(path, "held_out")) == PER_BATCH
    monkeypatch.setattr(module, "STANDARD_ARCHIVES", {path.stat().st_size: "0" * 32})
    with pytest.raises(PochadeError, match=r"damaged: its MD5"):
        CIFAR10(path, "held_out")
