"""The shapes benchmark: real video files, rendered on first use instead of downloaded (docs/data.md)."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import datasets.config
import numpy as np
from datasets.arrow_writer import ArrowWriter
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher
from PIL import Image
from tqdm.auto import tqdm

from ...atomic import write_whole
from .render import encode_video, render_frames, render_still
from .sampler import SPLITS, sample_clips, sample_still
from .world import WORLDS, Event, relevant_frames

# A change of what is drawn or written needs a new version, or folders rendered before it pass for current ones.
VERSION = datasets.Version("1.1.0")

# Apart from the sampler's stream 0, so that no two random choices share a generator.
_VIDEO_STREAM, _STILL_STREAM = 1, 2

_EVENT = dict.fromkeys(("colour", "shape", "size", "action"), datasets.Value("string"))
_EVENT |= dict.fromkeys(("start", "end"), datasets.Value("float32"))
_COLUMNS = {
    "video_id": datasets.Value("string"),
    "caption": datasets.Value("string"),
    "start": datasets.Value("float32"),
    "end": datasets.Value("float32"),
    "scene": datasets.Value("string"),
    "events": datasets.List(_EVENT),
    "caption_events": datasets.List(datasets.Value("int32")),
    "twin_group": datasets.Value("int32"),
}
_STILL_COLUMNS = datasets.Features({"image": datasets.Image(), "phrase": datasets.Value("string")})
_STILLS_PER_FILE = 1000


@dataclass
class ShapesConfig(datasets.BuilderConfig):
    """Options of the shapes benchmark; the first rows of a split do not depend on how many follow."""

    num_train: int = 3000
    num_validation: int = 304
    num_test: int = 400
    num_stills: int = 40_000  # single frames
    seed: int = 0  # another gives other videos; the splits' event combinations stay disjoint across seeds
    image_size: int = 64  # side of the square frames in pixels, a multiple of 16
    # 0, the benchmark; 1 and 2, those of the cross-domain test (docs/data.md): 2 has a test split alone, and shows the
    # pairs of colour and shape that 1 never does.
    world: int = 0
    videos_dir: str | None = None  # for the .mp4 files; None leaves the column `video` out


_OPTIONS = [name for name in ShapesConfig.__annotations__ if name != "videos_dir"]


class Shapes(datasets.GeneratorBasedBuilder):
    """Builder of the tables of train, validation and test."""

    config: ShapesConfig
    VERSION = VERSION
    BUILDER_CONFIG_CLASS = ShapesConfig
    BUILDER_CONFIGS = (ShapesConfig(name="videos", version=VERSION),)

    def _info(self) -> datasets.DatasetInfo:
        columns = dict(_COLUMNS)
        if self.config.videos_dir is not None:
            columns = {"video": datasets.Video(decode=False), **columns}
        return datasets.DatasetInfo(
            description="Short rendered videos of successive events and captions that describe some of them.",
            features=datasets.Features(columns),
            license="apache-2.0",
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        splits = []
        for split in SPLITS:
            if count := getattr(self.config, f"num_{split}"):
                splits.append(datasets.SplitGenerator(name=split, gen_kwargs={"split": split, "count": count}))
                splits[-1].split_info.num_examples = count  # the total of the progress bar
        return splits

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for clip in sample_clips(split, count, self.config.seed, self.config.world):
            row = vars(clip) | {"events": [vars(event) for event in clip.events], "start": None, "end": None}
            del row["meaning"]
            if self.config.videos_dir is not None:
                row["video"] = str(Path(self.config.videos_dir, split, f"{clip.video_id}.mp4"))
            yield clip.video_id, row


def load(
    data_dir: str | Path | None = None,
    repo_id: str | None = None,
    split: str | None = "test",
    missing: str = "error",
    with_videos: bool = True,
    *,
    config_name: str = "videos",
    num_proc: int | None = None,
    **config: int,
) -> datasets.Dataset | datasets.DatasetDict:
    """Loads the shapes benchmark, rendering whatever is not there yet; see [`modeling_glccl.data.load_benchmark`].

    Args:
        data_dir: where to keep videos and tables; defaults to the cache of `datasets`.
        repo_id, missing: not supported, and without effect: what is missing is rendered.
        split: "train" for stills; None for all. Only its videos are rendered.
        config_name: "videos", or "stills" for single frames (`image`) with phrases (`phrase`).
        **config: options of [`ShapesConfig`].

    Raises:
        ValueError: `repo_id` given, unknown split or option.
        OSError: a file could not be written. What is there stays; the next call goes on from there.
    """
    if repo_id is not None:
        raise ValueError(f"repo_id={repo_id!r}: the shapes benchmark is rendered, not downloaded; leave repo_id out")
    if unknown := sorted(set(config) - set(_OPTIONS)):
        raise ValueError(f"unknown option {unknown[0]!r} of the shapes benchmark; it has {', '.join(_OPTIONS)}")
    options: dict[str, Any] = {name: config.get(name, getattr(ShapesConfig, name)) for name in _OPTIONS}
    for name, value in options.items():
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{name}={value!r} must be a whole number, not negative")
    if options["image_size"] not in range(16, 2049, 16):
        raise ValueError(f"image_size={options['image_size']} must be a multiple of 16, at most 2048")
    if options["world"] >= len(WORLDS):
        raise ValueError(f"world={options['world']} must be 0, 1 or 2")
    if config_name == "stills" and not options["num_stills"]:
        raise ValueError("num_stills=0 must be 1 or more")
    if options["world"] == 2:
        if config_name == "stills":
            raise ValueError("world=2 is there to be tested: it has no stills")
        options |= {"num_train": 0, "num_validation": 0}
    splits = ["train"] if config_name == "stills" else [name for name in SPLITS if options[f"num_{name}"]]
    if split is not None and split not in splits:
        raise ValueError(f"split={split!r} must be one of {', '.join(splits)}, or None for all")
    root = Path(data_dir or datasets.config.HF_DATASETS_CACHE).absolute() / "shapes"
    seed, image_size, world, total = (options[name] for name in ("seed", "image_size", "world", "num_stills"))
    folder = root / (f"v{VERSION}-seed{seed}-{image_size}px" + f"-world{world}" * bool(world))
    if config_name == "stills":
        firsts = range(0, total, _STILLS_PER_FILE)
        parts = [range(first, min(first + _STILLS_PER_FILE, total)) for first in firsts]
        files = {folder / "stills" / f"{part.start:06d}-{part.stop:06d}.arrow": part for part in parts}
        jobs = [(path, part) for path, part in files.items() if not path.exists()]
        done = total - sum(len(part) for _, part in jobs)
        _render_all(partial(_render_stills, seed, image_size, world), jobs, done, total, "still", num_proc)
        dataset = datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in files])
        return dataset if split else datasets.DatasetDict({"train": dataset})
    if with_videos:
        options["videos_dir"] = str(folder)
    builder = Shapes(cache_dir=str(root / "tables"), config_name=config_name, hash=Hasher.hash(options), **options)
    try:
        builder.download_and_prepare(verification_mode="no_checks")
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise
    dataset = cast(datasets.Dataset | datasets.DatasetDict, builder.as_dataset(cast(datasets.Split, split)))
    if "videos_dir" not in options:
        return dataset

    # The videos that are not there yet, of all splits, with one progress bar.
    parts = dataset.values() if isinstance(dataset, datasets.DatasetDict) else [dataset]
    rows = [
        part[number]
        for part in parts
        for number, video in enumerate(part["video"])
        if not Path(video["path"]).exists()
    ]
    total = sum(map(len, parts))
    _render_all(partial(_render_video, seed, image_size, world), rows, total - len(rows), total, "video", num_proc)
    return dataset


def _render_all(
    render: Callable[[Any], int], jobs: Sequence[Any], done: int, total: int, unit: str, num_proc: int | None
) -> None:
    """Does the jobs, in several processes if asked to, with one progress bar; `render` says how many items it made."""
    with (
        tqdm(total=total, initial=done, desc="rendering", unit=unit, disable=not jobs) as bar,
        ProcessPoolExecutor(num_proc) if num_proc and num_proc > 1 else nullcontext() as pool,
    ):
        for made in pool.map(render, jobs) if pool else map(render, jobs):
            bar.update(made)


def _render_stills(seed: int, image_size: int, world: int, job: tuple[Path, range]) -> int:
    """Writes a file of stills, which is whole or not there: an interrupted rendering goes on with the next."""
    path, indices = job
    table = io.BytesIO()
    with ArrowWriter(features=_STILL_COLUMNS, stream=table) as writer:
        for index in indices:
            still = sample_still(index, seed, world)
            image = render_still(np.random.default_rng([_STILL_STREAM, seed, index]), still, image_size)
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "jpeg", quality=90)
            writer.write({"image": {"path": None, "bytes": buffer.getvalue()}, "phrase": still.phrase})
        writer.finalize(close_stream=False)
    _write(path, table.getvalue())
    return len(indices)


def _render_video(seed: int, image_size: int, world: int, row: Mapping[str, Any]) -> int:
    """Writes the video of a row; its times are multiples of 1/8 s, which float32 holds exactly."""
    split, number = row["video_id"].split("_")
    rng = np.random.default_rng([_VIDEO_STREAM, seed, SPLITS.index(split), int(number), *[world] * bool(world)])
    frames = render_frames(rng, row["scene"], [Event(**event) for event in row["events"]], image_size, WORLDS[world])
    _write(Path(row["video"]["path"]), encode_video(frames))
    return 1


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, io.BytesIO(content))
    except OSError as error:
        raise OSError(
            error.errno, f"could not write {path} ({error.strerror}): free some space or choose another data_dir"
        ) from error


__all__ = ["VERSION", "Shapes", "ShapesConfig", "load", "relevant_frames", "sample_clips"]
