"""Text-video retrieval with GLCCL (arXiv 2605.17959) on Hugging Face libraries.

Names are imported when they are first used, and registered with transformers when it is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registration import Registration

if TYPE_CHECKING:
    from .configuration_glccl import GLCCLConfig
    from .modeling_glccl import GLCCLModel, GLCCLOutput
    from .pipeline_glccl import IndexedVideos, TextVideoRetrievalPipeline
    from .processing_glccl import GLCCLProcessor
    from .video_processing_glccl import GLCCLVideoProcessor
    from .video_streams_glccl import VideoDecodeError

_MODULES = {
    "GLCCLConfig": "configuration_glccl",
    "GLCCLModel": "modeling_glccl",
    "GLCCLOutput": "modeling_glccl",
    "GLCCLProcessor": "processing_glccl",
    "GLCCLVideoProcessor": "video_processing_glccl",
    "IndexedVideos": "pipeline_glccl",
    "TextVideoRetrievalPipeline": "pipeline_glccl",
    "VideoDecodeError": "video_streams_glccl",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


__all__ = [
    "GLCCLConfig",
    "GLCCLModel",
    "GLCCLOutput",
    "GLCCLProcessor",
    "GLCCLVideoProcessor",
    "IndexedVideos",
    "TextVideoRetrievalPipeline",
    "VideoDecodeError",
]

Registration(__name__)
