"""Search in two stages: pooled vectors propose candidates, GLCCL's exact scores rank them."""

import re
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from lancedb.table import Table

from ..confidence import FOLLOWING, confidences
from ..features_glccl import GLCCLVideoFeatures, Moment, find_moment
from ..modeling_glccl import GLCCLModel
from ..processing_glccl import GLCCLProcessor
from .candidates import Snapshot, first_of_each, frames_of
from .filters import Filters, NothingPassesError
from .queries import Query
from .ranking import exact_logits, prepare_text
from .shards import take_snapshot
from .store import Store, explained, is_in
from .words import Cue, find_words

# Clips of an index that are all scored exactly: no shortlist, no loss.
EXHAUSTIVE_CLIPS = 500
# Clips whose frames are in memory at a time.
_CHUNK = 4096
# The best of two lists that are fused, at least, and the constant added to their ranks.
FUSED, _RANK_CONSTANT = 10, 60
_FRAME_COLUMNS = ["frames", "num_frames"]
_RESULT_COLUMNS = ["video_id", "path", "start", "end", "duration", "mtime_ns"]


@dataclass
class SearchResult:
    """One video that was found; `moment` and what follows it with `moments=True`."""

    video_id: str
    path: str  # of its file when it was indexed
    score: float  # of query and best clip, GLCCL's logit unless `measure` says otherwise
    start: float  # seconds of that clip, which is the whole video unless it is a long one
    end: float
    duration: float  # seconds of the video
    measure: str = "logit"  # or "similarity" to an example's frames, "combined", "words", "fused" (docs/search.md)
    mtime_ns: int = 0  # when its file was last changed, nanoseconds since 1970
    confidence: float | None = None  # 0..1 that the library has what was asked for; None before `glccl calibrate`
    found_by: str = "frames"  # or "words", or "frames and words"
    words: Cue | None = None  # what is said, where it was found by that
    moment: Moment | None = None  # the span within the clip that the query is about, or in which its words are said
    frame_times: np.ndarray | None = None  # float64 [n], seconds in the video of the clip's frames
    frame_weights: np.ndarray | None = None  # float32 [n], GLIM's weights of the sentence over them, which sum to 1
    word_weights: np.ndarray | None = None  # float32 [Nw, n], the same of every token, BOS and EOS included


class Searcher:
    """Searches a store with a model, from any number of threads."""

    def __init__(self, store: Store, model: GLCCLModel, processor: GLCCLProcessor):
        self.model, self.processor = model, processor
        self._store = store
        self._snapshot: Snapshot | None = None
        self._refreshing = threading.Lock()

    def search(
        self, queries: Sequence[Query], k: int, moments: bool, exhaustive: bool, filters: Filters
    ) -> list[list[SearchResult]]:
        """The k best videos for every query; the arguments are those of [`VideoIndex.search_features`]."""
        snapshot = self._filtered(self.snapshot(), filters)
        with explained(self._store.uri):
            table = self._store.open_words() if any(query.words for query in queries) else None
        # Of the filters, `where` alone can tell clips of one video apart.
        said = [self._said(table, snapshot, query, max(k, FUSED), moments, bool(filters.where)) for query in queries]
        every = exhaustive or len(snapshot) <= EXHAUSTIVE_CLIPS
        together = [query for query in queries if query.parts]
        scored = iter(self._score(snapshot, np.arange(len(snapshot)), together) if every else [])
        found = []
        for query, by_words in zip(queries, said, strict=True):
            count, by_frames = max(k, FUSED) if by_words else k, []
            if query.parts:
                if not every:
                    clips = snapshot.candidates(self.model, query, count + FOLLOWING)
                    scored = iter(self._score(snapshot, clips, [query]))
                clips, keys, scores, rows = next(scored)
                order = np.argsort(-scores, kind="stable")
                best = order[first_of_each(keys[order], 1)][: count + FOLLOWING]
                taken = None if rows is None else rows.take(best[:count])
                by_frames = self._results(snapshot, query, clips[best[:count]], scores[best], moments, taken=taken)
            if query.parts and (by_words or query.measure == "fused"):
                found.append(fuse(by_frames, by_words, k))
            else:
                found.append((by_frames or by_words)[:k])
        return found

    def _said(
        self, table: Table | None, snapshot: Snapshot, query: Query, k: int, moments: bool, within_clips: bool
    ) -> list[SearchResult]:
        """The k best videos for the words of a query."""
        if not (query.words and len(snapshot)):
            return []
        with explained(self._store.uri):
            if not query.every_word and (table is None or not table.count_rows("cue > 0")):
                raise ValueError(
                    f"{self._store.uri}: holds no words: put subtitle files (.srt, .vtt) beside the videos and run "
                    "glccl index again, or transcribe them with --speech MODEL"
                )
            if table is None:
                return []
            clips, cues, scores = find_words(table, snapshot, query, k, within_clips)
        results = self._results(snapshot, query, clips, scores, moments and bool(query.parts), measure="words")
        for result, cue in zip(results, cues, strict=True):
            result.found_by, result.words = "words", cue
            result.moment = Moment(cue.start, cue.end, cue.start) if moments else None
        return results

    def snapshot(self) -> Snapshot:
        """The clips as they are now."""
        with self._refreshing, explained(self._store.uri):
            self._snapshot = take_snapshot(self._store, self._snapshot)
            return self._snapshot

    def _filtered(self, snapshot: Snapshot, filters: Filters) -> Snapshot:
        condition = filters.condition()
        if not (condition and len(snapshot)):
            return snapshot
        uri = self._store.uri
        if filters.ids is not None:
            known = {row["video_id"] for row in self._store.videos(["video_id"], is_in("video_id", filters.ids))}
            if unknown := [video_id for video_id in filters.ids if video_id not in known]:
                raise ValueError(f"{uri}: has no video with the id {unknown[0]!r} (ids)")
        with explained(uri):
            try:
                snapshot = snapshot.filtered(condition)
            except (ValueError, RuntimeError) as error:
                if filters.where is None:
                    raise
                reason = re.sub(r", \S+\.rs:[\d:]+$", "", " ".join(str(error).split()))
                raise ValueError(f"{uri}: where={filters.where!r}: {reason}") from error
            if not len(snapshot):
                raise NothingPassesError(f"{uri}: no video passes the filter: {str(filters)[:300]}")
        return snapshot

    def _take(self, snapshot: Snapshot, clips: np.ndarray, columns: list[str]) -> pa.Table:
        with explained(self._store.uri):
            return snapshot.take(clips, columns)

    def _score(
        self, snapshot: Snapshot, clips: np.ndarray, queries: Sequence[Query]
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, pa.Table | None]]:
        """For each query int64 [C] clips, keys of their videos, and exact scores float32 [C]; their rows if few.

        In the order of ids and clips, `_CHUNK` at a time, so that neither rounding nor the order of equal scores
        depends on where the index has them.
        """
        if not queries:
            return []
        rows, few = None, len(clips) <= _CHUNK  # then what a result says comes with the frames, for little more
        columns = ["clip", "video_key", *_FRAME_COLUMNS, *(_RESULT_COLUMNS if few else ["video_id"])]
        clips, keys = clips.copy(), np.empty(len(clips), np.int64)
        scores = np.empty((len(queries), len(clips)), np.float32)
        prepared = [[prepare_text(self.model, part) for part in query.parts] for query in queries]
        for start in range(0, len(clips), _CHUNK):
            part = slice(start, start + _CHUNK)
            rows = self._take(snapshot, clips[part], columns)
            names = list(zip(rows["video_id"].to_pylist(), rows["clip"].to_pylist(), strict=True))
            order = sorted(range(len(names)), key=names.__getitem__)
            rows = rows.take(order)
            clips[part], keys[part] = clips[part][order], rows["video_key"].to_numpy()
            frames, num_frames = frames_of(rows, self._store.about["width"])
            for row, query, texts in zip(scores, queries, prepared, strict=True):
                logits = torch.stack([exact_logits(self.model, text, frames, num_frames) for text in texts])
                row[part] = query.combine(logits).cpu().numpy()
        return [(clips, keys, of_query, rows if few else None) for of_query in scores]

    def _results(
        self,
        snapshot: Snapshot,
        query: Query,
        clips: np.ndarray,
        scores: np.ndarray,
        moments: bool,
        measure: str | None = None,
        taken: pa.Table | None = None,
    ) -> list[SearchResult]:
        """Of the clips, best first; `scores` has the logits of `FOLLOWING` more, which follow them."""
        measure = measure or query.measure
        weights = self.model.config.confidence_weights if measure == "logit" else None
        unit = self.model.clip.logit_scale.exp().item() if measure == "similarity" else 1
        frames_needed = moments or weights is not None
        columns = [*_RESULT_COLUMNS, *_FRAME_COLUMNS] if frames_needed else _RESULT_COLUMNS
        rows = self._take(snapshot, clips, columns) if taken is None else taken
        found = rows.select(_RESULT_COLUMNS).to_pylist()
        results = [
            SearchResult(score=float(score) / unit, measure=measure, **row)
            for row, score in zip(found, scores, strict=False)
        ]
        if not (frames_needed and results):
            return results
        frames, num_frames = frames_of(rows, self._store.about["width"])
        mask = torch.arange(frames.shape[1]) < torch.from_numpy(num_frames)[:, None]
        video = GLCCLVideoFeatures(frames=torch.tensor(frames), frame_mask=mask).to(self.model.device)
        if weights is not None:
            four = torch.cat(self.model.get_scores(query.about, video).to_tuple()).cpu().numpy()
            for result, confidence in zip(results, confidences(weights, four, scores), strict=True):
                result.confidence = float(confidence)
        if not moments:
            return results
        glim = self.model.frame_weights(query.about, video)
        assert glim.sentence is not None  # as of every model with GLIM
        assert glim.words is not None
        sentence, words = glim.sentence[0].float().cpu().numpy(), glim.words[0].float().cpu().numpy()
        frame_times = self._take(snapshot, clips, ["frame_times"])["frame_times"].to_pylist()
        for row, (result, times) in enumerate(zip(results, frame_times, strict=True)):
            # With mask_padding=False padded frames have weights too, but no time.
            own, own_words = sentence[row, : len(times)], words[row, :, : len(times)]
            own /= own.sum()
            result.frame_times, result.frame_weights = np.array(times), own
            if query.texts:
                result.word_weights = own_words / own_words.sum(axis=1, keepdims=True).clip(min=1e-12)
            result.moment = find_moment(own, result.frame_times, result.start, result.end)
            if not result.moment.start <= result.moment.peak <= result.moment.end:  # nor where one is not a number
                raise ValueError(f"{self._store.uri}: the times of {result.path} are damaged; index the videos anew")
        return results


def fuse(by_frames: Sequence[SearchResult], by_words: Sequence[SearchResult], k: int) -> list[SearchResult]:
    """The k best of both lists, each video once: by the mean of 61 / (60 + rank), 1 for a video that leads both.

    Of equal ones the list by words comes first: frames rank every video, words only those that say them. A video of
    both lists keeps the moment at which the words are said.
    """
    scores, seen = defaultdict(float), {result.video_id: result for result in by_frames}
    said = {result.video_id: result for result in by_words}
    for results in (by_words, by_frames):
        for rank, result in enumerate(results, 1):
            scores[result.video_id] += (_RANK_CONSTANT + 1) / (_RANK_CONSTANT + rank) / 2
    fused = []
    for video_id in sorted(scores, key=lambda video_id: -scores[video_id])[:k]:
        result = said.get(video_id) or seen[video_id]
        found_by = "frames and words" if video_id in seen and video_id in said else result.found_by
        fused.append(replace(result, score=scores[video_id], measure="fused", confidence=None, found_by=found_by))
    return fused
