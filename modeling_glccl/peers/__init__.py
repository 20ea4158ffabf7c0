"""Other published ways to score the same features, for comparison (docs/method.md)."""

from .clip4clip import CLIP4ClipModel
from .glscl import GLSCLModel
from .mean_pooling import MeanPoolingModel
from .xclip import XCLIPModel
from .xpool import XPoolModel

__all__ = ["CLIP4ClipModel", "GLSCLModel", "MeanPoolingModel", "XCLIPModel", "XPoolModel"]
