"""The exact GLCCL scores of prepared texts and videos, block by block, with a hand-written backward pass.

GLIM's text-guided features are never formed. For a query q and the pooled frame f_j = sum_k a_jk x_k,

    q . f_j = sum_k a_jk (q . x_k)        |f_j| = |R a_j|,  R from the QR decomposition of the video's frames,

so dense products of all queries with all frames are followed by small work per pair on [words, frames] and
[words, words] matrices. R rather than the Gram matrix G = R^T R, because squaring would lose half the digits where
pooled frames nearly cancel. docs/method.md derives both passes.

Texts are packed by length and videos by frame count: padding costs nothing, and no mask exists below this line.

Shapes of a block: a texts of n words each, v videos of m frames each; D is the joint width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Of exponentials: what is 1e-13 of such a sum is still a normal float32.
LEAST_SUM = 1e-25


class ScoreSettings(NamedTuple):
    """What the scores depend on beside features and weights."""

    aosm_temperature: float
    glim_global: bool
    glim_local: bool
    precision: str
    memory_budget: int


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


class Run(NamedTuple):
    """Consecutive items of one length: items [first, first + count), slots [slot, slot + count * length)."""

    length: int
    first: int
    count: int
    slot: int

    @property
    def items(self) -> slice:
        """Where the items lie among all items."""
        return slice(self.first, self.first + self.count)

    @property
    def slots(self) -> slice:
        """Where their words or frames lie among all words or frames."""
        return slice(self.slot, self.slot + self.count * self.length)

    def split(self, size: int) -> Iterator["Run"]:
        """Runs of at most `size` items."""
        for start in range(0, self.count, size):
            count = min(size, self.count - start)
            yield Run(self.length, self.first + start, count, self.slot + start * self.length)


def runs(lengths: list[int]) -> list[Run]:
    """Runs of equal length in a sorted list of lengths."""
    result, first, slot = [], 0, 0
    for length, group in groupby(lengths):
        count = len(list(group))
        result.append(Run(length, first, count, slot))
        first, slot = first + count, slot + count * length
    return result


def frame_factors(frames: Tensor, lengths: list[int]) -> list[Tensor]:
    """R of the QR decomposition of every video's frames, one [videos, min(m, D), m] tensor for every frame count."""
    return [
        torch.linalg.qr(frames[run.slots].unflatten(0, (run.count, run.length)).mT, mode="r").R
        for run in runs(lengths)
    ]


def score_states(
    text: GLCCLTextState, video: GLCCLVideoState, weights: ScoreWeights, settings: ScoreSettings
) -> Tensor:
    """[4, A, V] float32 scores before exp(logit_scale): video-sentence, video-word, sentence-frame, frame-word.

    Differentiable once in the tensors of both states and in the weights. Beside inputs and outputs, both passes take
    about `settings.memory_budget` bytes whatever A and V are; products of queries and frames are kept for the backward
    pass where four times as much holds them, and recomputed otherwise.
    """
    scores = _Scores.apply(
        text.lengths, video.lengths, video.factors, settings, *text.tensors, *video.tensors, *weights
    )
    return scores[:, text.order.argsort()][:, :, video.order.argsort()]


class _Products(NamedTuple):
    """Products of a block's queries with its frames."""

    sentence: Tensor  # [v, m, a]
    sentence_global: Tensor  # [v, m, a]
    words: Tensor  # [v, m, a, n]
    words_local: Tensor  # [v, m, a, n]


class _Block(NamedTuple):
    """A block's forward pass: what its backward pass reads. `c` is [4, v a, n]: the inputs of the aggregations."""

    video_pool: Tensor  # [v, m, a], GLIM weights of the sentence over the norm of the frame they pool
    frame_pool: Tensor  # [v, m, a, n], the same for words
    pool: Tensor  # [v a, m, n], frame_pool pair by pair
    pool_mat: Tensor  # [v a, m, n], times word_frame_mat transposed
    local: Tensor  # [v a, m, n], words_local pair by pair
    local_mat: Tensor  # [v a, m, n], times word_mat transposed
    over_words: Tensor  # [v a, n, n], softmax over words times word_normaliser
    over_words_values: Tensor
    word_normaliser: Tensor  # [v a, n]
    over_frames: Tensor  # [v a, n, n], softmax over word-guided frames times frame_normaliser; may be over_words
    over_frames_values: Tensor
    frame_normaliser: Tensor  # [v a, n]
    video_word: Tensor  # [v, a, n], before word_scale
    sentence_frame: Tensor  # [v, a, n], before sentence_scale
    c: Tensor
    attention: Tensor  # softmax(c)
    mixed: Tensor  # softmax(c) M
    aggregated: Tensor  # [4, v a]


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, text_lengths, video_lengths, factors, settings, *tensors):
        text, video, weights = TextTensors(*tensors[:6]), VideoTensors(*tensors[6:8]), ScoreWeights(*tensors[8:])
        scores = video.frames.new_empty(4, len(text_lengths), len(video_lengths))
        product_bytes = 8 * len(video.frames) * (len(text.sentence) + len(text.words))
        keep = any(ctx.needs_input_grad) and product_bytes <= 4 * settings.memory_budget
        kept = []
        for texts, videos, factor in _blocks(text_lengths, video_lengths, factors, settings):
            products = _products(text, video, texts, videos, settings)
            values, _ = _score_block(products, text, weights, texts, factor, settings)
            scores[:, texts.items, videos.items] = values.transpose(1, 2)
            if keep:
                kept.append(products)
        ctx.arguments = text_lengths, video_lengths, factors, settings
        ctx.kept = kept
        ctx.save_for_backward(*tensors)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        tensors = ctx.saved_tensors
        text, video, weights = TextTensors(*tensors[:6]), VideoTensors(*tensors[6:8]), ScoreWeights(*tensors[8:])
        totals = [torch.zeros_like(tensor) for tensor in tensors]
        text_grad, video_grad = TextTensors(*totals[:6]), VideoTensors(*totals[6:8])
        weights_grad = ScoreWeights(*totals[8:])
        settings = ctx.arguments[-1]
        for index, (texts, videos, factor) in enumerate(_blocks(*ctx.arguments)):
            products = ctx.kept[index] if ctx.kept else _products(text, video, texts, videos, settings)
            _, block = _score_block(products, text, weights, texts, factor, settings)
            block_grad = grad[:, texts.items, videos.items].transpose(1, 2)
            products_grad, gram_grad = _block_backward(
                block, products, block_grad, text, weights, text_grad, weights_grad, texts, factor, settings
            )
            for name in _Products._fields:
                rows = texts.items if name.startswith("sentence") else texts.slots
                source, query = ("frames_local", "words_unit") if name == "words_local" else ("frames", name)
                product_grad = getattr(products_grad, name).reshape(videos.count * videos.length, -1)
                getattr(text_grad, query)[rows].addmm_(product_grad.T, getattr(video, source)[videos.slots])
                getattr(video_grad, source)[videos.slots].addmm_(product_grad, getattr(text, query)[rows])
            per_video = (videos.count, videos.length)
            video_grad.frames[videos.slots].unflatten(0, per_video).baddbmm_(
                gram_grad, video.frames[videos.slots].unflatten(0, per_video)
            )
        return (None, None, None, None, *totals)


def _products(text: TextTensors, video: VideoTensors, texts: Run, videos: Run, settings: ScoreSettings) -> _Products:
    frames, frames_local = video.frames[videos.slots], video.frames_local[videos.slots]
    shape = videos.count, videos.length, texts.count

    def product(left: Tensor, right: Tensor) -> Tensor:
        if settings.precision == "bf16":
            return (left.bfloat16() @ right.bfloat16().T).float()
        return left @ right.T

    return _Products(
        sentence=product(frames, text.sentence[texts.items]).view(shape),
        sentence_global=product(frames, text.sentence_global[texts.items]).view(shape),
        words=product(frames, text.words[texts.slots]).view(*shape, -1),
        words_local=product(frames_local, text.words_unit[texts.slots]).view(*shape, -1),
    )


def _score_block(products, text, weights, texts: Run, factor, settings) -> tuple[Tensor, _Block]:
    """[4, v, a] scores of a block and what its backward pass needs."""
    sentence, words = products.sentence, products.words
    v, m, a, n = words.shape
    video_pool = _pool(sentence, factor, settings.glim_global)
    frame_pool = _pool(words.flatten(2), factor, settings.glim_local).view(v, m, a, n)
    video_word = (words * video_pool[..., None]).sum(1)
    sentence_frame = (frame_pool * sentence[..., None]).sum(1)

    # Multiplying the [n, m] factors by the learned matrices costs m / n of multiplying their [n, n] product.
    pool, local = _per_pair(frame_pool), _per_pair(products.words_local)
    pool_mat, local_mat = pool @ weights.word_frame_mat[:n, :n].T, local @ weights.word_mat[:n, :n].T
    fine = local.mT @ pool  # [v a, n words, n word-guided frames]
    over_words, word_normaliser, over_frames, frame_normaliser = _exponentials(fine)
    over_words_values, over_frames_values = local_mat.mT @ pool, local.mT @ pool_mat

    c = words.new_empty(4, v * a, n)
    torch.mul(video_word, text.word_scale[texts.slots].view(a, n), out=c[0].view(v, a, n))
    torch.mul(sentence_frame, text.sentence_scale[texts.items, None], out=c[1].view(v, a, n))
    torch.div((over_words * over_words_values).sum(1), word_normaliser, out=c[2])
    torch.div((over_frames * over_frames_values).sum(2), frame_normaliser, out=c[3])
    attention = (c - c.amax(-1, keepdim=True)).exp_()
    attention /= attention.sum(-1, keepdim=True)
    mixed = attention @ torch.stack([weight[:n, :n] for weight in weights[:4]])
    aggregated = (mixed * c).sum(-1)
    video_word_score, sentence_frame_score, *fine_scores = (settings.aosm_temperature * aggregated).view(4, v, a)
    scores = torch.stack(
        [
            (products.sentence_global * video_pool).sum(1),
            video_word_score,
            sentence_frame_score,
            (fine_scores[0] + fine_scores[1]) / 2,
        ]
    )
    block = _Block(
        video_pool, frame_pool, pool, pool_mat, local, local_mat, over_words, over_words_values, word_normaliser,
        over_frames, over_frames_values, frame_normaliser, video_word, sentence_frame, c, attention, mixed, aggregated,
    )  # fmt: skip
    return scores, block


def _block_backward(block, products, grad, text, weights, text_grad, weights_grad, texts, factor, settings):
    """Gradients of a block's products, and [v, m, m] with which the norms' gradient multiplies the frames.

    Consumes `block`; adds the gradients of scales and learned matrices to `text_grad` and `weights_grad`.
    """
    v, m, a, n = products.words.shape
    grad_video_sentence, *grad_rest = grad
    # out = sum_j c_j (p M)_j with p = softmax(c):  dc = g [p M + p (c M^T - out)],  dM = p^T (g c).
    grad_out = settings.aosm_temperature * torch.stack([*grad_rest, grad_rest[-1]]).reshape(4, v * a, 1)
    grad_out[2:] /= 2
    matrices = torch.stack([weight[:n, :n] for weight in weights[:4]])
    inner = (block.c @ matrices.mT - block.aggregated[..., None]).mul_(block.attention).add_(block.mixed)
    grad_c = inner.mul_(grad_out)
    for total, matrix in zip(weights_grad, block.attention.mT @ (grad_out * block.c), strict=False):
        total[:n, :n] += matrix

    # r_j = sum_i p_ij U_ij with p = softmax_i(S):  dU = g_j p,  dS = dU (U - r_j); the same over frames.
    grad_over_words = block.over_words * (grad_c[2] / block.word_normaliser)[:, None, :]
    grad_over_frames = block.over_frames.mul_((grad_c[3] / block.frame_normaliser)[:, :, None])
    grad_fine = block.over_words_values.sub_(block.c[2, :, None, :]).mul_(grad_over_words)
    grad_fine.addcmul_(block.over_frames_values.sub_(block.c[3, :, :, None]), grad_over_frames)
    grad_local_mat = block.pool @ grad_over_words.mT
    grad_pool_mat = block.local @ grad_over_frames
    grad_local = torch.baddbmm(block.pool @ grad_fine.mT, block.pool_mat, grad_over_frames.mT)
    grad_local += grad_local_mat @ weights.word_mat[:n, :n]
    grad_pool = torch.baddbmm(block.local @ grad_fine, block.local_mat, grad_over_words)
    grad_pool += grad_pool_mat @ weights.word_frame_mat[:n, :n]
    weights_grad.word_mat[:n, :n] += grad_local_mat.flatten(0, 1).T @ block.local.flatten(0, 1)
    weights_grad.word_frame_mat[:n, :n] += grad_pool_mat.flatten(0, 1).T @ block.pool.flatten(0, 1)

    grad_video_word, grad_sentence_frame = grad_c[0].view(v, a, n), grad_c[1].view(v, a, n)
    text_grad.word_scale[texts.slots] += (grad_video_word * block.video_word).sum(0).flatten()
    text_grad.sentence_scale[texts.items] += (grad_sentence_frame * block.sentence_frame).sum((0, 2))
    grad_video_word = (grad_video_word * text.word_scale[texts.slots].view(a, n))[:, None]
    grad_sentence_frame = (grad_sentence_frame * text.sentence_scale[texts.items, None])[:, None]

    grad_frame_pool = grad_pool.view(v, a, m, n).transpose(1, 2)
    grad_frame_pool = torch.addcmul(grad_frame_pool, products.sentence[..., None], grad_sentence_frame)
    grad_video_pool = (products.words * grad_video_word).sum(-1)
    grad_video_pool.addcmul_(products.sentence_global, grad_video_sentence[:, None])
    gram = factor.mT @ factor
    grad_words, gram_grad = _pool_backward(
        block.frame_pool.flatten(2), grad_frame_pool.flatten(2), gram, settings.glim_local
    )
    grad_sentence, video_gram_grad = _pool_backward(block.video_pool, grad_video_pool, gram, settings.glim_global)
    return (
        _Products(
            sentence=grad_sentence + (block.frame_pool * grad_sentence_frame).sum(-1),
            sentence_global=block.video_pool * grad_video_sentence[:, None],
            words=grad_words.view(v, m, a, n).addcmul_(block.video_pool[..., None], grad_video_word),
            words_local=grad_local.view(v, a, m, n).transpose(1, 2),
        ),
        gram_grad + video_gram_grad,
    )


def _exponentials(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Softmax over dim 1 of [p, n, n] before it is divided by its sums, these sums, and both over dim 2.

    One exponential serves both unless a row or column lies so far below its matrix's maximum that it would underflow.
    `Tensor.softmax` is not used because it is up to thirty times slower on rows shorter than a vector register.
    """
    both = (values - values.amax((1, 2), keepdim=True)).exp_()
    word_sums, frame_sums = both.sum(1), both.sum(2)
    if min(word_sums.min(), frame_sums.min()) > LEAST_SUM:
        return both, word_sums, both, frame_sums
    words, frames = ((values - values.amax(dim, keepdim=True)).exp_() for dim in (1, 2))
    return words, words.sum(1), frames, frames.sum(2)


def _pool(products: Tensor, factor: Tensor, guided: bool) -> Tensor:
    """GLIM weights over the norm of the frame they pool: a / |R a| for a = softmax over m of [v, m, c] products."""
    v, m, c = products.shape
    weights = products.softmax(dim=1) if guided else products.new_full((1, 1, 1), 1 / m).expand(v, m, c)
    squared = (factor @ weights).square().sum(1, keepdim=True)
    return weights * squared.clamp_min(torch.finfo(squared.dtype).tiny).rsqrt()


def _pool_backward(pool: Tensor, grad: Tensor, gram: Tensor, guided: bool) -> tuple[Tensor, Tensor]:
    """Gradients of the products [v, m, c], and [v, m, m] that maps the frames to their gradient through the norms.

    With b = a / |R a| and h = b . db, the softmax and the norm together give b (db - h G b), for b does not depend on
    the scale of a; and the frames get - sum h b b^T X.
    """
    along = (pool * grad).sum(1, keepdim=True)
    gram_grad = -(pool * along) @ pool.mT
    if not guided:
        return torch.zeros_like(pool), gram_grad
    return (gram @ pool).mul_(-along).add_(grad).mul_(pool), gram_grad


def _per_pair(values: Tensor) -> Tensor:
    """[v, m, a, n] -> [v a, m, n]."""
    return values.transpose(1, 2).flatten(0, 1)


def _blocks(
    text_lengths: list[int], video_lengths: list[int], factors: list[Tensor], settings: ScoreSettings
) -> Iterator[tuple[Run, Run, Tensor]]:
    """Blocks of one text length and one frame count, each within the memory budget."""
    for videos, factor in zip(runs(video_lengths), factors, strict=True):
        for texts in runs(text_lengths):
            n, m = texts.length, videos.length
            pairs = max(1, settings.memory_budget // (4 * (6 * n * n + 10 * n * m + 8 * m)))
            for text_block in texts.split(min(pairs, 32)):
                for video_block in videos.split(max(1, pairs // text_block.count)):
                    start = video_block.first - videos.first
                    yield text_block, video_block, factor[start : start + video_block.count]
