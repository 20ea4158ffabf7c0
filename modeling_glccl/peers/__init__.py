"""Other published ways to score the same features, for comparison (docs/method.md)."""

from ..modeling_glccl import GLCCLModel
from .clip4clip import CLIP4ClipModel
from .glscl import GLSCLModel
from .xclip import XCLIPModel
from .xpool import XPoolModel

PEERS = (CLIP4ClipModel, GLSCLModel, XCLIPModel, XPoolModel)
# The heads by the names that a recipe's `model.head` takes.
HEADS: dict[str, type[GLCCLModel]] = {
    "glccl": GLCCLModel,
    "xclip": XCLIPModel,
    "clip4clip_meanp": CLIP4ClipModel,
    "clip4clip_seqtransf": CLIP4ClipModel,
    "xpool": XPoolModel,
    "glscl": GLSCLModel,
}
# Values that make a head what it is, over those of a recipe.
FIXED_CONFIG = {"clip4clip_meanp": {"temporal_num_hidden_layers": 0}}
# The heads with GLCCL's four scores, which the CSC loss can compare.
FOUR_SCORES = ("glccl", "xclip")

__all__ = ["FIXED_CONFIG", "FOUR_SCORES", "HEADS", "PEERS", "CLIP4ClipModel", "GLSCLModel", "XCLIPModel", "XPoolModel"]
