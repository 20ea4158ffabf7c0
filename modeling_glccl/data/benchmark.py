"""What the downloaded benchmarks share: annotations -> rows of one form, cached in Arrow, with their videos."""

import difflib
import html
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

from .archives import extract, find_archives
from .files import VideoFiles
from .mirrors import load_mirror

# A change of how annotations are read needs a new one, or tables cached before it pass for current ones.
VERSION = "2"
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
class VideoBenchmark:
    """A split of a benchmark, which says which files it has, how to read them and how its videos are named.

    The fields from `videos_dir` on are the options of every benchmark; others add to them.
    """

    split: str
    data_dir: str | None = None  # has the annotations and `videos/`
    with_videos: bool = True  # False leaves the column `video` out and looks for no video
    videos_dir: str = "videos"  # absolute or below `data_dir`; searched with all its sub-folders
    # "all": a row per caption; "random": a row per video with one of its captions, drawn with `seed`; "list": a row
    # per video with all of them in the column `captions`.
    captions: str = "all"
    seed: int = 0

    name: ClassVar[str]  # for `load_benchmark`: that of the module
    title: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    split_aliases: ClassVar[dict[str, str]] = {"val": "validation"}
    sizes: ClassVar[dict[str, tuple[int, int]]] = {}  # videos and captions of the splits of published results

    def __init_subclass__(cls) -> None:
        cls.name = cls.__module__.rpartition(".")[2]

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

    def mirror_list(self) -> list[str] | None:
        """The ids of this split, whatever the splits of a mirror in which they stand; None: it is a mirror's own."""
        return None

    def place_of(self, video_id: str) -> str:
        """A video as messages name it: where the annotations do."""
        return video_id

    @property
    def folder(self) -> Path:
        """`data_dir`."""
        folder = None if self.data_dir is None else Path(self.data_dir).expanduser().absolute()
        if folder is None or not folder.is_dir():
            raise FileNotFoundError(f"data_dir={self.data_dir} is not a folder; {self.name} is read from there")
        return folder

    @property
    def root(self) -> Path:
        """The benchmark's folder: `data_dir`, or the sub-folder of it that has the benchmark's name."""
        return self.folder / self.name if (self.folder / self.name).is_dir() else self.folder

    def build(self) -> datasets.Dataset:
        """The split from local files; archives of videos beside or in their folder are extracted first.

        A builder of `datasets` makes it, whose Arrow files are used as long as annotations and videos are the same.
        """
        annotations, files = self.annotation_files(), VideoFiles()
        if self.with_videos:
            folder = self.root / self.videos_dir
            for archive in find_archives(self.root, folder):
                extract(archive, folder)
            files = VideoFiles(folder)
        content, listing = [path.read_bytes() for path in annotations], files.listing()
        try:
            made: Any = datasets.Dataset.from_generator(
                lambda: self.rows(self.checked(annotations), files),
                self.features,
                split=datasets.NamedSplit(self.split),
                fingerprint=Hasher.hash([VERSION, self.name, vars(self), content, listing]),
            )
        except DatasetGenerationError as error:
            raise error.__cause__ or error from None
        return made

    def checked(self, annotations: list[Path]) -> Iterator[AnnotatedVideo]:
        """The videos that are read from the annotations; a ValueError for one without a caption."""
        for video in self.read(annotations):
            try:
                check_captions(video.captions)
            except ValueError as error:
                # The first of several files is the list of the split, which holds no captions.
                where = " or ".join(map(str, annotations[1:] or annotations))
                raise ValueError(f"{where}, {video.video_id}: {error}") from None
            yield video

    def load_hub(self, repo_id: str, **hub: Any) -> datasets.Dataset:
        """The split from a mirror; `hub` as for [`load_mirror`]."""
        return load_mirror(self, repo_id, **hub)

    @property
    def features(self) -> datasets.Features:
        """Columns of a split and their types."""
        text, seconds = datasets.Value("string"), datasets.Value("float32")
        caption = {"captions": datasets.List(text)} if self.captions == "list" else {"caption": text}
        video = {"video": datasets.Video(decode=False)} if self.with_videos else {}
        return datasets.Features({**video, "video_id": text, **caption, "start": seconds, "end": seconds})

    def rows(self, videos: Iterable[AnnotatedVideo], files: VideoFiles) -> Iterator[dict[str, Any]]:
        """The rows of a split; `video` is None where the file is missing. Raises ValueError for no video at all."""
        video = None
        for video in videos:
            row = {}
            if self.with_videos:
                row["video"], video = self.locate(video, files)
            row |= {"video_id": video.video_id, "start": video.start, "end": video.end}
            if self.captions == "list":
                yield row | {"captions": video.captions}
                continue
            captions = video.captions
            if self.captions == "random":
                # Drawn by the video's own id, the caption does not depend on which other videos are there.
                captions = [random.Random(f"{self.seed} {video.video_id}").choice(captions)]
            for caption in captions:
                yield row | {"caption": caption}
        if video is None:
            where = f"{self.name} {self.split}"
            raise ValueError(f"{where}: no video of the split has captions; do lists and captions belong together?")

    def table(self, videos: Iterable[AnnotatedVideo], files: VideoFiles) -> datasets.Dataset:
        """The rows as a split in memory, of a table that is read anew each time."""
        rows, features = list(self.rows(videos, files)), self.features
        contents = {column: [row[column] for row in rows] for column in features}
        return datasets.Dataset.from_dict(contents, features, split=datasets.NamedSplit(self.split))

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
        names = [] if split is None else [cls.check_split(split)]
        if data_dir is not None:
            options["data_dir"] = str(data_dir)
            if repo_id is not None:
                Path(data_dir).expanduser().mkdir(parents=True, exist_ok=True)
        elif repo_id is None:
            raise ValueError(f"{cls.name} needs data_dir (its folder) or repo_id (a mirror on the Hub)")
        loaded = datasets.DatasetDict()
        for name in names or cls.split_names(repo_id, hub, **options):
            benchmark = cls(name, with_videos=with_videos, **options)
            dataset = benchmark.build() if repo_id is None else benchmark.load_hub(repo_id, **hub or {})
            loaded[name] = benchmark.finish(dataset, missing)
        return loaded if split is None else loaded[names[0]]

    @classmethod
    def check_split(cls, split: str) -> str:
        """Our name of a split."""
        name = cls.split_aliases.get(split, split)
        if name not in cls.splits:
            known = ", ".join([*cls.splits, *cls.split_aliases])
            raise ValueError(f"split={split!r} of {cls.name} must be one of {known}, or None for all")
        return name

    @classmethod
    def check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        """The options, if the benchmark has them."""
        given = ("split", "data_dir", "with_videos")  # by `load`
        known = [field.name for field in fields(cls) if field.name not in given]
        for name in options:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {nearest[0]}?)" if nearest else ""
                raise ValueError(f"unknown option {name!r} of {cls.name}{hint}; it has {', '.join(known)}")
        if options.get("captions", "all") not in CAPTION_MODES:
            raise ValueError(f"captions={options['captions']!r} must be one of {', '.join(CAPTION_MODES)}")
        for field in fields(cls):
            kind = {str: str | PathLike, int: int, bool: bool, str | None: str | None}.get(cast(Any, field.type))
            if kind and field.name in options and not isinstance(options[field.name], kind):
                expected = getattr(field.type, "__name__", field.type)
                raise ValueError(f"{field.name}={options[field.name]!r} must be of type {expected}")
        return options

    def finish(self, dataset: datasets.Dataset, missing: str) -> datasets.Dataset:
        """Deals with missing videos, compares with the canonical counts, and names the dataset."""
        where = f"{self.name} {self.split}"
        if self.with_videos:
            found = found_videos(dataset)
            place = self.data_dir or "data_dir"
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
        if canonical.is_met(videos, None if self.captions == "random" else captions):
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
