"""Training: recipes, optimisation, the loop, and the small CLIP of the shapes benchmark."""

try:
    import accelerate  # noqa: F401
except ImportError as _error:
    raise ImportError(f"training needs Accelerate: pip install 'modeling_glccl[train]' ({_error})") from _error

from .loop import train
from .recipe import DataRecipe, ModelRecipe, Recipe, TrainRecipe, load_recipe, save_recipe

__all__ = ["DataRecipe", "ModelRecipe", "Recipe", "TrainRecipe", "load_recipe", "save_recipe", "train"]
