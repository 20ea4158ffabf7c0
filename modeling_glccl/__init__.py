"""Text-video retrieval with GLCCL (arXiv 2605.17959) on Hugging Face libraries."""

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .checkpoints import PipelineModel
from .configuration_glccl import GLCCLConfig
from .modeling_glccl import GLCCLModel, GLCCLOutput
from .pipeline_glccl import IndexedVideos, TextVideoRetrievalPipeline
from .processing_glccl import GLCCLProcessor
from .video_decoding_glccl import VideoDecodeError
from .video_processing_glccl import GLCCLVideoProcessor

AutoConfig.register("glccl", GLCCLConfig)
AutoModel.register(GLCCLConfig, GLCCLModel)
AutoProcessor.register(GLCCLConfig, GLCCLProcessor)
AutoVideoProcessor.register(GLCCLConfig, GLCCLVideoProcessor)
PIPELINE_REGISTRY.register_pipeline(
    "text-video-retrieval", TextVideoRetrievalPipeline, pt_model=PipelineModel, type="multimodal"
)

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
