"""Services that show runs beside TensorBoard, Weights & Biases and Aim, through accelerate's trackers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pochade.errors import FailureError, PochadeError, missing_extra, nearest

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker
    from PIL.Image import Image

PROJECT = "pochade"
"""The name of the project to which all runs belong there."""


@dataclass(frozen=True)
class Service:
    """How a service is reached.

    Attributes:
        make: a tracker of the run in a folder, by its name; it is not started yet.
        shown: a picture as the tracker's ``log_images`` takes it.
    """

    make: "Callable[[Path, str], GeneralTracker]"
    shown: "Callable[[Image], Any]"


def _wandb(folder: Path, name: str) -> "GeneralTracker":
    from accelerate.tracking import WandBTracker

    return WandBTracker(PROJECT, name=name, group=folder.parent.name, dir=str(folder))


def _aim(folder: Path, name: str) -> "GeneralTracker":
    from accelerate.tracking import AimTracker

    return AimTracker(name, str(folder), experiment=PROJECT)


SERVICES = {"wandb": Service(_wandb, lambda picture: [picture]), "aim": Service(_aim, lambda picture: picture)}
"""By the name of the library, which is also that of the extra that installs it."""


def check_trackers(names: Sequence[str]) -> None:
    """Raises PochadeError for a service that is not known, given twice, or whose library is missing."""
    for name in names:
        if name not in SERVICES or names.count(name) > 1:
            given = f"trackers: {name!r} given{' twice' if name in SERVICES else ''}"
            raise PochadeError(f"{given}, allowed are {', '.join(SERVICES)}{nearest(name, SERVICES)}")
        if find_spec(name) is None:
            raise missing_extra(name, name)


class Trackers:
    """The services that a run is shown by; what is given to one is given to all.

    Args:
        names: keys of ``SERVICES``.
        folder: of the stage, where the services that keep files keep them.
        settings: of the stage.

    Raises:
        FailureError: a service cannot be reached.
    """

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> None:
        self._open: list[tuple[Service, GeneralTracker]] = []
        for name in names:
            service = SERVICES[name]
            try:
                tracker = service.make(folder, f"{folder.parent.name}/{folder.name}")
                tracker.start()
                tracker.store_init_configuration(dict(settings))
            except Exception as error:  # of each service's own kind
                self.close()
                reason = " ".join(str(error).split()) or type(error).__name__
                raise FailureError(f"trackers: {name} cannot be started: {reason}") from error
            self._open.append((service, tracker))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Shows numbers by name."""
        for _, tracker in self._open:
            tracker.log(dict(values), step)

    def image(self, name: str, picture: "Image", step: int) -> None:
        """Shows a picture."""
        for service, tracker in self._open:
            tracker.log_images({name: service.shown(picture)}, step)  # pyright: ignore[reportAttributeAccessIssue]

    def close(self) -> None:
        for _, tracker in self._open:
            tracker.finish()
