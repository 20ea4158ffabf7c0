"""Other ways to score the same features, for comparison."""

from .mean_pooling import MeanPoolingModel

__all__ = ["MeanPoolingModel"]
