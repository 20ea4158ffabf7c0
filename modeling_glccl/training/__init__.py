"""Training: recipes, optimisation, the loop, and the small CLIP of the shapes benchmark."""

from ..packaged import install_line

try:
    import accelerate  # noqa: F401
except ImportError as _error:
    raise ImportError(f"training needs Accelerate: {install_line('train')} ({_error})") from _error

from .loop import train
from .recipe import DataRecipe, ModelRecipe, Recipe, TrainRecipe, load_recipe, save_recipe

__all__ = ["DataRecipe", "ModelRecipe", "Recipe", "TrainRecipe", "load_recipe", "save_recipe", "train"]
