"""Training: recipes, optimisation, the loop, and the small CLIP of the shapes benchmark."""

from .loop import train
from .recipe import DataRecipe, ModelRecipe, Recipe, TrainRecipe, load_recipe, save_recipe

__all__ = ["DataRecipe", "ModelRecipe", "Recipe", "TrainRecipe", "load_recipe", "save_recipe", "train"]
