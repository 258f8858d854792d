"""diffusers' schedulers over a straight path, by short names."""

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

OWN = "model"
"""What stands for the scheduler that is stored with the model."""


def check_scheduler(name: str) -> None:
    """Raises PochadeError for a name that is not in ``SCHEDULERS``."""
    if name not in SCHEDULERS:
        allowed = ", ".join(SCHEDULERS)
        raise PochadeError(f"scheduler: {name!r} given, allowed are {allowed}{nearest(name, SCHEDULERS)}")


def make_scheduler(name: str, **changes: Any) -> Any:
    """A new scheduler of that name (``SCHEDULERS``), with ``changes`` of its settings.

    Raises PochadeError for an unknown name.
    """
    check_scheduler(name)
    module, cls, settings = SCHEDULERS[name]
    return getattr(import_module(f"diffusers.schedulers.{module}"), cls)(**{**settings, **changes})
