"""What computes the frames of a model: torch, or ONNX Runtime with int8 products on a CPU (docs/speed.md)."""

import copy
import json
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub.constants import HF_HOME
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .atomic import room_for, write_whole
from .checkpoints import weights_digest
from .modeling_glccl import GLCCLModel

RUNTIMES = ("torch", "onnx-int8")
# Of every frame of the probe to that of torch: measured are 0.9997 at ViT-B/32 sizes, 0.9995 on shapes.
LEAST_COSINE = 0.99
PROBE = 4  # frames


def with_runtime(model: GLCCLModel, runtime: str, device: torch.device | None = None) -> GLCCLModel:
    """A model with the same weights whose vision tower is computed by a runtime; the temporal encoder stays torch's.

    "onnx-int8" makes its tower when the first frames come, and keeps it in the cache of Hugging Face. Before it is
    used it must give torch's features of some of these frames, or OSError is raised. It has no gradients.

    Args:
        model: is not changed; on the CPU for "onnx-int8".
        runtime: one of `RUNTIMES`.
        device: where the model will be before it encodes; by default it stays.

    Raises:
        ValueError: an unknown runtime, or a model on another device than the CPU.
        ModuleNotFoundError: a package of the extra [onnx] is missing.
    """
    model = getattr(model._encode_frames, "model", model)
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime={runtime!r} is unknown; use {' or '.join(RUNTIMES)}")
    if runtime == "torch":
        return model
    if (where := device or model.device).type != "cpu":
        raise ValueError(f"runtime={runtime!r} computes on a CPU, not on {where}: use device cpu")
    import_module(".onnx_export", __package__)  # names what is not installed before any video is opened
    served = copy.copy(model)  # the weights are shared
    vars(served)["_encode_frames"] = _Int8Frames(model)
    return served


class _Int8Frames:
    """Takes the place of `GLCCLModel._encode_frames`."""

    def __init__(self, model: GLCCLModel):
        self.model = model
        self.session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "session": None}  # a session belongs to a process

    def __call__(self, pixel_values: Tensor, **_outputs: Any) -> BaseModelOutputWithPooling:
        if self.session is None:
            self.session = self._start(pixel_values[:PROBE])
        return BaseModelOutputWithPooling(pooler_output=_run(self.session, pixel_values))

    def _start(self, frames: Tensor) -> Any:
        """A session of the quantised tower, which is made if there is none yet, and is verified on some frames."""
        from .onnx_export import INT8, onnxruntime, quantise_frames

        tower = {name: part for name, part in self.model.clip.state_dict().items() if name.startswith("vis")}
        about = json.dumps([self.model.config.clip_config.vision_config.to_dict(), str(INT8)], sort_keys=True)
        path = Path(HF_HOME, "glccl", f"frames-int8-{weights_digest(tower, about)[:32]}.onnx")
        if not path.exists():
            print(f"preparing the vision tower in int8, which is kept: {path}", file=sys.stderr, flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(".partial", ".", path.parent) as folder, room_for(path):
                made = Path(folder, "int8.onnx")
                try:
                    quantise_frames(copy.deepcopy(self.model).float(), made)
                except ValueError as error:  # it is no fault of these frames
                    raise OSError(f"runtime onnx-int8: {error}; use torch") from error
                with made.open("rb") as file:
                    write_whole(path, file)
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that spin while they wait take the cores of those that decode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(path, options)
        except Exception as error:  # of types of its own
            reason = " ".join(str(error).split())[:200]
            raise OSError(f"{path}: is damaged; delete it, and it is made anew ({reason})") from error
        wanted = self.model._encode_frames(frames).pooler_output
        cosine = torch.cosine_similarity(_run(session, frames).float(), wanted.float(), dim=-1).min().item()
        if not cosine >= LEAST_COSINE:
            raise OSError(
                f"runtime onnx-int8: a frame's cosine to that of torch is {cosine:.4f}, less than {LEAST_COSINE}; "
                "use torch for this model"
            )
        return session


def _run(session: Any, pixels: Tensor) -> Tensor:
    (features,) = session.run(None, {"pixel_values": pixels.float().cpu().numpy()})
    return torch.from_numpy(features).to(pixels.device, pixels.dtype)
