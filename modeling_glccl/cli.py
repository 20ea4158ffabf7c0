"""The `glccl` command. Each command imports what it needs when it runs: not every user installs every extra."""

import gc
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click import Choice, argument, option

from .arguments import check_benchmark_name, check_index, check_name, check_query, find_recipe
from .console import run
from .video_files import find_videos, harmless

RESUMABLE = ("demo", "train-demo", "compare", "train", "index", "data check", "data compress", "publish")
PATH = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)
COUNT = click.IntRange(1, 2**31 - 1)
WORKERS = click.IntRange(0, 1024)


class Number(click.FloatRange):
    """A float that is neither NaN, which passes every comparison of a range, nor infinite."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Raises UsageError."""
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value} is no number that is finite.", param, ctx)

    def _describe_range(self) -> str:
        return "" if self.min is self.max is None else super()._describe_range()  # of none, help says x<=None


NUMBER = Number()
SECONDS = Number(0, 1e9, min_open=True)


# Parameters of commands, and what refuses a value of theirs without torch.
CHECKS: dict[str, Callable[[Any], object]] = {
    **dict.fromkeys(("recipe", "clip_recipe"), find_recipe),
    **dict.fromkeys(("index_path", "index"), check_index),
    **dict.fromkeys(("query", "and_", "not_"), check_query),
    "folders": lambda path: os.path.exists(path) or find_videos(path),  # which refuses it
    "checkpoint": check_name,
    "benchmark": check_benchmark_name,
}


class Command(click.Command):
    """A command that says what is wrong with a value before torch is imported, which takes seconds."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click's."""
        for name in [] if "torch" in sys.modules else CHECKS:
            given = None if (self.name, name) == ("index", "index_path") else ctx.params.get(name)
            for value in given if isinstance(given, tuple) else [] if given is None else [given]:
                CHECKS[name](value)
        return super().invoke(ctx)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `glccl` with the given arguments (by default those of the process) and returns its exit code.

    0, or what the command says; 1 after an error; 2 after wrong usage; 130 and 143 after Ctrl-C and SIGTERM.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = " ".join(arguments[: 2 if arguments[:1] in (["data"], ["export"]) else 1])
    command = partial(cli.main, arguments, prog_name="glccl", standalone_mode=False)
    return run(command, f"glccl {name}".strip(), shlex.join(["glccl", *arguments]), name in RESUMABLE)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 119})
def cli() -> None:
    """Text-video retrieval with GLCCL."""


@cli.group()
def data() -> None:
    """Work on the files of a benchmark."""


@cli.group()
def export() -> None:
    """Write a checkpoint for other runtimes."""


for group in (cli, data, export):
    group.command_class = Command


def _settings(_context: click.Context, _option: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
    """The values of `--set key=value`."""
    import yaml

    try:
        return {key: yaml.safe_load(value) for key, value in (text.split("=", 1) for text in values)}
    except (ValueError, yaml.YAMLError) as error:
        raise click.BadParameter(f"{', '.join(values)}: not of the form key=value (num_test=100)") from error


overrides = argument("overrides", nargs=-1, metavar="[key=value]...")
data_dir = option("--data-dir", help="folder with its annotations and videos")
benchmark = (
    option("--benchmark", required=True, help="such as shapes"),
    data_dir,
    option("--repo-id", help="dataset on the Hub, instead of a folder"),
)
batch_size = option("--batch-size", type=COUNT, default=32, help="videos encoded at a time")
num_workers = option("--num-workers", type=WORKERS, default=2, help="decoding processes")
settings = option("--set", "settings", multiple=True, callback=_settings, metavar="key=value", help="of the benchmark")
device = option("--device", default="auto", help="auto: a GPU if there is one; or cpu, cuda, cuda:1")
PRECISIONS = Choice(["auto", "fp32", "bf16", "fp16"])
precision = option("--precision", type=PRECISIONS, default="auto", help="auto: what the device computes fastest")
RUNTIME = "what encodes frames and texts; onnx-int8: 1.5 to 1.9 times as fast on a CPU, [onnx]"
runtime = option("--runtime", type=Choice(["torch", "onnx-int8"]), help=f"{RUNTIME} (default: torch)")
shot_list = option("--shot-list", type=PATH, metavar="FILE", help="write the moments as .csv, .edl or .otio, too")
index_path = option("--index", "index_path", required=True, metavar="PATH", help="made by glccl index")
searching = (
    index_path,
    option("--and", "and_", multiple=True, metavar="TEXT", help="shall hold, too; may be repeated"),
    option("--not", "not_", multiple=True, metavar="TEXT", help="shall not hold; may be repeated"),
    option("--image", metavar="FILE", help="find what is like an image"),
    option("--video", metavar="FILE[@S-S]", help="or like a video, or a span of it in seconds"),
    option("--like", metavar="ID[@S-S]", help="or like a video of the index"),
    option("--words", metavar="TEXT", help="what is said; alone, or beside a query"),
    option("--no-words", is_flag=True, help="do not look for the query in what is said"),
    option("-k", "--top-k", "k", type=COUNT, default=10, help="videos to show"),
    option("--folder", metavar="PATH", help="only videos below this folder, or whose path matches a glob (*/2026/*)"),
    option("--ids", multiple=True, metavar="ID", help="only this video; may be repeated"),
    option("--since", metavar="DATE", help="only files last changed on this day or later: 2026-05-31[T18:30]"),
    option("--until", metavar="DATE", help="the same, or earlier"),
    option("--min-duration", type=NUMBER, metavar="S", help="only videos of so many seconds or more"),
    option("--max-duration", type=NUMBER, metavar="S", help="or less"),
    option("--where", metavar="SQL", help='only clips for which this holds: "size > 1000000" (docs/search.md)'),
    option("--sort", type=Choice(["score", "date", "path"]), default="score", help="order of the videos to show"),
    option("--min-score", type=NUMBER, help="leave out videos with a lower score"),
    option("--min-confidence", type=NUMBER, metavar="P", help="leave out videos with less, 0 to 1 (glccl calibrate)"),
    device,
    precision,
)
splits = option("--split", "splits", multiple=True, help="this split alone; may be repeated")


def add(name: str, target: str, description: str, *parameters: Callable) -> None:
    """A command that passes its parameters on to a function, "module:name"."""

    def call(settings: dict[str, Any] | None = None, **options: Any) -> None:
        module, function = target.split(":")
        if "torch" in sys.modules:
            imported = import_module(module, __package__)
        else:
            gc.disable()  # imports make a million objects, all of which stay
            try:
                imported = import_module(module, __package__)
            finally:
                gc.freeze()
                gc.enable()
        getattr(imported, function)(**options, **settings or {})

    for parameter in reversed(parameters):
        call = parameter(call)
    *group, command = name.split()
    {"data": data, "export": export}.get("".join(group), cli).command(command, help=description)(call)


add(
    "demo",
    ".demo:run_demo",
    "Try a trained model: render videos, evaluate, save, reload, retrieve and search, in 3 minutes.",
    option("--output", type=FOLDER, default="runs/demo"),
)
recipes = (
    option("--recipe", default="shapes", help="a YAML file, or the name of one of recipes/"),
    option("--clip-recipe", default="shapes_clip"),
    option("--output", type=FOLDER, default="runs/shapes"),
    overrides,
)
add("train-demo", ".demo:run_training_demo", "The same from nothing: train on the shapes benchmark first.", *recipes)
add("compare", ".demo:run_comparison", "Train that model with GLIM off, CSC off, and mean pooling.", *recipes)
add(
    "evaluate",
    ".evaluation.evaluate_checkpoint:evaluate_checkpoint",
    "Evaluate a CHECKPOINT, a folder or Hub repository of model and processor, on a benchmark, in both directions.",
    argument("checkpoint"),
    *benchmark,
    option("--split", default="test"),
    settings,
    option("--max-frames", type=COUNT, help="frames of a video, 1 to 77 (default: the checkpoint's)"),
    option("--max-words", type=int, help="tokens of a text, BOS and EOS included, not above the checkpoint's"),
    option("--mask-padding/--no-mask-padding", default=None, help="whether padding counts for nothing"),
    option("--post-processing", type=Choice(["qb_norm", "dual_softmax"]), help="report such scores, too"),
    option("--confidence", type=NUMBER, is_flag=False, flag_value=95.0, help="percent (95): add bootstrap intervals"),
    device,
    option("--precision", type=PRECISIONS, default="fp32", help="of products (auto: the fastest)"),
    runtime,
    batch_size,
    num_workers,
    option("--queries", type=click.IntRange(0), default=0, help="show what so many captions retrieve"),
    option("--output", "output_dir", type=FOLDER, help="folder for results.json, ranks.parquet and pictures"),
)
add(
    "calibrate",
    ".evaluation.calibrate:calibrate_checkpoint",
    "Fit the confidence of search results to captions that a CHECKPOINT was not trained on; kept in its config.json.",
    argument("checkpoint", type=PATH),
    *benchmark,
    option("--split", default="validation"),
    settings,
    batch_size,
    num_workers,
)
add(
    "index",
    ".search.commands:index_command",
    "Make a searchable index of folders of videos, or bring it up to date.",
    argument("folders", nargs=-1, metavar="[VIDEO_DIR]..."),
    option("--index", "index_path", required=True, metavar="PATH", help="folder of the index, made if not there"),
    option("--model", "checkpoint", metavar="CHECKPOINT", help="folder or Hub repository; needed for a new index"),
    option("--errors", is_flag=True, help="list the videos that could not be read, and why"),
    option("--retry-failed", is_flag=True, help="try them again though they have not changed"),
    option("--speech", metavar="MODEL", help="transcribe videos without subtitles: Whisper, name or folder"),
    option("--remove-missing", is_flag=True, help="drop videos whose files are gone"),
    option("--watch", type=SECONDS, is_flag=False, flag_value=30.0, metavar="[S]", help="go on, look every S (30) s"),
    option("--clips", type=Choice(["fixed", "shots"]), help="where to cut longer videos into clips (default: fixed)"),
    option("--clip-length", type=NUMBER, metavar="S", help="seconds of a clip at most (default: 30)"),
    option("--clip-stride", type=NUMBER, metavar="S", help="from clip to clip (default: 20)"),
    option("--shards", type=click.IntRange(1, 1000), metavar="N", help="split a new index for several machines"),
    option("--num-workers", type=WORKERS, default=2, help="threads that decode"),
    option("--batch-size", type=COUNT, default=16, help="clips encoded at a time"),
    option("--engine", type=Choice(["threads", "ray"]), default="threads", help="ray: on a Ray cluster"),
    device,
    precision,
    runtime,
)
add(
    "search",
    ".search.commands:search_command",
    'Find videos, and the moment in them, with a sentence such as "a dog in the snow"; without one it asks.',
    argument("query", required=False),
    option(
        "--queries", type=click.File(encoding="utf-8-sig"), metavar="FILE", help='a JSON object a line: {"query": ...}'
    ),
    *searching,
    option("--json", "as_json", is_flag=True, help="print JSON instead of a table"),
    option("--html", "html_path", type=PATH, metavar="FILE", help="write a page with frames and their weights"),
    option("--open", "open_page", is_flag=True, help="open that page in the browser"),
    shot_list,
)
add(
    "cut",
    ".search.commands:cut_command",
    "Write the moments that a search finds to video files of their own.",
    argument("query", required=False),
    *searching,
    option("--output", type=FOLDER, required=True, metavar="DIR", help="folder for them; no file is overwritten"),
    option("--padding", type=Number(0), default=0.0, metavar="SECONDS", help="before and after"),
    option("--exact", is_flag=True, help="re-encode (H.264, MP4) instead of copying from the key frame before"),
    shot_list,
)
add(
    "duplicates",
    ".search.commands:duplicates_command",
    "List the near-duplicate videos of an index: re-encoded, resized or slightly trimmed copies.",
    index_path,
    option("--threshold", type=NUMBER, default=0.93, metavar="T", help="above 0, at most 1; lower finds more"),
    option("--json", "as_json", is_flag=True, help="print JSON instead"),
)
add(
    "convert",
    ".convert_glccl_original_to_hf:convert_file",
    "Convert the authors' checkpoints, or OpenAI's CLIP, a file such as pytorch_model.bin.4, into a folder.",
    argument("source", metavar="INPUT"),
    argument("output"),
    option("--csc-weight", type=NUMBER, help="weight of the CSC loss (0.5 in the release's commands)"),
    option("--max-frames", type=int, help="frames per video, where the checkpoint does not tell"),
    option("--mask-padding/--no-mask-padding", default=None, help="leave padded words and frames out of the scores"),
    option("--tokenizer", help="CLIP's, a folder or Hub repository; with it the processor is saved, too"),
)
add(
    "export onnx",
    ".onnx_export:export_onnx",
    "Write both towers of a CHECKPOINT as ONNX files to a new FOLDER, with a script that searches without torch.",
    argument("checkpoint"),
    argument("folder", type=PATH),
)
add(
    "publish",
    ".publish:publish_checkpoint",
    "Put a CHECKPOINT, a folder, and its model card on the Hub as owner/name. Shows them, unless --push.\n\n"
    "The options from --results on are for the model card, unless the folder has its README.md.",
    argument("checkpoint"),
    argument("repo_id"),
    option("--push", "upload", is_flag=True, help="upload; an interrupted upload goes on when run again"),
    option("--private", is_flag=True, help="keep the repository private"),
    option("--revision", help="branch to commit to, made if it does not exist (default: main)"),
    option("--add", "more", multiple=True, metavar="FILE", help="upload this file as well"),
    option("--results", metavar="FILE", help="results.json of train or evaluate (default: the folder's)"),
    option("--base-model", metavar="REPO_ID", help="the CLIP that training started from (default: recipe's)"),
    option("--dataset", metavar="REPO_ID", help="what it was trained and measured on (default: recipe's)"),
    option("--license", default="apache-2.0", help="of the weights"),
    option("--query", help="of the example (default: a rendered clip's caption)"),
    option("--video", "videos", multiple=True, metavar="FILE", help="of the example; may be repeated"),
)
add(
    "data export",
    ".publish:publish_dataset",
    "Write a benchmark as Parquet files with a card to a new FOLDER, which plain load_dataset reads; publish it.",
    argument("benchmark"),
    argument("folder", type=PATH),
    data_dir,
    splits,
    settings,
    option("--videos", is_flag=True, help="embed the videos, where that is allowed"),
    option("--card", type=PATH, metavar="FILE", help="default: that of hub/datasets/"),
    option("--push", "repo_id", metavar="REPO_ID", help="upload to this dataset repository, which is made private"),
    option("--public", is_flag=True, help="make it public instead"),
)
add(
    "info",
    ".environment:show_info",
    "Print versions, hardware and, if one is given, what a CHECKPOINT is.",
    argument("checkpoint", required=False),
)


@cli.command()
@argument("recipe")
@overrides
def train(recipe: str, overrides: Sequence[str]) -> None:
    """Train what a RECIPE, a YAML file or a name such as own_videos, describes; by accelerate launch on many GPUs."""
    from . import training

    training.train(training.load_recipe(recipe, overrides))


@data.command()
@argument("benchmark")
@data_dir
@splits
@settings
@option("--num-workers", "--num-proc", type=WORKERS, default=2, help="decoding processes")
def check(benchmark: str, data_dir: str, splits: Sequence[str], settings: dict[str, Any], num_workers: int) -> int:
    """Verify a download: annotations, counts, missing and undecodable videos. Exit code 1 if incomplete."""
    from .data.check import check_benchmark

    return _print_report(check_benchmark(benchmark, data_dir, splits or None, num_workers, **settings))


@data.command()
@argument("source_dir", type=PATH)
@argument("output_dir", type=FOLDER)
@option("--fps", default=3.0, help="frames a second")
@option("--short-side", default=224, help="pixels, at most")
@option("--crf", default=23.0, help="0 lossless to 51 worst")
@option("--num-workers", "--num-proc", type=WORKERS, default=os.cpu_count(), help="processes")
def compress(source_dir: Path, output_dir: Path, num_workers: int, **settings: Any) -> int:
    """Re-encode a folder of videos as the paper does, resumably. Exit code 1 if a video cannot be read."""
    from .data.compress import compress_folder
    from .data.reencode import CompressSettings

    return _print_report(compress_folder(source_dir, output_dir, CompressSettings(**settings), num_workers))


def _print_report(report: Any) -> int:
    from rich.console import Console

    console = Console()
    for line in report.details():
        console.print(harmless(line.encode(errors="backslashreplace").decode()), highlight=False, markup=False)
    console.print(report.table())
    return 0 if report.ok else 1


@cli.command()
@argument("checkpoint", required=False)
@option("--index", metavar="PATH", help="made by glccl index")
@option("--videos", metavar="DIR", help="folder of videos, sub-folders included, encoded at the start")
@option("--engine", type=Choice(["threads", "ray"]), default="threads", help="ray: a Ray cluster holds its shards")
@option("--host", default="127.0.0.1", help="0.0.0.0: open to the network, with --token, --user or --public")
@option("--allow-host", "allowed_hosts", multiple=True, metavar="NAME", help="by which visitors call this machine")
@option("--token", envvar="GLCCL_TOKEN", show_envvar=True, help="that visitors must know; better in the variable")
@option("--user", envvar="GLCCL_USER", show_envvar=True, metavar="NAME:PASSWORD", help="that visitors must know")
@option("--public", is_flag=True, help="let everybody in")
@device
@precision
@runtime
@option("--port", type=click.IntRange(0, 65535), help="default: the first that is free from 7860 on")
@option("--mcp", is_flag=True, help="offer search, list and cut as tools of MCP, too, at /mcp")
def serve(port: int | None, mcp: bool, **options: Any) -> None:
    """Search in the browser, or over HTTP at /api, an index, or a folder of videos with a CHECKPOINT.

    CHECKPOINT is a folder or Hub repository.
    """
    from .app import build_app, launch, open_searcher
    from .serving import Access

    access = Access(**{name: options.pop(name) for name in ("host", "allowed_hosts", "token", "user", "public")})
    launch(build_app(*open_searcher(**options)), access, mcp, server_port=port)


if __name__ == "__main__":
    sys.exit(main())
