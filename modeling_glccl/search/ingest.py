"""Video files -> records in the store: which files need work, parallel decoding, batched encoding, commits."""

import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from tqdm.auto import tqdm

from ..modeling_glccl import GLCCLModel
from ..processing_glccl import GLCCLProcessor
from ..video_files import printable, why_no_file
from .clips import Clip, ClipReader, ClipSettings
from .store import ERROR, ClipFeatures, Store, VideoRecord

# Files looked up in the store at a time.
_CHUNK = 256
# A kill loses at most this many videos, or what was encoded in this many seconds.
_COMMIT_VIDEOS = 256
_COMMIT_SECONDS = 30.0
# Commits after which the indexes by which files are looked up are brought up to date.
_INDEX_COMMITS = 64


@dataclass
class IngestReport:
    """What a call did, in numbers of videos.

    Args:
        added: new in the index.
        changed: encoded again, because their content changed.
        moved: found under another path, and not encoded again.
        copied: of the same content as another video, and not encoded again.
        unchanged: passed over.
        failed: recorded with an error; `VideoIndex.errors` lists them.
        removed: dropped, because their file is no longer there.
        seconds: that the call took.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    copied: int = 0
    unchanged: int = 0
    failed: int = 0
    removed: int = 0
    seconds: float = 0.0


@dataclass
class Job:
    """One file that needs work, and how far it has got.

    Args:
        record: what will be written.
        kind: the count of [`IngestReport`] it belongs to.
        decode: whether there is something to decode and encode.
        errors: of clips that the model could not encode.
    """

    record: VideoRecord
    kind: str
    decode: bool = True
    errors: list[str] = field(default_factory=list)


def plan(store: Store, videos: Mapping[str, str], retry_failed: bool, report: Counter) -> Iterator[Job]:
    """The files that need work, in order; counts the others as unchanged.

    A file of known size and modification time is unchanged. One of known content is moved if the file that had it is
    gone, else copied; both get the features that are there.
    """
    items = list(videos.items())
    for start in range(0, len(items), _CHUNK):
        chunk = dict(items[start : start + _CHUNK])
        columns = ["video_id", "path", "size", "mtime_ns", "sha256", "status", "error", "clip"]
        known = {row["video_id"]: row for row in store.select(columns, "video_id", list(chunk)) if row["clip"] == 0}
        records = []
        for video_id, path in chunk.items():
            record = _examine(video_id, path)
            row = known.get(video_id)
            same_file = row and all(row[name] == getattr(record, name) for name in ("path", "size", "mtime_ns"))
            if same_file and not (retry_failed and row["error"]):
                report["unchanged"] += 1
                continue
            if not record.error:
                try:
                    record.sha256 = _hash(path)
                except OSError as error:
                    record.error = f"{path}: cannot be read: {error.strerror or error}"
            records.append(record)
        hashes = sorted({record.sha256 for record in records if record.sha256})
        same = {row["sha256"]: row for row in store.select(columns, "sha256", hashes) if row["status"] != ERROR}
        for record in records:
            row, other = known.get(record.video_id), same.get(record.sha256)
            stored = None
            if other and not (retry_failed and other["error"]):
                # Another process may have changed it since.
                stored = store.read(other["video_id"], record.sha256)
            if stored is None:
                kind = "changed" if row and row["sha256"] != record.sha256 else "added"
                yield Job(record, kind, decode=not record.error)
                continue
            record.duration, record.clips, record.error = stored.duration, stored.clips, stored.error
            kind = "moved"
            if stored.path == record.path:  # touched
                kind = "unchanged"
            elif stored.video_id != record.video_id and os.path.exists(stored.path):
                kind = "copied"
            elif stored.video_id != record.video_id:
                record.moved_from = stored.video_id
            yield Job(record, kind, decode=False)


def finish_here(
    jobs: Iterator[Job],
    model: GLCCLModel,
    processor: GLCCLProcessor,
    settings: ClipSettings,
    *,
    num_workers: int,
    batch_size: int,
) -> Iterator[Job]:
    """Decodes and encodes jobs in this process; yields them as they are finished.

    Threads decode and wait while `2 * batch_size` clips are decoded but not encoded, so memory does not depend on the
    number or length of the videos.
    """
    with _Decoders(jobs, processor, settings, num_workers, 2 * batch_size) as decoders:
        while batch := decoders.take(batch_size):
            encode([(job, clip) for job, clip in batch if clip is not None], model)
            for job, clip in batch:
                if clip is None:
                    job.record.error = "; ".join(filter(None, [job.record.error, *job.errors]))
                    yield job


def ingest(store: Store, finished: Iterator[Job], total: int, report: Counter, progress: bool) -> None:
    """Commits jobs as they are finished. Every commit is whole: a kill loses the videos since the last one."""
    done: list[Job] = []
    committed_at, commits = time.monotonic(), 0
    with tqdm(total=total, desc="indexing", unit="video", disable=not progress) as bar:
        for job in finished:
            done.append(job)
            if len(done) >= _COMMIT_VIDEOS or time.monotonic() - committed_at > _COMMIT_SECONDS:
                commit(store, done, report)
                commits += 1
                if commits % _INDEX_COMMITS == 0:
                    store.compact(growing=True)
                done, committed_at = [], time.monotonic()
            bar.update(sum(report.values()) + len(done) - bar.n)
        commit(store, done, report)
        bar.update(sum(report.values()) - bar.n)
    store.compact()


def commit(store: Store, done: Sequence[Job], report: Counter) -> None:
    """Writes finished jobs and counts them."""
    written = {id(record) for record in store.commit([job.record for job in done])}
    for job in done:
        if not job.record.clips:
            report["failed"] += 1
        else:
            report[job.kind if id(job.record) in written else "unchanged"] += 1


@torch.inference_mode()
def encode(batch: Sequence[tuple[Job, Clip]], model: GLCCLModel) -> None:
    """Gives the jobs of some clips their features. Clips that the model cannot encode leave an error behind."""
    if not batch:
        return
    clips = [clip for _, clip in batch]
    slots = max(len(clip.mask) for clip in clips)
    pixels = torch.stack([pad(clip.pixels, (0, 0) * 3 + (0, slots - len(clip.mask))) for clip in clips])
    mask = torch.stack([pad(clip.mask, (0, slots - len(clip.mask))) for clip in clips])
    try:
        video = model.get_video_features(pixels.to(model.device, model.dtype), mask.to(model.device))
        frames = video.frames.to(torch.float16).cpu().numpy()
        counted = video.frame_mask.cpu().numpy()
        if not np.isfinite(frames).all():
            raise ValueError("features beyond the range of float16, in which an index keeps them")
    except ValueError as error:
        if len(batch) > 1:  # to blame the right one
            for item in batch:
                encode([item], model)
            return
        job, clip = batch[0]
        job.errors.append(f"{clip.start:.1f}-{clip.end:.1f} s: {error}")
        return
    for (job, clip), video_frames, video_counted in zip(batch, frames, counted, strict=True):
        job.record.clips.append(ClipFeatures(clip.start, clip.end, clip.times, video_frames[video_counted]))


class _Decoders:
    """Threads that turn jobs into clips; FFmpeg and the resizing release Python's lock.

    The clips of a job come out in order, and then the job once more without a clip.
    """

    def __init__(
        self, jobs: Iterator[Job], processor: GLCCLProcessor, settings: ClipSettings, num_workers: int, capacity: int
    ):
        self._processor, self._settings = processor, settings
        self._jobs: Queue[Job | None] = Queue(2 * num_workers)
        self._clips: Queue[tuple[Job, Clip | None] | BaseException | None] = Queue(capacity)
        self._stopped = threading.Event()
        self._running = num_workers
        targets = [(self._feed, jobs)] + [(self._decode, None)] * num_workers
        self._threads = [threading.Thread(target=self._run, args=target, daemon=True) for target in targets]

    def __enter__(self) -> "_Decoders":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def take(self, count: int) -> list[tuple[Job, Clip | None]]:
        """Up to `count` clips, fewer only at the end; empty once everything has been taken."""
        batch, clips = [], 0
        while self._running and clips < count and len(batch) < 4 * count:
            item = self._clips.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                self._running -= 1
                continue
            batch.append(item)
            clips += item[1] is not None
        return batch

    def _run(self, work: Any, argument: Any) -> None:
        try:
            work(argument)
        except _Stopped:
            pass
        except BaseException as error:
            self._put(self._clips, error)

    def _feed(self, jobs: Iterator[Job]) -> None:
        for job in jobs:
            self._put(self._jobs, job)
        for _ in self._threads[1:]:
            self._put(self._jobs, None)

    def _decode(self, _: None) -> None:
        while (job := self._get(self._jobs)) is not None:
            if job.decode:
                self._decode_job(job)
            self._put(self._clips, (job, None))
        self._put(self._clips, None)

    def _decode_job(self, job: Job) -> None:
        reader = ClipReader(job.record.path, self._processor, self._settings)
        try:
            for clip in reader:
                self._put(self._clips, (job, clip))
            job.record.error = "; ".join(reader.errors)
        except _Stopped:
            raise
        except Exception as error:
            job.record.error = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        job.record.duration = reader.duration

    def _put(self, queue: Queue, item: Any) -> None:
        while not self._stopped.is_set():
            try:
                return queue.put(item, timeout=0.1)
            except Full:
                continue
        raise _Stopped

    def _get(self, queue: Queue) -> Any:
        while not self._stopped.is_set():
            try:
                return queue.get(timeout=0.1)
            except Empty:
                continue
        raise _Stopped


class _Stopped(Exception):
    """The threads end: nobody takes their results any more."""


def _examine(video_id: str, path: str) -> VideoRecord:
    record = VideoRecord(video_id, printable(path))
    if reason := why_no_file(path):
        record.error = f"{record.path}: {reason}"
        return record
    if record.path != path:
        record.error = f"{record.path}: its name is not UTF-8; rename it"
    status = os.stat(path)
    record.size, record.mtime_ns = status.st_size, status.st_mtime_ns
    return record


def _hash(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
