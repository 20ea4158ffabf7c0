r"""Scoring: the packed factorised scores against the form that materialises text-guided features, in one run.

    python benchmarks/scoring.py                # everything, about half an hour on one core
    python benchmarks/scoring.py --part forward # or training, growth, precision, floor
    python benchmarks/scoring.py --part forward --part training --device cuda

The twin is the authors' computation with masks, blocked 32 x 32, which is its fastest form. Both sides score the same
features at D = 512. Repetitions alternate and medians are compared, on one thread (--threads). Peak extra memory is
the growth of the resident set of a fresh process, or of what torch allocated on the GPU. `floor`: processor seconds
beside those of the matrix products alone, of the same sizes and with nothing between them. Prints tables and writes
benchmarks/results/scoring_<part>_<hardware>.csv.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import errors

import torch
from table import RESULTS, show, wall_clock, write_csv
from torch import Tensor

from modeling_glccl import GLCCLConfig
from modeling_glccl.features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from modeling_glccl.interaction_glccl import GLCCLInteraction

WIDTH = 512
LOGIT_SCALE = torch.tensor(100.0).log()


def features(
    texts: int, videos: int, words: int, frames: int, lengths: str
) -> tuple[GLCCLTextFeatures, GLCCLVideoFeatures]:
    """Random features with norms of about 10 and a shared direction, as CLIP's have; lengths "full" or "real"."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    shared = 0.2 * noise(WIDTH)
    word_features = shared + 0.25 * noise(texts, 1, WIDTH) + 0.3 * noise(texts, words, WIDTH)
    length = torch.full((texts,), words)
    if lengths == "real":  # MSR-VTT captions have 11 tokens on average, BOS and EOS included
        length = (11 + 3 * noise(texts)).round().clamp(5, words).long()
    return (
        GLCCLTextFeatures(
            sentence=word_features[torch.arange(texts), length - 1],
            words=word_features,
            word_mask=torch.arange(words) < length[:, None],
        ),
        GLCCLVideoFeatures(
            frames=shared + 0.25 * noise(videos, 1, WIDTH) + 0.2 * noise(videos, frames, WIDTH),
            frame_mask=torch.ones(videos, frames, dtype=torch.bool),
        ),
    )


def interaction(words: int) -> GLCCLInteraction:
    """Learned matrices a little away from the identity, as training leaves them."""
    torch.manual_seed(1)
    module = GLCCLInteraction(GLCCLConfig(max_words=words))
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return module


def materialised(
    module: GLCCLInteraction, text: GLCCLTextFeatures, video: GLCCLVideoFeatures, block: int = 32
) -> Tensor:
    """[4, A, V]: the twin, which forms the text-guided features [block, block, Nw, D]."""
    sentences, words, masks = (values.split(block) for values in (text.sentence, text.words, text.word_mask))
    rows = [
        torch.cat([_materialised_block(module, *part, frames) for frames in video.frames.split(block)], dim=2)
        for part in zip(sentences, words, masks, strict=True)
    ]
    return LOGIT_SCALE.exp() * torch.cat(rows, dim=1)


def _materialised_block(
    module: GLCCLInteraction, sentence: Tensor, words: Tensor, word_mask: Tensor, frames: Tensor
) -> Tensor:
    n = words.shape[1]
    padding = ~word_mask[:, None]  # [A, 1, n]

    def normalised(vectors: Tensor) -> Tensor:
        return vectors / vectors.norm(dim=-1, keepdim=True)

    def aggregate(scores: Tensor, weight: Tensor, padding: Tensor) -> Tensor:
        attention = (scores / 0.01).masked_fill(padding, -torch.inf).softmax(-1)
        return ((attention @ weight[:n, :n]) * scores.masked_fill(padding, 0)).sum(-1)

    video_weights = (torch.einsum("ad,vkd->avk", sentence, frames) / 5).softmax(-1)
    vid = normalised(torch.einsum("avk,vkd->avd", video_weights, frames))
    frame_weights = (torch.einsum("and,vkd->avnk", words, frames) / 5).softmax(-1)
    frm = normalised(torch.einsum("avnk,vkd->avnd", frame_weights, frames))
    sentence, words = normalised(sentence), normalised(words)
    fine = torch.einsum("aid,avjd->avij", words @ module.local_mat_weight, frm)
    per_frame = aggregate(fine.mT, module.word_mat_weight, padding[:, None])
    per_word = aggregate(fine, module.word_frame_mat_weight, padding[:, None])
    both = aggregate(per_frame, module.word_frame_mat_weight2, padding)
    both = both + aggregate(per_word, module.word_mat_weight2, padding)
    return torch.stack(
        [
            torch.einsum("ad,avd->av", sentence @ module.global_mat_weight, vid),
            aggregate(torch.einsum("and,avd->avn", words, vid), module.word_logit_weight, padding),
            aggregate(torch.einsum("ad,avnd->avn", sentence, frm), module.word_frame_logit_weight, padding),
            both / 2,
        ]
    )


def packed(
    module: GLCCLInteraction, text: GLCCLTextFeatures, video: GLCCLVideoFeatures, precision: str = "fp32"
) -> Tensor:
    """[4, A, V]: what `model.get_scores` computes."""
    scale = LOGIT_SCALE.to(text.words.device)
    return torch.stack(module(text, video, scale, precision=precision).to_tuple())


class CrossAttention(torch.nn.Module):
    """X-Pool's text-frame attention (arXiv 2203.15086): learned projections, one pooled video per pair, an MLP."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out, self.linear = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(5))
        self.norm1, self.norm2, self.norm3 = (torch.nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures, block: int = 32) -> Tensor:
        """[A, V] cosines."""
        sentence, rows = text.sentence / text.sentence.norm(dim=-1, keepdim=True), []
        query = self.query(self.norm1(text.sentence)) / WIDTH**0.5
        for frames in video.frames.split(block):
            hidden = self.norm1(frames)
            attention = torch.einsum("ad,vkd->avk", query, self.key(hidden)).softmax(-1)
            pooled = self.norm2(self.out(torch.einsum("avk,vkd->avd", attention, self.value(hidden))))
            pooled = self.norm3(pooled + self.linear(pooled))
            rows.append(torch.einsum("ad,avd->av", sentence, pooled / pooled.norm(dim=-1, keepdim=True)))
        return torch.cat(rows, dim=1)


def products(text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> Callable[[], object]:
    """The matrix products of the packed form alone: of queries with frames, and then of each pair, 256 at a time."""
    frames, queries = int(video.frame_mask.sum()), int(text.word_mask.sum()) + len(text.sentence)
    left, right = torch.randn(frames, WIDTH), torch.randn(queries, WIDTH).split(1024)
    blocks = []
    for n, texts in Counter(text.word_mask.sum(1).tolist()).items():
        for m, videos in Counter(video.frame_mask.sum(1).tolist()).items():
            count = min(256, texts * videos)
            tensors = torch.randn(count, m, m), torch.randn(count, m, n), torch.randn(count, n, n), torch.randn(n, n)
            blocks.append((texts * videos / count, tensors))

    def work() -> None:
        for _ in range(2):
            for part in right:
                torch.matmul(left, part.T)
        for times, (factor, local, square, matrix) in blocks:
            for _ in range(max(1, round(times))):
                for a, b in ((factor, local), (local.mT, local), (local, matrix), (local, square), (local, matrix)):
                    torch.matmul(a, b)
                torch.matmul(square, local.mT)

    return torch.no_grad()(work)


def run(method: str, mode: str, case: dict) -> Callable[[], object]:
    """A function that does the work once; what it needs is made here."""
    text, video = features(**case)
    if method == "sgemm":
        return products(text, video)
    module = CrossAttention() if method == "cross-attention" else interaction(case["words"])

    def score() -> Tensor:
        if isinstance(module, CrossAttention):
            return module(text, video)
        if method == "materialised":
            return materialised(module, text, video)
        return packed(module, text, video, "bf16" if method == "packed bf16" else "fp32")

    if mode == "forward":
        return torch.no_grad()(score)
    inputs = [text.sentence.requires_grad_(), text.words.requires_grad_(), video.frames.requires_grad_()]
    inputs += module.parameters()

    def step() -> None:
        scores = score()
        direction = torch.ones_like(scores) / scores.numel()
        torch.autograd.grad(scores, inputs, direction, allow_unused=True)

    return step


def measure(
    methods: list[str], mode: str, case: dict, repetitions: int, clock: Callable[[], float] = wall_clock
) -> dict[str, float]:
    """Median seconds of each method; the repetitions alternate, so that a noisy machine hits all alike."""
    functions = {method: run(method, mode, case) for method in methods}
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    for repetition in range(repetitions + 1):
        for method, function in functions.items():
            started = clock()
            function()
            if repetition or repetitions == 1:  # the first is a warm-up
                seconds[method].append(clock() - started)
        if repetitions == 1:
            break
    return {method: statistics.median(values) for method, values in seconds.items()}


def peak_memory(method: str, mode: str, case: dict) -> float:
    """MiB by which the resident set of a fresh process, or the memory of the GPU, grows beyond the inputs."""
    if torch.get_default_device().type == "cuda":
        function = run(method, mode, case)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    arguments = [f"{key}={value}" for key, value in case.items()]
    command = [sys.executable, __file__, "--peak-memory", method, mode, *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak_memory(method: str, mode: str, *arguments: str) -> None:
    """The child of `peak_memory`."""
    torch.set_num_threads(1)
    case = {key: value if key == "lengths" else int(value) for key, value in (a.split("=") for a in arguments)}
    function = run(method, mode, case)
    small = dict(case, texts=2, videos=2)
    run(method, mode, small)()  # libraries allocate their own buffers on first use
    # Linux resets the high-water mark on request, so that the peak of the imports does not count.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_kib()
    function()
    print((_peak_kib() - before) / 1024)


def _peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def error(precision: str, case: dict) -> float:
    """Largest logit error against the twin in float64."""
    text, video = features(**case)
    module = interaction(case["words"])
    with torch.no_grad():
        ours = packed(module, text, video, precision).mean(0)
        text.sentence, text.words, video.frames = (
            values.double() for values in (text.sentence, text.words, video.frames)
        )
        return float((ours - materialised(module.double(), text, video).mean(0)).abs().max())


def compare(mode: str, cases: list[dict], repetitions: int) -> list[dict]:
    """One row per case: seconds, ratio, memory and error of the packed form and its twin."""
    rows = []
    for case in cases:
        methods = ["materialised", "packed"]
        large = mode == "training" and case["texts"] * case["words"] * case["frames"] > 32 * 64 * 64
        large = large and torch.get_default_device().type == "cpu"
        seconds = measure(methods, mode, case, 1 if large else repetitions)
        memory = {method: peak_memory(method, mode, case) for method in methods}
        rows.append(
            {
                "mode": mode,
                **case,
                "materialised s": round(seconds["materialised"], 5),
                "packed s": round(seconds["packed"], 5),
                "ratio": round(seconds["materialised"] / seconds["packed"], 1),
                "us per pair": round(1e6 * seconds["packed"] / (case["texts"] * case["videos"]), 1),
                "materialised MiB": round(memory["materialised"]),
                "packed MiB": round(memory["packed"]),
                "max logit error": f"{error('fp32', case):.1e}",
            }
        )
        show(rows[-1], header=len(rows) == 1)
    return rows


def growth(repetitions: int) -> list[dict]:
    """Seconds against frames, texts and videos, beside text-frame cross-attention."""
    base = {"texts": 64, "videos": 64, "words": 32, "frames": 12, "lengths": "real"}
    cases = [base | {"frames": frames} for frames in (12, 24, 48, 64, 128, 256)]
    cases += [base | {"texts": size, "videos": size} for size in (128, 256, 512)]
    rows = []
    for case in cases:
        methods = ["materialised", "packed", "cross-attention"]
        seconds = measure(methods, "forward", case, repetitions if case["texts"] <= 128 else 1)
        rows.append(
            case
            | {f"{method} s": round(value, 5) for method, value in seconds.items()}
            | {
                "ratio": round(seconds["materialised"] / seconds["packed"], 1),
                "cross-attention ratio": round(seconds["cross-attention"] / seconds["packed"], 1),
            }
        )
        show(rows[-1], header=len(rows) == 1)
    large = base | {"texts": 1000, "videos": 1000}
    seconds = measure(["packed"], "forward", large, 1)
    rows.append(large | {"packed s": round(seconds["packed"], 5)})
    show(rows[-1], header=False)
    return rows


def precision(repetitions: int) -> list[dict]:
    """float32 against the bfloat16 main product: seconds and logit error."""
    rows = []
    for words, frames, lengths in ((32, 12, "full"), (32, 12, "real"), (64, 64, "full")):
        case = {"texts": 128, "videos": 128, "words": words, "frames": frames, "lengths": lengths}
        seconds = measure(["packed", "packed bf16"], "forward", case, repetitions)
        rows.append(
            case
            | {"fp32 s": round(seconds["packed"], 5), "bf16 s": round(seconds["packed bf16"], 5)}
            | {f"{name} max logit error": f"{error(name, case):.1e}" for name in ("fp32", "bf16")}
        )
        show(rows[-1], header=len(rows) == 1)
    return rows


def floor(repetitions: int) -> list[dict]:
    """Processor seconds of the packed form, beside its matrix products alone and the materialising form."""
    rows = []
    for batch, words, frames, lengths in ((128, 32, 12, "full"), (128, 32, 12, "real"), (64, 64, 64, "full")):
        case = {"texts": batch, "videos": batch, "words": words, "frames": frames, "lengths": lengths}
        seconds = measure(["materialised", "packed", "sgemm"], "forward", case, repetitions, time.process_time)
        rows.append(
            case
            | {f"{method} cpu s": round(value, 3) for method, value in seconds.items()}
            | {
                "ratio": round(seconds["materialised"] / seconds["packed"], 1),
                "ratio of sgemm": round(seconds["materialised"] / seconds["sgemm"], 1),
                "fraction reached": round(seconds["sgemm"] / seconds["packed"], 2),
            }
        )
        show(rows[-1], header=len(rows) == 1)
    return rows


def main() -> None:
    """Runs the parts that were asked for."""
    if sys.argv[1:2] == ["--peak-memory"]:
        print_peak_memory(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["forward", "training", "growth", "precision", "floor"], action="append")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_default_device(arguments.device)
    torch.set_num_threads(arguments.threads)

    def cases(*batches: int) -> list[dict]:
        shapes = ((32, 12, "full"), (32, 12, "real"), (64, 64, "full"))
        return [
            {"texts": batch, "videos": batch, "words": words, "frames": frames, "lengths": lengths}
            for words, frames, lengths in shapes
            for batch in batches
        ]

    for part in arguments.part or ["forward", "training", "growth", "precision", "floor"]:
        print(f"\n{part}, D = {WIDTH}, {arguments.device}, {arguments.threads} thread(s)")
        if part in ("forward", "training"):
            rows = compare(part, cases(32, 128), arguments.repetitions)
        else:
            rows = {"growth": growth, "precision": precision, "floor": floor}[part](arguments.repetitions)
        write_csv(rows, f"scoring_{part}", arguments.output)


if __name__ == "__main__":
    main()
