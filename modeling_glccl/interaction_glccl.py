"""GLIM and AOSM: text and video features -> the four GLCCL scores, exactly and without text-guided features.

Source: "Text-Video Retrieval With Global-Local Contrastive Consistency Learning" (arXiv 2605.17959); the aggregation
(AOSM) is X-CLIP's (arXiv 2207.07285). GLIM's text-guided features are never formed: every score is linear in them and
they are linear in the frames, so the products of the queries with all frames and the Gram matrix of each video's
frames are enough (docs/method.md).

Shapes: A texts, V videos, Nw word slots, Nf frame slots, D joint width, Q = 2 Nw + 2 stacked queries.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers.utils.generic import ModelOutput

from .features_glccl import REQUIRED, GLCCLTextFeatures, GLCCLVideoFeatures
from .scoring_glccl import (
    GLCCLTextState,
    GLCCLVideoState,
    ScoreSettings,
    ScoreWeights,
    TextTensors,
    VideoTensors,
    frame_factors,
    score_states,
)


@dataclass
class GLCCLScores(ModelOutput):
    """The four scores of every pair, each [A, V] and times exp(logit_scale); their mean is the logit."""

    video_sentence: Tensor = REQUIRED
    video_word: Tensor = REQUIRED
    sentence_frame: Tensor = REQUIRED
    frame_word: Tensor = REQUIRED

    @property
    def logits(self) -> Tensor:
        """[A, V], the mean of the four scores."""
        return torch.stack(self.to_tuple()).mean(dim=0)


@dataclass
class GLCCLFrameWeights(ModelOutput):
    """GLIM's softmax weights: which frames a text is about. Each row sums to 1 over the counted frames.

    Args:
        sentence: [A, V, Nf].
        words: [A, V, Nw, Nf]; zero for slots that do not count. None of models that have no such weights.
    """

    sentence: Tensor = REQUIRED
    words: Tensor | None = None


class GLCCLInteraction(nn.Module):
    """GLIM (no parameters), the eight learned matrices (identities at the start) and AOSM."""

    def __init__(self, config):
        super().__init__()
        width, words = config.width, config.max_words
        self.config = config  # read when it is used: a value changed later counts
        self.global_mat_weight = nn.Parameter(torch.eye(width))
        self.local_mat_weight = nn.Parameter(torch.eye(width))
        self.word_logit_weight = nn.Parameter(torch.eye(words))
        self.word_frame_logit_weight = nn.Parameter(torch.eye(words))
        self.word_mat_weight = nn.Parameter(torch.eye(words))
        self.word_mat_weight2 = nn.Parameter(torch.eye(words))
        self.word_frame_mat_weight = nn.Parameter(torch.eye(words))
        self.word_frame_mat_weight2 = nn.Parameter(torch.eye(words))

    def query_vectors(self, text: GLCCLTextFeatures) -> Tensor:
        """[`~GLCCLModel.query_vectors`]."""
        counted, sentence = text.word_mask[..., None], normalize(text.sentence.float(), dim=-1)
        words = (normalize(text.words.float(), dim=-1) * counted).sum(dim=1) / counted.sum(dim=1)
        query = sentence + sentence @ self.global_mat_weight.float()
        return (query + words + words @ self.local_mat_weight.float()) / 4

    def forward(
        self,
        text: GLCCLTextFeatures | GLCCLTextState,
        video: GLCCLVideoFeatures | GLCCLVideoState,
        logit_scale: Tensor,
        precision: str = "fp32",
        memory_budget: int | None = None,
    ) -> GLCCLScores:
        """Scores every text against every video, in float32 whatever the features' dtype.

        Args:
            text: features of A texts, or what [`~GLCCLInteraction.prepare_text`] made of them.
            video: features of V videos, or what [`~GLCCLInteraction.prepare_video`] made of them.
            logit_scale: scalar, the logarithm of the scale.
            precision: "fp32", or "bf16" for the products of queries with frames alone, and for their gradients.
            memory_budget: bytes that the intermediates of one block may take; by default 16 MiB on a CPU, as its cache
                holds, and 1 GiB elsewhere.

        Raises:
            ValueError: shapes or masks that do not fit each other, non-finite features, an unknown precision.
        """
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision={precision!r} must be 'fp32' or 'bf16'")
        if isinstance(text, GLCCLTextFeatures):
            text = self.prepare_text(text)
        if isinstance(video, GLCCLVideoFeatures):
            video = self.prepare_video(video)
        text_width, video_width = text.tensors.words.shape[1], video.tensors.frames.shape[1]
        if text_width != video_width:
            raise ValueError(
                f"texts of width {text_width} cannot be scored against videos of width {video_width}: "
                "they come from different models"
            )
        weights = ScoreWeights(
            word_logit=self.word_logit_weight.float(),
            word_frame_logit=self.word_frame_logit_weight.float(),
            word_frame_mat2=self.word_frame_mat_weight2.float(),
            word_mat2=self.word_mat_weight2.float(),
            word_mat=self.word_mat_weight.float(),
            word_frame_mat=self.word_frame_mat_weight.float(),
        )
        config, on_cpu = self.config, logit_scale.device.type == "cpu"
        settings = ScoreSettings(
            config.aosm_temperature,
            config.glim_global,
            config.glim_local,
            precision,
            memory_budget or (2**24 if on_cpu else 2**30),
            padded=not on_cpu,
        )
        with torch.autocast(logit_scale.device.type, enabled=False):
            return GLCCLScores(*(logit_scale.float().exp() * score_states(text, video, weights, settings)))

    def prepare_text(self, text: GLCCLTextFeatures) -> GLCCLTextState:
        """Everything the scores need that depends on the texts alone. Raises ValueError for unusable features."""
        check_features("word", text.words, text.word_mask, self.config.width)
        if text.sentence.shape != (len(text.words), text.words.shape[-1]):
            raise ValueError(
                f"sentence features {tuple(text.sentence.shape)} do not fit word features {tuple(text.words.shape)}"
            )
        if (text.word_mask[:, 1:] & ~text.word_mask[:, :-1]).any():
            raise ValueError("word_mask must count the leading slots of each row: padding follows the words")
        check_finite("sentence features", text.sentence)
        words, lengths, order = _pack(text.words, text.word_mask)
        if lengths and lengths[-1] > (max_words := len(self.word_logit_weight)):
            raise ValueError(f"texts of up to {lengths[-1]} words but max_words={max_words}")
        with torch.autocast(words.device.type, enabled=False), loaded(self):
            sentence = text.sentence[order].float() / self.config.glim_temperature
            words = words.float() / self.config.glim_temperature
            sentence_norm = sentence.norm(dim=-1)
            word_scale = 1 / (self.config.aosm_temperature * words.norm(dim=-1))
            tensors = TextTensors(
                sentence=sentence,
                sentence_global=(sentence / sentence_norm[:, None]) @ self.global_mat_weight.float(),
                words=words,
                words_unit=words * word_scale[:, None],
                sentence_scale=1 / (self.config.aosm_temperature * sentence_norm),
                word_scale=word_scale,
            )
        return GLCCLTextState(tensors, order, lengths)

    def prepare_video(self, video: GLCCLVideoFeatures) -> GLCCLVideoState:
        """Everything the scores need that depends on the videos alone. Raises ValueError for unusable features."""
        check_features("frame", video.frames, video.frame_mask, self.config.width)
        frames, lengths, order = _pack(video.frames, video.frame_mask)
        with torch.autocast(frames.device.type, enabled=False), loaded(self):
            frames = frames.float()
            tensors = VideoTensors(frames=frames, frames_local=frames @ self.local_mat_weight.float().T)
            return GLCCLVideoState(tensors, frame_factors(frames, lengths), order, lengths)

    def frame_weights(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> GLCCLFrameWeights:
        """GLIM's weights for every pair (sentence [A, V, Nf], words [A, V, Nw, Nf]), in float32."""
        check_features("word", text.words, text.word_mask, self.config.width)
        check_features("frame", video.frames, video.frame_mask, self.config.width)
        frames = video.frames.float()

        def glim(queries: Tensor, guided: bool) -> Tensor:
            """[A, V, N, Nf] weights for [A, N, D] queries; equal ones where GLIM is switched off."""
            products = torch.einsum("and,vkd->avnk", queries.float(), frames) / self.config.glim_temperature
            logits = products if guided else torch.zeros_like(products)
            return logits.masked_fill(~video.frame_mask[:, None], -torch.inf).softmax(dim=-1)

        return GLCCLFrameWeights(
            sentence=glim(text.sentence[:, None], self.config.glim_global)[:, :, 0],
            words=glim(text.words, self.config.glim_local) * text.word_mask[:, None, :, None],
        )


@contextmanager
def loaded(module: nn.Module) -> Iterator[None]:
    """Within, the module's own weights are there; accelerate's offloading loads them for `forward` alone."""
    hook = getattr(module, "_hf_hook", None)
    if hook is None or not any(weight.is_meta for weight in module.parameters(recurse=False)):
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


def _pack(values: Tensor, mask: Tensor) -> tuple[Tensor, list[int], Tensor]:
    """Rows [N, slots, D] sorted by their counts of slots: all counted slots [F, D], the counts, the order [N]."""
    lengths, order = mask.sum(dim=1).sort(stable=True)
    rows, slots = mask[order].nonzero(as_tuple=True)
    return values[order[rows], slots], lengths.tolist(), order


def check_features(name: str, values: Tensor, mask: Tensor, width: int) -> None:
    """Raises ValueError unless [N, slots, width] features have a [N, slots] mask that counts a slot of every row."""
    if values.ndim != 3 or values.shape[2] != width or mask.shape != values.shape[:2]:
        raise ValueError(
            f"{name} features of this model must be [N, slots, {width}], their mask [N, slots]; got "
            f"{tuple(values.shape)}, {tuple(mask.shape)}"
        )
    check_rows(mask.any(dim=1), lambda rows: f"row {rows[0]} of the {name} mask counts no slot at all")
    check_finite(f"{name} features", values, mask)


def check_finite(name: str, values: Tensor, mask: Tensor | None = None) -> None:
    """Raises ValueError that names the first rows with NaN or infinity: [N, D], or [N, slots, D] where they count."""
    finite = values.isfinite().all(dim=-1)
    if mask is not None:
        finite = (finite | ~mask).all(dim=1)
    check_rows(
        finite,
        lambda rows: (
            f"{name} are not finite (NaN or infinity) in rows {rows}: check those inputs for NaN, and the weights or "
            "the precision (float16 overflows where bfloat16 does not)"
        ),
    )


def check_rows(right: Tensor, message: Callable[[list[int]], str]) -> None:
    """Raises ValueError with the message about the first rows, ten at most, where a bool tensor [N] is False.

    What `torch.compile` and `torch.export` make holds the check, too: its error, a RuntimeError, can name no row.
    """
    if torch.compiler.is_compiling():
        problem = "a text or video that GLCCL refuses: without torch.compile or torch.export the error says which"
        torch.ops.aten._assert_async.msg(right.all(), problem)
    elif not right.all():
        raise ValueError(message((~right).nonzero()[:10, 0].tolist()))
