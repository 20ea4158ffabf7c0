"""What is said in videos: subtitle files beside them, subtitle tracks in them, or transcripts, as cues with times."""

import codecs
import io
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.error import FFmpegError
from lancedb.query import FullTextOperator, MatchQuery
from lancedb.table import Table
from tqdm.auto import tqdm

from ..packaged import install_line
from ..video_files import SUBTITLE_SUFFIXES, harmless, why_no_file
from ..video_streams_glccl import demux, open_video
from .candidates import Snapshot
from .queries import Query
from .store import OK, Store, is_in

# A subtitle file may have so many bytes, each source of a video so many cues, and a cue so many characters.
MAX_BYTES, MAX_CUES, MAX_CUE_CHARACTERS = 2**24, 50_000, 2000
# Videos looked up and committed at a time, or what was read in so many seconds.
_CHUNK, _COMMIT_SECONDS = 256, 30.0
# What may stand between the name of a video and .srt: .en, .pt-BR, .en.forced
_LANGUAGE = re.compile(r"\.[a-z]{2,3}(-[a-z0-9]+)*(\.(forced|sdh|cc))?$", re.IGNORECASE)
_STATE = ["video_key", "stamp", "source", "error"]


class Cue(NamedTuple):
    """What is said from `start` to `end`, seconds in the video."""

    start: float
    end: float
    text: str


def find_sidecars(folder: str) -> dict[str, list[str]]:
    """Name of a video without its suffix -> the subtitle files of a folder that belong to it."""
    found = defaultdict(list)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUBTITLE_SUFFIXES:
            for video in {stem, _LANGUAGE.sub("", stem)}:
                found[video].append(os.path.join(folder, name))
    return found


def sidecar_states(path: str, sidecars: dict[str, list[str]]) -> list[tuple[str, int, int]]:
    """(path, size, mtime_ns) of the subtitle files of a video, by which a change is noticed."""
    states = []
    for file in sidecars.get(os.path.splitext(os.path.basename(path))[0], ()):
        try:
            status = os.stat(file)
            states.append((file, status.st_size, status.st_mtime_ns))
        except OSError:  # a broken link, or gone meanwhile
            states.append((file, 0, 0))
    return states


def read_sidecar(path: str, errors: list[str]) -> list[Cue]:
    """The cues of a SubRip or WebVTT file; what cannot be read leaves a line in `errors`, or is an OSError."""
    if reason := why_no_file(path):
        errors.append(f"{path}: {reason}")
        return []
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        errors.append(f"{path}: has more than {MAX_BYTES:,} bytes, too many for subtitles")
        return []
    utf_16, text = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)), "\0"
    for encoding in ("utf-16" if utf_16 else "utf-8-sig", "cp1252"):
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    if "\0" in text:
        errors.append(f"{path}: is no text in UTF-8, UTF-16 (with a byte order mark) or cp1252; save it as UTF-8")
        return []
    cues, before = [], len(errors)
    # FFmpeg parses what is in memory, in a format that opens nothing else.
    kind = "webvtt" if text.lstrip().startswith("WEBVTT") else "srt"
    try:
        with av.open(io.BytesIO(text.encode()), format=kind) as container:
            cues = _read_streams(container, container.streams.subtitles, path, errors)
    except FFmpegError as error:
        errors.append(f"{path}: {error}")
    if not cues and len(errors) == before:
        errors.append(f"{path}: holds no subtitles; expected is SubRip (.srt) or WebVTT (.vtt)")
    return cues


def read_tracks(path: str, errors: list[str]) -> list[Cue]:
    """The cues of all subtitle tracks of a video that are text; raises ValueError if it cannot be opened."""
    with open_video(path, warn=False) as (container, _):
        decoders = [(stream, stream.codec_context) for stream in container.streams.subtitles]
        tracks = [stream for stream, codec in decoders if codec and codec.codec.text_sub]
        return _read_streams(container, tracks, path, errors) if tracks else []


def _read_streams(container: Any, streams: Sequence[Any], path: str, errors: list[str]) -> list[Cue]:
    """Of subtitle streams, on the file's clock, which starts at 0."""
    cues, lost, begin = [], 0, (container.start_time or 0) / av.time_base
    try:
        for packet in demux(container, *streams):
            if packet.pts is None or not packet.size:
                continue
            start = max(0.0, float(packet.pts * packet.time_base) - begin)
            end = start + max(0.0, float((packet.duration or 0) * packet.time_base))
            try:
                rectangles = packet.stream.codec_context.decode2(packet) or ()
            except FFmpegError:
                lost += 1
                continue
            # Every decoder gives the dialogue of the ASS format: {...} are its styles.
            lines = [getattr(rectangle, "dialogue", b"").decode(errors="replace") for rectangle in rectangles]
            text = re.sub(r"\{[^}]*\}|</?[a-zA-Z][^<>]*>", "", " ".join(lines)).replace("\\h", " ")
            if text := " ".join(harmless(text).split())[:MAX_CUE_CHARACTERS]:
                cues.append(Cue(start, end, text))
            if len(cues) == MAX_CUES:
                errors.append(f"{path}: only its first {MAX_CUES:,} subtitles are kept")
                break
    except FFmpegError as error:
        errors.append(f"{path}: its subtitles break off: {error}")
    if lost:
        errors.append(f"{path}: {lost} of its subtitles do not decode")
    return cues


@lru_cache(maxsize=1)
def load_speech(name: str) -> Any:
    """Whisper by its name or folder; raises ImportError without the package, ValueError if it cannot be loaded."""
    try:
        from faster_whisper import WhisperModel  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"speech={name!r} needs faster-whisper: {install_line('speech')} ({error})") from error
    device, compute_type = ("cuda", "float16") if torch.cuda.is_available() else ("cpu", "int8")
    try:
        return WhisperModel(name, device=device, compute_type=compute_type)
    except Exception as error:  # of CTranslate2 and the Hub, of many types
        raise ValueError(f"speech={name!r}: cannot be loaded as a model of faster-whisper: {error}") from error


def transcribe(path: str, model: Any) -> list[Cue]:
    """What a model of faster-whisper hears in a video; nothing if it has no sound."""
    with open_video(path, warn=False) as (container, _):  # only what passes here is given to another opener
        if not container.streams.audio:
            return []
        sound, begin = container.streams.audio[0], (container.start_time or 0) / av.time_base
        offset = float((sound.start_time or 0) * sound.time_base) - begin
    segments, _ = model.transcribe(path, vad_filter=True)
    return [
        Cue(part.start + offset, part.end + offset, harmless(part.text).strip()[:MAX_CUE_CHARACTERS])
        for part in segments
    ]


def update_words(
    store: Store, video_ids: Collection[str], *, speech: str | None, retry_failed: bool, progress: bool
) -> int:
    """Reads what is said in those videos whose content or subtitle files are new or have changed.

    A row of each video, with cue 0 and no text, says what its words were read from: a kill loses no more than was read
    since the last commit.

    Returns:
        How many videos got words, or others, or lost them.
    """
    model = None if speech is None else load_speech(speech)
    heard, ids, changed = f"speech {speech}", list(video_ids), 0
    find, pending, committed_at = cache(find_sidecars), {}, time.monotonic()
    for start in tqdm(range(0, len(ids), _CHUNK), desc="words", delay=1, disable=not progress):
        chosen = f"status = '{OK}' AND {is_in('video_id', ids[start : start + _CHUNK])}"
        videos = {row["video_key"]: row for row in store.videos(["video_key", "path", "sha256"], chosen)}
        states = {
            row["video_key"]: row for row in store.word_rows(_STATE, f"cue = 0 AND {is_in('video_key', videos)}")
        }
        for key, video in videos.items():
            path, known = video["path"], states.get(key, {"stamp": "", "source": "", "error": ""})
            files = sidecar_states(path, find(os.path.dirname(path)))
            # Without the folder and the name: a video may be moved with its subtitles.
            stem = os.path.splitext(path)[0]
            stamp = json.dumps([video["sha256"], *([file.removeprefix(stem), *state] for file, *state in files)])
            unheard = model is not None and known["source"] not in ("subtitles", heard)
            if known["stamp"] == stamp and not unheard and not (retry_failed and known["error"]):
                continue
            cues, source, errors = _read(path, [file for file, *_ in files], model, heard)
            if known["stamp"] == stamp and not source and known["source"]:
                continue  # a transcript, and no model now to make it again
            state = {"cue": 0, "stamp": stamp, "source": source, "error": "; ".join(errors)}
            rows = [state, *({"cue": number, **cue._asdict()} for number, cue in enumerate(cues, 1))]
            pending[key] = [{"video_key": key, **row} for row in rows]
            changed += bool(cues or known["source"])
            if time.monotonic() - committed_at > _COMMIT_SECONDS:
                store.write_words(pending)
                pending, committed_at = {}, time.monotonic()
        if pending:
            store.write_words(pending)
            pending, committed_at = {}, time.monotonic()
            store.compact_words(growing=True)
    store.compact_words()
    return changed


def _read(path: str, sidecars: Sequence[str], model: Any, heard: str) -> tuple[list[Cue], str, list[str]]:
    """Cues in order, what they were read from, and what could not be read."""
    cues, errors = set(), []
    for read, file in ((read_tracks, path), *((read_sidecar, sidecar) for sidecar in sidecars)):
        try:
            cues.update(read(file, errors))
        except (ValueError, OSError, FFmpegError) as error:
            errors.append(str(error) if file in str(error) else f"{file}: {error}")
    source = "subtitles" if cues else ""
    if not cues and model is not None:
        source = heard
        try:
            cues.update(transcribe(path, model))
        except Exception as error:  # whatever a library of a model raises; the other videos go on
            errors.append(f"{path}: cannot be transcribed: {type(error).__name__}: {error}")
    return sorted(cues), source, errors


def find_words(
    table: Table, snapshot: Snapshot, query: Query, k: int, within_clips: bool
) -> tuple[np.ndarray, list[Cue], np.ndarray]:
    """The best cue of each of the k videos of a snapshot that match best what a query wants said.

    Args:
        within_clips: leave out what is said outside the snapshot's clips.

    Returns:
        int64 [n <= k], the clip in which each cue begins, or the next one; the cues; their scores (BM25), descending.
    """
    operator = FullTextOperator.AND if query.every_word else FullTextOperator.OR
    match = MatchQuery(query.words, "text", operator=operator)  # pyright: ignore[reportCallIssue]
    columns, limit = ["video_key", "cue", "start", "end", "text", "_score"], 1000
    while True:
        rows = table.search(match, query_type="fts").select(columns).limit(limit).to_list()
        spans, found = snapshot.spans({row["video_key"] for row in rows}), {}
        there = [row for row in rows if row["video_key"] in spans]
        for row in sorted(there, key=lambda row: (-row["_score"], spans[row["video_key"]][0][0], row["cue"])):
            # Seconds from the beginning of the cue to the clip, 0 within it, and to the middle of the clip.
            near = [
                (max(start - row["start"], row["start"] - end, 0), abs((start + end) / 2 - row["start"]), number, clip)
                for _, number, clip, start, end in spans[row["video_key"]]
            ]
            if not (within_clips and min(near)[0] > 0):
                found.setdefault(row["video_key"], (min(near)[3], row))
        # What passes no filter, and videos that say it again and again, can fill the list.
        if len(found) >= k or len(rows) < limit:
            break
        limit *= 4
    best = list(found.values())[:k]
    cues = [Cue(row["start"], row["end"], row["text"]) for _, row in best]
    return np.array([clip for clip, _ in best], np.int64), cues, np.array([row["_score"] for _, row in best])
