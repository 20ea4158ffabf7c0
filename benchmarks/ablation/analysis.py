"""What the report needs of one trained model beyond its test metrics."""

from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.functional import normalize

from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.data.collate import video_inputs
from modeling_glccl.data.shapes import relevant_frames
from modeling_glccl.data.shapes.sampler import TWINS
from modeling_glccl.evaluation import cmc_curve, evaluate, retrieval_metrics
from modeling_glccl.evaluation.evaluate_checkpoint import override_settings
from modeling_glccl.features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from modeling_glccl.peers import FOUR_SCORES
from modeling_glccl.training.build import load_splits

from .grid import Run


class TrainedModel:
    """The model of a trained run, tested once more; `test` tests it again, with what the processor takes by then.

    `dataset` is the test split; `result` what [`evaluate`] returned, with `similarity` and `ranks`; `texts` and
    `videos` are the features that it scored, texts block by block; `scores` is name -> [A, V] logits of each score of
    the head.
    """

    videos: GLCCLVideoFeatures

    def __init__(self, run: Run):
        self.run, results = run, run.results
        folder, precision = run.folder / results["model"], results["precision"]
        self.dataset = load_splits(run.recipe)["test"]
        self.accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
        self.model, self.processor = load_checkpoint(folder)
        self.model.to(self.accelerator.device)
        self.model.set_attn_implementation(run.recipe.model.attn_implementation)
        self.test()

    def test(self) -> None:
        """Evaluates, and keeps what [`evaluate`] forgets."""
        self.texts: list[GLCCLTextFeatures] = []
        blocks = []

        def similarity(text: Any, video: Any) -> torch.Tensor:
            blocks.append(self.model.get_scores(text, video))
            self.texts.append(text.to(self.model.device, torch.float32))
            self.videos = video
            return blocks[-1].logits

        self.model.similarity = similarity  # in place of the method
        options: dict[str, Any] = {"batch_size": self.run.recipe.train.eval_batch_size, "progress": False}
        self.result = evaluate(self.model, self.processor, self.dataset, accelerator=self.accelerator, **options)
        self.similarity, self.ranks = cast(np.ndarray, self.result.similarity), self.result.ranks or {}
        self.scores = {name: torch.cat([block[name] for block in blocks]).numpy(force=True) for name in blocks[0]}


def analyse(run: Run) -> dict[str, Any]:
    """Tests the model of a trained run once more and looks closer.

    Returns:
        Values that JSON can hold: "frame_counts" of the run; "values", columns of the tables -> numbers; "cmc", the
        CMC curves both ways; "scores", those of [`pair_scores`]; "by_frames", for each of the frame counts the frames
        that the videos then had on average and the text-to-video R@1.
    """
    tested = TrainedModel(run)
    model, result, columns = tested.model, tested.result, tested.dataset.column_names
    total, clip = (sum(weight.numel() for weight in part.parameters()) for part in (model, model.clip))
    values: dict[str, float] = {"parameters all": total, "parameters beside CLIP": total - clip}
    scores = tested.scores if run.recipe.model.head in FOUR_SCORES else {}
    for name, matrix in scores.items():
        recall = retrieval_metrics(matrix, result.video_index)["t2v"]["R@1"]
        values[f"text-to-video R@1 of one score {name.replace('_', '-')}"] = recall
    if "twin_group" in columns:
        groups = np.array(tested.dataset["twin_group"])[result.video_rows]
        for kind, accuracy in twin_accuracy(tested.similarity, result.video_index, groups).items():
            values[f"the caption prefers its video to the twin in {kind}"] = accuracy
    if "caption_events" in columns:
        for name, precision in frame_precision(tested).items():
            values[f"frames ranked by {name}"] = precision
    # Videos without captions are no candidates of video-to-text.
    candidates = {"t2v": len(result.video_ids), "v2t": len(tested.ranks["v2t"])}
    analysis = {
        "frame_counts": run.frame_counts,
        "values": values,
        "cmc": {way: cmc_curve(ranks, candidates[way]).tolist() for way, ranks in tested.ranks.items()},
        "scores": pair_scores(
            tested.similarity, result.video_index, cast(torch.Tensor, model.clip.logit_scale).exp().item(), scores
        ),
        "by_frames": [],
    }
    for count in run.frame_counts:
        override_settings(model, tested.processor, max_frames=count)
        tested.test()
        frames = float(tested.videos.frame_mask.sum(dim=1).float().mean())
        analysis["by_frames"].append((frames, tested.result.metrics["t2v"]["R@1"]))
    return analysis


def pair_scores(
    similarity: np.ndarray, video_index: np.ndarray, scale: float, scores: dict[str, np.ndarray]
) -> dict[str, list[float]]:
    """For each caption, the score of its video and of the best other video, and the spread of several scores of both.

    Logits are divided by `scale`, exp(logit_scale); `scores` holds [A, V] logits of each score of a head with several.
    """
    captions, others = np.arange(len(video_index)), similarity.copy()
    others[captions, video_index] = -np.inf
    columns = {"positive": video_index, "hard negative": others.argmax(axis=1)}
    found = {name: similarity[captions, column] / scale for name, column in columns.items()}
    if scores:
        spread = np.std(list(scores.values()), axis=0, ddof=1) / scale
        found |= {f"{name} spread": spread[captions, column] for name, column in columns.items()}
    return {name: values.astype(float).round(5).tolist() for name, values in found.items()}


def twin_accuracy(similarity: np.ndarray, video_index: np.ndarray, twin_groups: np.ndarray) -> dict[str, float]:
    """How often a caption scores its own video above a twin that differs in one thing alone.

    The videos of a group stand in the order in which the shapes benchmark renders them: one, then its twins in shape,
    action and order; the last group may be cut short. The captions of both videos are asked. A tie is a miss.

    Takes scores [A, V], the column of each caption's video [A], and the column `twin_group` of each video [V].

    Returns:
        {"shape", "action", "order"} in percent; chance gives 50.
    """
    right: dict[str, list[bool]] = {kind: [] for kind in TWINS}
    for group in np.unique(twin_groups):
        first, *twins = np.flatnonzero(twin_groups == group)
        for kind, twin in zip(TWINS, twins, strict=False):
            for own, other in ((first, twin), (twin, first)):
                of_own = similarity[video_index == own]
                right[kind] += (of_own[:, own] > of_own[:, other]).tolist()
    for kind, answers in right.items():
        if not answers:
            raise ValueError(f"no captioned video has a twin in {kind}: are the videos in the order of the benchmark?")
    return {kind: float(100 * np.mean(answers)) for kind, answers in right.items()}


@torch.inference_mode()
def frame_precision(tested: TrainedModel) -> dict[str, float]:
    """Mean average precision over captions, in percent, of finding the frames that each is about in its video.

    Frames are ranked by the model's frame weights for the sentence, by the cosine of sentence and frame, and by
    chance, which equal weights give.
    """
    result, dataset, times = tested.result, tested.dataset, []
    for row in result.video_rows:
        metadata = video_inputs(tested.processor, [dataset[int(row)]], return_metadata=True)["video_metadata"]
        times.append(metadata[0]["timestamps"])
    texts = [block.select([index]) for block in tested.texts for index in range(block.num_rows)]
    precisions = []
    for text, caption_row, column in zip(texts, result.caption_rows, result.video_index, strict=True):
        row, video = dataset[int(caption_row)], tested.videos.select([column])
        relevant = relevant_frames(times[column], row["events"], row["caption_events"])
        weights = cast(torch.Tensor, tested.model.frame_weights(text, video).sentence)[0, 0]
        cosines = normalize(video.frames[0], dim=-1) @ normalize(text.sentence[0], dim=-1)
        ways = (one.numpy(force=True)[: len(relevant)] for one in (weights, cosines, torch.zeros_like(cosines)))
        precisions.append([average_precision(one, relevant) for one in ways])
    weights, cosine, chance = (100 * np.mean(precisions, axis=0)).tolist()
    return {"its frame weights": weights, "cosine of sentence and frame": cosine, "chance": chance}


def average_precision(weights: np.ndarray, relevant: np.ndarray) -> float:
    """Average precision, a share, of ranking the Nf frames of a video by weight, given which are relevant.

    It is the mean, over the relevant frames, of the share of relevant ones among all down to their rank. Frames of
    equal weight stand in random order, and the result is the exact expectation over these orders.
    """
    weights, relevant = np.asarray(weights, np.float64), np.asarray(relevant, bool)
    if weights.shape != relevant.shape or not relevant.any() or np.isnan(weights).any():
        raise ValueError(f"{weights=} must be numbers, one for each frame, and a frame or more of {relevant=} true")
    total, before, hits = 0.0, 0, 0
    for weight in np.unique(weights)[::-1]:
        tied = relevant[weights == weight]
        count, wanted, place = len(tied), tied.sum(), np.arange(len(tied))
        # A relevant frame at some place of its tied group has, on average, this many relevant ones before it there.
        earlier = place * (wanted - 1) / max(1, count - 1)
        total += wanted / count * ((hits + 1 + earlier) / (before + 1 + place)).sum()
        before, hits = before + count, hits + wanted
    return float(total / hits)
