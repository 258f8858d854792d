"""diffusers' schedulers over a straight path, by short names."""

import warnings
from importlib import import_module
from typing import Any

from pochade.errors import PochadeError, nearest

SCHEDULERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "euler": ("scheduling_flow_match_euler_discrete", "FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("scheduling_flow_match_heun_discrete", "FlowMatchHeunDiscreteScheduler", {}),
    "dpm": (
        "scheduling_dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
    ),
    "lcm": ("scheduling_flow_match_lcm", "FlowMatchLCMScheduler", {}),
}
"""Name -> module in ``diffusers.schedulers``, class, settings."""

PLAIN = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
"""Classes of diffusers that integrate a straight path and nothing else."""
BY_SETTING = ("DPMSolverMultistepScheduler",)
"""Those that do so with ``prediction_type="flow_prediction"`` and ``use_flow_sigmas=True``."""
SHIFTS = {"DPMSolverMultistepScheduler": "flow_shift"}
"""What a class calls the shift of its times, where it is not "shift"."""
LEAST_STEPS = {"FlowMatchHeunDiscreteScheduler": 3}
"""Fewer steps than these hardly leave the noise: Heun's grid of two is 1 and 0.001."""

OWN = "model"
"""What stands for the scheduler that is stored with the model."""


def check_scheduler(name: str) -> None:
    """Raises PochadeError for a name that is not in ``SCHEDULERS``."""
    if name not in SCHEDULERS:
        allowed = ", ".join(SCHEDULERS)
        raise PochadeError(f"scheduler: {name!r} given, allowed are {allowed}{nearest(name, SCHEDULERS)}")


def make_scheduler(name: str, shift: float = 1.0) -> Any:
    """A new scheduler of that name (``SCHEDULERS``), whose times are shifted towards the noise:
    t = shift u / (1 + (shift - 1) u).

    Raises PochadeError for an unknown name.
    """
    check_scheduler(name)
    module, cls, settings = SCHEDULERS[name]
    shifted = {SHIFTS.get(cls, "shift"): shift}
    return getattr(import_module(f"diffusers.schedulers.{module}"), cls)(**settings, **shifted)


def shift_of(scheduler: Any) -> float:
    """The shift of a scheduler's times, 1 where it has none."""
    return float(scheduler.config.get(SHIFTS.get(type(scheduler).__name__, "shift"), 1.0))


class StepsWarning(UserWarning):
    """A scheduler needs more steps."""


def check_flow_scheduler(scheduler: Any, steps: int) -> None:
    """Whether a scheduler of diffusers can sample these models.

    Raises:
        PochadeError: it cannot, or not with its settings.

    Warns:
        StepsWarning: it needs more than ``steps``.
    """
    name = type(scheduler).__name__
    if name not in PLAIN + BY_SETTING:
        raise PochadeError(f"scheduler: {name} given, allowed are {', '.join(PLAIN + BY_SETTING)}")
    config = scheduler.config
    needed = {"prediction_type": "flow_prediction", "use_flow_sigmas": True} if name in BY_SETTING else {}
    wrong = [f"{key}={value!r}" for key, value in needed.items() if config.get(key) != value]
    if wrong:
        raise PochadeError(f"scheduler: {name} given without {' and '.join(wrong)}, which these models need")
    if config.get("use_dynamic_shifting"):
        raise PochadeError(f"scheduler: {name} given with use_dynamic_shifting, allowed is shift=...")
    if steps < LEAST_STEPS.get(name, 1):
        message = f"scheduler: {name} needs at least {LEAST_STEPS[name]} steps, {steps} given"
        warnings.warn(message, StepsWarning, stacklevel=5)
