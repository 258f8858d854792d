"""How a model samples where a call says nothing: settings that are stored with it."""

from diffusers.configuration_utils import ConfigMixin


class DefaultsMixin(ConfigMixin):
    """What a pipeline answers from its configuration."""

    @property
    def default_steps(self) -> int:
        """Steps of a call that names none: few where the model was distilled."""
        return int(self.config["default_steps"])

    @property
    def default_guidance(self) -> float:
        """Guidance scale of a call that names none: 1 where guidance was distilled into the model."""
        return float(self.config["default_guidance"])

    @property
    def default_guidance_interval(self) -> tuple[float, float]:
        """Times at which a picture from a prompt is guided in a call that names none (2404.07724)."""
        return float(self.config["default_guidance_low"]), float(self.config["default_guidance_high"])
