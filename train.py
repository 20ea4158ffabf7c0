"""Trains a text-video retrieval model from a recipe, as `glccl train` does.

    accelerate launch train.py recipes/shapes.yaml                             # all GPUs, or the CPU
    accelerate launch train.py recipes/shapes.yaml train.total_batch_size=16   # any key of a recipe
    torchrun --nproc_per_node 4 train.py recipes/shapes.yaml                   # four processes, on GPUs or the CPU
    accelerate launch --num_processes 4 train.py recipes/paper_msrvtt.yaml
    tensorboard --logdir runs/shapes/model/logs                                # watch it

The same command continues a run that was interrupted, as if it never had been. Every key of a recipe is documented in
modeling_glccl/training/recipe.py; the run itself, from the data to the results, is read top to bottom in
modeling_glccl/training/loop.py.
"""

import sys

from modeling_glccl.cli import main

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    sys.exit(main(["train", *sys.argv[1:]]))
