"""Near-duplicate videos of an index: the same pictures, whatever their encoding or size, or a bit of them cut off."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .candidates import Snapshot, frames_of
from .shards import take_snapshot
from .store import Store, explained

# Frames of one video whose cosine is not less count as one picture.
SAME_PICTURE = 0.95
# Pooled vectors of two videos may have this much less than the threshold (docs/search.md has the measurements).
MARGIN = 0.15
# Videos compared with a video frame by frame, the nearest by pooled vectors.
_NEIGHBOURS = 64
# At a time: videos whose pooled vectors meet those of all others, clips whose frames are in memory, frames of a video.
_BLOCK, _CLIPS, _FRAMES = 512, 4096, 4096


@dataclass
class Duplicate:
    """A video of a group of near-duplicates."""

    video_id: str
    path: str  # of its file when it was indexed
    duration: float  # seconds
    score: float  # with that video of the group which is most like it


def find_duplicates(store: Store, threshold: float) -> list[list[Duplicate]]:
    """[`VideoIndex.duplicates`]; memory grows with the pooled vectors of clips and videos, not with their frames."""
    with explained(store.uri):
        snapshot = take_snapshot(store)
        video_keys, pooled = snapshot.vectors()
    _, videos, counts = np.unique(video_keys, return_inverse=True, return_counts=True)
    clips_of = np.split(np.argsort(videos, kind="stable"), np.cumsum(counts)[:-1])
    best, group = np.zeros(len(counts)), np.arange(len(counts))

    def first_of(video: int) -> int:
        while group[video] != video:
            group[video] = group[group[video]]
            video = group[video]
        return video

    pairs = _candidates(_pooled(pooled, videos, len(counts)), threshold - MARGIN)
    for batch in _batches(pairs, counts):
        with explained(store.uri):
            frames = _frames(snapshot, {video: clips_of[video] for pair in batch for video in pair}, pooled.shape[1])
        for one, other in batch:
            score = frames_similarity(*frames[one], *frames[other])
            if score >= threshold:
                best[one], best[other] = max(best[one], score), max(best[other], score)
                group[first_of(other)] = first_of(one)
    found = np.flatnonzero(best)
    columns = ["video_id", "path", "duration"]
    with explained(store.uri):
        rows = snapshot.take(np.array([clips_of[video][0] for video in found], int), columns).select(columns)
    groups: dict[int, list[Duplicate]] = {}
    for video, row in zip(found.tolist(), rows.to_pylist(), strict=True):
        groups.setdefault(first_of(video), []).append(Duplicate(**row, score=float(best[video])))
    ordered = [sorted(members, key=lambda found: (-found.duration, found.path)) for members in groups.values()]
    return sorted(ordered, key=lambda members: (-max(found.score for found in members), members[0].path))


def frames_similarity(
    one: torch.Tensor, one_weights: torch.Tensor, other: torch.Tensor, other_weights: torch.Tensor
) -> float:
    """How much of each video is in the other: the mean of both directions of the weighted mean, over the frames of
    one video, of the cosine with the nearest frame of the other.

    Args:
        one, other: float32 [n, D] and [m, D], frames of norm 1.
        one_weights, other_weights: [n] and [m], from `picture_weights`.
    """
    nearest_one, nearest_other = [], torch.full((len(other),), -1.0)
    for block in one.split(_FRAMES):
        similarity = block @ other.T
        nearest_one.append(similarity.amax(dim=1))
        nearest_other = torch.maximum(nearest_other, similarity.amax(dim=0))
    return float(one_weights @ torch.cat(nearest_one) + other_weights @ nearest_other) / 2


def picture_weights(frames: torch.Tensor) -> torch.Tensor:
    """Weights [n] of the frames [n, D] of a video, which sum to 1: those that show one picture share one weight.

    So a start that is black or stands still counts as one frame, however long it is.
    """
    same = [(block @ frames.T >= SAME_PICTURE).sum(dim=1) for block in frames.split(_FRAMES)]
    weights = 1 / torch.cat(same).clamp(min=1).float()
    return weights / weights.sum()


def _pooled(pooled: torch.Tensor, videos: np.ndarray, count: int) -> torch.Tensor:
    """float32 [V, D], the mean of the pooled vectors of each video's clips, of norm 1."""
    sums = torch.zeros(count, pooled.shape[1])
    for numbers, vectors in zip(torch.from_numpy(videos).split(1 << 16), pooled.split(1 << 16), strict=True):
        sums.index_add_(0, numbers, vectors.float())
    return torch.nn.functional.normalize(sums, dim=1)


def _candidates(pooled: torch.Tensor, least: float) -> Iterator[tuple[int, int]]:
    """Pairs of videos, the smaller number first: each with the nearest of those that follow it."""
    for start in range(0, len(pooled), _BLOCK):
        cosines = pooled[start : start + _BLOCK] @ pooled[start:].T
        cosines.masked_fill_(torch.ones_like(cosines, dtype=torch.bool).tril_(), -2)
        values, nearest = cosines.topk(min(_NEIGHBOURS, cosines.shape[1]), dim=1)
        for one, place in (values >= least).nonzero().tolist():
            yield start + one, start + int(nearest[one, place])


def _batches(pairs: Iterator[tuple[int, int]], counts: np.ndarray) -> Iterator[list[tuple[int, int]]]:
    """Pairs whose videos have together no more than `_CLIPS` clips, or one pair."""
    batch: list[tuple[int, int]] = []
    videos: set[int] = set()
    for pair in pairs:
        if batch and counts[list(videos.union(pair))].sum() > _CLIPS:
            yield batch
            batch, videos = [], set()
        batch.append(pair)
        videos.update(pair)
    if batch:
        yield batch


def _frames(
    snapshot: Snapshot, clips_of: dict[int, np.ndarray], width: int
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Of some videos, all frames float32 [n, D] of all clips, of norm 1, and their weights."""
    rows = snapshot.take(np.concatenate(list(clips_of.values())), ["frames", "num_frames"])
    frames, num_frames = frames_of(rows, width)
    counted = np.arange(frames.shape[1]) < num_frames[:, None]
    found, start = {}, 0
    for video, clips in clips_of.items():
        part = slice(start, start + len(clips))
        own = torch.from_numpy(frames[part][counted[part]].astype(np.float32))
        own = torch.nn.functional.normalize(own, dim=1)
        found[video], start = (own, picture_weights(own)), part.stop
    return found
