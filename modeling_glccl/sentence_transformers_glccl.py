"""GLCCL as a module of sentence-transformers: `SentenceTransformer(folder, trust_remote_code=True)`.

Its embeddings are [`~GLCCLModel.pool`]'s. The library is not imported: it takes modules of this form, and finds the
class through modules.json, which nothing else reads.
"""

import mimetypes
import os
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoProcessor

# Content of modules.json, where the code lies beside the weights.
MODULES = [{"idx": 0, "name": "0", "path": "", "type": f"{__name__.rpartition('.')[2]}.GLCCLModule"}]


class GLCCLModule(nn.Module):
    """The whole SentenceTransformer, of a model and its processor: texts or videos -> one unit vector each."""

    save_in_root = True
    # "message" is what it calls a mixed batch, and it takes some suffixes of videos for text.
    modalities = ("text", "video", "message")

    def __init__(self, model: Any, processor: Any):
        super().__init__()
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        token: str | bool | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **unused: Any,
    ) -> Self:
        """Of a checkpoint; on a machine without a GPU the weights are float32, whatever the files hold."""
        hub = {"token": token, "cache_dir": cache_folder, "revision": revision, "local_files_only": local_files_only}
        hub |= {"trust_remote_code": trust_remote_code}
        dtype = {} if torch.cuda.is_available() else {"dtype": torch.float32}
        model = AutoModel.from_pretrained(model_name_or_path, **{**hub, **dtype, **(model_kwargs or {})})
        return cls(model, AutoProcessor.from_pretrained(model_name_or_path, **hub, **(processor_kwargs or {})))

    def save(self, output_path: str, **unused: Any) -> None:
        """Model, processor and code."""
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)

    def get_embedding_dimension(self) -> int:
        """Of all vectors."""
        return self.model.config.width

    def preprocess(self, inputs: list[Any], prompt: str | None = None, **unused: Any) -> dict[str, Tensor]:
        """Inputs of the model, of texts or of videos: paths, arrays, lists of frames, `{"video": ...}`.

        A string is a video if such a file exists, or if it is named like one. Raises ValueError for both in one batch,
        or a video that cannot be read.
        """
        inputs = [next(iter(one.values())) if isinstance(one, dict) and len(one) == 1 else one for one in inputs]
        videos = [not isinstance(one, str) or _names_a_video(one) for one in inputs]
        if all(videos):
            return dict(self.processor(videos=inputs))
        if any(videos):
            raise ValueError("texts and videos in one batch: encode them in two calls")
        return dict(self.processor(text=[(prompt or "") + text for text in inputs]))

    def forward(self, features: dict[str, Any], **unused: Any) -> dict[str, Any]:
        """Adds `sentence_embedding` [N, D] to the inputs."""
        encode = self.model.get_text_features if "input_ids" in features else self.model.get_video_features
        return {**features, "sentence_embedding": self.model.pool(encode(**features))}


def _names_a_video(text: str) -> bool:
    return os.path.isfile(text) or (mimetypes.guess_type(text)[0] or "").startswith("video/")
