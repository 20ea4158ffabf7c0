"""Search in two stages: pooled vectors propose candidates, GLCCL's exact scores rank them."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from ..features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures, Moment, find_moment
from ..modeling_glccl import GLCCLModel
from ..scoring_glccl import GLCCLTextState
from .candidates import Snapshot, matrix, read_ids
from .ranking import exact_logits, one_frame_logits, prepare_text, proxy_vectors
from .store import Store

# Clips of an index that are all scored exactly: no shortlist, no loss.
EXHAUSTIVE_CLIPS = 500
# How many clips the pooled vectors keep, and how many of them the one-frame scores keep for the exact ones.
SHORTLIST, CANDIDATES = 1000, 200
# Clips read at a time where all are scored.
_EXHAUSTIVE_CHUNK = 4096
# Clips of one video among the candidates, so that a film does not crowd out all others.
_CLIPS_PER_VIDEO = 5
_FRAME_COLUMNS = ("frames", "num_frames")
_RESULT_COLUMNS = ("video_id", "path", "start", "end", "duration")


@dataclass
class SearchResult:
    """One video that was found.

    Args:
        video_id: its id in the index.
        path: of its file when it was indexed.
        score: GLCCL's logit of query and best clip.
        start, end: seconds of that clip; the whole video unless it is a long one.
        duration: seconds of the video.
        moment: the span within the clip that the query is about; with `moments=True`.
        frame_times: float64 [n], seconds in the video of the clip's frames; with `moments=True`.
        frame_weights: float32 [n], GLIM's weights of the sentence over them, which sum to 1; with `moments=True`.
        word_weights: float32 [Nw, n], the same of every token, BOS and EOS included; with `moments=True`.
    """

    video_id: str
    path: str
    score: float
    start: float
    end: float
    duration: float
    moment: Moment | None = None
    frame_times: np.ndarray | None = None
    frame_weights: np.ndarray | None = None
    word_weights: np.ndarray | None = None


class _Scored(NamedTuple):
    """Some clips with their exact logits."""

    row_ids: np.ndarray
    logits: np.ndarray
    video_keys: np.ndarray


class Searcher:
    """Searches a store with a model, from any number of threads."""

    def __init__(self, store: Store, model: GLCCLModel):
        self._store = store
        self._model = model
        self._snapshot: Snapshot | None = None
        self._refreshing = threading.Lock()

    def search(
        self, texts: Sequence[GLCCLTextFeatures], k: int, moments: bool, exhaustive: bool
    ) -> list[list[SearchResult]]:
        """The k best videos for every text; the arguments are those of [`VideoIndex.search_features`]."""
        snapshot = self._refresh()
        prepared = [prepare_text(self._model, text) for text in texts]
        if exhaustive or len(snapshot) <= EXHAUSTIVE_CLIPS:
            scored = self._score_all(snapshot, prepared)
        else:
            scored = [
                self._score_candidates(snapshot, text, state, k) for text, state in zip(texts, prepared, strict=True)
            ]
        found = []
        columns = [*_RESULT_COLUMNS, "frame_times", *_FRAME_COLUMNS] if moments else _RESULT_COLUMNS
        for text, (row_ids, scores, keys) in zip(texts, scored, strict=True):
            best = _best_per_video(scores, keys)[:k]
            found.append(self._results(text, _take(snapshot, row_ids[best], columns), scores[best], moments))
        return found

    def _refresh(self) -> Snapshot:
        """The clips as they are now."""
        with self._refreshing:
            table = self._store.open_clips()
            if self._snapshot is None or self._snapshot.table.version != table.version:
                self._snapshot = Snapshot(table, self._store.about["width"], self._snapshot)
            return self._snapshot

    def _score_all(self, snapshot: Snapshot, texts: Sequence[GLCCLTextState]) -> list[_Scored]:
        """Of all clips, for every text."""
        row_ids, video_keys = read_ids(snapshot.table)
        scores = np.empty((len(texts), len(row_ids)), np.float32)
        for start in range(0, len(row_ids), _EXHAUSTIVE_CHUNK):
            part = slice(start, start + _EXHAUSTIVE_CHUNK)
            frames, num_frames = self._frames(_take(snapshot, row_ids[part], _FRAME_COLUMNS))
            for row, text in zip(scores, texts, strict=True):
                row[part] = exact_logits(self._model, text, frames, num_frames)[0].cpu().numpy()
        return [_Scored(row_ids, row, video_keys) for row in scores]

    def _score_candidates(
        self, snapshot: Snapshot, text: GLCCLTextFeatures, prepared: GLCCLTextState, k: int
    ) -> _Scored:
        """Of the clips that cheap scores propose."""
        vector = proxy_vectors(self._model, text)[0].cpu()
        shortlist, candidates = max(SHORTLIST, 20 * k), max(CANDIDATES, 3 * k)
        while True:
            clips = snapshot.nearest(vector, shortlist)
            order = one_frame_logits(self._model, text, clips.pooled).argsort(descending=True).cpu().numpy()
            kept = _first_of_each(clips.video_keys[order], _CLIPS_PER_VIDEO)[:candidates]
            chosen = order[kept]
            keys = clips.video_keys[chosen]
            # A few long videos can fill the shortlist.
            if len(np.unique(keys)) >= min(k, candidates) or len(clips.row_ids) < shortlist:
                break
            shortlist *= 4
        frames, num_frames = self._frames(_take(snapshot, clips.row_ids[chosen], _FRAME_COLUMNS))
        scores = exact_logits(self._model, prepared, frames, num_frames)[0].cpu().numpy()
        return _Scored(clips.row_ids[chosen], scores, keys)

    def _frames(self, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Of some clips, frames float16 [C, Nf, D] and how many of them count [C]."""
        shape = self._store.about["max_frames"], self._store.about["width"]
        frames = matrix(rows["frames"], shape[0] * shape[1]).reshape(-1, *shape)
        return frames, rows["num_frames"].to_numpy().copy()

    def _results(
        self, text: GLCCLTextFeatures, rows: pa.Table, scores: np.ndarray, moments: bool
    ) -> list[SearchResult]:
        found = rows.select(_RESULT_COLUMNS).to_pylist()
        results = [SearchResult(score=float(score), **row) for row, score in zip(found, scores, strict=True)]
        if not (moments and results):
            return results
        frames, num_frames = self._frames(rows)
        mask = torch.arange(frames.shape[1]) < torch.from_numpy(num_frames)[:, None]
        device = self._model.device
        video = GLCCLVideoFeatures(frames=torch.tensor(frames, device=device), frame_mask=mask.to(device))
        weights = self._model.frame_weights(text, video)
        sentence, words = weights.sentence[0].float().cpu().numpy(), weights.words[0].float().cpu().numpy()
        for row, (result, times) in enumerate(zip(results, rows["frame_times"].to_pylist(), strict=True)):
            result.frame_times = np.array(times)
            # With mask_padding=False padded frames have weights too, but no time.
            own, own_words = sentence[row, : len(times)], words[row, :, : len(times)]
            result.frame_weights = own / own.sum()
            result.word_weights = own_words / own_words.sum(axis=1, keepdims=True).clip(min=1e-12)
            result.moment = find_moment(result.frame_weights, result.frame_times, result.start, result.end)
        return results


def _take(snapshot: Snapshot, row_ids: np.ndarray, columns: Sequence[str]) -> pa.Table:
    """Columns of some clips, in their order."""
    if not len(row_ids):
        return snapshot.table.schema.empty_table().select(list(columns))
    rows = snapshot.table.take_row_ids(row_ids.tolist()).select(list(columns)).with_row_id().to_arrow()
    back = np.argsort(rows["_rowid"].to_numpy())[np.argsort(np.argsort(row_ids))]
    return rows.take(back)


def _best_per_video(scores: np.ndarray, video_keys: np.ndarray) -> np.ndarray:
    """Positions of the best clip of every video, best first."""
    order = np.argsort(-scores, kind="stable")
    return order[_first_of_each(video_keys[order], 1)]


def _first_of_each(values: np.ndarray, count: int) -> np.ndarray:
    """Ascending positions of the first `count` occurrences of every value."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, values[order][1:] != values[order][:-1]])
    nth = np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))
    return np.sort(order[nth < count])
