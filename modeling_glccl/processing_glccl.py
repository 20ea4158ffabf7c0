"""Captions and videos -> the inputs of GLCCL."""

import html
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.video_processing_utils import VideoProcessorMixin

from .video_processing_glccl import GLCCLVideoProcessor

try:
    import ftfy
except ImportError:
    ftfy = None


def clean_text(text: str) -> str:
    """Text as OpenAI's CLIP tokenizer cleans it before it splits words: encoding repaired, HTML entities resolved.

    Without ftfy wrongly decoded text ("schÃ¶n") stays as it is.
    """
    if ftfy is not None:
        text = ftfy.fix_text(text)
    return html.unescape(html.unescape(text)).strip()


class GLCCLProcessor(ProcessorMixin):
    r"""
    A CLIP tokenizer and a [`GLCCLVideoProcessor`] in one.

    Args:
        tokenizer (`CLIPTokenizer`): Any tokenizer with BOS and EOS whose ids the model's configuration names.
        video_processor (`GLCCLVideoProcessor`): Decides the number of frames (`max_frames`).
        max_words (`int`, defaults to 32): Most tokens of a text, BOS and EOS included; longer texts are cut and still
            end with EOS.
        mask_padding (`bool`, defaults to `True`): As in [`GLCCLConfig`]. `True`: texts and videos are padded to the
            longest of the batch. `False`: the authors' release, where padding counts: all are padded to exactly
            `max_words` and `max_frames`.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_glccl import GLCCLProcessor, GLCCLVideoProcessor
    >>> from modeling_glccl.training.tokenizer import train_clip_tokenizer

    >>> tokenizer = train_clip_tokenizer(["a red ball bounces", "a blue square slides"], vocab_size=600)
    >>> processor = GLCCLProcessor(tokenizer, GLCCLVideoProcessor(size=32, crop_size=32, max_frames=4))
    >>> video = np.zeros((9, 48, 64, 3), np.uint8)
    >>> batch = processor(text=["a red ball", "ball"], videos=video)
    >>> batch["input_ids"].shape, batch["pixel_values_videos"].shape
    (torch.Size([2, 5]), torch.Size([1, 4, 3, 32, 32]))

    ```
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        video_processor: GLCCLVideoProcessor,
        max_words: int = 32,
        mask_padding: bool = True,
    ):
        super().__init__(tokenizer, video_processor)
        if max_words < 3:
            raise ValueError(f"max_words={max_words} leaves no room for a word between BOS and EOS")
        self.max_words = max_words
        self.mask_padding = mask_padding

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """As the base class, which without torchvision cannot look up the class of video processors."""
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        if not isinstance(argument, VideoProcessorMixin):
            raise TypeError(f"video_processor must be a GLCCLVideoProcessor, got {type(argument).__name__}")
        return VideoProcessorMixin

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        return_tensors: str | None = "pt",
        **video_kwargs,
    ) -> BatchFeature:
        """Prepares A texts, V videos, or both.

        Args:
            text: one caption or a list of them.
            videos: one video or a list, see [`GLCCLVideoProcessor`].
            return_tensors: "pt" or "np".
            video_kwargs: for the video processor: `start`, `end`, `max_frames`, `sampling`, `num_workers`, ...

        Returns:
            `input_ids`, `attention_mask` int64 [A, Nw], padded with 0, the mask 1 up to and including EOS; and
            `pixel_values_videos` float32 [V, Nf, 3, H, W], `padding_mask_videos` int64 [V, Nf], 1 = real frame.

        Raises:
            ValueError: a caption that is no string or has no word, or a text token the tokenizer does not know; with
                its place in the list.
        """
        if text is None and videos is None:
            raise ValueError("pass text, videos or both")
        data: dict[str, Any] = {}
        if text is not None:
            data |= self._tokenize([text] if isinstance(text, str) else list(text))
        if videos is not None:
            video_kwargs.setdefault("pad_to_max_frames", not self.mask_padding or None)
            data |= self.video_processor(videos, **video_kwargs)
        elif video_kwargs:
            raise TypeError(f"{', '.join(video_kwargs)}: only with videos")
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["video_metadata"])

    def _tokenize(self, captions: list[str]) -> dict[str, torch.Tensor]:
        """int64 [A, Nw] `input_ids` and `attention_mask`."""
        if not captions:
            raise ValueError("text is an empty list; pass at least one caption")
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        encoded = self.tokenizer(
            [self._clean(i, caption) for i, caption in enumerate(captions)],
            add_special_tokens=False,
            truncation=True,
            max_length=self.max_words - 2,
            split_special_tokens=self.mask_padding,  # "<|endoftext|>" in a caption is text, and does not end it
        )
        rows = [[bos, *row, eos] for row in encoded["input_ids"]]
        for i, row in enumerate(rows):
            if self.mask_padding and eos in row[1:-1]:
                raise ValueError(
                    f"text[{i}] {captions[i]!r} has characters that the tokenizer does not know and turns into EOS, "
                    "which would end the text; use a tokenizer that knows all bytes, as CLIP's does"
                )
        length = max(map(len, rows)) if self.mask_padding else self.max_words
        # Padded with 0, as in the release: CLIPTokenizer's own padding is EOS.
        input_ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        attention_mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def _clean(self, index: int, caption: str) -> str:
        if not isinstance(caption, str):
            raise ValueError(f"text[{index}] must be a string, got {type(caption).__name__}: {caption!r}")
        text = clean_text(caption)
        if self.mask_padding:
            if not text:
                raise ValueError(f"text[{index}] {caption!r} has no word; leave empty captions out")
        elif not text or any(token in text for token in (self.tokenizer.bos_token, self.tokenizer.eos_token)):
            problem = "contains control tokens" if text else "has no word"
            warnings.warn(f"text[{index}] {caption!r} {problem}; encoded as the release does", stacklevel=2)
        return text


GLCCLProcessor.register_for_auto_class("AutoProcessor")
