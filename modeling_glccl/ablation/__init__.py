"""`glccl ablate`: trains and evaluates a grid of variants, and reports on it with tables and figures."""

from .command import ablate
from .grid import CostRecipe, GridRecipe, load_grid

__all__ = ["CostRecipe", "GridRecipe", "ablate", "load_grid"]
