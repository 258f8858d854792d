"""Prepared shards of which this machine's disk holds a part at a time, fetched when they are read."""

import itertools
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256

from PIL import Image

from pochade.data.dataset import Dataset, Item, Shape, Split, check_size
from pochade.data.report import readable
from pochade.data.shard_cache import RemoteShard, ShardCache
from pochade.data.sources.class_names import CLASSES, read_class_names
from pochade.data.sources.formats import INDEX
from pochade.data.sources.image_files import Picture, Reading
from pochade.data.sources.shards import Part
from pochade.data.sources.tars import read_index
from pochade.data.windows import Windows
from pochade.errors import EmptySplitError, PochadeError
from pochade.files import is_safe_name
from pochade.images.decode import fitted
from pochade.storage import fetch_if_any

HELD = 3
"""Windows that the limit has room for: the one that is read, that before, where another process may be, and the next,
which is fetched meanwhile."""
SIDES = ("train", "held_out")


def open_streamed(url: str, split: Split, *, classes: bool | None, limit: int, reading: Reading) -> "StreamedShards":
    """The pictures of shards that `pochade data prepare` has written, with ``limit`` bytes of them on this machine.

    Only the index is read; a picture's shard is fetched when the picture is. The split is that of the folders ``train``
    and ``held_out``, each with an index.

    Args:
        url: of a folder, also ``file:///...``, that holds an index, or the two folders.
        classes: whether the data set is one of classes; None: where the first picture has no captions.

    Raises:
        PochadeError: no index, or of shards that were not prepared; no split in it; too small a limit.
        EmptySplitError: no picture is of the split.
        FailureError: something cannot be fetched.
    """
    url = url.rstrip("/")
    found = {side: _listed(url, f"{side}/") for side in SIDES}
    if not any(found.values()):
        whole = _listed(url, "")
        if not whole:
            raise PochadeError(
                f"data.cache_limit: given, but {url} has no {INDEX}, and none in train or held_out: allowed are shards "
                f"that `pochade data prepare` has written"
            )
        if split != "all":
            raise PochadeError(
                f"data.held_out: true given with data.cache_limit, but {url} has no folders train and held_out: "
                f"allowed is false"
            )
        found = {"all": whole}
    shards = [shard for side, listed in found.items() for shard in listed if split in (side, "all")]
    if not shards:
        raise EmptySplitError(split, url, sum(one.samples for listed in found.values() for one in listed))
    largest = max(one.bytes for listed in found.values() for one in listed)
    if limit < HELD * largest:
        raise PochadeError(
            f"data.cache_limit: {limit:,} bytes given, {HELD} times the largest shard expected, {HELD * largest:,}"
        )
    folders = {shard.name.rpartition("/")[0] for shard in shards}
    copies = (fetch_if_any("/".join(filter(None, (url, folder, name)))) for folder in folders for name in CLASSES)
    names = read_class_names({copy.parent for copy in copies if copy is not None})
    cache = ShardCache(url, limit)
    return StreamedShards(cache, shards, limit // (HELD * largest), names, classes=classes, reading=reading)


def _listed(url: str, folder: str) -> list[RemoteShard]:
    """The shards of an index, none where there is none."""
    copy = fetch_if_any(f"{url}/{folder}{INDEX}")
    entries = {} if copy is None else read_index(copy)
    for name, entry in entries.items():
        place = f"{url}/{folder}{INDEX}: {name}"
        if not is_safe_name(name):
            raise PochadeError(f"{place}: the name leaves the folder")
        if not entry.decoded:
            raise PochadeError(f"{place}: not known to be readable; `pochade data prepare` writes shards that are")
        if entry.samples < 1 or entry.bytes < 1:
            raise PochadeError(f"{place}: {entry.samples} samples in {entry.bytes} bytes, at least 1 expected")
    return [RemoteShard(folder + name, e.samples, e.bytes, e.sha256) for name, e in entries.items()]


class StreamedShards(Dataset):
    """See ``open_streamed``; ``window``: shards that are read together."""

    def __init__(
        self,
        cache: ShardCache,
        shards: Sequence[RemoteShard],
        window: int,
        class_names: Sequence[str] | None,
        *,
        classes: bool | None,
        reading: Reading,
    ) -> None:
        self.cache, self.shards, self.reading = cache, shards, reading
        self.windows = self._windows = Windows([shard.samples for shard in shards], window)
        self._starts = [0, *itertools.accumulate(shard.samples for shard in shards)]
        self._parts: OrderedDict[RemoteShard, Part] = OrderedDict()
        first = self._part(shards[0]).picture(0)
        wanted = not first.captions if classes is None else classes
        if wanted and class_names is None:
            raise PochadeError(f"classes: {cache.url} has no {' or '.join(CLASSES)} that names them")
        self._class_names = tuple(class_names or ())
        if wanted:
            self.classes = self._class_names

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._class_names

    def item(self, index: int) -> Item:
        picture = self._picture(index)
        captions, label = picture.captions, picture.label
        if label is not None and label >= len(self._class_names):
            raise PochadeError(f"{picture.name}: class {label}, {len(self._class_names)} are named")
        if self.classes:
            if label is None:
                raise PochadeError(f"{picture.name}: no class, but the data set is one of classes")
            captions = ()
        else:
            captions, label = captions or (() if label is None else (self._class_names[label],)), None
        name = readable(picture.name)
        side = "held_out" if name.startswith("held_out/") else "train"
        return Item(name, captions, label, name, side, picture.licence, picture.scores)

    def image(self, index: int, size: int) -> Image.Image:
        return self.fitted(index, size, size)

    def fitted(self, index: int, width: int, height: int) -> Image.Image:
        check_size(width)
        check_size(height)
        picture = self._picture(index)
        return fitted(picture.load(self._read(index), max(width, height), self.reading)[0], width, height)

    def identity(self, index: int) -> str:
        return sha256(self._read(index)).hexdigest()

    def dimensions(self, index: int) -> Shape | None:
        return self._picture(index).pixels(self._read(index))

    def fingerprint(self) -> str:
        """That of the index, the classes and the window."""
        facts = [
            self.classes,
            self._windows.shards,
            [[shard.name, shard.samples, shard.sha256] for shard in self.shards],
        ]
        return sha256(json.dumps(facts).encode()).hexdigest()

    def expect(self, seed: int, position: int | None) -> None:
        ahead = [] if position is None else self._windows.ahead(seed, position)
        self.cache.expect([self.shards[number] for number in ahead], self._part)

    def evenly_spaced(self, count: int) -> Sequence[int]:
        held = self._starts[bisect_right(self._starts, min(count, len(self)) - 1)]
        return range(0, held, -(-held // count))

    def _at(self, index: int) -> tuple[RemoteShard, int]:
        number = bisect_right(self._starts, index) - 1
        return self.shards[number], index - self._starts[number]

    def _part(self, shard: RemoteShard) -> Part:
        """What a shard holds, which is kept of two windows."""
        part = self._parts.get(shard)
        if part is None:
            part = self._parts[shard] = Part.listed(self.cache.path(shard), shard.name, shard.samples)
            while len(self._parts) > 2 * self._windows.shards:
                self._parts.popitem(last=False)
        return part

    def _picture(self, index: int) -> Picture:
        shard, row = self._at(index)
        return self._part(shard).picture(row)

    def _read(self, index: int) -> bytes:
        """The bytes of a picture, of whose shard another process may just be deleting the copy."""
        shard, row = self._at(index)
        picture = self._part(shard).picture(row)
        while True:
            try:
                with self.cache.path(shard).open("rb") as file:
                    file.seek(picture.offset)
                    return file.read(picture.length)
            except FileNotFoundError:
                continue
