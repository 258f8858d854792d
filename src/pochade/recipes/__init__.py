"""Recipes by name. A recipe is a function without arguments that returns the stages of a run."""

RECIPES: dict[str, str] = {
    "lrf": "pochade.recipes.lrf:openmoji",
    "lrf-folder": "pochade.recipes.lrf:folder",
    "lrf-cifar10": "pochade.recipes.lrf:cifar10",
    "lrf-curriculum": "pochade.recipes.lrf:curriculum",
    "iris": "pochade.recipes.iris:openmoji",
    "iris-curriculum": "pochade.recipes.iris:curriculum",
    "lira": "pochade.recipes.lira:openmoji",
    "lira-curriculum": "pochade.recipes.lira:curriculum",
    "microforge": "pochade.recipes.microforge:openmoji",
    "microforge-study": "pochade.recipes.microforge:study",
    "microforge-curriculum": "pochade.recipes.microforge:curriculum",
    "denoiser": "pochade.recipes.denoiser:from_random_weights",
    "student": "pochade.recipes.student:of_a_teacher",
    "distil": "pochade.recipes.distil:few_steps",
    "control": "pochade.recipes.control:edges",
    "reference": "pochade.recipes.reference:style",
    "edit": "pochade.recipes.edit:natively",
    "tiny-decoder": "pochade.recipes.decoder:tiny",
}
"""Name -> "module:function"."""
