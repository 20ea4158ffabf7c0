"""Makes hub/models/glccl-shapes from what `glccl train-demo` left: the trained model and its small CLIP in half
precision, with processor, results, recipe, card and the weights of search confidences. `make checkpoint` runs both.

    python hub/models/make_shapes.py [RUN]    # default: runs/shapes
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import cast

import torch
from datasets import Dataset
from rich.console import Console
from transformers import AutoTokenizer, CLIPModel

from modeling_glccl.atomic import replace_folder
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.data import load_benchmark
from modeling_glccl.evaluation import evaluate
from modeling_glccl.evaluation.calibrate import calibrate_checkpoint
from modeling_glccl.evaluation.tables_and_plots import metrics_table
from modeling_glccl.model_card import make_card

FOLDER = Path(__file__).parent / "glccl-shapes"


def main() -> None:
    """Packages a run, and prints the metrics before and after rounding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/shapes"), help="default: %(default)s")
    run = parser.parse_args().run
    results = json.loads((run / "model" / "results.json").read_text(encoding="utf-8"))
    trained = run / "model" / results["model"]

    new = FOLDER.with_name(f".{FOLDER.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    model, processor = load_checkpoint(trained)
    model.half().save_pretrained(new)
    processor.save_pretrained(new)
    CLIPModel.from_pretrained(run / "clip", dtype=torch.float16).save_pretrained(new / "clip")
    AutoTokenizer.from_pretrained(run / "clip").save_pretrained(new / "clip")
    for source, target in ((run / "model", new), (run / "clip", new / "clip")):
        for name in ("recipe.yaml", "results.json"):
            shutil.copy(source / name, target)

    options = {"data_dir": run / "data", **results["recipe"]["data"]["options"]}
    calibrate_checkpoint(new, "shapes", **options)
    test = cast(Dataset, load_benchmark("shapes", **options))
    metrics = {}
    for name, folder in {"as trained": trained, "half precision": new}.items():
        metrics[name] = evaluate(*load_checkpoint(folder), test).metrics
    Console().print(metrics_table(metrics, f"shapes test: {len(test)} captions and videos"))
    # Of the weights that are stored here.
    results["test"] = metrics["half precision"]
    (new / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

    (new / "README.md").write_text(make_card(new, f"owner/{FOLDER.name}"), encoding="utf-8")
    for code in new.glob("*_glccl.py"):
        code.unlink()  # `glccl publish` adds it
    modules = (new / "modules.json").read_text(encoding="utf-8").replace('"sentence_t', '"modeling_glccl.sentence_t')
    (new / "modules.json").write_text(modules, encoding="utf-8")
    replace_folder(new, FOLDER)
    for file in sorted(path for path in FOLDER.rglob("*") if path.is_file()):
        print(f"{file.stat().st_size:>13,}  {file.relative_to(FOLDER)}")


if __name__ == "__main__":
    main()
