"""The shapes benchmark: real video files, rendered on first use instead of downloaded (docs/data.md)."""

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.fingerprint import Hasher
from PIL import Image
from tqdm.auto import tqdm

from ...atomic import write_whole
from .render import encode_video, render_frames, render_still
from .sampler import SPLITS, iter_clips, sample_clips, sample_still
from .world import Clip, Event, relevant_frames

# A change of what is drawn or written needs a new version, or folders rendered before it pass for current ones.
VERSION = datasets.Version("1.1.0")

# Apart from the sampler's stream 0, so that no two random choices share a generator.
_VIDEO_STREAM, _STILL_STREAM = 1, 2

_EVENT = {
    "colour": datasets.Value("string"),
    "shape": datasets.Value("string"),
    "size": datasets.Value("string"),
    "action": datasets.Value("string"),
    "start": datasets.Value("float32"),
    "end": datasets.Value("float32"),
}
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


@dataclass
class ShapesConfig(datasets.BuilderConfig):
    """Options of the shapes benchmark; the first rows of a split do not depend on how many follow.

    Args:
        num_train, num_validation, num_test: videos per split (`videos`).
        num_stills: single frames (`stills`).
        seed: another seed gives other videos; the splits' event combinations stay disjoint across seeds.
        image_size: side of the square frames in pixels, a multiple of 16.
        videos_dir: folder for the .mp4 files; None leaves the column `video` out.
    """

    num_train: int = 3000
    num_validation: int = 304
    num_test: int = 400
    num_stills: int = 40_000
    seed: int = 0
    image_size: int = 64
    videos_dir: str | None = None


_OPTIONS = ("num_train", "num_validation", "num_test", "num_stills", "seed", "image_size")


class Shapes(datasets.GeneratorBasedBuilder):
    """Builder of the two configurations: `videos` (train, validation, test) and `stills` (train)."""

    VERSION = VERSION
    BUILDER_CONFIG_CLASS = ShapesConfig
    BUILDER_CONFIGS = (ShapesConfig(name="videos", version=VERSION), ShapesConfig(name="stills", version=VERSION))
    DEFAULT_CONFIG_NAME = "videos"

    def _info(self) -> datasets.DatasetInfo:
        if self.config.name == "stills":
            columns = {"image": datasets.Image(), "phrase": datasets.Value("string")}
        else:
            columns = dict(_COLUMNS)
            if self.config.videos_dir is not None:
                columns = {"video": datasets.Video(decode=False), **columns}
        return datasets.DatasetInfo(
            description="Short rendered videos of successive events and captions that describe some of them.",
            features=datasets.Features(columns),
            license="apache-2.0",
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        config = self.config
        counts = dict(zip(SPLITS, (config.num_train, config.num_validation, config.num_test), strict=True))
        if config.name == "stills":
            counts = {"train": config.num_stills}
        splits = []
        for split, count in counts.items():
            if count:
                # A list is what `datasets` shares out among processes.
                kwargs = {"indices": list(range(count))} if config.name == "stills" else {"split": split}
                splits.append(datasets.SplitGenerator(name=split, gen_kwargs=kwargs))
                splits[-1].split_info.num_examples = count  # the total of the progress bar
        return splits

    def _generate_examples(
        self, split: str | None = None, indices: Sequence[int] = ()
    ) -> Iterator[tuple[str | int, dict[str, Any]]]:
        if split is not None:
            for clip in iter_clips(split, getattr(self.config, f"num_{split}"), self.config.seed):
                yield clip.video_id, self._video_row(clip)
        for index in indices:
            yield index, self._still_row(index)

    def _video_row(self, clip: Clip) -> dict[str, Any]:
        row = {
            "video_id": clip.video_id,
            "caption": clip.caption,
            "start": None,
            "end": None,
            "scene": clip.scene,
            "events": [vars(event) for event in clip.events],
            "caption_events": clip.caption_events,
            "twin_group": clip.twin_group,
        }
        if self.config.videos_dir is not None:
            split = clip.video_id.split("_")[0]
            row["video"] = str(Path(self.config.videos_dir, split, f"{clip.video_id}.mp4"))
        return row

    def _still_row(self, index: int) -> dict[str, Any]:
        still = sample_still(index, self.config.seed)
        rng = np.random.default_rng([_STILL_STREAM, self.config.seed, index])
        buffer = io.BytesIO()
        Image.fromarray(render_still(rng, still, self.config.image_size)).save(buffer, "jpeg", quality=90)
        return {"image": {"path": None, "bytes": buffer.getvalue()}, "phrase": still.phrase}


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
        repo_id: not supported.
        split: "train", "validation" or "test"; "train" for stills; None for all. Only its videos are rendered.
        missing: without effect, as missing videos are rendered.
        with_videos: False renders nothing and leaves the column `video` out.
        config_name: "videos", or "stills" for single frames (`image`) with phrases (`phrase`).
        num_proc: processes that render.
        **config: options of [`ShapesConfig`].

    Raises:
        ValueError: `repo_id` given, unknown split or option.
        OSError: a video could not be written. What is there stays; the next call goes on from there.
    """
    if repo_id is not None:
        raise ValueError(f"repo_id={repo_id!r}: the shapes benchmark is rendered, not downloaded; leave repo_id out")
    if unknown := sorted(set(config) - set(_OPTIONS)):
        raise ValueError(f"unknown option {unknown[0]!r} of the shapes benchmark; it has {', '.join(_OPTIONS)}")
    config = {name: config.get(name, getattr(ShapesConfig, name)) for name in _OPTIONS}
    for name, value in config.items():
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{name}={value!r} must be a whole number, not negative")
    if config["image_size"] % 16 or not config["image_size"]:
        raise ValueError(f"image_size={config['image_size']} must be a multiple of 16")
    splits = ("train",) if config_name == "stills" else [name for name in SPLITS if config[f"num_{name}"]]
    if split is not None and split not in splits:
        raise ValueError(f"split={split!r} must be one of {', '.join(splits)}, or None for all")
    root = Path(data_dir or datasets.config.HF_DATASETS_CACHE).absolute() / "shapes"
    if with_videos and config_name == "videos":
        config["videos_dir"] = str(root / f"v{VERSION}-seed{config['seed']}-{config['image_size']}px")
    builder = Shapes(cache_dir=str(root / "tables"), config_name=config_name, hash=Hasher.hash(config), **config)
    try:
        builder.download_and_prepare(
            num_proc=num_proc if config_name == "stills" else None, verification_mode="no_checks"
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise
    dataset = builder.as_dataset(split)
    if "videos_dir" in config:
        _render_missing(dataset if split is None else {split: dataset}, config["seed"], config["image_size"], num_proc)
    return dataset


def _render_missing(parts: Mapping[str, datasets.Dataset], seed: int, image_size: int, num_proc: int | None) -> None:
    """Renders the videos that are not there yet, of all parts, with one progress bar."""
    rows = [
        part[number]
        for part in parts.values()
        for number, video in enumerate(part["video"])
        if not Path(video["path"]).exists()
    ]
    if not rows:
        return
    total = sum(map(len, parts.values()))
    render = partial(_render, seed=seed, image_size=image_size)
    with (
        tqdm(total=total, initial=total - len(rows), desc="rendering", unit="video") as bar,
        ProcessPoolExecutor(num_proc) if num_proc and num_proc > 1 else nullcontext() as pool,
    ):
        for _ in pool.map(render, rows, chunksize=8) if pool else map(render, rows):
            bar.update()


def _render(row: Mapping[str, Any], seed: int, image_size: int) -> None:
    """Writes the video of a row; its times are multiples of 1/8 s, which float32 holds exactly."""
    split, number = row["video_id"].split("_")
    rng = np.random.default_rng([_VIDEO_STREAM, seed, SPLITS.index(split), int(number)])
    frames = render_frames(rng, row["scene"], [Event(**event) for event in row["events"]], image_size)
    path = Path(row["video"]["path"])
    try:
        write_whole(path, io.BytesIO(encode_video(frames)))
    except OSError as error:
        raise OSError(
            error.errno, f"could not write {path} ({error.strerror}): free some space or choose another data_dir"
        ) from error


__all__ = ["VERSION", "Shapes", "ShapesConfig", "load", "relevant_frames", "sample_clips"]
