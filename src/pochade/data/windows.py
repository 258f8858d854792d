"""An order of more pictures than a disk holds: shards in any order, and pictures in any order within some shards.

As in the shuffle by blocks of MosaicML's StreamingDataset, the shards are permuted for each epoch and taken in windows
of some at a time, within each of which all pictures are permuted. Here each entry is computed alone, from the seed and
the position, so that a run of any length resumes at once, and any number of processes sees the same order.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pochade.nn.keyed_random import permuted, sample_keys

KNOWN = 2
"""Epochs whose order of shards is kept: a batch may be of two."""


class Windows:
    """The order of N pictures that lie in S shards, one shard after the other.

    Memory is 8 bytes for each shard and a few arrays more of that size, whatever N is.

    Args:
        sizes: pictures of each shard, at least 1.
        most: shards of a window at most; the windows of an epoch are of nearly equal numbers of shards.
    """

    def __init__(self, sizes: Sequence[int], most: int) -> None:
        self.sizes = torch.tensor(sizes, dtype=torch.int64)
        self.starts = torch.cat([torch.zeros(1, dtype=torch.int64), self.sizes.cumsum(0)])
        shards = len(self.sizes)
        self.count = -(-shards // most)
        self.bounds = torch.arange(self.count + 1) * shards // self.count
        """[windows + 1], where among the permuted shards each window begins."""
        self._epochs: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def shards(self) -> int:
        """Shards of the largest window."""
        return int(self.bounds.diff().max())

    @property
    def smallest(self) -> int:
        """Pictures that every window of every epoch has at least: those of its smallest shards, were they together."""
        return int(self.sizes.sort().values[: int(self.bounds.diff().min())].sum())

    def order(self, seed: int, positions: Tensor) -> Tensor:
        """The pictures [B] in [0, N) that are seen at ``positions`` [B] int64 of the run with ``seed``; each epoch, N
        positions, is a permutation."""
        found = torch.empty_like(positions)
        epochs = positions // len(self)
        for epoch in epochs.unique().tolist():
            shards, ends = self._epoch(seed, epoch)
            starts = torch.cat([ends.new_zeros(1), ends])
            begins = starts[self.bounds]
            rows = (epochs == epoch).nonzero()[:, 0]
            local = positions[rows] % len(self)
            windows = torch.searchsorted(begins, local, right=True) - 1
            for window in windows.unique().tolist():
                inside = windows == window
                begin, end = begins[window : window + 2].tolist()
                key = int(sample_keys(seed, torch.tensor([-1 - epoch * self.count - window])))
                place = begin + permuted(key, local[inside] - begin, end - begin)
                number = torch.searchsorted(ends, place, right=True)
                found[rows[inside]] = self.starts[shards[number]] + place - starts[number]
        return found

    def ahead(self, seed: int, position: int) -> list[int]:
        """The shards of the window at a position of the run, and those of the next one, each once."""
        epoch, local = divmod(position, len(self))
        shards, ends = self._epoch(seed, epoch)
        place = int(torch.searchsorted(ends, local, right=True))
        window = int(torch.searchsorted(self.bounds, place, right=True)) - 1
        begin, end, *after = self.bounds[window : window + 3].tolist()
        following = shards[end : after[0]] if after else self._epoch(seed, epoch + 1)[0][: int(self.bounds[1])]
        return list(dict.fromkeys([*shards[begin:end].tolist(), *following.tolist()]))

    def _epoch(self, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """The shards [S] in the order of an epoch, and where in the epoch each ends."""
        if (seed, epoch) not in self._epochs:
            while len(self._epochs) >= KNOWN:
                self._epochs.pop(next(iter(self._epochs)))
            count = len(self.sizes)
            shards = permuted(seed, epoch * count + torch.arange(count), count)
            self._epochs[seed, epoch] = shards, self.sizes[shards].cumsum(0)
        return self._epochs[seed, epoch]
