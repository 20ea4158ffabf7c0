"""The `glccl` command. Each command imports what it needs when it runs: not every user installs every extra."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


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
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"glccl {options.command}: error: {error}", file=sys.stderr)
        return 1


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="glccl", description="Text-video retrieval with GLCCL.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, description: str, **kwargs) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=description, description=description, **kwargs)
        added.set_defaults(run=run)
        return added

    demo = command("demo", _demo, "Render the shapes benchmark, train on it, evaluate, reload and retrieve.")
    compare = command("compare", _compare, "Train the demo's model with GLIM off, CSC off, and mean pooling.")
    for added in (demo, compare):
        added.add_argument("--recipe", type=Path, default=Path("recipes/shapes.yaml"), help="default: %(default)s")
        added.add_argument(
            "--clip-recipe", type=Path, default=Path("recipes/shapes_clip.yaml"), help="default: %(default)s"
        )
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
    evaluate.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="default: %(default)s")
    evaluate.add_argument("--batch-size", type=int, default=32, help="videos encoded at a time (default: %(default)s)")
    evaluate.add_argument("--num-workers", type=int, default=2, help="decoding processes (default: %(default)s)")
    evaluate.add_argument("--queries", type=int, default=0, help="show what so many captions retrieve")
    evaluate.add_argument("--output", type=Path, help="folder for results.json and the picture of the queries")

    data = commands.add_parser("data", help="Work on the files of a benchmark.")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    description = "Verify a download: annotations, counts, missing and undecodable videos. Exit code 1 if incomplete."
    check = actions.add_parser("check", help=description, description=description)
    check.set_defaults(run=_data_check)
    check.add_argument("benchmark", help="such as msrvtt")
    check.add_argument("--data-dir", required=True, help="folder with its annotations and videos")
    check.add_argument("--split", action="append", help="check this split alone; may be repeated")
    check.add_argument("--num-proc", type=int, default=2, help="decoding processes (default: %(default)s)")

    command("convert", _convert, "Convert the authors' checkpoints, or OpenAI's CLIP.", add_help=False)

    info = command("info", _info, "Print versions, hardware and, if one is given, what a checkpoint is.")
    info.add_argument("checkpoint", nargs="?", help="folder or Hub repository of a GLCCL model")
    return parser


def _demo(options: argparse.Namespace) -> None:
    from .demo import run_demo

    run_demo(options.recipe, options.clip_recipe, options.output, options.overrides)


def _compare(options: argparse.Namespace) -> None:
    from .demo import run_comparison

    run_comparison(options.recipe, options.clip_recipe, options.output, options.overrides)


def _train(options: argparse.Namespace) -> None:
    from .training import load_recipe, train

    train(load_recipe(options.recipe, options.overrides))


def _convert(options: argparse.Namespace) -> None:
    from .convert_glccl_original_to_hf import main as convert

    convert(options.arguments)


def _info(options: argparse.Namespace) -> None:
    import json

    from .environment import describe_environment

    print(json.dumps(describe_environment(), indent=2))
    if options.checkpoint:
        from .evaluation.run import load_model

        model = load_model(options.checkpoint)
        print(f"{options.checkpoint}: {type(model).__name__}, {model.num_parameters():,} parameters, {model.dtype}")
        print(model.config)


def _data_check(options: argparse.Namespace) -> int:
    from rich.console import Console

    from .data.check import check_benchmark

    report = check_benchmark(options.benchmark, options.data_dir, options.split, options.num_proc)
    console = Console()
    console.print(report.table())
    for line in report.details():
        console.print(line, highlight=False, markup=False)
    return 0 if report.ok else 1


def _evaluate(options: argparse.Namespace) -> None:
    import yaml

    from .evaluation.run import evaluate_checkpoint

    benchmark_options = {}
    for option in options.set:
        key, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"--set {option}: not of the form key=value (num_test=100)")
        benchmark_options[key] = yaml.safe_load(value)
    evaluate_checkpoint(
        options.checkpoint,
        options.benchmark,
        options.split,
        precision=options.precision,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        queries=options.queries,
        output_dir=options.output,
        data_dir=options.data_dir,
        repo_id=options.repo_id,
        **benchmark_options,
    )


if __name__ == "__main__":
    sys.exit(main())
