"""Video files -> records in the store: which files need work, parallel decoding, batched encoding, commits."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from threading import Event, Lock, Semaphore, Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..modeling_glccl import GLCCLModel
from ..processing_glccl import GLCCLProcessor
from ..video_files import printable, why_no_file
from .clips import Clip, ClipSettings, read_clips
from .store import OK, ClipFeatures, Store, VideoRecord, is_in

# Files looked up in the store at a time.
_CHUNK = 256
# A kill loses at most this many videos, or what was encoded in this many seconds.
_COMMIT_VIDEOS = 256
_COMMIT_SECONDS = 30.0
# Commits after which the indexes by which files are looked up are brought up to date.
_INDEX_COMMITS = 64


@dataclass
class IngestReport:
    """What a call did, in numbers of videos."""

    added: int = 0  # new in the index
    changed: int = 0  # encoded again, because their content changed
    moved: int = 0  # found under another path, and not encoded again
    copied: int = 0  # of the same content as another video, and not encoded again
    unchanged: int = 0  # passed over
    failed: int = 0  # recorded with an error; `VideoIndex.errors` lists them
    removed: int = 0  # dropped, because their file is no longer there
    subtitled: int = 0  # whose subtitles or transcript are new or have changed
    seconds: float = 0.0  # that the call took


@dataclass
class Job:
    """One file that needs work, and how far it has got."""

    record: VideoRecord  # what will be written
    old_sha256: str | None = None  # of the content that the index has under this id, if any
    known: Set[str] = frozenset()  # what the index has of files of this size; such content is copied, not encoded
    errors: list[str] = field(default_factory=list)  # why the file, or some of its clips, could not be used


def plan(store: Store, videos: Mapping[str, str], retry_failed: bool, report: Counter[str]) -> Iterator[Job]:
    """The files that need work, in order; counts as unchanged those of known size and modification time.

    No file is opened here: decoding can begin at once, and each file is hashed when its turn comes.
    """
    items = list(videos.items())
    for start in range(0, len(items), _CHUNK):
        chunk = dict(items[start : start + _CHUNK])
        columns = ["video_id", "path", "size", "mtime_ns", "sha256", "error"]
        indexed = {row["video_id"]: row for row in store.videos(columns, is_in("video_id", chunk))}
        jobs = []
        for video_id, path in chunk.items():
            job = Job(VideoRecord(video_id, printable(path)))
            record = job.record
            if reason := why_no_file(path):
                job.errors.append(f"{record.path}: {reason}")
            else:
                status = os.stat(path)
                record.size, record.mtime_ns = status.st_size, min(status.st_mtime_ns, 2**63 - 1)  # of the year 2262
                if record.path != path:
                    job.errors.append(f"{record.path}: its name is not UTF-8; rename it")
            if row := indexed.get(video_id):
                job.old_sha256 = row["sha256"]
                same_file = all(row[name] == getattr(record, name) for name in ("path", "size", "mtime_ns"))
                if same_file and not (retry_failed and row["error"]):
                    report["unchanged"] += 1
                    continue
            jobs.append(job)
        known: dict[int, set[str]] = {job.record.size: set() for job in jobs}
        for row in store.videos(["size", "sha256", "error"], f"status = '{OK}' AND {is_in('size', known)}"):
            if not (retry_failed and row["error"]):
                known[row["size"]].add(row["sha256"])
        for job in jobs:
            job.known = known[job.record.size]
            yield job


class IngestSettings(NamedTuple):
    """What jobs are finished with."""

    model: GLCCLModel
    processor: GLCCLProcessor
    clips: ClipSettings
    num_workers: int  # that decode
    batch_size: int  # clips encoded at a time


def finish_here(jobs: Iterator[Job], settings: IngestSettings) -> Iterator[Job]:
    """Hashes, decodes and encodes jobs in this process; yields them as they are finished.

    What is decoded is encoded, `batch_size` clips at most: the cores that encode wait for no batch to be full.
    """
    for results in _decode_in_threads(jobs, settings):
        _encode([(job, clip) for job, clip in results if clip is not None], settings.model)
        yield from (job for job, clip in results if clip is None)


def _decode_in_threads(jobs: Iterator[Job], settings: IngestSettings) -> Iterator[list[tuple[Job, Clip | None]]]:
    """What is decoded by now: the clips of every job in order, and then the job once more without a clip.

    FFmpeg and the resizing release Python's lock. Threads wait while `2 * batch_size` results are not taken, so memory
    does not depend on the number or length of the videos.
    """
    results: SimpleQueue[tuple[Job, Clip | None] | BaseException | None] = SimpleQueue()
    room, turn, stopped = Semaphore(2 * settings.batch_size), Lock(), Event()

    def work() -> None:
        try:
            while True:
                with turn:
                    job = next(jobs, None)
                if job is None:
                    return results.put(None)
                for clip in _decode(job, settings):
                    room.acquire()
                    if stopped.is_set():
                        return None
                    results.put((job, clip))
        except BaseException as error:
            results.put(error)

    threads = [Thread(target=work, daemon=True) for _ in range(settings.num_workers)]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            batch, clips = [], 0
            full = (settings.batch_size, 4 * settings.batch_size)  # clips, and with those that were known
            while running and (not batch or not (results.empty() or clips == full[0] or len(batch) == full[1])):
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                if result is None:
                    running -= 1
                else:
                    room.release()
                    batch.append(result)
                    clips += result[1] is not None
            yield batch
    finally:
        stopped.set()
        room.release(len(threads))
        for thread in threads:
            thread.join()


def _decode(job: Job, settings: IngestSettings) -> Iterator[Clip | None]:
    """The clips of a file whose content is not known, and at last None."""
    record = job.record
    if not job.errors:
        try:
            with open(record.path, "rb") as file:
                record.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            job.errors.append(f"{record.path}: cannot be read: {error.strerror or error}")
    if not job.errors and record.sha256 not in job.known:
        try:
            for clip in read_clips(record.path, settings.processor, settings.clips, job.errors):
                record.duration = clip.duration
                yield clip
        except Exception as error:
            job.errors.append(str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
    yield None


@torch.inference_mode()
def _encode(batch: Sequence[tuple[Job, Clip]], model: GLCCLModel) -> None:
    """Gives the jobs of some clips their features. Clips that the model cannot encode leave an error behind."""
    if not batch:
        return
    pixels = torch.stack([clip.pixels for _, clip in batch])
    mask = torch.stack([clip.mask for _, clip in batch])
    encoder = model
    if model.device.type == "cpu":  # a GPU waits for the decoding anyway
        encoder = copy(model)  # other threads may use the model; the weights are shared
        vars(encoder)["_encode_frames"] = partial(_encode_once, model._encode_frames)
    try:
        video = encoder.get_video_features(pixels.to(model.device, model.dtype), mask.to(model.device))
        frames = video.frames.to(torch.float16).cpu().numpy()
        counted = video.frame_mask.cpu().numpy()
        if not np.isfinite(frames).all():
            raise ValueError("features beyond the range of float16, in which an index keeps them")
    except ValueError as error:
        if len(batch) > 1:  # to blame the right one
            for item in batch:
                _encode([item], model)
            return
        job, clip = batch[0]
        job.errors.append(f"{clip.start:.1f}-{clip.end:.1f} s: {error}")
        return
    for (job, clip), video_frames, video_counted in zip(batch, frames, counted, strict=True):
        job.record.clips.append(ClipFeatures(clip.start, clip.end, clip.times, video_frames[video_counted]))


def _encode_once(encode: Callable[..., Any], pixels: Tensor, **outputs: Any) -> BaseModelOutputWithPooling:
    """`encode` of frames [N, 3, H, W], those of slides and stills once. To tell them costs 1 % of their encoding."""
    numbers: dict[bytes, int] = {}
    frames = pixels.contiguous().view(torch.uint8).numpy()
    rows = [numbers.setdefault(hashlib.sha256(frame).digest(), len(numbers)) for frame in frames]
    if len(numbers) < len(rows):
        pixels = pixels[[rows.index(number) for number in range(len(numbers))]]
    return BaseModelOutputWithPooling(pooler_output=encode(pixels, **outputs).pooler_output[rows])


def ingest(
    store: Store,
    jobs: Iterator[Job],
    finish: Callable[[Iterator[Job]], Iterator[Job]],
    total: int,
    report: Counter[str],
    progress: bool,
) -> None:
    """Commits jobs as they are finished. Every commit is whole: a kill loses the videos since the last one."""
    done: list[tuple[VideoRecord, str]] = []
    again: list[Job] = []
    committed_at, commits = time.monotonic(), 0
    with tqdm(total=total, desc="indexing", unit="video", disable=not progress) as bar:
        for job in finish(jobs):
            kind = _settle(store, job)
            if kind is None:
                again.append(Job(job.record, job.old_sha256))
                continue
            done.append((job.record, kind))
            if len(done) >= _COMMIT_VIDEOS or time.monotonic() - committed_at > _COMMIT_SECONDS:
                _commit(store, done, report)
                commits += 1
                if commits % _INDEX_COMMITS == 0:
                    store.compact(growing=True)
                done, committed_at = [], time.monotonic()
            bar.update(sum(report.values()) + len(done) - bar.n)
        _commit(store, done, report)
        bar.update(sum(report.values()) - bar.n)
    if again:
        ingest(store, iter(again), finish, len(again), report, progress)
    store.compact()


def _settle(store: Store, job: Job) -> str | None:
    """Copies features that the index has; the count of [`IngestReport`] to which a finished job belongs.

    None if another process has dropped meanwhile what was to be copied.
    """
    record = job.record
    if record.clips or job.errors:
        record.error = "; ".join(job.errors)
        return "added" if job.old_sha256 in (None, record.sha256) else "changed"
    condition = f"status = '{OK}' AND {is_in('size', [record.size])} AND {is_in('sha256', [record.sha256])}"
    same = min(
        store.videos(["video_id", "path", "error"], condition),
        # Its own features may only need a new path; what is gone has moved; and what is there was copied.
        key=lambda row: (bool(row["error"]), row["video_id"] != record.video_id, os.path.exists(row["path"])),
        default=None,
    )
    stored = None if same is None else store.read(same["video_id"], record.sha256)
    if stored is None:
        return None
    record.duration, record.clips, record.error = stored.duration, stored.clips, stored.error
    if stored.video_id == record.video_id:
        return "unchanged" if stored.path == record.path else "moved"
    if os.path.exists(stored.path):
        return "copied"
    record.moved_from = stored.video_id
    return "moved"


def _commit(store: Store, done: Sequence[tuple[VideoRecord, str]], report: Counter[str]) -> None:
    """Writes finished records and counts them."""
    written = {id(record) for record in store.commit([record for record, _ in done])}
    for record, kind in done:
        report["failed" if not record.clips else kind if id(record) in written else "unchanged"] += 1
