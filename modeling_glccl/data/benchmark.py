"""What the downloaded benchmarks share: annotations -> rows of one form, cached in Arrow, with their videos."""

import difflib
import html
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, cast

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

from .archives import extract, find_archives
from .files import VideoFiles
from .mirrors import load_mirror

# A change of how annotations are read needs a new version, or tables cached before it pass for current ones.
VERSION = datasets.Version("1.1.0")

CAPTION_MODES = ("all", "random", "list")
FILE_NAMES = {"train": "train", "validation": "val", "test": "test"}  # of a split's files in most benchmarks


class AnnotatedVideo(NamedTuple):
    """A video of a split, its captions and, where only a part of it counts, the seconds of that part."""

    video_id: str
    captions: list[str]
    start: float | None = None
    end: float | None = None


class Canonical(NamedTuple):
    """Size of the split that published results are about, and the name under which they state it."""

    name: str
    videos: int | None
    captions: int | None

    def is_met(self, videos: int, captions: int | None) -> bool:
        """Whether a split of so many videos and captions has this size; a number that is None does not count."""
        return self.videos in (None, videos) and (captions is None or self.captions in (None, captions))


@dataclass
class VideoBenchmarkConfig(datasets.BuilderConfig):
    """Options of every benchmark; `data_dir` has the annotations and `videos/`, and the name is the split."""

    videos_dir: str = "videos"  # absolute or below `data_dir`; searched with all its sub-folders
    with_videos: bool = True  # False leaves the column `video` out and looks for no video
    # "all": a row per caption; "random": a row per video with one of its captions, drawn with `seed`; "list": a row
    # per video with all of them in the column `captions`.
    captions: str = "all"
    seed: int = 0


class VideoBenchmark(datasets.GeneratorBasedBuilder):
    """Base of the builders. A benchmark says which files it has, how to read them and how its videos are named."""

    VERSION = VERSION
    BUILDER_CONFIG_CLASS = VideoBenchmarkConfig

    title: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    split_aliases: ClassVar[dict[str, str]] = {"val": "validation"}
    sizes: ClassVar[dict[str, tuple[int, int]]] = {}  # videos and captions of the splits of published results

    config: VideoBenchmarkConfig

    def annotation_files(self) -> list[Path]:
        """The files that [`read`] takes for this split; a FileNotFoundError if one is missing."""
        raise NotImplementedError

    def read(self, files: list[Path]) -> Iterator[AnnotatedVideo]:
        """The videos of this split, in the order of the annotations."""
        raise NotImplementedError

    def canonical(self) -> Canonical:
        """What published results call this split, and how large it is."""
        return Canonical(f"{self.title} {self.split}", *self.sizes.get(self.split, (None, None)))

    def locate(self, video: AnnotatedVideo, files: VideoFiles) -> tuple[str | None, AnnotatedVideo]:
        """The path of a video or None; and the video, with another window if its file asks for one."""
        return files.find(video.video_id), video

    def mirror_config(self) -> str | None:
        """The configuration of known mirrors on the Hub that holds this split; None: they have but one."""
        return None

    def mirrored(self, video_id: str, captions: list[str], duration: float | None) -> AnnotatedVideo:
        """The video of a mirror's row."""
        return AnnotatedVideo(video_id, captions)

    def mirror_needs_all_splits(self) -> bool:
        """Whether this split's videos may stand in any split of a mirror."""
        return False

    def select_mirrored(self, videos: Iterable[AnnotatedVideo]) -> Iterable[AnnotatedVideo]:
        """Those of a mirror's videos that belong to this split."""
        return videos

    @property
    def split(self) -> str:
        """The one split that this builder makes."""
        return self.config.name

    def place_of(self, video_id: str) -> str:
        """A video as messages name it: where the annotations do."""
        return video_id

    @property
    def folder(self) -> Path:
        """`data_dir`."""
        folder = Path(self.config.data_dir or "").expanduser().absolute()
        if not folder.is_dir():
            raise FileNotFoundError(f"data_dir={self.config.data_dir} is not a folder; {self.name} is read from there")
        return folder

    @property
    def root(self) -> Path:
        """The benchmark's folder: `data_dir`, or the sub-folder of it that has the benchmark's name."""
        return self.folder / self.name if (self.folder / self.name).is_dir() else self.folder

    def video_files(self) -> VideoFiles:
        """The files below the folder of videos, once archives beside or in it are extracted."""
        folder = self.root / self.config.videos_dir
        for archive in find_archives(self.root, folder):
            extract(archive, folder)
        return VideoFiles(folder)

    def _info(self) -> datasets.DatasetInfo:
        text, seconds = datasets.Value("string"), datasets.Value("float32")
        caption = {"captions": datasets.List(text)} if self.config.captions == "list" else {"caption": text}
        video = {"video": datasets.Video(decode=False)} if self.config.with_videos else {}
        columns = {**video, "video_id": text, **caption, "start": seconds, "end": seconds}
        return datasets.DatasetInfo(features=datasets.Features(columns))

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=self.split, gen_kwargs={})]

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        annotations = self.annotation_files()
        files = self.video_files() if self.config.with_videos else None
        # The first of several files is the list of the split, which holds no captions.
        where = " or ".join(map(str, annotations[1:] or annotations))
        yield from enumerate(self.rows(self.read(annotations), files, where))

    def rows(
        self, videos: Iterable[AnnotatedVideo], files: VideoFiles | None, source: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Rows of the dataset; `video` is None where the file is missing. With `source`, captions are checked."""
        for video in videos:
            try:
                if source:
                    check_captions(video.captions)
            except ValueError as error:
                raise ValueError(f"{source}, {video.video_id}: {error}") from None
            row = {}
            if files is not None:
                row["video"], video = self.locate(video, files)
            row |= {"video_id": video.video_id, "start": video.start, "end": video.end}
            if self.config.captions == "list":
                yield row | {"captions": video.captions}
                continue
            captions = video.captions
            if self.config.captions == "random":
                # Drawn by the video's own id, the caption does not depend on which other videos are there.
                captions = [random.Random(f"{self.config.seed} {video.video_id}").choice(captions)]
            for caption in captions:
                yield row | {"caption": caption}

    def table(self, rows: Iterable[dict[str, Any]]) -> datasets.Dataset:
        """The rows as a dataset that no file caches."""
        rows, features = list(rows), datasets.Features(self.info.features or {})
        contents = {column: [row[column] for row in rows] for column in features}
        return datasets.Dataset.from_dict(contents, features, split=datasets.NamedSplit(self.split))

    def build(self) -> datasets.Dataset:
        """The split from local files, from the cache if neither annotations nor the list of videos have changed."""
        try:
            self.download_and_prepare(verification_mode="no_checks")
        except DatasetGenerationError as error:
            raise error.__cause__ or error from None
        assert self.info.splits is not None
        if not self.info.splits[self.split].num_examples:  # which `datasets` does not read; `finish` refuses it
            return datasets.Dataset.from_dict({name: [] for name in self.info.features or ()}, self.info.features)
        return cast(datasets.Dataset, self.as_dataset(self.split))

    @classmethod
    def from_files(cls, split: str, **options: Any) -> Self:
        """A builder whose cache is that of the files as they are now."""
        probe = cls(config_name=split, hash="probe", **options)
        content = [file.read_bytes() for file in probe.annotation_files()]
        listing = probe.video_files().listing() if probe.config.with_videos else None
        return cls(config_name=split, hash=Hasher.hash([str(VERSION), content, listing, options]), **options)

    def load_hub(self, repo_id: str, **hub: Any) -> datasets.Dataset:
        """The split from a mirror; `hub` as for [`load_mirror`]."""
        return load_mirror(self, repo_id, **hub)

    @classmethod
    def split_names(
        cls, repo_id: str | None = None, hub: dict[str, Any] | None = None, **options: Any
    ) -> Sequence[str]:
        """The splits that there are."""
        return cls.splits

    @classmethod
    def load(
        cls,
        data_dir: str | Path | None = None,
        repo_id: str | None = None,
        split: str | None = "test",
        missing: str = "error",
        with_videos: bool = True,
        *,
        hub: dict[str, Any] | None = None,
        **options: Any,
    ) -> datasets.Dataset | datasets.DatasetDict:
        """As [`modeling_glccl.data.load_benchmark`]; `hub`: how to read another mirror, see [`load_mirror`]."""
        options = cls.check_options(options)
        if data_dir is None and repo_id is None:
            raise ValueError(f"{cls.benchmark_name()} needs data_dir (its folder) or repo_id (a mirror on the Hub)")
        if data_dir is not None:
            options["data_dir"] = str(data_dir)
        names = cls.split_names(repo_id, hub, **options) if split is None else [cls.check_split(split)]
        options["with_videos"] = with_videos
        loaded = datasets.DatasetDict()
        for name in names:
            if repo_id is None:
                builder = cls.from_files(name, **options)
                dataset = builder.build()
            else:
                if data_dir is not None:
                    Path(data_dir).expanduser().mkdir(parents=True, exist_ok=True)
                builder = cls(config_name=name, hash="mirror", **options)
                dataset = builder.load_hub(repo_id, **hub or {})
            loaded[name] = builder.finish(dataset, missing)
        return loaded if split is None else loaded[names[0]]

    @classmethod
    def benchmark_name(cls) -> str:
        """The name for `load_benchmark`: that of the module."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def check_split(cls, split: str) -> str:
        """Our name of a split."""
        name = cls.split_aliases.get(split, split)
        if name not in cls.splits:
            known = ", ".join([*cls.splits, *cls.split_aliases])
            raise ValueError(f"split={split!r} of {cls.benchmark_name()} must be one of {known}, or None for all")
        return name

    @classmethod
    def check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        """The options, if the benchmark has them."""
        own = [field.name for field in fields(cls.BUILDER_CONFIG_CLASS)]
        hidden = {field.name for field in fields(datasets.BuilderConfig)} | {"with_videos"}
        known = [name for name in own if name not in hidden]
        for name in options:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {nearest[0]}?)" if nearest else ""
                raise ValueError(f"unknown option {name!r} of {cls.benchmark_name()}{hint}; it has {', '.join(known)}")
        if options.get("captions", "all") not in CAPTION_MODES:
            raise ValueError(f"captions={options['captions']!r} must be one of {', '.join(CAPTION_MODES)}")
        for field in fields(cls.BUILDER_CONFIG_CLASS):
            kind = {str: str | PathLike, int: int, bool: bool, str | None: str | None}.get(cast(Any, field.type))
            if kind and field.name in options and not isinstance(options[field.name], kind):
                raise ValueError(f"{field.name}={options[field.name]!r} must be of type {field.type}")
        return options

    def finish(self, dataset: datasets.Dataset, missing: str) -> datasets.Dataset:
        """Deals with missing videos, compares with the canonical counts, and names the dataset."""
        where = f"{self.name} {self.split}"
        if not len(dataset):
            raise ValueError(f"{where}: no video of the split has captions; do lists and captions belong together?")
        if self.config.with_videos:
            found = found_videos(dataset)
            place = self.config.data_dir or "data_dir"
            absent = dataset.select(np.flatnonzero(~found)).unique("video_id")
            expected = len(dataset.unique("video_id"))
            if absent and missing == "error":
                raise FileNotFoundError(
                    f"{where}: {len(absent):,} of {expected:,} videos are missing: "
                    f"{', '.join(map(self.place_of, absent[:10]))}"
                    f"{', ...' if len(absent) > 10 else ''}. Put them below {place}, or pass "
                    "missing='skip' to leave them out, which gives results that no published ones compare with"
                )
            if missing == "skip":
                print(f"{where}: {expected - len(absent):,} of {expected:,} videos found", flush=True)
            if absent:
                if len(absent) == expected:
                    raise FileNotFoundError(f"{where}: none of {expected:,} videos is below {place}")
                dataset = dataset.select(np.flatnonzero(found))
        canonical = self.canonical()
        videos, captions = count(dataset)
        if canonical.is_met(videos, None if self.config.captions == "random" else captions):
            dataset.info.description = canonical.name
        else:
            expected = f"{canonical.videos or videos:,} videos and {canonical.captions or captions:,} captions"
            dataset.info.description = f"{self.title} {self.split}, {videos:,} videos: not the canonical split"
            warnings.warn(
                f"{where}: {videos:,} videos and {captions:,} captions, where {canonical.name} has {expected}: "
                f"results are not comparable with published ones of {canonical.name}",
                stacklevel=4,
            )
        return dataset


def check_captions(captions: Any) -> list[str]:
    """The same captions, if they are a list of texts in which there is something to read; else a ValueError."""
    if not isinstance(captions, list | tuple) or not captions:
        raise ValueError(f"captions are {captions!r}; expected a text or a list of texts")
    for caption in captions:
        if not isinstance(caption, str):
            raise ValueError(f"a caption is {caption!r}; expected a text")
        text = html.unescape(html.unescape(caption)).strip()
        if not any(character.isprintable() and not character.isspace() for character in text):
            raise ValueError(f"a caption is {caption!r}, which is empty; expected a text")
        if text.lower() in ("nan", "null", "none"):
            raise ValueError(f"a caption is {caption!r}, which stands for none; expected a text")
        try:
            caption.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"a caption is {caption!r}, which is no Unicode text: {error.reason}") from error
    return list(captions)


def found_videos(dataset: datasets.Dataset) -> np.ndarray:
    """bool [rows]: where there is a video. The dataset must not be a selection of another."""
    return dataset.data.column("video").is_valid().to_numpy()


def count(dataset: datasets.Dataset) -> tuple[int, int]:
    """How many videos and captions a dataset has."""
    captions = sum(map(len, dataset["captions"])) if "captions" in dataset.column_names else len(dataset)
    return len(dataset.unique("video_id")), captions
