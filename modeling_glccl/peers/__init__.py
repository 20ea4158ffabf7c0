"""Other published ways to score the same features, for comparison (docs/method.md)."""

from .clip4clip import CLIP4ClipModel
from .glscl import GLSCLModel
from .xclip import XCLIPModel
from .xpool import XPoolModel

PEERS = (CLIP4ClipModel, GLSCLModel, XCLIPModel, XPoolModel)

__all__ = ["PEERS", "CLIP4ClipModel", "GLSCLModel", "XCLIPModel", "XPoolModel"]
