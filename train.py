"""Trains a text-video retrieval model from a recipe.

    accelerate launch train.py recipes/shapes.yaml                       # all GPUs, or the CPU
    accelerate launch train.py recipes/shapes.yaml train.batch_size=16   # any key of the recipe can be overridden
    torchrun --nproc_per_node 4 train.py recipes/shapes.yaml             # the same on four GPUs
    accelerate launch --num_processes 4 train.py recipes/paper_msrvtt.yaml
    tensorboard --logdir runs/shapes/logs                                # watch it

The same command continues a run that was interrupted, as if it never had been. Every key of a recipe is documented in
modeling_glccl/training/recipe.py, the steps of a run in modeling_glccl/training/loop.py.
"""

import sys

from modeling_glccl.training import load_recipe, train

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    train(load_recipe(sys.argv[1], sys.argv[2:]))
