r"""Compares the model with numbers saved from the authors' implementation, quantity by quantity.

    python benchmarks/parity.py --golden tests/golden

A golden folder holds, for every case `glccl_TAG`, the safetensors files named in `FILES` and, in `manifest.json`, the
case's configuration and floors: how far the authors' float32 numbers are from the same computation in float64. Sizes
come from the tensors. Both sides are float32, so

    tolerance = FACTOR x floor.

The error is the difference of two float32 roundings, theirs (the floor) and ours, and ours varies with the number of
threads and the instruction set. Over those the authors' case needed a factor of 2.0 at most, and 104 generated cases
(random weights, other sizes, the naive twin of the tests in the authors' place) 6.2; FACTOR = 8 leaves a margin. The
losses of a training run have a factor of their own, see parity_trajectories.py.

A loss is one number, whose floor may be near zero by luck, so it takes the largest floor of the scores it is computed
from where that is larger. All gradients share the floor that the manifest gives for them. A quantity without a floor
takes the other split's, or else 32 float32 spacings at its largest value (the authors' gradients have 27, their
scores 6). Initialisation is copying: tolerance 0.

Prints case, quantity, maximal absolute error, tolerance and verdict. 'absent': listed in a manifest but without its
file. 'not covered': files and quantities of parts that this comparison does not run. Exit code 1 if any fails.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import errors

import torch
import torch.nn.functional as F
from parity_peers import peer_cases, peer_files, run_peer
from parity_rows import FACTOR, Floors, Row, compare, gradients, model_config, model_inputs, not_covered
from parity_trajectories import LOSS_FACTOR, run_trajectory, trajectory_files
from safetensors.torch import load_file
from torch import Tensor

from modeling_glccl.convert_glccl_original_to_hf import convert_original_checkpoint, to_original_names

FILES = ("clip_init", "glccl_init_nonclip", "glccl_weights", "glccl_forward", "glccl_grads")


def run_case(tag: str, entry: dict, files: dict[str, dict[str, Tensor]]) -> Iterator[Row]:
    """All comparisons that the present files of one case allow."""
    case, floors = f"glccl_{tag}", Floors(entry)
    config = model_config(entry.get("config", {}))
    if "clip_init" in files and "glccl_init_nonclip" in files:
        yield from initialisation(case, files["clip_init"], files["glccl_init_nonclip"], config)
    if "glccl_weights" in files and "glccl_forward" in files:
        golden = files["glccl_forward"]
        model = convert_original_checkpoint(files["glccl_weights"], **config)
        for split in sorted({name.partition(".in.")[0] for name in golden if ".in." in name}):
            yield from forward(case, split, model, golden, floors)
        if "glccl_grads" in files:
            model.train()(**model_inputs(golden, "train"), return_loss=True).loss.backward()
            yield from gradients(case, model, files["glccl_grads"], floors)


def initialisation(case: str, clip: dict[str, Tensor], new: dict[str, Tensor], config: dict) -> Iterator[Row]:
    """CLIP's weights copied and the new layers started from them, under the release's names."""
    model = convert_original_checkpoint(clip, **config, max_words=len(new["word_logit_weight"]))
    ours = to_original_names(model.state_dict(), model.config)
    golden = {**{f"clip.{name}": tensor for name, tensor in clip.items()}, **new}
    for name, tensor in golden.items():
        if name in ours:
            yield compare(case, f"init {name}", ours[name], tensor, 0.0)
        else:
            yield not_covered(case, "init", name)


@torch.no_grad()
def forward(case: str, split: str, model, golden: dict[str, Tensor], floors: Floors) -> Iterator[Row]:
    """Features, GLIM's features, scores, logits and (train) losses of one split."""
    model.train(split == "train")
    ours = model_outputs(model, model_inputs(golden, split))
    prefix = f"{split}.out."
    for key, tensor in golden.items():
        quantity = key.removeprefix(prefix)
        if quantity in ours:
            tolerance = FACTOR * floors.of(split, quantity, tensor)
            yield compare(case, f"{split} {quantity}", ours[quantity], tensor, tolerance)
        elif key.startswith(prefix):
            yield not_covered(case, split, quantity)


def model_outputs(model, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every quantity by the golden files' name; the losses only where texts and videos match."""
    text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    video = model.get_video_features(inputs["pixel_values_videos"], inputs["padding_mask_videos"])
    weights = model.frame_weights(text, video)
    pixels = inputs["pixel_values_videos"]
    frames = model.clip.get_image_features(pixels.flatten(0, 1)).pooler_output
    outputs = {
        "sentence_features": text.sentence,
        "word_features": text.words,
        "frame_features_pre_temporal": frames.unflatten(0, pixels.shape[:2]),
        "frame_features_post_temporal": video.frames,
        "glim_video": F.normalize(torch.einsum("avk,vkd->avd", weights.sentence, video.frames), dim=-1),
        "glim_word": F.normalize(torch.einsum("avnk,vkd->avnd", weights.words, video.frames), dim=-1),
        "logits": model.similarity(text, video),
    }
    outputs |= {f"score_{name}": score for name, score in model.get_scores(text, video).items()}
    if len(text.words) == len(video.frames):
        output, target = model(**inputs, return_loss=True), torch.arange(len(text.words))
        outputs |= {
            "loss_t2v": F.cross_entropy(output.logits_per_text, target),
            "loss_v2t": F.cross_entropy(output.logits_per_video, target),
            "loss_retrieval": output.contrastive_loss,
            "loss_csc": output.csc_loss,
            "loss_total": output.loss,
        }
    return outputs


def run(folder: Path) -> Iterator[Row]:
    """All rows of a golden folder: its cases by manifest and by file name, then everything not covered."""
    manifests = sorted(folder.glob("manifest*.json"))
    entries = {}
    for manifest in manifests:
        listed = json.loads(manifest.read_text())
        entries |= {name: entry for name, entry in listed.items() if not name.startswith("_")}
    found = (re.fullmatch(rf"({'|'.join(FILES)})_(.+)\.safetensors", path.name) for path in folder.iterdir())
    tags = {match[2] for match in found if match}
    tags |= {name.removeprefix("glccl_") for name in entries if name.startswith("glccl_")}

    covered = set(manifests)
    for tag in sorted(tags):
        paths = {name: folder / f"{name}_{tag}.safetensors" for name in FILES}
        covered.update(paths.values())
        for path in paths.values():
            if not path.exists():
                yield Row(f"glccl_{tag}", path.name, "absent")
        files = {name: load_file(path) for name, path in paths.items() if path.exists()}
        try:
            yield from run_case(tag, entries.get(f"glccl_{tag}", {}), files)
        except ValueError as error:
            yield Row(f"glccl_{tag}", "-", f"FAIL: {error}")
    trajectories = {name: entry for name, entry in entries.items() if "runs" in entry}
    for name, entry in sorted(trajectories.items()):
        covered.update(trajectory_files(folder, name, entry).values())
        try:
            yield from run_trajectory(folder, name, entry, entries)
        except ValueError as error:
            yield Row(name, "-", f"FAIL: {error}")
    peers = peer_cases(folder, entries)
    for case in peers:
        covered.update(peer_files(folder, case).values())
        try:
            yield from run_peer(folder, case, entries)
        except ValueError as error:
            yield Row(case, "-", f"FAIL: {error}")
    rest = sorted(path for path in folder.iterdir() if path not in covered)
    for path in rest:
        yield not_covered("-", "", path.name)
    for name in sorted(entries.keys() - trajectories.keys() - set(peers) - {f"glccl_{tag}" for tag in tags}):
        kind, _, tag = name.rpartition("_")
        if not any(path.name.startswith(name) or re.fullmatch(rf"{kind}_.*_{tag}\..*", path.name) for path in rest):
            yield Row(name, "-", "absent")


def main(argv: list[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Compares the model with numbers saved from the authors' implementation."
    )
    parser.add_argument("--golden", type=Path, required=True, help="folder with the authors' numbers")
    folder = parser.parse_args(argv).golden
    if not folder.is_dir():
        parser.error(f"--golden {folder} is not a folder")
    print(
        f"tolerance = {FACTOR} x the manifest's float32-vs-float64 floor, {LOSS_FACTOR} x for the losses of a "
        "training run, 0 for what is copied or frozen"
    )
    print(f"{'case':<21} {'quantity':<58} {'max abs error':>13} {'tolerance':>10}  verdict")
    rows = []
    for row in run(folder):
        print(row)
        rows.append(row)
    failed = sum(row.verdict.startswith("FAIL") for row in rows)
    compared = sum(row.verdict == "ok" for row in rows) + failed
    print(f"{compared} quantities compared, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
