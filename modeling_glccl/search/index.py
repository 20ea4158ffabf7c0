"""VideoIndex: a folder of videos, kept as features, and searched with sentences."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ..arguments import MAX_CHARACTERS
from ..checkpoints import load_checkpoint, place
from ..configuration_glccl import GLCCLConfig
from ..environment import resolve_device, resolve_precision
from ..features_glccl import GLCCLTextFeatures
from ..modeling_glccl import GLCCLModel
from ..processing_glccl import GLCCLProcessor
from ..runtime import with_runtime
from ..video_files import find_videos, printable
from .clips import ClipSettings
from .duplicates import Duplicate, find_duplicates
from .filters import Filters
from .fingerprint import ROUNDED, checkpoint_of, describe_model, difference, fingerprint
from .ingest import IngestReport, IngestSettings, finish_here, ingest, plan
from .queries import Query, read_image, read_stored, read_video
from .ranking import encode_queries
from .searcher import Searcher, SearchResult
from .shards import ShardedStore, open_store
from .store import ERROR, MAX_SHARDS, OK, Store, is_in
from .words import load_speech, update_words

_SETTINGS = ("fingerprint", "max_frames", "width", "clip_length", "clip_stride", "clip_kind", "shards", "created")
# Of results, which come with the best score first; sorting keeps the order of equal ones.
ORDERS: dict[str, Callable[[SearchResult], Any]] = {
    "score": lambda result: -result.score,
    "date": lambda result: -result.mtime_ns,
    "path": lambda result: result.path,
}


class IndexMismatchError(ValueError):
    """The index was made with another model."""


class VideoIndex:
    """Videos as features on disk (LanceDB), searched with sentences.

    Make one with [`~VideoIndex.create`] or [`~VideoIndex.open`]. Any number of processes may search an index while
    others add to it; every search sees the last finished commit.

    Example:

    ```python
    index = VideoIndex.create("my.index", model, processor)
    index.update("videos")
    for result in index.search("a dog in the snow", k=5, moments=True):
        print(result.score, result.path, result.moment)
    ```
    """

    def __init__(
        self,
        store: Store,
        model: GLCCLModel | None,
        processor: GLCCLProcessor | None,
        device: str | None = None,
        precision: str | None = None,
    ):
        self._store = store
        self._place = {name: value for name, value in (("device", device), ("precision", precision)) if value}
        self._loading = threading.Lock()
        self._searcher: Searcher | None = None
        if model is not None and processor is not None:
            self._searcher = self._search_with(model, processor)

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        model: GLCCLModel,
        processor: GLCCLProcessor,
        *,
        clip_length: float = 30.0,
        clip_stride: float = 20.0,
        clips: str = "fixed",
        shards: int = 0,
        device: str | None = None,
        precision: str | None = None,
        runtime: str = "torch",
        storage_options: dict[str, str] | None = None,
    ) -> "VideoIndex":
        """Makes an empty index.

        Args:
            path: a folder that does not exist yet, or a URI that LanceDB can write to, such as s3://bucket/my.index.
            model, processor: they encode the videos and, later, the queries.
            clip_length: seconds; longer videos are cut into clips of this length.
            clip_stride: seconds from clip to clip; less than `clip_length`, so that they overlap.
            clips: "fixed", or "shots": longer videos are cut where a shot begins, and shots longer than `clip_length`
                as the others (docs/search.md).
            shards: parts, each a folder in that of the index, for more than one machine; 0 for an index without.
            device, precision: where the model shall be moved to, see [`~checkpoints.place`]; by default it stays.
            runtime: what encodes frames and texts for as long as the index lasts, see [`~runtime.with_runtime`].
            storage_options: for object stores, as LanceDB takes them.

        Raises FileExistsError where there is an index already, ValueError for a stride that would leave gaps and for a
        model that scores otherwise than GLCCL.
        """
        if not 0 <= shards <= MAX_SHARDS:
            raise ValueError(f"shards={shards} must lie in 0..{MAX_SHARDS}")
        if model.config.model_type != GLCCLConfig.model_type:
            raise ValueError(
                f"an index searches with GLCCL's interaction, and {type(model).__name__} has another one: compare the "
                "peers with `glccl evaluate`"
            )
        settings = ClipSettings(clip_length, clip_stride, clips)
        if runtime != "torch" and device == "auto":
            device = "cpu"
        where = resolve_device(device or "auto")
        resolve_precision(precision or "auto", str(where))
        with_runtime(model, runtime, where if device else None)  # refuses what cannot be before anything is written
        description = describe_model(model, processor)
        if runtime != "torch":
            description["runtime"] = runtime
        about = {
            "model": description,
            "fingerprint": fingerprint(description),
            **{f"clip_{name}": value for name, value in vars(settings).items()},
            "shards": shards,
            "max_frames": processor.video_processor.max_frames,
            "width": model.config.width,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        Store.create(path, about, storage_options)
        return cls(open_store(path, storage_options), model, processor, device, precision)

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        model: GLCCLModel | None = None,
        processor: GLCCLProcessor | None = None,
        *,
        device: str | None = None,
        precision: str | None = None,
        storage_options: dict[str, str] | None = None,
        engine: str = "threads",
    ) -> "VideoIndex":
        """Opens an index with the model that it was made with, or else loads the checkpoint that it names once needed.

        That checkpoint is moved to the GPU, if there is one, and to the precision that is fastest, unless `device` or
        `precision` say otherwise; a model that is passed stays where it is unless they are given. With `engine="ray"`
        the shards of the index are held by actors of a cluster (docs/search.md).

        Raises FileNotFoundError where no index is, IndexMismatchError for another model, with what differs, ValueError
        for Ray and an index without shards.
        """
        if (model is None) != (processor is None):
            raise ValueError("pass both model and processor, or neither")
        store = open_store(path, storage_options)
        if engine == "ray":
            if not isinstance(store, ShardedStore):
                raise ValueError(f"{store.uri}: engine='ray' searches shards, and it has none: make one with --shards")
            store.move_to_ray()
        return cls(store, model, processor, device, precision)

    def _search_with(self, model: GLCCLModel, processor: GLCCLProcessor) -> Searcher:
        made_with = self._store.about["model"]
        given = describe_model(model, processor, rounded=made_with["weights"].startswith(ROUNDED))
        if found := difference(made_with, given):
            other, this = (description["checkpoint"] or "not from a file" for description in (made_with, given))
            raise IndexMismatchError(
                f"{self._store.uri} was made with another model ({other}); features of this one ({this}) do not "
                f"fit: {found}. Use that model, or index the videos anew"
            )
        runtime, where = made_with.get("runtime", "torch"), self._place
        if where:
            on_cpu = runtime != "torch" and where.get("device", "auto") == "auto"
            place(model, **(where | {"device": "cpu"} if on_cpu else where))
        return Searcher(self._store, with_runtime(model.eval(), runtime), processor)

    def _load(self) -> Searcher:
        with self._loading:  # searches come from many threads
            if self._searcher is None:
                checkpoint, config = (self._store.about["model"][name] for name in ("checkpoint", "config"))
                if not checkpoint:
                    raise ValueError(
                        f"{self._store.uri} was made with a model that was not loaded from a checkpoint; pass model "
                        "and processor to VideoIndex.open"
                    )
                measured = {"glim_temperature": config["glim_temperature"]} if config.get("zero_shot") else {}
                try:
                    model, processor = load_checkpoint(checkpoint, **measured)
                except FileNotFoundError as error:
                    raise FileNotFoundError(
                        f"{error}. {self._store.uri} was made with it; if it has moved: glccl index VIDEO_DIR --index "
                        f"{self._store.uri} --model WHERE_IT_IS, or pass model and processor to VideoIndex.open"
                    ) from error
                self._place = {"device": "auto", "precision": "auto"} | self._place
                self._searcher = self._search_with(model, processor)
            return self._searcher

    @property
    def model(self) -> GLCCLModel:
        """The model, loaded now if it has not been needed so far."""
        return self._load().model

    @property
    def processor(self) -> GLCCLProcessor:
        """The processor of the model."""
        return self._load().processor

    @property
    def path(self) -> str:
        """The folder of the index, or its address."""
        return self._store.uri

    def __len__(self) -> int:
        """Number of videos that can be found."""
        return self._store.count(f"clip = 0 AND status = '{OK}'")

    def add(
        self,
        videos: str | PathLike | Iterable[str | PathLike[str]] | Mapping[str, str | PathLike[str]],
        *,
        retry_failed: bool = False,
        speech: str | None = None,
        num_workers: int = 2,
        batch_size: int = 16,
        engine: str = "threads",
        progress: bool = True,
    ) -> IngestReport:
        """Adds videos; those that are in the index already cost a look at the file's size and modification time.

        A file whose content changed is encoded again; one that was moved is recognised by its content. A video that
        cannot be read does not stop the others: it is recorded with its error, see [`~VideoIndex.errors`]. Finished
        videos are kept if the call is stopped; call again to go on.

        Args:
            videos: a file, several files, or ids with their files. Without ids the absolute path is the id.
            retry_failed: try again what could not be read before and has not changed since.
            speech: a model of faster-whisper, name or folder, which transcribes videos without subtitles.
            num_workers: threads that decode; on Ray, processes that decode and encode.
            batch_size: clips encoded at a time.
            engine: "threads" of this process, or "ray", a cluster (docs/search.md).
            progress: show a progress bar.

        Raises OSError if no space is left on the disk; the index is intact.
        """
        started = time.monotonic()
        if speech is not None:
            load_speech(speech)  # fails before hours of other work
        if min(num_workers, batch_size) < 1:
            raise ValueError(f"num_workers={num_workers} and batch_size={batch_size} must be 1 or more")
        if engine == "threads":
            finish = finish_here
        elif engine == "ray":
            from .ray_engine import finish_on_ray as finish

            if isinstance(self._store, ShardedStore):
                self._store.move_to_ray()
        else:
            raise ValueError(f"engine={engine!r} is unknown; use 'threads' or 'ray'")
        if isinstance(videos, str | PathLike):
            videos = [videos]
        if not isinstance(videos, Mapping):
            paths = [os.path.abspath(os.fspath(path)) for path in videos]
            if folders := [path for path in paths if Path(path).is_dir()]:
                raise ValueError(f"{folders[0]}: is a folder; VideoIndex.update takes folders, add takes files")
            videos = {printable(path): path for path in paths}
        files = {str(video_id): os.path.abspath(os.fspath(path)) for video_id, path in videos.items()}
        searcher = self._load()
        recorded, given = self._store.about["model"]["checkpoint"] or "", checkpoint_of(searcher.model)
        if given and os.path.isabs(recorded) and not os.path.exists(recorded):
            self._store.change_checkpoint(given)
        clips, report = self._store.clip_settings, Counter()
        settings = IngestSettings(searcher.model, searcher.processor, clips, num_workers, batch_size)
        jobs = plan(self._store, files, retry_failed, report)
        ingest(self._store, jobs, partial(finish, settings=settings), len(files), report, progress)
        if not searcher.processor.video_processor.deadline:  # with one, this process opens no video
            options: dict[str, Any] = {"speech": speech, "retry_failed": retry_failed, "progress": progress}
            report["subtitled"] = update_words(self._store, files, **options)
        return IngestReport(**report, seconds=time.monotonic() - started)

    def update(
        self,
        folders: str | PathLike[str] | Iterable[str | PathLike[str]],
        *,
        only: Container[str] | None = None,
        remove_missing: bool = False,
        **options: Any,
    ) -> IngestReport:
        """Brings the index up to date with a folder or several and their sub-folders; options as [`~VideoIndex.add`].

        With `remove_missing` it drops videos of these folders whose file is no longer there. A folder without any
        video is a ValueError (is the disk mounted?), and nothing is added or removed. With `only`, files of other
        absolute paths are neither added nor brought up to date.
        """
        folders = [folders] if isinstance(folders, str | PathLike) else folders
        places = [os.path.abspath(os.fspath(path)) for path in folders]
        found = [find_videos(place).check() for place in places]
        paths = sorted({path for part in found for path in part.videos + part.irregular})
        videos = {printable(path): path for path in paths}
        report = self.add({name: path for name, path in videos.items() if only is None or path in only}, **options)
        if remove_missing:
            gone = sorted(
                row["video_id"]
                for row in self._store.videos(["video_id", "path"])
                if any(Path(row["path"]).is_relative_to(printable(place)) for place in places)
                and row["path"] not in videos
                and not Path(row["path"]).exists()
            )
            report.removed = self._store.remove(gone)
        return report

    def remove(self, video_ids: str | Iterable[str]) -> int:
        """Drops videos by id; returns how many there were."""
        return self._store.remove([video_ids] if isinstance(video_ids, str) else list(video_ids))

    def errors(self) -> dict[str, str]:
        """Path -> error of the videos that could not be read, or not all of whose clips and subtitles could."""
        errors = {row["path"]: row["error"] for row in self._store.videos(["path", "error"], "error != ''")}
        rows = self._store.word_rows(["video_key", "error"], "error != ''")
        unread = {row["video_key"]: row["error"] for row in rows}
        for row in self._store.videos(["path", "video_key"], is_in("video_key", unread)):
            errors[row["path"]] = "; ".join(filter(None, (errors.get(row["path"]), unread[row["video_key"]])))
        return errors

    def videos(self, **filters: Any) -> list[dict[str, Any]]:
        """`video_id`, `path`, `duration` (seconds) and `mtime_ns` of the videos that can be found, by path.

        With the filters of [`~VideoIndex.search`] those of which the first clip passes.
        """
        condition = Filters(**filters).condition() or "true"
        rows = self._store.videos(["video_id", "path", "duration", "mtime_ns"], f"status = '{OK}' AND {condition}")
        return sorted(rows, key=lambda row: row["path"])

    def duplicates(self, threshold: float = 0.93) -> list[list[Duplicate]]:
        """Groups of near-duplicate videos, those most alike first, by the features of all frames of all clips.

        Two videos belong together if their score, or that of videos between them, is `threshold` or more. Needs
        neither the model nor the video files. docs/search.md defines the score and has measurements.

        Args:
            threshold: above 0, at most 1. Pairs are looked for among each video's nearest by pooled vectors.
        """
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold} must lie above 0 and be at most 1")
        return find_duplicates(self._store, threshold)

    def info(self) -> dict[str, Any]:
        """What the index holds."""
        about = self._store.about
        return {
            "path": self._store.uri,
            "videos": len(self),
            "clips": self._store.count(f"status = '{OK}'"),
            "failed": self._store.count(f"status = '{ERROR}'"),
            "bytes": self._store.bytes_on_disk(),
            "checkpoint": about["model"]["checkpoint"],
            "runtime": about["model"].get("runtime", "torch"),
            **{name: about[name] for name in _SETTINGS},
        }

    def search(self, query: str | None = None, k: int = 10, **options: Any) -> list[SearchResult]:
        """The k best videos for a sentence, best first, by GLCCL's exact logits.

        Where all words of a sentence without further parts or thresholds are said in a video, what is seen and what is
        said are fused (docs/search.md); `found_by` and `words` of a result say why it is there.

        Args:
            query: a sentence; None for `words` or examples alone.
            k: videos to return; fewer if the index, or what the filters keep of it, has fewer.
            and_, not_: further sentences, which shall hold too, or shall not.
            image, video, like: examples that the videos shall be like: an image file; a video file, or a span of it,
                "FILE@start-end" in seconds; the id of a video of the index, or "ID@start-end", left out itself.
            words: what is said, in subtitles or a transcript; alone, or fused with the rest.
            no_words: do not look for the query in what is said.
            folder, ids, since, until, min_duration, max_duration, where: filters, see [`~search.filters.Filters`];
                only what passes all of them is searched.
            min_score: leaves out those of the k with a lower score.
            min_confidence: leaves out those of the k with less, 0 to 1; the model must be calibrated.
            sort: the order of the k best, "score", "date" (of the file, newest first) or "path".
            moments: also find the span of time that the query is about, from the frame weights.
            exhaustive: score every clip exactly, instead of the candidates that the pooled vectors propose; slow, for
                measuring what the candidates miss.

        Raises ValueError for a filter that is malformed, names unknown ids or keeps nothing.
        """
        return self.search_batch([query], k, **options)[0]

    def search_like(self, k: int = 10, **options: Any) -> list[SearchResult]:
        """The k videos that are most like an `image`, a `video` or a video of the index (`like`), best first.

        The score is the mean over the frames of the example of the largest cosine to a frame of the clip, and not
        GLCCL's. The arguments are those of [`~VideoIndex.search`].
        """
        return self.search_batch([None], k, **options)[0]

    def search_batch(
        self, queries: Sequence[str | None], k: int = 10, *, no_words: bool = False, **options: Any
    ) -> list[list[SearchResult]]:
        """[`~VideoIndex.search`] for several sentences, which are encoded together; None for examples alone."""
        parts = {
            name: options.pop(name) for name in ("and_", "not_", "image", "video", "like", "words") if name in options
        }
        # Thresholds are about frames.
        no_words = no_words or any(options.get(name) is not None for name in ("min_score", "min_confidence"))
        return self.search_features(self.encode(queries, no_words=no_words, **parts), k, **options)

    @torch.inference_mode()
    def encode(
        self,
        queries: Sequence[str | None],
        *,
        and_: str | Sequence[str] = (),
        not_: str | Sequence[str] = (),
        image: str | PathLike[str] | None = None,
        video: str | PathLike[str] | None = None,
        like: str | None = None,
        words: str | None = None,
        no_words: bool = False,
        deadline: float | None = None,
    ) -> list[Query]:
        """What is asked of [`~VideoIndex.search_batch`] for `search_features`, of any index of the model.

        With `deadline`, a reading of `time.monotonic()`, `video` is decoded in a process that is ended then.
        """
        if words is not None and not (words.strip() and len(words) <= MAX_CHARACTERS):
            raise ValueError(f"words={words[:50]!r}: give 1 to {MAX_CHARACTERS:,} characters of what is said")
        wanted, nots = ([part] if isinstance(part, str) else list(part) for part in (and_, not_))
        model, processor, examples, without = self.model, self.processor, [], None
        if image is not None:
            examples.append(read_image(model, processor, os.fspath(image)))
        if video is not None:
            examples.append(read_video(model, processor, os.fspath(video), deadline))
        if like is not None:
            example, without = read_stored(self._store, like)
            examples.append(example.to(model.device))
        sentences = [*wanted, *nots, *(query for query in queries if query is not None)]
        texts = encode_queries(model, processor, sentences) if sentences else []
        # Sentences with further parts are about frames.
        plain = words is None and not (no_words or wanted or nots or examples)
        shared, nots, own = texts[: len(wanted)], texts[len(wanted) :][: len(nots)], iter(texts[len(wanted + nots) :])
        return [
            Query(
                [*([] if query is None else [next(own)]), *shared],
                examples,
                nots,
                words=(query if plain else words) or "",
                every_word=plain,
                without=without,
            )
            for query in queries
        ]

    @torch.inference_mode()
    def search_features(
        self,
        queries: Sequence[GLCCLTextFeatures | Query],
        k: int = 10,
        *,
        min_score: float | None = None,
        min_confidence: float | None = None,
        sort: str = "score",
        moments: bool = False,
        exhaustive: bool = False,
        **filters: Any,
    ) -> list[list[SearchResult]]:
        """[`~VideoIndex.search`] for texts that are encoded already, each [1, D], [1, Nw, D], [1, Nw], or queries."""
        if k < 1:
            raise ValueError(f"k={k} must be 1 or more")
        if sort not in ORDERS:
            raise ValueError(f"sort={sort!r} is unknown; use {', '.join(ORDERS)}")
        if min_confidence is not None and not 0 <= min_confidence <= 1:
            raise ValueError(f"min_confidence={min_confidence} must lie in 0..1")
        if min_confidence is not None and self.model.config.confidence_weights is None:
            name = checkpoint_of(self.model) or "CHECKPOINT"
            raise ValueError(
                f"min_confidence={min_confidence}: the model is not calibrated, so its results have no confidence: "
                f"glccl calibrate {name} --benchmark NAME --split validation"
            )
        queries = [query if isinstance(query, Query) else Query([query]) for query in queries]
        if min_confidence is not None and any(query.measure != "logit" for query in queries):
            raise ValueError(f"min_confidence={min_confidence}: only searches with one sentence have confidences")
        without = next((query.without for query in queries if query.without), None)
        found = self._load().search(queries, k, moments, exhaustive, Filters(**{"without": without, **filters}))

        def passes(result: SearchResult) -> bool:
            confident = min_confidence is None or (result.confidence or 0) >= min_confidence
            return confident and (min_score is None or result.score >= min_score)

        return [sorted(filter(passes, results), key=ORDERS[sort]) for results in found]
