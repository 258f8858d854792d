"""What became of every file of a data set: used, converted, skipped and why."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pochade.errors import FailureError, PochadeError
from pochade.files import write_json
from pochade.images.decode import BadImage

MAX_SKIPPED = 0.05


class Report:
    """Counts of the samples used, converted (by kind) and skipped (by reason), and every skipped one by name.

    ``total`` samples are expected. As soon as more than ``max_skipped`` of them (a share in [0, 1];
    one sample is always let pass, unless the share is 0) are skipped, the report is written to
    ``path`` and `FailureError` is raised, which names it.
    """

    def __init__(self, source: str, path: Path, *, total: int, max_skipped: float = MAX_SKIPPED) -> None:
        if not 0 <= max_skipped <= 1:
            raise PochadeError(f"max_skipped: {max_skipped} given, a share from 0 to 1 expected")
        self.source, self.path, self.total, self.max_skipped = source, path, total, max_skipped
        self.used = 0
        self.converted: Counter[str] = Counter()
        self.skipped: list[dict[str, Any]] = []

    @property
    def skipped_count(self) -> int:
        """Samples skipped; a damaged shard counts as often as it has lost samples."""
        return sum(entry["samples"] for entry in self.skipped)

    def use(self, conversions: Iterable[str] = ()) -> None:
        """One sample is used, after the given conversions."""
        self.used += 1
        self.converted.update(conversions)

    def skip(self, name: str, reason: str, detail: str = "", *, samples: int = 1) -> None:
        """``samples`` samples of the file ``name`` are left out. Raises `FailureError` at too many."""
        self.skipped.append({"name": name, "reason": reason, "detail": detail, "samples": samples})
        self.check()

    def check(self) -> None:
        """Raises `FailureError` where more samples are skipped than ``total`` allows."""
        allowed = max(1, int(self.max_skipped * self.total)) if self.max_skipped else 0
        if self.skipped_count > allowed:
            self.write()
            last = self.skipped[-1]
            raise FailureError(
                f"{self.source}: {self.skipped_count} of {self.total} samples cannot be used, {allowed} are allowed "
                f"(max_skipped {self.max_skipped:g}); last {last['name']}: {last['reason']}; all named in {self.path}"
            )

    def skip_image(self, error: BadImage) -> None:
        """The picture that ``error`` is about is left out."""
        self.skip(error.name, error.reason, error.detail)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``report.json``."""
        reasons: Counter[str] = Counter()
        for entry in self.skipped:
            reasons[entry["reason"]] += entry["samples"]
        return {
            "source": self.source,
            "used": self.used,
            "converted": dict(sorted(self.converted.items())),
            "skipped": self.skipped_count,
            "skipped_by_reason": dict(sorted(reasons.items())),
            "skipped_files": self.skipped,
        }

    def summary(self) -> str:
        """One line for a person."""
        counts = self.to_dict()
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts["skipped_by_reason"].items())
        return f"{self.used} used, {self.skipped_count} skipped" + (f" ({reasons})" if reasons else "")

    def write(self) -> None:
        """Writes the report to ``path``, atomically."""
        write_json(self.path, self.to_dict())
