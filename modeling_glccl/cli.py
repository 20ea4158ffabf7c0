"""The `glccl` command. Each command imports what it needs when it runs: not every user installs every extra."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What a command needs beyond the core package, where that is not [train].
EXTRAS = {"index": "search", "search": "search", "serve": "demo"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `glccl` with the given arguments (by default those of the process) and returns its exit code."""
    parser = _build_parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command == "convert":
        options.arguments = rest
    elif rest:
        parser.error(f"{options.command} does not know {' '.join(rest)}; see glccl {options.command} --help")
    try:
        return options.run(options) or 0
    except ModuleNotFoundError as error:
        extra = "scale" if error.name == "ray" else EXTRAS.get(options.command, "train")
        print(f"glccl {options.command}: error: {error}: pip install 'modeling_glccl[{extra}]'", file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError, subprocess.CalledProcessError) as error:
        print(f"glccl {options.command}: error: {error}", file=sys.stderr)
        return 1


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="glccl", description="Text-video retrieval with GLCCL.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, description: str, **kwargs) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=description, description=description, **kwargs)
        added.set_defaults(run=run)
        return added

    description = "Try a trained model: render videos, evaluate, save, reload, retrieve and search, in 3 minutes."
    demo = command("demo", _demo, description)
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    train_demo = command("train-demo", _train_demo, "The same from nothing: train on the shapes benchmark first.")
    compare = command("compare", _compare, "Train that model with GLIM off, CSC off, and mean pooling.")
    recipes = Path(__file__).parent.parent / "recipes"
    for added in (train_demo, compare):
        for option, file in (("--recipe", "shapes.yaml"), ("--clip-recipe", "shapes_clip.yaml")):
            added.add_argument(option, type=Path, default=recipes / file, help=f"default: recipes/{file}")
        added.add_argument("--output", type=Path, default=Path("runs/shapes"), help="default: %(default)s")
        added.add_argument("overrides", nargs="*", metavar="key=value", help="as for train")

    train = command("train", _train, "Train what a recipe describes: here or, under accelerate launch, on many GPUs.")
    train.add_argument("recipe", help="a YAML file, such as recipes/shapes.yaml")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.batch_size=16")

    evaluate = command("evaluate", _evaluate, "Evaluate a checkpoint on a benchmark, in both directions.")
    evaluate.add_argument("checkpoint", help="folder or Hub repository of model and processor")
    evaluate.add_argument("--benchmark", required=True, help="such as shapes")
    evaluate.add_argument("--data-dir", help="folder with its annotations and videos")
    evaluate.add_argument("--repo-id", help="dataset on the Hub, instead of a folder")
    evaluate.add_argument("--split", default="test", help="default: %(default)s")
    evaluate.add_argument("--set", action="append", default=[], metavar="key=value", help="option of the benchmark")
    evaluate.add_argument("--max-frames", type=int, help="frames of a video, 1 to 77 (default: the checkpoint's)")
    evaluate.add_argument(
        "--max-words", type=int, help="tokens of a text, BOS and EOS included, not above the checkpoint's"
    )
    evaluate.add_argument(
        "--mask-padding",
        action=argparse.BooleanOptionalAction,
        help="whether padding counts for nothing (the checkpoint's)",
    )
    evaluate.add_argument(
        "--post-processing",
        choices=("qb_norm", "dual_softmax"),
        help="report also scores corrected by a bank of training captions, or by all test queries",
    )
    evaluate.add_argument(
        "--confidence",
        type=float,
        nargs="?",
        const=95.0,
        metavar="PERCENT",
        help="add bootstrap intervals over queries (95 percent unless told)",
    )
    evaluate.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="default: %(default)s")
    evaluate.add_argument("--batch-size", type=int, default=32, help="videos encoded at a time (default: %(default)s)")
    evaluate.add_argument("--num-workers", type=int, default=2, help="decoding processes (default: %(default)s)")
    evaluate.add_argument("--queries", type=int, default=0, help="show what so many captions retrieve")
    evaluate.add_argument("--output", type=Path, help="folder for results.json, ranks.parquet and pictures")

    data = commands.add_parser("data", help="Work on the files of a benchmark.")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    description = "Verify a download: annotations, counts, missing and undecodable videos. Exit code 1 if incomplete."
    check = actions.add_parser("check", help=description, description=description)
    check.set_defaults(run=_data_check)
    check.add_argument("benchmark", help="such as msrvtt")
    check.add_argument("--data-dir", required=True, help="folder with its annotations and videos")
    check.add_argument("--split", action="append", help="check this split alone; may be repeated")
    check.add_argument("--set", action="append", default=[], metavar="key=value", help="option of the benchmark")
    check.add_argument("--num-proc", type=int, default=2, help="decoding processes (default: %(default)s)")
    description = "Re-encode a folder of videos as the paper does, resumably. Exit code 1 if a video cannot be read."
    compress = actions.add_parser("compress", help=description, description=description)
    compress.set_defaults(run=_data_compress)
    compress.add_argument("source_dir", type=Path, help="folder of videos, searched recursively")
    compress.add_argument("output_dir", type=Path, help="folder for the same names with the suffix .mp4")
    compress.add_argument("--fps", type=float, default=3, help="frames a second (default: %(default)s)")
    compress.add_argument("--short-side", type=int, default=224, help="pixels, at most (default: %(default)s)")
    compress.add_argument("--crf", type=float, default=23, help="0 lossless to 51 worst (default: %(default)s)")
    compress.add_argument("--num-proc", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")

    description = "Write a benchmark as Parquet files with a card, which plain load_dataset reads; and publish it."
    export = actions.add_parser("export", help=description, description=description)
    export.set_defaults(run=_data_export)
    export.add_argument("benchmark", help="such as shapes")
    export.add_argument("folder", type=Path, help="a new folder for the files")
    export.add_argument("--data-dir", help="folder with its annotations and videos")
    export.add_argument("--split", action="append", help="export this split alone; may be repeated")
    export.add_argument("--set", action="append", default=[], metavar="key=value", help="option of the benchmark")
    export.add_argument("--videos", action="store_true", help="embed the videos, where that is allowed")
    export.add_argument("--card", type=Path, metavar="FILE", help="default: hub/datasets/BENCHMARK/README.md")
    export.add_argument("--push", metavar="REPO_ID", help="upload to this dataset repository, which is made private")
    export.add_argument("--public", action="store_true", help="make it public instead")

    index = command("index", _index, "Make a searchable index of a folder of videos, or bring it up to date.")
    index.add_argument("folder", nargs="?", metavar="VIDEO_DIR", help="folder of videos, sub-folders included")
    index.add_argument("--index", required=True, metavar="PATH", help="folder of the index, made if it is not there")
    index.add_argument("--model", metavar="CHECKPOINT", help="folder or Hub repository; needed for a new index")
    index.add_argument("--errors", action="store_true", help="list the videos that could not be read, and why")
    index.add_argument("--retry-failed", action="store_true", help="try them again though they have not changed")
    index.add_argument("--remove-missing", action="store_true", help="drop videos whose files are gone")
    index.add_argument("--clip-length", type=float, metavar="S", help="cut longer videos into clips (default: 30)")
    index.add_argument("--clip-stride", type=float, metavar="S", help="from clip to clip (default: 20)")
    index.add_argument("--num-workers", type=int, default=2, help="threads that decode (default: %(default)s)")
    index.add_argument("--batch-size", type=int, default=16, help="clips encoded at a time (default: %(default)s)")
    index.add_argument("--engine", choices=("threads", "ray"), default="threads", help="ray: on a Ray cluster")

    search = command("search", _search, "Find videos, and the moment in them, with a sentence.")
    search.add_argument("query", help='such as "a dog in the snow"')
    search.add_argument("--index", required=True, metavar="PATH", help="made by glccl index")
    search.add_argument("-k", type=int, default=10, help="videos to show (default: %(default)s)")
    search.add_argument("--json", action="store_true", help="print JSON instead of a table")
    search.add_argument("--html", type=Path, metavar="FILE", help="write a page with frames and their weights")
    search.add_argument("--open", action="store_true", help="open that page in the browser")

    publish = command(
        "publish", _publish, "Put a checkpoint and its model card on the Hub. Shows them, unless --push."
    )
    publish.add_argument("checkpoint", help="folder of model and processor")
    publish.add_argument("repo_id", help="owner/name")
    publish.add_argument("--push", action="store_true", help="upload; an interrupted upload goes on when run again")
    publish.add_argument("--private", action="store_true", help="keep the repository private")
    publish.add_argument("--revision", help="branch to commit to, made if it does not exist (default: main)")
    publish.add_argument("--add", action="append", default=[], metavar="FILE", help="upload this file as well")
    card = publish.add_argument_group("for the model card, unless the folder has its README.md")
    card.add_argument("--results", metavar="FILE", help="results.json of train or evaluate (default: the folder's)")
    card.add_argument(
        "--base-model", metavar="REPO_ID", help="the CLIP that training started from (default: recipe's)"
    )
    card.add_argument("--dataset", metavar="REPO_ID", help="what it was trained and measured on (default: recipe's)")
    card.add_argument("--license", default="apache-2.0", help="of the weights (default: %(default)s)")
    card.add_argument("--query", help="of the example (default: a rendered clip's caption)")
    card.add_argument("--video", action="append", default=[], metavar="FILE", help="of the example; may be repeated")

    serve = command("serve", _serve, "Search in the browser: an index, or a folder of videos with a checkpoint.")
    serve.add_argument("checkpoint", nargs="?", help="folder or Hub repository of a GLCCL model; with --videos")
    serve.add_argument("--index", metavar="PATH", help="made by glccl index")
    serve.add_argument("--videos", metavar="DIR", help="folder of videos, sub-folders included, encoded at the start")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0: open to the network (default: %(default)s)")
    serve.add_argument("--port", type=int, help="default: the first that is free from 7860 on")

    command("convert", _convert, "Convert the authors' checkpoints, or OpenAI's CLIP.", add_help=False)

    info = command("info", _info, "Print versions, hardware and, if one is given, what a checkpoint is.")
    info.add_argument("checkpoint", nargs="?", help="folder or Hub repository of a GLCCL model")
    return parser


def _demo(options: argparse.Namespace) -> None:
    from .demo import run_demo

    run_demo(options.output)


def _train_demo(options: argparse.Namespace) -> None:
    from .demo import run_training_demo

    run_training_demo(options.recipe, options.clip_recipe, options.output, options.overrides)


def _compare(options: argparse.Namespace) -> None:
    from .demo import run_comparison

    run_comparison(options.recipe, options.clip_recipe, options.output, options.overrides)


def _train(options: argparse.Namespace) -> None:
    from .training import load_recipe, train

    train(load_recipe(options.recipe, options.overrides))


def _index(options: argparse.Namespace) -> None:
    from .search.commands import index_command

    index_command(
        options.folder,
        options.index,
        options.model,
        errors=options.errors,
        retry_failed=options.retry_failed,
        remove_missing=options.remove_missing,
        clip_length=options.clip_length,
        clip_stride=options.clip_stride,
        num_workers=options.num_workers,
        batch_size=options.batch_size,
        engine=options.engine,
    )


def _search(options: argparse.Namespace) -> None:
    from .search.commands import search_command

    search_command(
        options.query,
        options.index,
        k=options.k,
        as_json=options.json,
        html_path=options.html,
        open_page=options.open,
    )


def _serve(options: argparse.Namespace) -> None:
    from .app import build_app, launch, open_searcher

    searcher, pipe = open_searcher(options.index, options.checkpoint, options.videos)
    launch(build_app(searcher, pipe), server_name=options.host, server_port=options.port)


def _convert(options: argparse.Namespace) -> None:
    from .convert_glccl_original_to_hf import main as convert

    convert(options.arguments)


def _publish(options: argparse.Namespace) -> None:
    from .model_card import make_card
    from .publish import collect, push

    has_card = Path(options.checkpoint, "README.md").exists()
    publication = collect(options.checkpoint, None if has_card else "", options.add)
    if not has_card:
        card = make_card(
            options.checkpoint,
            options.repo_id,
            results=options.results,
            base_model=options.base_model,
            dataset=options.dataset,
            license=options.license,
            query=options.query,
            videos=options.video,
        )
    else:  # that of a checkpoint in this repository was made before it had a place on the Hub
        card = publication.card.replace(f"owner/{Path(options.checkpoint).name}", options.repo_id)
    publication.files["README.md"] = card.encode()
    for name, size in publication.sizes().items():
        print(f"{size:>13,}  {name}")
    if publication.left_out:
        print(f"{'left out':>13}  {', '.join(publication.left_out)}")
    print(f"\n{publication.card}")
    if not options.push:
        print(f"Nothing was uploaded. With --push this becomes one commit of {options.repo_id}.")
        return
    commit, changed = push(publication, options.repo_id, private=options.private, revision=options.revision)
    print(commit.commit_url if changed else f"Nothing has changed since {commit.commit_url}")


def _info(options: argparse.Namespace) -> None:
    import json

    from .environment import describe_environment

    print(json.dumps(describe_environment(), indent=2))
    if options.checkpoint:
        from .checkpoints import load_checkpoint

        model, _ = load_checkpoint(options.checkpoint)
        trained = ", zero-shot (nothing but CLIP was trained)" if model.config.zero_shot else ""
        print(f"{options.checkpoint}: {type(model).__name__}{trained}, {model.num_parameters():,} parameters")
        print(model.config)


def _data_export(options: argparse.Namespace) -> None:
    from .data.export import export_benchmark
    from .publish import collect_dataset, push

    card = options.card or Path("hub", "datasets", options.benchmark, "README.md")
    settings = _settings(options.set) | ({"data_dir": options.data_dir} if options.data_dir else {})
    rows = export_benchmark(
        options.benchmark, options.folder, card, videos=options.videos, splits=options.split, **settings
    )
    print(f"{options.folder}: {', '.join(f'{split} {count:,} rows' for split, count in rows.items())}")
    if options.push:
        publication = collect_dataset(options.folder)
        message = f"Upload {options.benchmark}"
        commit, changed = push(
            publication, options.push, private=not options.public, repo_type="dataset", message=message
        )
        print(commit.commit_url if changed else f"Nothing has changed since {commit.commit_url}")


def _data_check(options: argparse.Namespace) -> int:
    from rich.console import Console

    from .data.check import check_benchmark

    settings = _settings(options.set)
    report = check_benchmark(options.benchmark, options.data_dir, options.split, options.num_proc, **settings)
    console = Console()
    console.print(report.table())
    for line in report.details():
        console.print(line, highlight=False, markup=False)
    return 0 if report.ok else 1


def _data_compress(options: argparse.Namespace) -> int:
    from rich.console import Console

    from .data.compress import compress_folder
    from .data.reencode import CompressSettings

    settings = CompressSettings(options.fps, options.short_side, options.crf)
    report = compress_folder(options.source_dir, options.output_dir, settings, options.num_proc)
    console = Console()
    for line in report.details():
        console.print(line, highlight=False, markup=False)
    console.print(report.table())
    return 0 if report.ok else 1


def _settings(arguments: Sequence[str]) -> dict[str, Any]:
    """The values of `--set key=value`."""
    import yaml

    settings = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"--set {argument}: not of the form key=value (num_test=100)")
        settings[key] = yaml.safe_load(value)
    return settings


def _evaluate(options: argparse.Namespace) -> None:
    from .evaluation.run import evaluate_checkpoint

    evaluate_checkpoint(
        options.checkpoint,
        options.benchmark,
        options.split,
        max_frames=options.max_frames,
        max_words=options.max_words,
        mask_padding=options.mask_padding,
        post_processing=options.post_processing,
        confidence=options.confidence,
        precision=options.precision,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        queries=options.queries,
        output_dir=options.output,
        data_dir=options.data_dir,
        repo_id=options.repo_id,
        **_settings(options.set),
    )


if __name__ == "__main__":
    sys.exit(main())
