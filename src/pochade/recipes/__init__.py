"""Recipes by name. A recipe is a function without arguments that returns the stages of a run."""

from importlib import import_module
from typing import TYPE_CHECKING

from pochade.arguments import check_text
from pochade.errors import PochadeError, nearest

if TYPE_CHECKING:
    from pochade.training.stage import AnyStage

RECIPES: dict[str, str] = {
    "drawings": "pochade.recipes.drawings:drawings",
    "lrf": "pochade.recipes.lrf:openmoji",
    "lrf-folder": "pochade.recipes.lrf:folder",
    "lrf-cifar10": "pochade.recipes.lrf:cifar10",
    "lrf-curriculum": "pochade.recipes.lrf:curriculum",
    "iris": "pochade.recipes.iris:openmoji",
    "iris-study": "pochade.recipes.iris:study",
    "iris-curriculum": "pochade.recipes.iris:curriculum",
    "lira": "pochade.recipes.lira:openmoji",
    "lira-curriculum": "pochade.recipes.lira:curriculum",
    "microforge": "pochade.recipes.microforge:openmoji",
    "microforge-study": "pochade.recipes.microforge:study",
    "microforge-curriculum": "pochade.recipes.microforge:curriculum",
    "denoiser": "pochade.recipes.single:denoiser",
    "student": "pochade.recipes.single:student",
    "distil": "pochade.recipes.single:few_steps",
    "control": "pochade.recipes.single:control",
    "image-prompt": "pochade.recipes.single:image_prompt",
    "edit": "pochade.recipes.single:edit",
    "lora": "pochade.recipes.single:lora",
    "textual-inversion": "pochade.recipes.single:textual_inversion",
    "edit-lora": "pochade.recipes.single:edit_lora",
    "autoencoder": "pochade.recipes.single:autoencoder",
    "tiny-decoder": "pochade.recipes.single:tiny_decoder",
}
"""Name -> "module:function"."""


def stages_of(recipe: str) -> "list[AnyStage]":
    """The stages of a recipe by name. Raises PochadeError for an unknown one, naming the nearest."""
    check_text("recipe", recipe, "a name")
    if recipe not in RECIPES:
        raise PochadeError(f"recipe: {recipe!r} given, allowed are {', '.join(RECIPES)}{nearest(recipe, RECIPES)}")
    module, _, function = RECIPES[recipe].partition(":")
    return getattr(import_module(module), function)()
