"""Command lines of `glccl`, over files of any kind and name."""

import contextlib
import io
import os
import random
import shlex
import shutil
import socket
import warnings
from pathlib import Path

import gradio  # noqa: F401 (imported before the forks, as the modules of the commands)
import torch
import yaml
from checkpoints import save_tiny_checkpoint
from miniatures import write_table
from search_data import CAPTIONS
from training_runs import TINY
from videos import write_video

from modeling_glccl import app, cli, convert_glccl_original_to_hf, demo, environment, model_card, publish  # noqa: F401
from modeling_glccl.data import check, compress, export  # noqa: F401
from modeling_glccl.evaluation import evaluate_checkpoint  # noqa: F401
from modeling_glccl.search import commands, rendering  # noqa: F401
from modeling_glccl.training import loop  # noqa: F401

from .annotations import ROWS
from .harness import Refused
from .mutate import ODD

COMMANDS = (
    "evaluate checkpoint --benchmark captions --data-dir data --split test --num-workers 0 --output out",
    "evaluate checkpoint --benchmark shapes --data-dir shapes --set num_test=8 --set image_size=32 --num-workers 0",
    "index videos --index new.index --model checkpoint --num-workers 1",
    "index videos --index x.index --remove-missing --retry-failed --batch-size 1",
    "index --index x.index --errors",
    "index videos/a.mp4 --index x.index --clip-length 30 --clip-stride 20",
    "search words --index x.index -k 3 --json",
    "search words --index x.index --html page.html",
    "convert weights.bin out --csc-weight 0.5 --max-frames 12",
    "train tiny.yaml train.max_steps=1 train.batch_size=4 data.data_dir=shapes",
    "data check captions --data-dir data --split test --num-workers 1",
    "data check msrvtt --data-dir data",
    "data compress videos out --fps 3 --short-side 16 --crf 30 --num-workers 1",
    "data export captions out --data-dir data --videos --card tiny.yaml",
    "serve checkpoint --videos videos --port 7999",
    "serve --index x.index",
    "publish checkpoint owner/name --query words --video videos/a.mp4 --add notes.txt",
    "info checkpoint",
    "demo --output out",
    "compare train.epochs=1 --output out",
)
PATHS = (
    *("videos", "videos/a.mp4", "videos/fifo.mp4", "videos/socket.mp4", "videos/zero.mp4", "x.index", "checkpoint"),
    *("data", "notes.txt", "tiny.yaml", "nowhere", "empty", "videos/caf\udce9.mp4", "[x]", ".", "", "-", "owner/name"),
    *("checkpoint/config.json", "checkpoint/model.safetensors", "loop", "\u202e", "a\nb", "x" * 300, "http://[::1]/"),
)
# These are written to: nothing outside of the case's own folder may be named.
VALUES = [value for value in map(str, ODD) if "/etc" not in value and ".." not in value]


def setup(seeds: Path) -> None:
    save_tiny_checkpoint(seeds / "checkpoint", CAPTIONS)
    for name in ("videos", "data/clips", "empty", "[x]", "shapes"):
        (seeds / name).mkdir(parents=True)
    write_video(seeds / "videos" / "a.mp4", 12, fps=5)
    shutil.copy(seeds / "videos" / "a.mp4", seeds / "[x]" / "x].mp4")
    for row in ROWS:
        shutil.copy(seeds / "videos" / "a.mp4", seeds / "data" / row["file_name"])
    write_table(seeds / "data" / "metadata.csv", [row | {"start": None, "end": None} for row in ROWS])
    (seeds / "notes.txt").write_text("no video")
    (seeds / "weights.bin").write_bytes(b"PK\x03\x04 no weights")
    (seeds / "tiny.yaml").write_text(yaml.safe_dump({"output_dir": "run", **TINY}))
    os.chdir(seeds)
    assert cli.main(["index", "videos", "--index", "x.index", "--model", "checkpoint"]) == 0
    assert cli.main(COMMANDS[1].split()) == 0  # renders the videos
    os.link("videos/a.mp4", b"videos/caf\xe9.mp4")


def warm(seeds: Path) -> None:
    torch.set_num_threads(1)
    # What would serve for ever or train for minutes.
    app.launch = demo.run_demo = demo.run_comparison = lambda *_, **__: None


def run(rng: random.Random, seeds: Path, work: Path) -> None:
    warnings.simplefilter("ignore")
    shutil.copytree(seeds, work, dirs_exist_ok=True)
    os.mkfifo("videos/fifo.mp4")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind("videos/socket.mp4")
    os.symlink("loop", "loop")
    os.symlink("/dev/zero", "videos/zero.mp4")
    arguments = shlex.split(rng.choice(COMMANDS))
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        place = rng.randrange(1, max(2, len(arguments)))
        value = rng.choice(
            (rng.choice(PATHS), rng.choice(PATHS), rng.choice(VALUES)[:200], f"x={rng.choice(VALUES)}"[:200])
        )
        kind = rng.choice(("replace", "replace", "replace", "insert", "drop"))
        arguments[place : place + (kind != "insert")] = [] if kind == "drop" else [value]
    # As a process gets them: without zero bytes and lone surrogates but those that stand for single bytes.
    arguments = [value.replace("\0", "").replace("\ud800", "?") for value in arguments]
    print(shlex.join(arguments).encode("utf-8", "backslashreplace").decode(), flush=True)
    stderr = io.TextIOWrapper(io.BytesIO(), errors="backslashreplace")
    with contextlib.redirect_stderr(stderr):
        code = cli.main(arguments)
    stderr.flush()
    text = stderr.buffer.getvalue().decode()
    print(text)
    assert "Traceback" not in text, "a traceback"
    assert len(text) < 20_000, "too much to read"
    if code == 0:
        return
    assert code in (1, 2), code
    errors = [line for line in text.replace("\r", "\n").splitlines() if line.startswith("glccl") and "error: " in line]
    reported = arguments[:2] in (["data", "check"], ["data", "compress"])  # on stdout
    assert code == 2 or reported or len(errors) == 1, "not one line of error"
    raise Refused(text.strip()[-500:])
