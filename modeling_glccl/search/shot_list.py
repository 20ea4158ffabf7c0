"""Moments as a list that editing programs read: CSV, CMX 3600 EDL or OpenTimelineIO."""

import csv
import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from ..atomic import write_whole
from ..packaged import install_line
from ..video_streams_glccl import open_video


class Shot(NamedTuple):
    """A moment of a video file, in seconds."""

    path: str
    start: float
    end: float
    score: float


def check_shot_list(path: Path) -> None:
    """Raises ValueError for a suffix other than .csv, .edl and .otio, ImportError without what .otio needs."""
    if path.suffix.lower() not in _WRITERS:
        raise ValueError(f"{path}: a shot list is a file called {', '.join(_WRITERS)}")
    if path.suffix.lower() == ".otio":
        try:
            import opentimelineio  # noqa: F401
        except ImportError as error:
            raise ImportError(f"{path}: needs OpenTimelineIO: {install_line('edit')} ({error})") from error


def write_shot_list(path: Path, query: str, shots: Sequence[Shot]) -> None:
    """Writes the shots that a query found, in the format that the suffix names; replaces an older list.

    CSV has seconds. EDL and OTIO count frames at the rate of each video, which is read from its file; the times of
    an EDL's timeline are at the rate of the first. A timecode that a camera left in the file is ignored.

    Raises:
        VideoDecodeError: a video whose rate is needed cannot be opened.
        ValueError, ImportError: as `check_shot_list`; or more than the 999 shots that an EDL can have.
    """
    check_shot_list(path)
    query = query.encode(errors="backslashreplace").decode()  # a terminal may give what is no UTF-8
    write_whole(path, _WRITERS[path.suffix.lower()](query, shots).encode())


def _csv(query: str, shots: Sequence[Shot]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "start", "end", "score", "query"])
    writer.writerows([s.path, f"{s.start:.3f}", f"{s.end:.3f}", f"{s.score:.4f}", query] for s in shots)
    return table.getvalue()


def _edl(query: str, shots: Sequence[Shot]) -> str:
    if len(shots) > 999:
        raise ValueError(f"an EDL holds 999 shots, not {len(shots)}; write a .csv or .otio file")
    lines = [f"TITLE: {_line(query)}", "FCM: NON-DROP FRAME"]
    position, timeline = Fraction(0), None  # in frames of the first video
    for number, shot in enumerate(shots, 1):
        first, stop, rate = _frames(shot)
        timeline = timeline or rate
        following = position + (stop - first) / rate * timeline
        times = [(first, rate), (stop, rate), (round(position), timeline), (round(following), timeline)]
        lines += [
            "",
            f"{number:03}  AX       V     C        {' '.join(_timecode(*time) for time in times)}",
            f"* FROM CLIP NAME: {_line(Path(shot.path).name)}",
            f"* SOURCE FILE: {_line(shot.path)}",
            f"* FRAME RATE: {float(rate):.6g}",
        ]
        position = following
    return "\n".join([*lines, ""])


def _otio(query: str, shots: Sequence[Shot]) -> str:
    from opentimelineio import opentime, schema

    track = schema.Track(name=query, kind=schema.TrackKind.Video)
    for shot in shots:
        first, stop, rate = _frames(shot)
        span = [opentime.RationalTime(count, float(rate)) for count in (first, stop - first)]
        track.append(
            schema.Clip(
                name=Path(shot.path).name,
                media_reference=schema.ExternalReference(target_url=Path(shot.path).absolute().as_uri()),
                source_range=opentime.TimeRange(*span),
                metadata={"glccl": {"query": query, "score": shot.score}},
            )
        )
    timeline = schema.Timeline(name=query)
    timeline.tracks.append(track)
    return timeline.to_json_string()


_WRITERS = {".csv": _csv, ".edl": _edl, ".otio": _otio}


def _frames(shot: Shot) -> tuple[int, int, Fraction]:
    """Numbers of the first frame of a shot and of the one after its last, and frames a second of its video."""
    with open_video(shot.path, warn=False) as (_, stream):
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    first = round(shot.start * rate)
    return first, max(first + 1, round(shot.end * rate)), rate


def _timecode(frames: int, rate: Fraction) -> str:
    """Hours, minutes, seconds and frames, which are counted as if there were a whole number of them a second."""
    seconds, frame = divmod(frames, max(1, round(rate)))
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:{frame:02}"


def _line(text: str) -> str:
    return " ".join(text.splitlines())
