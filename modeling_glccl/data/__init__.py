"""Text-video benchmarks as `datasets`, one module per benchmark, rows of the same columns."""

from importlib import import_module
from pathlib import Path
from typing import Any, overload

from ..arguments import BENCHMARKS, check_benchmark_name
from ..packaged import install_line

try:
    import datasets
except ImportError as _error:
    raise ImportError(f"benchmarks need datasets: {install_line('train')} ({_error})") from _error


@overload
def load_benchmark(name: str, *, split: None, **config: Any) -> datasets.DatasetDict: ...
@overload
def load_benchmark(
    name: str, data_dir: str | Path | None = ..., repo_id: str | None = ..., split: str = ..., **config: Any
) -> datasets.Dataset: ...
def load_benchmark(
    name: str,
    data_dir: str | Path | None = None,
    repo_id: str | None = None,
    split: str | None = "test",
    missing: str = "error",
    with_videos: bool = True,
    **config: Any,
) -> datasets.Dataset | datasets.DatasetDict:
    """Loads a text-video benchmark; one row is one caption and its video (columns: docs/data.md).

    Args:
        name: the benchmark: "shapes", "msrvtt", "didemo", "vatex", "msvd", "activitynet" or "lsmdc"; or "captions":
            your own videos and captions (docs/own_data.md).
        data_dir: folder with its files; for "shapes", where the videos are rendered (default: the `datasets` cache).
        repo_id: dataset repository on the Hub, or its copy in a folder, to load instead of local files.
        split: one of the benchmark's splits, or None for all of them in a `DatasetDict`.
        missing: "error" refuses a split whose videos are not all there, "skip" leaves such rows out and says how many.
        with_videos: False loads the captions alone: no video is looked for, and the column `video` is left out.
        **config: options of the benchmark, for example `num_train=500` for "shapes".

    Raises:
        ValueError: unknown benchmark, split, option, or value of `missing`; annotations that cannot be used.
        FileNotFoundError: annotations or videos that are not there; names the first ten.

    Example:

    ```python
    test = load_benchmark("shapes", data_dir="runs/data", split="test", num_test=400)
    test[0]["caption"], test[0]["video"]["path"]
    ```
    """
    check_benchmark_name(name)
    if missing not in ("error", "skip"):
        raise ValueError(f"missing={missing!r} must be 'error' or 'skip'")
    module = import_module(f".{name}", __name__)
    return getattr(module, "BENCHMARK", module).load(
        data_dir=data_dir, repo_id=repo_id, split=split, missing=missing, with_videos=with_videos, **config
    )


__all__ = ["BENCHMARKS", "load_benchmark"]
