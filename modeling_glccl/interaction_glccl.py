"""GLIM and AOSM: text and video features -> the four GLCCL scores, exactly and without text-guided features.

Source: "Text-Video Retrieval With Global-Local Contrastive Consistency Learning" (arXiv 2605.17959); the aggregation
(AOSM) is X-CLIP's (arXiv 2207.07285). GLIM's text-guided features are never formed: every score is linear in them and
they are linear in the frames, so the products of the queries with all frames and the Gram matrix of each video's
frames are enough (docs/method.md).

Shapes: A texts, V videos, Nw word slots, Nf frame slots, D joint width, Q = 2 Nw + 2 stacked queries.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput


@dataclass
class GLCCLTextFeatures(ModelOutput):
    """Features of A texts, not normalised.

    Args:
        sentence: [A, D], the projected state of the first EOS.
        words: [A, Nw, D], the projected state of every position, BOS and EOS included.
        word_mask: [A, Nw] bool, the slots that count in the scores; the counted slots come first.
    """

    sentence: Tensor | None = None
    words: Tensor | None = None
    word_mask: Tensor | None = None


@dataclass
class GLCCLVideoFeatures(ModelOutput):
    """Features of V videos, not normalised.

    Args:
        frames: [V, Nf, D], frame features after the temporal encoder.
        frame_mask: [V, Nf] bool, the frames that count in the scores.
    """

    frames: Tensor | None = None
    frame_mask: Tensor | None = None


@dataclass
class GLCCLScores(ModelOutput):
    """The four scores of every pair, each [A, V] and times exp(logit_scale); their mean is the logit."""

    video_sentence: Tensor | None = None
    video_word: Tensor | None = None
    sentence_frame: Tensor | None = None
    frame_word: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """[A, V], the mean of the four scores."""
        return torch.stack(self.to_tuple()).mean(dim=0)


@dataclass
class GLCCLFrameWeights(ModelOutput):
    """GLIM's softmax weights: which frames a text is about. Each row sums to 1 over the counted frames.

    Args:
        sentence: [A, V, Nf], for the sentence.
        words: [A, V, Nw, Nf], for every word slot; zero for slots that do not count.
    """

    sentence: Tensor | None = None
    words: Tensor | None = None


class GLCCLInteraction(nn.Module):
    """GLIM (no parameters), the eight learned matrices (identities at the start) and AOSM."""

    def __init__(self, config):
        super().__init__()
        width, words = config.clip_config.projection_dim, config.max_words
        self.glim_temperature = config.glim_temperature
        self.aosm_temperature = config.aosm_temperature
        self.glim_global = config.glim_global
        self.glim_local = config.glim_local
        self.global_mat_weight = nn.Parameter(torch.eye(width))
        self.local_mat_weight = nn.Parameter(torch.eye(width))
        self.word_logit_weight = nn.Parameter(torch.eye(words))
        self.word_frame_logit_weight = nn.Parameter(torch.eye(words))
        self.word_mat_weight = nn.Parameter(torch.eye(words))
        self.word_mat_weight2 = nn.Parameter(torch.eye(words))
        self.word_frame_mat_weight = nn.Parameter(torch.eye(words))
        self.word_frame_mat_weight2 = nn.Parameter(torch.eye(words))

    def forward(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures, logit_scale: Tensor) -> GLCCLScores:
        """Scores every text against every video, in float32, block by block.

        Args:
            text: features of A texts.
            video: features of V videos.
            logit_scale: scalar, the logarithm of the scale.

        Raises:
            ValueError: shapes or masks that do not fit each other, or non-finite features.
        """
        check_features(text, video)
        text_side, video_side = self._prepare_text(text), self._prepare_video(video)
        scale = logit_scale.float().exp()
        rows = []
        text_block, video_block = self._block_sizes(text.words.shape[1], video.frames.shape[1])
        for texts in _blocks(len(text.words), text_block):
            row = [
                self._score_block([t[texts] for t in text_side], [v[videos] for v in video_side])
                for videos in _blocks(len(video.frames), video_block)
            ]
            rows.append(torch.cat(row, dim=-1))
        return GLCCLScores(*(scale * torch.cat(rows, dim=-2)))

    def frame_weights(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> GLCCLFrameWeights:
        """GLIM's weights for every pair (sentence [A, V, Nf], words [A, V, Nw, Nf]), in float32."""
        check_features(text, video)
        counted = video.frame_mask[None, :, None, :]
        frames = video.frames.float()
        sentence = torch.einsum("ad,vkd->avk", text.sentence.float(), frames)
        words = torch.einsum("and,vkd->avnk", text.words.float(), frames)
        return GLCCLFrameWeights(
            sentence=self._glim(sentence[:, :, None], counted, self.glim_global)[:, :, 0],
            words=self._glim(words, counted, self.glim_local) * text.word_mask[:, None, :, None],
        )

    def _glim(self, products: Tensor, counted: Tensor, guided: bool) -> Tensor:
        """Softmax over the counted frames of [A, V, N, Nf] products; equal weights where GLIM is switched off."""
        if not guided:
            products = torch.zeros_like(products)
        return (products / self.glim_temperature).masked_fill(~counted, -torch.inf).softmax(dim=-1)

    def _prepare_text(self, text: GLCCLTextFeatures) -> tuple[Tensor, ...]:
        """Everything a block needs that depends on the texts alone."""
        sentence = text.sentence.float()
        words = text.words.float().masked_fill(~text.word_mask[..., None], 0.0)
        sentence_norm = sentence.norm(dim=-1)
        word_norm = words.norm(dim=-1).masked_fill(~text.word_mask, 1.0)
        queries = torch.cat(
            [
                sentence[:, None],
                (sentence / sentence_norm[:, None])[:, None] @ self.global_mat_weight.float(),
                words,
                (words / word_norm[..., None]) @ self.local_mat_weight.float(),
            ],
            dim=1,
        )
        return queries, sentence_norm, word_norm, text.word_mask

    def _prepare_video(self, video: GLCCLVideoFeatures) -> tuple[Tensor, ...]:
        """Everything a block needs that depends on the videos alone."""
        frames = video.frames.float().masked_fill(~video.frame_mask[..., None], 0.0)
        return frames, frames @ frames.mT, video.frame_mask

    def _block_sizes(self, words: int, frames: int, budget: int = 2**24) -> tuple[int, int]:
        """Texts and videos per block, so that a block's intermediates stay near `budget` floats (64 MiB)."""
        pairs = budget // (4 * words * words + 6 * words * frames + 1)
        texts = max(1, min(32, pairs))
        return texts, max(1, pairs // texts)

    def _score_block(self, text_side: list[Tensor], video_side: list[Tensor]) -> Tensor:
        """[4, A, V] scores before the scale, of a block of texts and videos."""
        queries, sentence_norm, word_norm, word_mask = text_side
        frames, gram, frame_mask = video_side
        words, size = word_mask.shape[1], len(frames)
        counted, valid = frame_mask[None, :, None, :], word_mask[:, None, :]

        products = (queries.flatten(0, 1) @ frames.flatten(0, 1).T).unflatten(0, queries.shape[:2])
        products = products.unflatten(2, (size, -1)).transpose(1, 2)  # [A, V, Q, Nf]
        sentence, sentence_global, word, word_local = products.split([1, 1, words, words], dim=2)

        video_weights = self._glim(sentence, counted, self.glim_global)  # [A, V, 1, Nf]
        video_weights = video_weights / _pooled_norm(video_weights, gram)[..., None]
        video_sentence = (sentence_global * video_weights).sum((2, 3))
        video_word = (word @ video_weights.mT)[..., 0] / word_norm[:, None]  # [A, V, Nw]

        frame_weights = self._glim(word, counted, self.glim_local)  # [A, V, Nw, Nf]
        frame_weights = frame_weights * (valid / _pooled_norm(frame_weights, gram))[..., None]
        sentence_frame = (frame_weights @ sentence.mT)[..., 0] / sentence_norm[:, None, None]  # [A, V, Nw]

        mat, mat2, frame_mat, frame_mat2, logit, frame_logit = (
            weight[:words, :words].float()
            for weight in (
                self.word_mat_weight,
                self.word_mat_weight2,
                self.word_frame_mat_weight,
                self.word_frame_mat_weight2,
                self.word_logit_weight,
                self.word_frame_logit_weight,
            )
        )
        frame_word = word_local @ frame_weights.mT  # [A, V, Nw words i, Nw frames j]
        # Multiplying the [Nw, Nf] factors by the learned matrices costs Nf / Nw of multiplying their [Nw, Nw] product.
        over_words = self._attend(frame_word, valid[..., None], 2) * ((mat @ word_local) @ frame_weights.mT)
        over_frames = self._attend(frame_word, valid[:, :, None], 3) * (word_local @ (frame_mat @ frame_weights).mT)
        fine = self._aggregate(over_words.sum(2), valid, frame_mat2)
        fine = fine + self._aggregate(over_frames.sum(3), valid, mat2)
        return torch.stack(
            [
                video_sentence,
                self._aggregate(video_word, valid, logit),
                self._aggregate(sentence_frame, valid, frame_logit),
                fine / 2,
            ]
        )

    def _attend(self, scores: Tensor, valid: Tensor, dim: int) -> Tensor:
        return (scores / self.aosm_temperature).masked_fill(~valid, -torch.inf).softmax(dim)

    def _aggregate(self, scores: Tensor, valid: Tensor, weight: Tensor) -> Tensor:
        """AOSM over the last dimension: sum_j c_j (softmax(c / temperature) M)_j for c [A, V, Nw]."""
        return ((self._attend(scores, valid, -1) @ weight) * scores).sum(-1)


def check_features(text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> None:
    """Raises ValueError unless the features have fitting shapes, usable masks and finite values."""
    for name, values, mask in (("words", text.words, text.word_mask), ("frames", video.frames, video.frame_mask)):
        if values.ndim != 3 or mask.shape != values.shape[:2]:
            raise ValueError(
                f"{name} must be [N, slots, D], their mask [N, slots]; got {tuple(values.shape)}, {tuple(mask.shape)}"
            )
        if not mask.any(dim=1).all():
            raise ValueError(f"row {int((~mask.any(dim=1)).nonzero()[0])} of the {name} mask counts no slot at all")
    width = video.frames.shape[-1]
    if text.words.shape[-1] != width or text.sentence.shape != (len(text.words), width):
        raise ValueError(
            f"widths or batch sizes differ: sentence {tuple(text.sentence.shape)}, words {tuple(text.words.shape)}, "
            f"frames {tuple(video.frames.shape)}"
        )
    if (text.word_mask[:, 1:] & ~text.word_mask[:, :-1]).any():
        raise ValueError("word_mask must count the leading slots of each row: padding follows the words")
    check_finite("sentence features", text.sentence)
    check_finite("word features", text.words, text.word_mask)
    check_finite("frame features", video.frames, video.frame_mask)


def check_finite(name: str, values: Tensor, mask: Tensor | None = None) -> None:
    """Raises ValueError that names the first rows with NaN or infinity in their counted slots."""
    finite = values.isfinite().all(dim=-1)
    if mask is not None:
        finite = finite | ~mask
    if not finite.all():
        rows = (~finite.flatten(1).all(dim=1) if finite.ndim > 1 else ~finite).nonzero()[:10, 0].tolist()
        raise ValueError(
            f"{name} are not finite (NaN or infinity) in rows {rows}: check those inputs for NaN, and the weights or "
            "the precision (float16 overflows where bfloat16 does not)"
        )


def _blocks(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, start + size)


def _pooled_norm(weights: Tensor, gram: Tensor) -> Tensor:
    """[A, V, N] norms of the pooled frames sum_k a_k x_k, for weights [A, V, N, Nf] and Gram matrices [V, Nf, Nf]."""
    squared = ((weights @ gram) * weights).sum(-1)
    return squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()
