"""Captions and videos -> the inputs of GLCCL."""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.image_processing_base import BatchFeature, ImageProcessingMixin
from transformers.processing_utils import ProcessorMixin
from transformers.video_processing_utils import VideoProcessorMixin

from .configuration_glccl import GLCCLConfig
from .towers_glccl import FAMILIES, HUB_ARGUMENTS, CLIPFamily, family_of, read_config
from .video_processing_glccl import GLCCLVideoProcessor


class GLCCLProcessor(ProcessorMixin):
    r"""
    A tokenizer and a [`GLCCLVideoProcessor`] in one.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): That of the text tower, with the EOS that the model's configuration
            names.
        video_processor (`GLCCLVideoProcessor`): Decides the number of frames (`max_frames`).
        max_words (`int`, defaults to 32): Most tokens of a text, BOS and EOS included; longer texts are cut and still
            end with EOS.
        mask_padding (`bool`, defaults to `True`): As in [`GLCCLConfig`]. `True`: texts and videos are padded to the
            longest of the batch. `False`: the authors' release, where padding counts: all are padded to exactly
            `max_words` and `max_frames`.
        family (`str`, defaults to `"clip"`): Whose towers the model has: "clip", "metaclip_2" or "siglip" (see
            towers_glccl.py): it decides how texts are cleaned and padded.
        text_slots (`int`, *optional*): Slots that every text is padded to, where padding takes part in the text tower
            (64 of SigLIP).

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
        family: str = "clip",
        text_slots: int | None = None,
    ):
        super().__init__(tokenizer, video_processor)
        if not isinstance(max_words, int) or not isinstance(text_slots, int | None):
            raise ValueError(f"max_words={max_words!r} and text_slots={text_slots!r} must be whole numbers")
        if not isinstance(mask_padding, bool):
            raise ValueError(f"mask_padding={mask_padding!r} must be true or false")
        if max_words < 3:
            raise ValueError(f"max_words={max_words} leaves no room for a word between BOS and EOS")
        if text_slots is not None and max_words > text_slots:
            raise ValueError(f"max_words={max_words} are more than the text_slots={text_slots} of the text tower")
        needed = ("bos_token", "eos_token") if family_of(family, "family").has_bos else ("eos_token",)
        if missing := [name for name in needed if getattr(tokenizer, name) is None]:
            raise ValueError(
                f"the tokenizer has no {' and no '.join(missing)}, which texts of {family} begin or end with"
            )
        self.max_words, self.mask_padding = max_words, mask_padding
        self.family, self.text_slots = family, text_slots

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "GLCCLProcessor":
        """As the base class; of a plain CLIP checkpoint the processor that fits its zero-shot GLCCL.

        Raises:
            ValueError: files that are missing or not those of a processor.
        """
        name = os.fspath(pretrained_model_name_or_path)
        # A processor may also stand alone, without a model's configuration.
        clip = read_config(name, missing_ok=True, **kwargs)
        if clip.get("model_type") in FAMILIES:
            kwargs.pop("trust_remote_code", None)  # a plain CLIP has none
            return cls.from_clip_pretrained(name, GLCCLConfig.for_zero_shot(clip), **kwargs)
        return _load_part(name, "processor", super().from_pretrained, **kwargs)

    @classmethod
    def from_clip_pretrained(cls, name: str, config: GLCCLConfig, **kwargs: Any) -> "GLCCLProcessor":
        """The processor of a model on a plain CLIP: its tokenizer, and its image settings for the frames of videos.

        Args:
            name: the plain CLIP's folder or Hub repository.
            config: of the model.
            **kwargs: where it comes from (`revision`, `token`, ...); the rest are values of [`GLCCLVideoProcessor`]
                that go over those of the checkpoint.

        Raises:
            ValueError: no tokenizer, a foreign one, or images of another size than the model's.
        """
        hub = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
        tokenizer = _load_part(name, "tokenizer", AutoTokenizer.from_pretrained, **hub)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise ValueError(f"{name}: has no files of a tokenizer; copy them beside the model")
        refuse_foreign_tokenizer(name, tokenizer, config)
        side = config.clip_config.vision_config.image_size
        settings = {"size": side, "crop_size": side, "max_frames": config.max_frames, **config.family.image_settings}
        try:
            saved = ImageProcessingMixin.get_image_processor_dict(name, **hub)[0]
        except OSError as error:
            # A checkpoint without one was saved apart from it; the family's settings are the usual ones.
            if os.path.exists(os.path.join(name, "preprocessor_config.json")):
                raise ValueError(f"{name}: preprocessor_config.json cannot be read ({error})") from error
            saved = {}
        usual = ("do_resize", "do_rescale", "do_normalize")
        wrong = [f"{key}={saved[key]}" for key in usual if saved.get(key) not in (True, None)]
        if "longest_edge" in str(size := saved.get("size")):
            wrong.append(f"size={size}")
        if abs(255 * (saved.get("rescale_factor") or 1 / 255) - 1) > 1e-3:
            wrong.append(f"rescale_factor={saved['rescale_factor']}")
        if wrong:
            raise ValueError(
                f"{name}: preprocessor_config.json has {', '.join(wrong)}, which frames are not prepared by"
            )
        settings |= {key: saved[key] for key in ("image_mean", "image_std", "resample") if key in saved}
        if isinstance(size, dict) and "height" in size:
            crop = saved.get("crop_size") if saved.get("do_center_crop") else None
            settings |= {"size": size, "crop_size": crop or size, "keep_aspect_ratio": False}
        elif size:
            settings |= {"size": size, "crop_size": saved.get("crop_size", size)}
        videos = GLCCLVideoProcessor(**settings | kwargs)
        if videos.crop_size != side:
            raise ValueError(f"{name}: frames would have {videos.crop_size} pixels, but the model takes {side}")
        family = config.clip_config.model_type
        return cls(tokenizer, videos, config.max_words, config.mask_padding, family, config.text_slots)

    @property
    def _towers(self) -> CLIPFamily:
        return family_of(self.family)

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
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        **video_kwargs,
    ) -> BatchFeature:
        """Prepares A texts, V videos, or both.

        Args:
            text: one caption or a list of them.
            videos: one video or a list, see [`GLCCLVideoProcessor`].
            return_tensors: "pt" or "np".
            padding: "max_length" pads texts to `max_length`; `True` and "longest" say what happens anyway, and `False`
                goes where no text needs padding.
            truncation: `False` refuses texts that are too long instead of cutting them.
            max_length: most tokens of a text, in place of `max_words` and not more than that.
            video_kwargs: for the video processor: `start`, `end`, `max_frames`, `sampling`, `num_workers`, ... These
                and the others may also come as `text_kwargs`, `videos_kwargs` and `common_kwargs`.

        Returns:
            `input_ids`, `attention_mask` int64 [A, Nw], padded with 0 (with the tokenizer's padding where that takes
            part in the text tower), the mask 1 up to and including EOS; and
            `pixel_values_videos` float32 [V, Nf, 3, H, W], `padding_mask_videos` int64 [V, Nf], 1 = real frame.

        Raises:
            ValueError: a caption that is no string, has no word or a token that the tokenizer does not know; by place.
        """
        if text is None and videos is None:
            raise ValueError("pass text, videos or both")
        for name in ("text_kwargs", "videos_kwargs", "common_kwargs"):
            if name in video_kwargs:
                nested = video_kwargs.pop(name)
                given = {"padding": padding, "truncation": truncation, "max_length": max_length, **video_kwargs}
                given = {key: value for key, value in given.items() if value is not None}
                if twice := nested.keys() & given.keys():
                    raise ValueError(f"{', '.join(sorted(twice))}: given in {name} and beside it")
                return self(text, videos, **{"return_tensors": return_tensors, **given, **nested})
        data: dict[str, Any] = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            data |= self._tokenize(texts, padding, truncation, max_length)
        if videos is not None:
            video_kwargs.setdefault("pad_to_max_frames", not self.mask_padding or None)
            data |= self.video_processor(videos, **video_kwargs)
        elif video_kwargs:
            raise TypeError(f"{', '.join(video_kwargs)}: only with videos")
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["video_metadata"])

    def _tokenize(
        self, captions: list[str], padding: bool | str | None, truncation: bool | str | None, max_length: int | None
    ) -> dict[str, torch.Tensor]:
        """int64 [A, Nw] `input_ids` and `attention_mask`."""
        if not captions:
            raise ValueError("text is an empty list; pass at least one caption")
        fixed = self.text_slots or (None if self.mask_padding else self.max_words)
        limit = self.max_words if max_length is None or max_length == self.text_slots else max_length
        if not 3 <= limit <= self.max_words or (not self.mask_padding and limit != fixed):
            raise ValueError(
                f"max_length={max_length}: texts of this model have {'exactly' if fixed else '3 to'} "
                f"{fixed or self.max_words} tokens, BOS and EOS included; leave max_length out"
            )
        eos = self.tokenizer.eos_token_id
        start = [self.tokenizer.bos_token_id] if self._towers.has_bos else []
        texts = [self._clean(i, caption) for i, caption in enumerate(captions)]
        try:
            encoded = self.tokenizer(
                texts,
                add_special_tokens=False,
                truncation=truncation not in (False, "do_not_truncate"),
                max_length=limit - 1 - len(start),
                split_special_tokens=self.mask_padding,  # "<|endoftext|>" in a caption is text, and does not end it
            )
        except Exception as error:  # what tokenizers raises has no other type
            raise ValueError(f"the tokenizer is damaged, or not this model's: {error}") from error
        rows = [[*start, *row, eos] for row in encoded["input_ids"]]
        for i, row in enumerate(rows):
            if self.mask_padding and eos in row[len(start) : -1]:
                raise ValueError(
                    f"text[{i}] {captions[i]!r} has characters that the tokenizer does not know and turns into EOS, "
                    "which would end the text; use a tokenizer that knows all bytes, as CLIP's does"
                )
        longest = max(range(len(rows)), key=lambda i: len(rows[i]))
        if len(rows[longest]) > limit:  # with truncation=False alone
            raise ValueError(
                f"text[{longest}] {captions[longest]!r} has {len(rows[longest])} tokens, more than {limit}: pass "
                "truncation=True, or shorten it"
            )
        length = fixed or (limit if padding == "max_length" else len(rows[longest]))
        if padding in (False, "do_not_pad") and any(len(row) < length for row in rows):
            raise ValueError(f"padding={padding!r}, but texts of one batch must be padded to {length}: leave it out")
        # Where it reaches no word, padding is 0, as in the release: CLIPTokenizer's own is EOS.
        filler = self.tokenizer.pad_token_id if self._towers.reads_padding else 0
        input_ids = torch.tensor([row + [filler] * (length - len(row)) for row in rows])
        attention_mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def _clean(self, index: int, caption: str) -> str:
        if not isinstance(caption, str):
            raise ValueError(f"text[{index}] must be a string, got {type(caption).__name__}: {caption!r}")
        text = self._towers.clean(caption)
        if self.mask_padding:
            if not text:
                raise ValueError(f"text[{index}] {caption!r} has no word; leave empty captions out")
        elif not text or any(token in text for token in (self.tokenizer.bos_token, self.tokenizer.eos_token) if token):
            problem = "contains control tokens" if text else "has no word"
            warnings.warn(f"text[{index}] {caption!r} {problem}; encoded as the release does", stacklevel=2)
        return text


def refuse_foreign_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase, config: GLCCLConfig) -> None:
    """Raises ValueError if the tokenizer of a checkpoint has tokens, or an EOS, that its model does not have."""
    vocabulary = config.clip_config.text_config.vocab_size
    if tokenizer.eos_token_id != config.eos_token_id or len(tokenizer) > vocabulary:
        raise ValueError(
            f"{name}: the tokenizer has {len(tokenizer):,} tokens and ends texts with id {tokenizer.eos_token_id}, "
            f"the model has {vocabulary:,} and {config.eos_token_id}: they do not belong together"
        )
    if tokenizer.bos_token_id == tokenizer.eos_token_id:
        raise ValueError(f"{name}: tokenizer_config.json: bos_token and eos_token are both {tokenizer.eos_token!r}")


def _load_part(name: str, what: str, load: Callable[..., Any], **kwargs: Any) -> Any:
    """What `load(name)` returns; errors of any type, which vary with what is missing, as one that says what."""
    try:
        return load(name, **kwargs)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{name}: its {what} cannot be loaded ({str(error).splitlines()[0]}); save it beside the model with "
            f"{what}.save_pretrained"
        ) from error


GLCCLProcessor.register_for_auto_class("AutoProcessor")
