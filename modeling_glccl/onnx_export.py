"""`glccl export onnx`: both towers as ONNX files, and all that a search without torch needs beside them."""

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import onnx  # noqa: F401 (what torch.onnx needs, so that what is not installed is named before anything is done)
import onnxruntime
import onnxscript  # noqa: F401
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.torch import save_file
from torch import Tensor, nn

from . import onnx_search
from .atomic import new_folder
from .checkpoints import check_checkpoint, load_checkpoint
from .configuration_glccl import GLCCLConfig
from .modeling_glccl import GLCCLModel
from .towers_glccl import FAMILIES

# Of the largest magnitude of a tensor: onnxruntime adds up in another order than torch.
TOLERANCE = 1e-4
# Bytes of weights from which on they lie beside the graph: a file of ONNX holds less than 2 GB.
LARGEST = 2**30
TEXTS, VIDEOS = {0: "texts", 1: "words"}, {0: "videos", 1: "frames"}
INPUTS = {"text": {"input_ids": TEXTS}, "video": {"pixel_values_videos": VIDEOS, "padding_mask_videos": VIDEOS}}
INPUTS["frames"] = {"pixel_values": {0: "frames"}}
OUTPUTS = {"text": ["sentence", "words", "word_mask"], "video": ["frames", "frame_mask"], "frames": ["features"]}
# Products with weights alone: quantised beforehand, by channel, in 7 bits, as sums of 8 saturate on AVX2.
INT8 = {"op_types_to_quantize": ["MatMul", "Gemm"], "per_channel": True, "reduce_range": True}
INT8["weight_type"] = QuantType.QInt8


class Tower(nn.Module):
    """A tower of a model: "text" or "video", tensors in, the tensors of the features out, the mask last; or "frames",
    the vision tower without the temporal encoder, pixels [N, 3, H, W] in, features [N, D] out."""

    def __init__(self, model: GLCCLModel, name: str):
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """As `get_text_features` or `get_video_features`, or of frames their features."""
        if self.name == "frames":
            return (self.model._encode_frames(*inputs).pooler_output,)
        encode: Any = self.model.get_text_features if self.name == "text" else self.model.get_video_features
        return tuple(encode(*inputs).tensors().values())


def export_onnx(checkpoint: str, folder: Path) -> None:
    """Writes `text.onnx`, `video.onnx`, the processor, the scores' parameters and `search.py` into a new folder.

    Sizes are dynamic: texts and words, videos and frames (words are not where padding takes part in the text tower).
    onnxruntime must then give torch's features on another batch than the towers were traced with. The folder appears
    when all is written and verified.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: another head than GLCCL, or features that differ.
        OSError: the folder cannot be written, for example because the disk is full.
    """
    with new_folder(folder) as part:
        if (model_type := check_checkpoint(checkpoint)) not in (GLCCLConfig.model_type, *FAMILIES):
            raise ValueError(
                f"{checkpoint} is of the type {model_type!r}: exported are GLCCL and plain CLIP, MetaCLIP 2 and "
                "SigLIP, because search.py scores as these do"
            )
        model, processor = load_checkpoint(checkpoint)
        config = model.config
        for name in ("text", "video"):
            difference = export_tower(model, name, part / f"{name}.onnx")
            print(f"{name}.onnx: differs from torch by {difference:.1e} of the largest value at most", flush=True)
        processor.save_pretrained(part)
        names = ("glim_temperature", "aosm_temperature", "glim_global", "glim_local")
        scoring = {name: getattr(config, name) for name in names}
        scoring |= {"logit_scale": model.clip.logit_scale.item(), "release": not config.mask_padding}
        (part / "scoring.json").write_text(json.dumps(scoring, indent=2) + "\n", encoding="utf-8")
        matrices = {name: weight.detach().contiguous() for name, weight in model.interaction.named_parameters()}
        save_file(matrices, part / "scoring.safetensors")
        shutil.copyfile(onnx_search.__file__, part / "search.py")
    print(f'{folder}: search it with: python {folder / "search.py"} "TEXT" VIDEO.npy ...')


def _inputs(model: GLCCLModel, name: str, rows: int, slots: int) -> tuple[Tensor, ...]:
    """Random texts or videos of various lengths, the first of them as long as there are slots; or frames."""
    config, generator = model.config, torch.Generator().manual_seed(rows)
    lengths = [slots - row % slots for row in range(rows)]
    if name == "text":
        slots = config.text_slots or (slots if config.mask_padding else config.max_words)
        ids = torch.randint(0, config.text_config.vocab_size, (rows, slots), generator=generator)
        ids[ids == config.eos_token_id] = 0
        for row, length in zip(ids, lengths, strict=True):
            row[length - 1 :] = config.eos_token_id
        return (ids,)
    side, channels = config.vision_config.image_size, config.vision_config.num_channels
    pixels = torch.randn(rows, slots, channels, side, side, generator=generator)
    if name == "frames":
        return (pixels.flatten(0, 1),)
    return pixels, torch.arange(slots) < torch.tensor(lengths)[:, None]


@torch.no_grad()
def export_tower(model: GLCCLModel, name: str, path: Path) -> float:
    """Writes a tower; returns how much onnxruntime's outputs differ from torch's, over their largest magnitude."""
    tower = Tower(model, name).eval()
    sizes = {key: dict(dynamic) for key, dynamic in INPUTS[name].items()}
    if name == "text" and (model.config.text_slots or not model.config.mask_padding):
        del sizes["input_ids"][1]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # torchvision is not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower,
            _inputs(model, name, 2, 3),
            path,
            input_names=list(sizes),
            output_names=OUTPUTS[name],
            dynamic_shapes={"inputs": tuple(sizes.values())},
            external_data=sum(weight.nbytes for weight in model.parameters()) > LARGEST,
            dynamo=True,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path)
    worst = 0.0
    for rows, slots in ((5, 2), (1, 1)):
        inputs = _inputs(model, name, rows, slots)
        given = {key: values.numpy() for key, values in zip(sizes, inputs, strict=True)}
        for output, wanted in zip(session.run(None, given), tower(*inputs), strict=True):
            # In eager mode words may be cut to the longest text.
            values, wanted = torch.as_tensor(output)[:, : wanted.shape[1]].float(), wanted.float()
            worst = max(worst, ((values - wanted).abs().max() / wanted.abs().max()).item())
    if not worst <= TOLERANCE:
        raise ValueError(
            f"{path.name}: onnxruntime {onnxruntime.__version__} differs from torch {torch.__version__} by "
            f"{worst:.1e} of the largest value, more than {TOLERANCE:.0e}; nothing was written"
        )
    return worst


def quantise_tower(model: GLCCLModel, name: str, path: Path) -> None:
    """Writes a tower with int8 products; ValueError if it differs from torch's before it is quantised."""
    exported = path.with_name("float32.onnx")
    export_tower(model, name, exported)
    logging.disable(logging.WARNING)  # it proposes a step that changes nothing here
    try:
        quantize_dynamic(exported, path, **INT8)
    finally:
        logging.disable(logging.NOTSET)
