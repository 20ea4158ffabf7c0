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

import errors

import torch
from table import show, write_csv
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPTokenizer

from modeling_glccl import GLCCLModel, GLCCLProcessor, GLCCLVideoProcessor
from modeling_glccl.data import load_benchmark
from modeling_glccl.features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures

# Of another domain than the videos.
TEXTS = (
    *("a photo of a dog", "a man is playing a guitar", "a woman is cooking in a kitchen", "cars drive along a road"),
    *("a red circle", "people dancing at a party", "a person talks to the camera", "a green field with trees"),
    *("a cat jumps", "someone slices vegetables", "a boat on the sea", "a blue sky", "children play football"),
    *("a city at night", "a cartoon", "it is snowing"),
)
FIXED = (2.5, 5, 10, 20, 40, 80, 160)
MAX_WORDS = 40
VIDEO_PROCESSOR = GLCCLVideoProcessor(size=64, crop_size=64)


def recall(similarity: Tensor) -> float:
    """R@1 in percent of [A, A] scores whose diagonal is right; ties count as wrong."""
    return 100 * ((similarity >= similarity.diagonal()[:, None]).sum(dim=1) == 1).float().mean().item()


@torch.inference_mode()
def measure(folder: Path, splits: dict[str, tuple[list[str], Tensor]]) -> list[dict]:
    """Rows of one CLIP, for captions and pixels [V, Nf, 3, H, W] of two splits."""
    model = GLCCLModel.from_clip_pretrained(folder, temporal_num_hidden_layers=0, max_words=MAX_WORDS)
    processor = GLCCLProcessor(CLIPTokenizer.from_pretrained(folder), VIDEO_PROCESSOR, max_words=MAX_WORDS)

    def encode(captions: list[str], pixels: Tensor) -> tuple[GLCCLTextFeatures, GLCCLVideoFeatures]:
        parts = [model.get_video_features(part) for part in pixels.split(32)]
        return model.get_text_features(**processor(text=captions)), GLCCLVideoFeatures.concatenate(parts)

    text, video = encode(*splits["test"])
    validation_text, validation = encode(*splits["validation"])
    generic_text = model.get_text_features(**processor(text=list(TEXTS)))
    frames = video.frames

    def retrieve(temperature: float) -> float:
        model.config.glim_temperature = temperature
        return recall(model.similarity(text, video))

    seeds = [torch.Generator().manual_seed(seed) for seed in range(20)]
    draws = [torch.randperm(validation.num_rows, generator=seed)[:8] for seed in seeds]
    eight = [model.fit_glim_temperature(generic_text, validation.select(draw)) for draw in draws]
    deviation = model.fit_glim_temperature(validation_text, validation)
    temperatures = {f"fixed {value}": value for value in FIXED}
    temperatures |= {
        "checkpoint": model.zero_shot_temperature(),
        "captions": deviation,
        "generic": model.fit_glim_temperature(generic_text, validation),
    }
    pooled = normalize(normalize(frames, dim=-1).mean(dim=1), dim=-1)
    found = {"mean pooling": recall(normalize(text.sentence, dim=-1) @ pooled.T)}
    found |= {rule: retrieve(temperature) for rule, temperature in temperatures.items()}
    best = max(value for rule, value in found.items() if rule.startswith("fixed"))
    temperatures |= {"8 videos, lowest": min(eight), "8 videos, highest": max(eight)}
    pairs = [(validation_text.select([row]), validation.select([row])) for row in range(validation.num_rows)]
    temperatures["matching"] = sum(model.fit_glim_temperature(*pair) for pair in pairs) / len(pairs)
    return [
        {
            "clip": folder.name,
            "width": frames.shape[-1],
            "logit scale": round(model.clip.logit_scale.exp().item(), 1),
            "|s|": round(text.sentence.norm(dim=-1).mean().item(), 1),
            "|x|": round(frames.norm(dim=-1).mean().item(), 1),
            "deviation": round(deviation, 1),
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
