"""What a server lets others do with an index, without a path of its own: for the page and the API."""

import hashlib
import logging
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple
from urllib.parse import urlencode

from fastapi import Query
from PIL import Image
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from . import serving
from .arguments import MAX_CHARACTERS
from .decoding_process_glccl import decode_in_process
from .search import Duplicate, SearchResult, VideoIndex
from .search.filters import NothingPassesError
from .search.index import ORDERS
from .search.queries import split_span
from .search.rendering import file_date, results_json
from .video_streams_glccl import VideoDecodeError

FAULT = "this is a fault of the server, whose log says more"
_SECRET = secrets.token_bytes(16)
_known: dict[str, "Known"] = {}  # what may be watched and cut, under a name that tells nothing
# Not EPS, for one, which another program would run.
_IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
# Neither torch nor LanceDB, so that it starts fast: `search.cut` without the package around it.
_CUT = """
import sys, types
for name, path in ("apart", sys.argv[1]), ("apart.search", sys.argv[1] + "/search"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from apart.search.cut import cut_moment
path, start, end, output, exact = sys.argv[2:]
try:
    cut_moment(path, float(start), float(end), output, bool(exact))
except (ValueError, OSError) as error:
    sys.exit(str(error))
"""


class Known(NamedTuple):
    """A video, as the index that has it knows it."""

    video_id: str
    path: str


class RequestError(ValueError):
    """A request that is refused, with a line that its sender may read, and a status of HTTP."""

    def __init__(self, message: str, status: int = 422):
        super().__init__(message)
        self.status = status


def public_name(video_id: str, path: str | None = None) -> str:
    """A name that tells nothing of where a video lies, as long as this process runs; with a path it may be watched."""
    name = hashlib.blake2b(os.fsencode(video_id), key=_SECRET, digest_size=16).hexdigest()
    if path is not None:
        _known[name] = Known(video_id, path)
    return name


def forget(video_id: str) -> None:
    """Of a video that was deleted."""
    _known.pop(public_name(video_id), None)


def path_of(name: str) -> str:
    """Of a video with such a public name; empty if there is none."""
    return _known[name].path if name in _known else ""


Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_CHARACTERS)]
Sentences = Annotated[list[Sentence], Field(max_length=serving.MAX_SENTENCES)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARACTERS)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
VideoId = Annotated[Text, Field(description="as the answers have it")]


class VideosRequest(BaseModel):
    """Which videos: all that pass every filter."""

    model_config = ConfigDict(extra="forbid", validate_by_name=True, validate_by_alias=True)

    k: int = Field(10, ge=1, le=serving.MAX_RESULTS, description="videos of the answer, at most")
    folder: Text | None = Field(None, description="below this folder of the library, or a glob of * and ?")
    ids: list[VideoId] | None = Field(None, max_length=serving.MAX_RESULTS, description="only these videos")
    since: date | datetime | None = Field(None, description="files last changed then or later")
    until: date | datetime | None = Field(None, description="files last changed then or earlier")
    min_duration: Seconds | None = Field(None, description="seconds of the video")
    max_duration: Seconds | None = None


class ListRequest(VideosRequest):
    """A page of the list of videos."""

    offset: int = Field(0, ge=0, description="how many to leave out: those of the pages before")


class SearchRequest(VideosRequest):
    """The arguments of `VideoIndex.search` that a stranger may give; `image` and `video` are the files themselves."""

    query: Sentence | None = Field(None, description="a sentence that says what happens in the video")
    and_: Sentences = Field([], alias="and", description="sentences that shall hold, too")
    not_: Sentences = Field([], alias="not", description="sentences that shall not hold")
    image: Base64Bytes | None = Field(None, description="an example to find the like of: an image, in base64")
    video: Base64Bytes | None = Field(None, description="the same: a video, in base64")
    like: VideoId | None = Field(None, description="the same: a video of the library, ID or ID@start-end in seconds")
    words: Text | None = Field(None, description="what is said, in subtitles or a transcript")
    no_words: bool = Field(False, description="do not look for the query in what is said")
    min_score: float | None = Field(None, allow_inf_nan=False)
    min_confidence: float | None = Field(None, ge=0, le=1, description="needs a calibrated model, and one sentence")
    sort: Literal["score", "date", "path"] = "score"


class DuplicatesRequest(BaseModel):
    """How alike near-duplicates are."""

    model_config = ConfigDict(extra="forbid")

    threshold: float = Field(0.93, ge=serving.LEAST_ALIKE, le=1, description="similarity, at least")


class MomentRequest(BaseModel):
    """A span of a video, to be cut out."""

    model_config = ConfigDict(extra="forbid")

    video_id: VideoId
    start: Seconds
    end: Seconds
    exact: bool = Field(False, description="re-encode (MP4), instead of copying from the key frame before")

    @model_validator(mode="after")
    def _is_a_span(self) -> "MomentRequest":
        if not 0 < self.end - self.start <= serving.MAX_VIDEO_SECONDS:
            raise ValueError(f"end must lie after start, by at most {serving.MAX_VIDEO_SECONDS:g} s")
        return self


class Named(BaseModel):
    """What every answer says of a video."""

    video_id: str = Field(description="its own id or, where that is a path, a name that holds while the server runs")
    name: str = Field(description="of its file")
    duration: float = Field(description="seconds")
    url: str = Field(description="relative to the server: the video, at its moment if there is one")


class Video(Named):
    """A video of the library."""

    date: str = Field(description="when the file was last changed")


class NearDuplicate(Named):
    """A video of a group of near-duplicates."""

    score: float = Field(description="similarity to the video of its group that is most like it")


class Found(Video):
    """A result of a search; docs/search.md says what score, measure and confidence are."""

    rank: int
    score: float
    measure: str
    confidence: float | None
    found_by: str
    words: dict[str, Any] | None = Field(description="what is said there, where it was found by that")
    clip: list[float]
    moment: dict[str, float] | None
    moment_url: str = Field(description="relative to the server: a file of the moment alone")


class SearchAnswer(BaseModel):
    """What was found, best first."""

    results: list[Found]


class VideosAnswer(BaseModel):
    """A page of the videos, by path, and how many there are on all pages."""

    total: int
    videos: list[Video]


class DuplicatesAnswer(BaseModel):
    """Groups of near-duplicates, those most alike first."""

    groups: list[list[NearDuplicate]]


class Library:
    """An index as others may use it: some at a time, within limits, and without paths.

    Files of requests lie in `folder`, each until its request is answered.
    """

    def __init__(self, index: VideoIndex, folder: str):
        self.index, self.folder = index, folder
        operations = ("search", "videos", "moments", "duplicates")
        self._places = {name: threading.BoundedSemaphore(serving.MAX_WAITING) for name in operations}
        self._turns = {name: threading.Lock() for name in operations}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def turn(self, operation: str, files: dict[str, str] | None = None) -> Iterator[float]:
        """Waits until nobody else does the same, counts it, and says errors without paths; gives the deadline.

        `files`: paths that an error may name, and what to call them.
        """
        started, outcome = time.monotonic(), "failed"
        places, turn, deadline = self._places[operation], self._turns[operation], started + serving.TIMEOUT_SECONDS
        try:
            if not places.acquire(blocking=False):
                raise RequestError(f"{serving.MAX_WAITING} such requests wait already: try again later", 429)
            try:
                if not turn.acquire(timeout=serving.TIMEOUT_SECONDS):
                    raise RequestError(f"it was not its turn within {serving.TIMEOUT_SECONDS:g} s: try again", 503)
                try:
                    yield deadline
                    outcome = "answered"
                finally:
                    turn.release()
            finally:
                places.release()
        except (ValueError, OSError) as error:
            text = "no video passes the filters" if isinstance(error, NothingPassesError) else str(error)
            for path, name in (files or {}).items():
                text = text.replace(path, name)
            named = not isinstance(error, RequestError) and re.search(r"(^|[\s'\"(=])(/|\w+://)", text)
            if named or not isinstance(error, ValueError):
                logging.exception("%s failed", operation)
                raise RequestError(FAULT, 500) from error
            outcome = "refused"
            if isinstance(error, RequestError):
                raise
            raise RequestError(text) from error
        finally:
            self._counts[operation, outcome] += 1
            self._seconds[operation] += time.monotonic() - started

    def find(
        self,
        request: SearchRequest,
        others: Sequence[VideoIndex] = (),
        image: str | None = None,
        video: str | None = None,
    ) -> list[SearchResult]:
        """The k best videos of the index, and of others of the same model, together; everything is encoded once.

        `image` and `video` are files, which stand for those of the request.
        """
        names = {path: Path(path).name for path in (image, video) if path}
        if request.words:  # it may hold none, and says so
            names[self.index.path] = "the library"
        with self.turn("search", names) as deadline:
            indexes, holder, like = [self.index, *others], self.index, None
            given = [request.query, request.and_, image, video, request.like, request.words]
            if request.min_confidence is not None:
                if self.index.model.config.confidence_weights is None:
                    raise RequestError("min_confidence: the model is not calibrated, so nothing has a confidence")
                if request.query is None or request.not_ or any(given[1:]):
                    raise RequestError("min_confidence: only searches with one sentence have confidences")
            if not any(given):
                raise RequestError("query: say what happens in the video, or give an example")
            if request.like is not None:
                holder, like = self._example(request.like, indexes)
                names[like] = request.like
            if image:
                _check_image(image)
            if video:
                check_video(video, deadline)
            parts: dict[str, Any] = request.model_dump(include={"and_", "not_", "words"})
            parts |= {"image": image, "video": video}
            # Thresholds are about frames; and fused ranks of one index do not compare with scores of another.
            least = request.model_dump(include={"min_score", "min_confidence"}, exclude_none=True)
            no_words = request.no_words or bool(least or others)
            queries = holder.encode([request.query], **parts, like=like, no_words=no_words, deadline=deadline)
            options, found, passed = self._filters(request) | least, [], False
            for index in indexes:
                with suppress(NothingPassesError):
                    found += index.search_features(queries, request.k, moments=True, **options)[0]
                    passed = True
            if not passed:
                raise NothingPassesError
            return sorted(sorted(found, key=ORDERS["score"])[: request.k], key=ORDERS[request.sort])

    def search(self, request: SearchRequest) -> SearchAnswer:
        """Finds videos, and the moment in each, with a sentence or an example: the k best, best first."""
        with TemporaryDirectory(dir=self.folder) as folder:
            files: dict[str, Any] = {}
            for name in ("image", "video"):
                if (content := getattr(request, name)) is not None:
                    files[name] = os.path.join(folder, name)
                    Path(files[name]).write_bytes(content)
            results = self.find(request, **files)
        answers = [
            Found(**_named(row), moment_url=moment_url(result))
            for row, result in zip(results_json(results), results, strict=True)
        ]
        return SearchAnswer(results=answers)

    def videos(self, request: Annotated[ListRequest, Query()]) -> VideosAnswer:
        """Lists the videos of the library that pass the filters, by path, a page at a time."""
        with self.turn("videos"):
            rows = self.index.videos(**self._filters(request))
        page = rows[request.offset : request.offset + request.k]
        videos = [Video(**_named(row), date=file_date(row["mtime_ns"])) for row in page]
        return VideosAnswer(total=len(rows), videos=videos)

    def duplicates(self, request: Annotated[DuplicatesRequest, Query()]) -> DuplicatesAnswer:
        """Finds groups of near-duplicate videos of the library, those most alike first."""
        groups = self.near_duplicates(request.threshold)[: serving.MAX_RESULTS]
        return DuplicatesAnswer(groups=[[NearDuplicate(**_named(vars(video))) for video in group] for group in groups])

    def near_duplicates(self, threshold: float) -> list[list[Duplicate]]:
        """The same with paths, for the page."""
        with self.turn("duplicates"):
            if len(self.index) > serving.MAX_COMPARED:
                raise RequestError(f"More than {serving.MAX_COMPARED:,} videos: use the command glccl duplicates.")
            return self.index.duplicates(threshold)

    def moments(self, request: MomentRequest) -> tuple[str, BinaryIO]:
        """Cuts a moment out of a video: the name of the new file, and the file, which is deleted when it is closed."""
        path = self.known(request.video_id).path
        suffix = ".mp4" if request.exact else Path(path).suffix
        name = f"{Path(path).stem}_{request.start:.1f}-{request.end:.1f}{suffix}"
        with TemporaryDirectory(dir=self.folder) as folder:
            output = os.path.join(folder, f"moment{suffix}")
            with self.turn("moments", {path: Path(path).name, output: name}) as deadline:
                span = [str(request.start), str(request.end)]
                command = [sys.executable, "-c", _CUT, str(Path(__file__).parent), path, *span, output]
                try:
                    run = subprocess.run(
                        [*command, "exact" if request.exact else ""],
                        timeout=max(0.0, deadline - time.monotonic()),
                        stdin=subprocess.DEVNULL,
                        capture_output=True,
                        check=False,
                    )
                except subprocess.TimeoutExpired as error:
                    raise RequestError(f"{name}: could not be cut in the time allowed", 503) from error
                if run.returncode:
                    said = run.stderr.decode(errors="replace").strip() if run.returncode == 1 else ""
                    raise VideoDecodeError(said or f"{path}: is damaged: what cut it broke down")
                # It is read when its folder is gone.
                return name, open(output, "rb")

    def metrics(self) -> str:
        """Counts and seconds of requests, of the page and of the API, in Prometheus' text format."""
        lines = ["# TYPE glccl_requests_total counter"]
        for (operation, outcome), count in sorted(self._counts.items()):
            lines.append(f'glccl_requests_total{{operation="{operation}",outcome="{outcome}"}} {count}')
        lines.append("# TYPE glccl_request_seconds_total counter")
        for operation, seconds in sorted(self._seconds.items()):
            lines.append(f'glccl_request_seconds_total{{operation="{operation}"}} {seconds:.3f}')
        return "\n".join(lines) + "\n"

    def known(self, video_id: str) -> Known:
        """What an id of an answer stands for."""
        if video_id in _known:
            return _known[video_id]
        for row in [] if os.path.isabs(video_id) else self.index.videos(ids=[video_id]):
            return Known(row["video_id"], row["path"])
        raise RequestError(f"{video_id!r} is no video of this library", 404)

    def _example(self, like: str, indexes: Sequence[VideoIndex]) -> tuple[VideoIndex, str]:
        """The index that has "ID" or "ID@start-end", and the same with the id that the index knows."""
        try:
            name, span = self.known(like), ""
        except RequestError:
            shown, start, end = split_span(like)
            name, span = self.known(shown), "" if start is None else f"@{start}-{end}"
        for index in indexes:
            if index.videos(ids=[name.video_id]):
                return index, name.video_id + span
        raise RequestError(f"{like!r} is no video of this library", 404)

    def _filters(self, request: VideosRequest) -> dict[str, Any]:
        """As the index takes them: a folder is one below the common folder of all videos."""
        names = {"folder", "ids", "since", "until", "min_duration", "max_duration"}
        filters = request.model_dump(include=names, exclude_none=True)
        if "folder" in filters:
            paths = [os.path.dirname(row["path"]) for row in self.index.videos()]
            # From there no ".." leads out: who asks for "../a*" could learn the names of the folders above.
            within = os.path.normpath(f"/{filters['folder']}").lstrip(os.sep)
            filters["folder"] = os.path.join(os.path.commonpath(paths or ["/"]), within)
        if "ids" in filters:
            filters["ids"] = [self.known(video_id).video_id for video_id in filters["ids"]]
        return filters


def check_video(path: str, deadline: float) -> None:
    """Raises VideoDecodeError for a video that cannot be read or is too long; no more is decoded than tells."""
    limit = serving.MAX_VIDEO_SECONDS
    video = decode_in_process(path, 1, None, limit + 1, transform=lambda frame: frame[0], deadline=deadline)
    if video.duration > limit:
        raise VideoDecodeError(f"{path}: lasts {video.duration:.0f} s; at most {limit:.0f} s are allowed")


def _check_image(path: str) -> None:
    name = Path(path).name
    try:
        with Image.open(path, formats=_IMAGE_FORMATS) as image:
            pixels = image.width * image.height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RequestError(f"{name}: is no image ({', '.join(_IMAGE_FORMATS)})") from error
    if pixels > serving.MAX_IMAGE_PIXELS:
        raise RequestError(f"{name}: has {pixels:,} pixels; at most {serving.MAX_IMAGE_PIXELS:,} are allowed")


def moment_url(result: SearchResult, exact: bool = False) -> str:
    """Of the file of its moment, relative to the server."""
    assert result.moment is not None
    start, end, _ = result.moment
    span = {"video_id": public_name(result.video_id, result.path), "start": f"{start:.3f}", "end": f"{end:.3f}"}
    return f"api/moments?{urlencode(span | ({'exact': 'true'} if exact else {}))}"


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """With what stands for the path, which no answer has a field for."""
    name, moment = public_name(row["video_id"], row["path"]), row.get("moment")
    return row | {
        "video_id": name if os.path.isabs(row["video_id"]) else row["video_id"],
        "name": Path(row["path"]).name,
        "url": f"videos/{name}" + (f"#t={moment['start']:.2f},{moment['end']:.2f}" if moment else ""),
    }


def explain(errors: Sequence[Any], within: int = 0) -> str:
    """The first of the faults that pydantic found in a request, in one line that begins with its field.

    `within`: how many parts of a field's place say where all fields are.
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        return "the request is not JSON"
    field = ".".join(str(part).rstrip("_") for part in first["loc"][within:])
    return f"{field or 'the request'}: {first['msg'].removeprefix('Value error, ')}"
