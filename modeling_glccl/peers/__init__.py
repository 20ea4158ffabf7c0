"""Other published ways to score the same features, for comparison (docs/method.md)."""

from transformers import AutoConfig, AutoModel

from .clip4clip import CLIP4ClipModel
from .glscl import GLSCLModel
from .xclip import XCLIPModel
from .xpool import XPoolModel

PEERS = (CLIP4ClipModel, GLSCLModel, XCLIPModel, XPoolModel)
for _peer in PEERS:
    AutoConfig.register(_peer.config_class.model_type, _peer.config_class)
    # transformers has a class of the name XCLIPConfig, too.
    AutoModel.register(_peer.config_class, _peer, exist_ok=True)

__all__ = ["PEERS", "CLIP4ClipModel", "GLSCLModel", "XCLIPModel", "XPoolModel"]
