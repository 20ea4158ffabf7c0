r"""Zero-shot retrieval with a GLCCL made of a plain CLIP: GLIM temperatures found without labels, and fixed ones.

    python -m modeling_glccl.training.pretrain_clip recipes/shapes_clip.yaml        # a CLIP; more with overrides
    python benchmarks/zero_shot.py runs/shapes/data runs/shapes/clip OTHER_CLIP ...

No model is trained on a video: no temporal encoder, learned matrices as initialised. Text-to-video R@1 on the test
split of the shapes benchmark, 400 captions and 400 videos of 12 frames. "mean pooling" is the cosine of the sentence
and the mean of the normalised frames. Rules without labels: "checkpoint" needs no video; "captions" and "generic"
take 64 videos of the validation split, with their captions or with fixed texts of another domain; "8 videos" are the
extremes of "generic" over twenty draws of so many, and "matching" the deviation of captions and their own videos, in
temperatures alone. Prints a table and writes benchmarks/results/zero_shot_<hardware>.csv.
"""

import argparse
from pathlib import Path

import torch
from table import show, write_csv
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPTokenizer

from modeling_glccl import GLCCLModel, GLCCLProcessor, GLCCLVideoProcessor
from modeling_glccl.data import load_benchmark
from modeling_glccl.interaction_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from modeling_glccl.zero_shot_draft import DEVIATIONS, TEXTS, calibrate_glim_temperature

FIXED = (2.5, 5, 10, 20, 40, 80, 160)
MAX_WORDS = 40
VIDEO_PROCESSOR = GLCCLVideoProcessor(size=64, crop_size=64)


def recall(similarity: Tensor) -> float:
    """R@1 in percent of [A, A] scores whose diagonal is right; ties count as wrong."""
    return 100 * ((similarity >= similarity.diagonal()[:, None]).sum(dim=1) == 1).float().mean().item()


def spread(sentences: Tensor, frames: Tensor) -> Tensor:
    """[A, V] standard deviations over the frames of a video of the products of sentences [A, D] and [V, Nf, D]."""
    return torch.einsum("ad,vkd->avk", sentences, frames).std(dim=-1)


@torch.inference_mode()
def measure(folder: Path, splits: dict[str, tuple[list[str], Tensor]]) -> list[dict]:
    """Rows of one CLIP, for captions and pixels [V, Nf, 3, H, W] of two splits."""
    model = GLCCLModel.from_clip_pretrained(folder, temporal_num_hidden_layers=0, max_words=MAX_WORDS)
    processor = GLCCLProcessor(CLIPTokenizer.from_pretrained(folder), VIDEO_PROCESSOR, max_words=MAX_WORDS)

    def encode(captions: list[str], pixels: Tensor) -> tuple[GLCCLTextFeatures, Tensor]:
        frames = torch.cat([model.get_video_features(part).frames for part in pixels.split(32)])
        return model.get_text_features(**processor(text=captions)), frames

    text, frames = encode(*splits["test"])
    validation_text, validation_frames = encode(*splits["validation"])
    generic_text = model.get_text_features(**processor(text=list(TEXTS)))
    video = GLCCLVideoFeatures(frames=frames, frame_mask=torch.ones(frames.shape[:2], dtype=torch.bool))

    def retrieve(temperature: float) -> float:
        model.interaction.glim_temperature = temperature
        return recall(model.similarity(text, video))

    validation = spread(validation_text.sentence, validation_frames)
    generic = spread(generic_text.sentence, validation_frames).mean(dim=0)
    draws = [torch.randperm(len(generic), generator=torch.Generator().manual_seed(seed))[:8] for seed in range(20)]
    eight = [DEVIATIONS * generic[draw].mean().item() for draw in draws]
    temperatures = {f"fixed {value}": value for value in FIXED}
    temperatures |= {
        "checkpoint": calibrate_glim_temperature(model, processor),
        "captions": DEVIATIONS * validation.mean().item(),
        "generic": DEVIATIONS * generic.mean().item(),
    }
    pooled = normalize(normalize(frames, dim=-1).mean(dim=1), dim=-1)
    found = {"mean pooling": recall(normalize(text.sentence, dim=-1) @ pooled.T)}
    found |= {rule: retrieve(temperature) for rule, temperature in temperatures.items()}
    best = max(value for rule, value in found.items() if rule.startswith("fixed"))
    temperatures |= {"8 videos, lowest": min(eight), "8 videos, highest": max(eight)}
    temperatures["matching"] = validation.diagonal().mean().item()
    return [
        {
            "clip": folder.name,
            "width": frames.shape[-1],
            "logit scale": round(model.clip.logit_scale.exp().item(), 1),
            "|s|": round(text.sentence.norm(dim=-1).mean().item(), 1),
            "|x|": round(frames.norm(dim=-1).mean().item(), 1),
            "deviation": round(validation.mean().item(), 1),
            "rule": rule,
            "temperature": round(temperatures[rule], 1) if rule in temperatures else "",
            "R@1": round(found[rule], 2) if rule in found else "",
            "below best fixed": round(best - found[rule], 2) if rule in found else "",
            "over mean pooling": round(found[rule] / found["mean pooling"], 2) if rule in found else "",
        }
        for rule in dict.fromkeys([*found, *temperatures])
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder of the shapes benchmark")
    parser.add_argument("clip", type=Path, nargs="+", help="folder of a CLIP pre-trained on its stills")
    arguments = parser.parse_args()
    splits = {}
    for split, count in (("test", None), ("validation", 64)):
        dataset = load_benchmark("shapes", data_dir=arguments.data_dir, split=split, num_train=0)
        columns = dataset[:count]
        splits[split] = columns["caption"], VIDEO_PROCESSOR(columns["video"])["pixel_values_videos"]
    rows = []
    for folder in arguments.clip:
        for row in measure(folder, splits):
            show(row, header=not rows)
            rows.append(row)
    write_csv(rows, "zero_shot")


if __name__ == "__main__":
    main()
