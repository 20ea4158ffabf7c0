"""transformers' Trainer and PEFT: LoRA in both towers of a GLCCL, trained on your captions, merged and scored again.

    python examples/trainer_lora.py CHECKPOINT VIDEO_DIR OUTPUT [--epochs 3] [--rank 8]

CHECKPOINT is a GLCCL, or any CLIP; VIDEO_DIR holds videos and a metadata.csv (docs/own_data.md). OUTPUT gets
`adapter`, what was trained, and `merged`, an ordinary checkpoint. On several processes the Trainer compares the pairs
of one process alone; `glccl train` compares all of them.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments

from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.data import load_benchmark
from modeling_glccl.data.collate import RetrievalCollator
from modeling_glccl.training.optimization import LORA_LAYERS


def main(arguments: list[str] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Trains; returns the logits of the first pairs by the trained model, and by the merged checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("video_dir", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    options = parser.parse_args(arguments)

    rows = load_benchmark("captions", data_dir=options.video_dir, split="train")
    model, processor = load_checkpoint(options.checkpoint)
    collate = RetrievalCollator(processor)
    # What GLCCL adds to CLIP is small, and trained whole.
    own = [name for name in ("temporal", "interaction") if getattr(model, name) is not None]
    lora = LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=LORA_LAYERS, modules_to_save=own)
    tuned = get_peft_model(model, lora)
    tuned.print_trainable_parameters()

    def batch(examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {**collate(examples)["inputs"], "return_loss": True}

    Trainer(
        tuned,
        TrainingArguments(
            output_dir=str(options.output / "trainer"),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            dataloader_drop_last=True,  # the loss of a smaller batch is another
            remove_unused_columns=False,  # the collator reads them
            learning_rate=1e-4,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=rows,
        data_collator=batch,
    ).train()
    tuned.save_pretrained(options.output / "adapter")

    # As another program would go on: the adapter on the same start, merged, saved, loaded.
    start, _ = load_checkpoint(options.checkpoint)
    merged = PeftModel.from_pretrained(start, str(options.output / "adapter")).merge_and_unload()
    merged.save_pretrained(options.output / "merged")
    processor.save_pretrained(options.output / "merged")
    again, processor = load_checkpoint(options.output / "merged")
    inputs = RetrievalCollator(processor)([rows[row] for row in range(min(8, len(rows)))])["inputs"]
    with torch.inference_mode():
        logits = [
            model(**{name: value.to(model.device) for name, value in inputs.items()}).logits_per_text.cpu()
            for model in (tuned.eval(), again)
        ]
    print(f"largest difference of scores, trained and merged: {(logits[0] - logits[1]).abs().max():.2g}")
    return logits[0], logits[1]


if __name__ == "__main__":
    main()
