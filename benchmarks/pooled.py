r"""What one vector a text and video loses against GLCCL's exact scores, on the test split of the shapes benchmark.

    python benchmarks/pooled.py DATA_DIR hub/models/glccl-shapes

DATA_DIR holds the rendered benchmark, or gets it. "best of 10 @k": of the ten that exact scores rank best, the share
that is among the first k by pooled vectors. Prints a table and writes benchmarks/results/pooled_<hardware>.csv.
"""

import argparse
from pathlib import Path

import errors

import numpy as np
from table import show, write_csv

from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.data import load_benchmark
from modeling_glccl.evaluation import evaluate, retrieval_metrics


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("checkpoint")
    arguments = parser.parse_args()
    model, processor = load_checkpoint(arguments.checkpoint)
    dataset = load_benchmark("shapes", arguments.data_dir)
    pooled = {"pooled": lambda text, video: model.pool(text) @ model.pool(video).T}
    result = evaluate(model, processor, dataset, also=pooled)
    assert result.similarity is not None
    rows = []
    for name, scores in {"exact": result.similarity, **result.also}.items():
        for way, metrics in retrieval_metrics(scores, result.video_index).items():
            exact, cheap = (s if way == "t2v" else s.T for s in (result.similarity, scores))
            best, first = (np.argsort(-s, axis=1, kind="stable") for s in (exact, cheap))
            found = {f"best of 10 @{k}": [*map(np.isin, best[:, :10], first[:, :k])] for k in (10, 50, 100)}
            row = {"scores": name, "direction": way} | {f"R@{k}": round(metrics[f"R@{k}"], 1) for k in (1, 5, 10)}
            rows.append(row | {column: round(float(np.mean(hits)), 3) for column, hits in found.items()})
            show(rows[-1], header=len(rows) == 1)
    write_csv(rows, "pooled")


if __name__ == "__main__":
    main()
