"""A benchmark as Parquet files with a card: a folder that the Hub serves and plain `load_dataset` reads."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow.parquet
from datasets.table import embed_table_storage
from huggingface_hub import DatasetCard

from ..atomic import new_folder
from . import load_benchmark
from .files import read_text

# Benchmarks whose videos may be passed on. Of the others, owners allow captions and identifiers at most.
FREE_VIDEOS = {"shapes": "Apache-2.0"}
ROWS_AT_ONCE = 100


def export_benchmark(
    name: str,
    folder: str | Path,
    card: str | Path,
    *,
    videos: bool = False,
    splits: Iterable[str] | None = None,
    shard_bytes: int = 400_000_000,
    **options: Any,
) -> dict[str, int]:
    """Writes `data/<split>-*.parquet` and README.md; the folder appears when all of it is written.

    `card` is the README.md of the dataset, with metadata; the files and the number of rows of every split, which are
    returned too, are added to it. `options` are further arguments of [`load_benchmark`].

    Raises:
        ValueError: embedding videos that may not be passed on.
        FileExistsError: the folder holds something.
        OSError: the folder cannot be written, for example because the disk is full.
    """
    folder = Path(folder)
    if videos and name not in FREE_VIDEOS:
        raise ValueError(
            f"the videos of {name} may not be passed on, so they are not embedded: export without videos. "
            f"Embedded can be: {', '.join(FREE_VIDEOS)}"
        )
    readme = DatasetCard(read_text(Path(card)))
    options |= {"with_videos": videos}
    with new_folder(folder) as part:
        if splits:
            loaded = {split: cast(datasets.Dataset, load_benchmark(name, split=split, **options)) for split in splits}
        else:
            loaded = cast(dict[str, datasets.Dataset], load_benchmark(name, split=None, **options))
        rows = {split: len(dataset) for split, dataset in loaded.items()}
        # Exactly the splits that are written: `load_dataset` fails if it misses one that the card names.
        files = [{"split": split, "path": f"data/{split}-*"} for split in rows]
        cast(Any, readme.data).configs = [{"config_name": "default", "data_files": files}]
        table = "\n".join(f"| {split} | {count:,} |" for split, count in rows.items())
        (part / "data").mkdir()
        for split, dataset in loaded.items():
            _write_split(dataset, part / "data", split, shard_bytes)
        text = f"{str(readme).rstrip()}\n\n## Rows\n\n| split | rows |\n|---|---|\n{table}\n"
        (part / "README.md").write_text(text, encoding="utf-8")
    return rows


def _write_split(dataset: datasets.Dataset, folder: Path, split: str, shard_bytes: int) -> None:
    size = sum(Path(video["path"]).stat().st_size for video in dataset["video"]) if "video" in dataset.features else 0
    count = max(1, min(len(dataset), math.ceil(size / shard_bytes)))
    schema = dataset.features.arrow_schema
    for number in range(count):
        shard = dataset.shard(count, number, contiguous=True).with_format("arrow")
        # `Dataset.to_parquet` would keep paths in place of the videos, unless all are first copied to a cache file.
        with pyarrow.parquet.ParquetWriter(folder / f"{split}-{number:05}-of-{count:05}.parquet", schema) as writer:
            for table in cast(Iterable[pyarrow.Table], shard.iter(ROWS_AT_ONCE)):
                writer.write_table(embed_table_storage(table.cast(schema)))
