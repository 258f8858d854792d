"""What became of every file of a data set: used, converted, skipped and why, or no part of it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pochade.errors import FailureError, PochadeError, as_given
from pochade.files import write_json
from pochade.images.decode import BadImage

MAX_SKIPPED = 0.05
FILE_NAMES = "file names"
"""What the captions of pictures without any were read from."""
NAMED = 100
"""Of the files that a note is about, so many are named."""
SHOWN = 10
"""Files that a line names, of each kind."""


class Report:
    """Counts of the samples used, converted (by kind) and skipped (by reason), and every skipped one by name.

    ``total`` samples are expected. `check` writes the report to ``path`` and raises `FailureError`, which names it,
    where more than ``max_skipped`` of them (a fraction in [0, 1]; one sample is always let pass, unless it is 0)
    are skipped. Notes are about files that are used otherwise than was to be expected, and files that are no part of
    the data set: they count for nothing. ``captions`` counts the pictures by what their captions were read from.
    """

    def __init__(self, source: str, path: Path, *, total: int, max_skipped: float = MAX_SKIPPED) -> None:
        if not 0 <= max_skipped <= 1:
            raise PochadeError(f"max_skipped: {max_skipped} given, a fraction from 0 to 1 expected")
        self.source, self.path, self.total, self.max_skipped = as_given(source), path, total, max_skipped
        self.used = 0
        self.converted: Counter[str] = Counter()
        self.skipped: list[dict[str, Any]] = []
        self.captions: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self._noted: dict[str, list[str]] = {}

    @classmethod
    def joined(cls, reports: Sequence["Report"]) -> "Report | None":
        """What became of the files of several sources; its path is that of the first. None for none."""
        if not reports:
            return None
        first = reports[0]
        source, total = " + ".join(report.source for report in reports), sum(report.total for report in reports)
        found = cls(source, first.path, total=total, max_skipped=first.max_skipped)
        for report in reports:
            found.used += report.used
            found.converted.update(report.converted)
            found.captions.update(report.captions)
            found.skipped += report.skipped
            found.notes.update(report.notes)
            for what, names in report._noted.items():
                found._noted[what] = [*found._noted.get(what, []), *names][:NAMED]
        return found

    @property
    def skipped_count(self) -> int:
        """Samples skipped; a damaged shard counts as often as it has lost samples."""
        return sum(entry["samples"] for entry in self.skipped)

    def use(self, conversions: Iterable[str] = (), origin: str = "") -> None:
        """One sample is used, after the given conversions, with captions from ``origin``, "" for none."""
        self.used += 1
        self.converted.update(conversions)
        self.captions.update([origin] if origin else [])

    def skip(self, name: str, reason: str, detail: str = "", *, samples: int = 1) -> None:
        """``samples`` samples of the file ``name`` are left out."""
        self.skipped.append({"name": readable(name), "reason": reason, "detail": readable(detail), "samples": samples})

    def skip_image(self, error: BadImage) -> None:
        """The picture that ``error`` is about is left out."""
        self.skip(error.name, error.reason, error.detail)

    def note(self, what: str, name: str, files: int = 1) -> None:
        """Something to know about the file ``name``, and others of so many, which is no reason to skip a sample."""
        self.notes[what] += files
        names = self._noted.setdefault(what, [])
        if len(names) < NAMED:
            names.append(readable(name))

    def check(self) -> None:
        """Raises `FailureError` where more samples are skipped than ``total`` allows."""
        allowed = self.allowed(self.max_skipped)
        if self.skipped_count > allowed:
            self.write()
            raise FailureError(
                f"{self.source}: {self.skipped_count} of {self.total} samples cannot be used, {allowed} are allowed "
                f"(max_skipped {self.max_skipped:g}; data.max_skipped in training): {self.reasons()}; all named in "
                f"{self.path}"
            )

    def allowed(self, max_skipped: float) -> int:
        """Samples that may be skipped where the fraction ``max_skipped`` may be."""
        return max(1, int(max_skipped * self.total)) if max_skipped else 0

    def summary(self) -> str:
        """One line about what is used and what is not, and where the report names it."""
        all_named = all(len(names) == self.notes[what] for what, names in self._noted.items())
        named = f"; {'all named' if all_named else 'details'} in {self.path}" if self.skipped or self.notes else ""
        return f"{self.source}: {self._summary()}{named}"

    def _summary(self) -> str:
        parts = [f"{self.used} used", f"{self.skipped_count} skipped" + f" ({self.reasons()})" * bool(self.skipped)]
        if self.captions:
            parts.append(f"captions from {', '.join(f'{what} ({n})' for what, n in self.captions.most_common())}")
        parts += [f"{count} {what} ({self.noted(what)})" for what, count in self.notes.items()]
        return ", ".join(parts)

    def noted(self, what: str) -> str:
        """The first files of which something is noted, and how many more there are."""
        return _named(self._noted[what], self.notes[what])

    def to_dict(self) -> dict[str, Any]:
        """The content of ``report.json``."""
        return {
            "source": self.source,
            "summary": self._summary(),
            "used": self.used,
            "converted": dict(sorted(self.converted.items())),
            "captions": dict(sorted(self.captions.items())),
            "skipped": self.skipped_count,
            "skipped_by_reason": self._by_reason(),
            "skipped_files": self.skipped,
            "notes": {what: {"files": self.notes[what], "names": names} for what, names in self._noted.items()},
        }

    def write(self) -> None:
        """Writes the report to ``path``, atomically."""
        write_json(self.path, self.to_dict())

    def _by_reason(self) -> dict[str, int]:
        reasons: Counter[str] = Counter()
        for entry in self.skipped:
            reasons[entry["reason"]] += entry["samples"]
        return dict(sorted(reasons.items()))

    def reasons(self) -> str:
        """Each reason with its number, the first of its files and, where they share it, the detail."""
        files: dict[str, list[dict[str, Any]]] = {}
        for entry in self.skipped:
            files.setdefault(entry["reason"], []).append(entry)
        found: list[str] = []
        for reason, count in self._by_reason().items():
            entries = files[reason]
            details = {entry["detail"] for entry in entries}
            shared = f": {entries[0]['detail']}" if len(details) == 1 and entries[0]["detail"] else ""
            found.append(f"{count} {reason} ({_named([entry['name'] for entry in entries], len(entries))}{shared})")
        return ", ".join(found)


def _named(names: Sequence[str], count: int) -> str:
    """The first of ``count`` names, and how many more there are."""
    more = count - min(len(names), SHOWN)
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more else "")


def readable(text: str) -> str:
    """``text`` with what is no UTF-8 in a file name replaced, so that it can be written and printed."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
