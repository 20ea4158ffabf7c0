"""Text-video retrieval with GLCCL (arXiv 2605.17959) on Hugging Face libraries."""

from transformers import AutoConfig, AutoModel

from .configuration_glccl import GLCCLConfig
from .modeling_glccl import GLCCLModel

AutoConfig.register("glccl", GLCCLConfig)
AutoModel.register(GLCCLConfig, GLCCLModel)

__all__ = ["GLCCLConfig", "GLCCLModel"]
