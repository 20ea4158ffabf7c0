"""The exact GLCCL scores of prepared texts and videos, block by block; blocks are recomputed in the backward pass.

GLIM's text-guided features are never formed. For a query q and the pooled frame f_j = sum_k a_jk x_k,

    q . f_j = sum_k a_jk (q . x_k)        |f_j| = |R a_j|,  R from the QR decomposition of the video's frames,

so dense products of all queries with all frames are followed by small work per pair on [words, frames] and
[words, words] matrices. R rather than the Gram matrix G = R^T R, because squaring would lose half the digits where
pooled frames nearly cancel. docs/method.md derives it.

Texts are packed by length and videos by frame count, so on a processor padding costs nothing. A GPU waits for every
block longer than for padding: there texts of unlike lengths share blocks, and masks keep their padding out.

Shapes of a block: a texts of n words each, v videos of m frames each; D is the joint width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Of exponentials: what is 1e-13 of such a sum is still a normal float32.
LEAST_SUM = 1e-25
# Of a float64 Gram matrix, beside its trace: more than its rounding, less than what float32 resolves.
_RIDGE = 1e-13


class ScoreSettings(NamedTuple):
    """What the scores depend on beside features and weights."""

    aosm_temperature: float
    glim_global: bool
    glim_local: bool
    precision: str
    memory_budget: int  # bytes of a block
    padded: bool  # whether texts of unlike lengths share blocks


class ScoreWeights(NamedTuple):
    """The six learned [max_words, max_words] matrices of AOSM, in the order of the aggregations they serve."""

    word_logit: Tensor
    word_frame_logit: Tensor
    word_frame_mat2: Tensor
    word_mat2: Tensor
    word_mat: Tensor
    word_frame_mat: Tensor


class TextTensors(NamedTuple):
    """Tensors of A texts sorted by length, with T words in all. The temperatures are divided out beforehand."""

    sentence: Tensor  # [A, D], over the GLIM temperature
    sentence_global: Tensor  # [A, D], normalised, times W_global
    words: Tensor  # [T, D], over the GLIM temperature
    words_unit: Tensor  # [T, D], normalised, over the AOSM temperature
    sentence_scale: Tensor  # [A], GLIM temperature / (AOSM temperature * |sentence|)
    word_scale: Tensor  # [T], GLIM temperature / (AOSM temperature * |word|)


class VideoTensors(NamedTuple):
    """Tensors of V videos sorted by frame count, with F frames in all."""

    frames: Tensor  # [F, D]
    frames_local: Tensor  # [F, D], times W_local transposed: (w W_local) . x = w . (W_local x)


@dataclass
class GLCCLTextState:
    """Everything the scores need that depends on the texts alone; make it once, score it against many videos."""

    tensors: TextTensors
    order: Tensor  # [A], sorted position -> text
    lengths: list[int]  # sorted


@dataclass
class GLCCLVideoState:
    """Everything the scores need that depends on the videos alone; make it once, score many texts against it."""

    tensors: VideoTensors
    factors: list[Tensor]  # for every frame count m, [videos, min(m, D), m]: R with R^T R = X X^T
    order: Tensor  # [V], sorted position -> video
    lengths: list[int]  # sorted


class _Products(NamedTuple):
    """Products of the queries of a texts with the F frames of v videos."""

    sentence: Tensor  # [F, a]
    sentence_global: Tensor  # [F, a]
    words: Tensor  # [F, a n]
    words_local: Tensor  # [F, a n]


def frame_factors(frames: Tensor, lengths: list[int]) -> list[Tensor]:
    """R of the QR decomposition of every video's frames, one [videos, min(m, D), m] tensor for every frame count.

    Where frames have gradients, R = Q^T X^T with Q held constant: the norms |R a| then have their exact gradient, and
    that of the decomposition, which repeated frames do not have, is not needed.
    """
    runs = _blocks(lengths, lambda m: len(lengths))
    parts = frames.split([m * count for m, count in runs])
    return [_factors(part.unflatten(0, (count, m)).mT) for part, (m, count) in zip(parts, runs, strict=True)]


def _factors(columns: Tensor) -> Tensor:
    """Of videos with as many frames each, [videos, D, m]."""
    if columns.is_cuda:
        return cholesky_factors(columns)
    if columns.requires_grad:
        return torch.linalg.qr(columns.detach()).Q.mT @ columns
    return torch.linalg.qr(columns, mode="r").R


def cholesky_factors(columns: Tensor) -> Tensor:
    """The same of [videos, D, m] columns by a Cholesky decomposition in float64, whose digits are twice as many.

    A GPU does that for all videos at once, and the QR decomposition for one after the other.
    """
    exact = columns.detach().double()
    gram = exact.mT @ exact
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal += _RIDGE * diagonal.sum(dim=1, keepdim=True) + torch.finfo(torch.float64).tiny
    lower = torch.linalg.cholesky_ex(gram).L
    factor = lower.mT.to(columns.dtype)
    if columns.requires_grad:
        same = torch.linalg.solve_triangular(lower, exact.mT, upper=False).to(columns.dtype) @ columns
        factor = factor + same - same.detach()
    return factor


def score_states(
    text: GLCCLTextState, video: GLCCLVideoState, weights: ScoreWeights, settings: ScoreSettings
) -> Tensor:
    """[4, A, V] float32 scores before exp(logit_scale): video-sentence, video-word, sentence-frame, frame-word.

    Differentiable once in the tensors of both states and in the weights. Beside inputs and outputs, both passes take
    about `settings.memory_budget` bytes whatever A and V are; products of queries and frames are kept for the backward
    pass where four times as much holds them, and recomputed otherwise.
    """
    if not (text.lengths and video.lengths):
        return video.tensors.frames.new_empty(4, len(text.lengths), len(video.lengths))
    training = torch.is_grad_enabled()

    def pairs(n: int, m: int) -> int:
        return max(1, settings.memory_budget // (4 * (6 * n * n + 10 * n * m + 8 * m)))

    if settings.padded:
        text_blocks = _padded_blocks(text.lengths, lambda n: min(512, pairs(n, max(video.lengths))))
    else:  # what fits a processor's cache
        text_blocks = _blocks(text.lengths, lambda n: min(32, pairs(n, max(video.lengths))))
    product_bytes = 8 * len(video.tensors.frames) * sum(a + n * a for n, a in text_blocks)
    keep = training and product_bytes <= 4 * settings.memory_budget
    items = [a for _, a in text_blocks]
    texts = [text.lengths[sum(items[:block]) : sum(items[: block + 1])] for block in range(len(items))]
    slots = [sum(of_block) for of_block in texts]
    # Cut once: the gradient of a slice is as large as what it was cut from.
    per_tensor = (items if name.startswith("sentence") else slots for name in TextTensors._fields)
    parts = [tensor.split(sizes) for tensor, sizes in zip(text.tensors, per_tensor, strict=True)]
    rows = []
    for (n, a), of_block, *part in zip(text_blocks, texts, *parts, strict=True):
        block_text, mask = TextTensors(*part), None
        if of_block[0] < n:
            block_text, mask = _padded(block_text, of_block, n)
        matrices = ScoreWeights(*(weight[:n, :n] for weight in weights))
        size = {m: max(1, pairs(n, m) // a) for m in set(video.lengths)}
        frames = [m * v for m, v in _blocks(video.lengths, size.__getitem__)]
        factors = [part for factor in video.factors for part in factor.split(size[factor.shape[2]])]
        source = _products(block_text, video.tensors, settings) if keep else video.tensors
        row = []
        for *part, factor in zip(*(tensor.split(frames) for tensor in source), factors, strict=True):
            arguments = type(source)(*part), factor, block_text, mask, matrices, settings
            if training and not (settings.padded and len(text_blocks) == len(frames) == 1):
                row.append(checkpoint(_score_block, *arguments, use_reentrant=False, preserve_rng_state=False))
            else:
                row.append(_score_block(*arguments))
        rows.append(torch.cat(row, dim=1))
    scores = torch.cat(rows, dim=2).mT
    return scores[:, text.order.argsort()][:, :, video.order.argsort()]


def _blocks(lengths: list[int], size: Callable[[int], int]) -> list[tuple[int, int]]:
    """(length, count) of consecutive equal lengths in a sorted list, at most `size(length)` of them."""
    totals = [(length, len(list(group))) for length, group in groupby(lengths)]
    return [
        (length, min(size(length), total - start))
        for length, total in totals
        for start in range(0, total, size(length))
    ]


def _padded_blocks(lengths: list[int], size: Callable[[int], int]) -> list[tuple[int, int]]:
    """(greatest length, count) of consecutive lengths in a sorted list, at most `size(greatest length)` of them."""
    blocks, end = [], len(lengths)
    while end:
        n = lengths[end - 1]
        blocks.append((n, min(size(n), end)))
        end -= blocks[-1][1]
    return blocks[::-1]


def _padded(text: TextTensors, lengths: list[int], n: int) -> tuple[TextTensors, Tensor]:
    """Texts as if all had n words, the last of each repeated, and a mask [a, n] of the real ones."""
    counts, slots = torch.tensor(lengths, device=text.words.device)[:, None], torch.arange(n, device=text.words.device)
    rows = (counts.cumsum(0) - counts + torch.minimum(slots, counts - 1)).flatten()
    words = {name: getattr(text, name)[rows] for name in ("words", "words_unit", "word_scale")}
    return text._replace(**words), slots < counts


def _products(text: TextTensors, video: VideoTensors, settings: ScoreSettings) -> _Products:
    def product(left: Tensor, right: Tensor) -> Tensor:
        if settings.precision == "bf16":
            return (left.bfloat16() @ right.bfloat16().T).float()
        return left @ right.T

    return _Products(
        sentence=product(video.frames, text.sentence),
        sentence_global=product(video.frames, text.sentence_global),
        words=product(video.frames, text.words),
        words_local=product(video.frames_local, text.words_unit),
    )


def _score_block(
    source: _Products | VideoTensors,
    factor: Tensor,
    text: TextTensors,
    mask: Tensor | None,
    weights: ScoreWeights,
    settings: ScoreSettings,
) -> Tensor:
    """[4, v, a] scores of v videos of m frames with a texts of n words, or of fewer with a mask [a, n]; `factor` is
    [v, min(m, D), m]."""
    products = source if isinstance(source, _Products) else _products(text, source, settings)
    v, _, m = factor.shape
    a = len(text.sentence)
    sentence, sentence_global = products.sentence.view(v, m, a), products.sentence_global.view(v, m, a)
    words, words_local = products.words.view(v, m, a, -1), products.words_local.view(v, m, a, -1)
    video_pool = _pool(sentence, factor, settings.glim_global)
    frame_pool = _pool(words.flatten(2), factor, settings.glim_local).view_as(words)
    video_word = (words * video_pool[..., None]).sum(1) * text.word_scale.view(a, -1)
    sentence_frame = (frame_pool * sentence[..., None]).sum(1) * text.sentence_scale[:, None]

    # With U = local^T pool [words, word-guided frames], the sums over a softmax p of U are sums of [m, n] products:
    # sum_i p_ij (M U)_ij = sum_k pool_kj (local M^T p)_kj. Nothing but the exponentials is [n, n].
    pool, local = (values.transpose(1, 2).flatten(0, 1) for values in (frame_pool, words_local))  # [v a, m, n]
    alike = local.mT @ pool
    if mask is not None:
        real = mask.repeat(v, 1)[:, None].to(pool.dtype)  # [v a, 1, n]
        over_words, over_frames = _exponential(alike, 1) * real.mT, _exponential(alike, 2) * real
        word_sums, frame_sums = over_words.sum(1), over_frames.sum(2)
        pool, local = pool * real, local * real
    else:
        over_words, word_sums, over_frames, frame_sums = _exponentials(alike)
    word_frames = ((local @ weights.word_mat.T @ over_words) * pool).sum(1) / word_sums
    frame_words = ((over_frames @ (pool @ weights.word_frame_mat.T).mT) * local.mT).sum(2) / frame_sums

    c = torch.stack([video_word.flatten(0, 1), sentence_frame.flatten(0, 1), word_frames, frame_words])
    if mask is None:
        attention = _exponential(c, -1)
    else:
        padding = ~mask.repeat(v, 1)
        attention, c = _exponential(c.masked_fill(padding, -torch.inf), -1), c.masked_fill(padding, 0)
    attention = attention / attention.sum(-1, keepdim=True)
    aggregated = settings.aosm_temperature * ((attention @ torch.stack([*weights][:4])) * c).sum(-1).view(4, v, a)
    video_sentence = (sentence_global * video_pool).sum(1)
    return torch.stack([video_sentence, aggregated[0], aggregated[1], (aggregated[2] + aggregated[3]) / 2])


def _exponential(values: Tensor, dim: int | tuple[int, int]) -> Tensor:
    """Softmax before it is divided by its sums. The maximum cancels in the quotients, so it needs no gradient.

    `Tensor.softmax` is not used because it is up to thirty times slower on rows shorter than a vector register.
    """
    return (values - values.detach().amax(dim, keepdim=True)).exp_()


def _exponentials(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Over dim 1 of [p, n, n], the sums of these, and both over dim 2.

    One exponential serves both unless a row or column lies so far below its matrix's maximum that it would underflow;
    what is compiled cannot look, and a GPU would have to wait: they take two.
    """
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        both = _exponential(values, (1, 2))
        word_sums, frame_sums = both.sum(1), both.sum(2)
        if min(word_sums.min(), frame_sums.min()) > LEAST_SUM:
            return both, word_sums, both, frame_sums
    words, frames = _exponential(values, 1), _exponential(values, 2)
    return words, words.sum(1), frames, frames.sum(2)


def _pool(products: Tensor, factor: Tensor, guided: bool) -> Tensor:
    """GLIM weights over the norm of the frame they pool: a / |R a| for a = softmax over m of [v, m, c] products."""
    v, m, c = products.shape
    weights = products.softmax(dim=1) if guided else products.new_full((1, 1, 1), 1 / m).expand(v, m, c)
    squared = (factor @ weights).square().sum(1, keepdim=True)
    return weights * squared.clamp_min(torch.finfo(squared.dtype).tiny).rsqrt()
