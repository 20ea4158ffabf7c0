"""Features of texts and videos, what is done with them everywhere, and the moment that frame weights point to."""

import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, NamedTuple, Self, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils.generic import ModelOutput

# A tensor that is always given: ModelOutput wants None as the default of every field but the first.
REQUIRED = cast(Tensor, None)
# States of the layers that made the features, one tensor a layer.
LAYERS = ("hidden_states", "attentions")


@dataclass(repr=False)
class GLCCLFeatures(ModelOutput):
    """Tensors with one row a text or video. Subclasses are dataclasses of tensors."""

    # Those with a second dimension of slots; the mask is the last.
    slotted: ClassVar[tuple[str, ...]] = ()
    # Those that a model may leave out.
    optional: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in self.tensors().items())
        return f"<{type(self).__name__}: {shapes}>"

    @property
    def mask(self) -> Tensor:
        """[rows, slots] bool, the slots that count."""
        return self[self.slotted[-1]]

    @property
    def num_rows(self) -> int:
        """Texts or videos."""
        return len(self.mask)

    @property
    def num_slots(self) -> int:
        """Word or frame slots, padding included."""
        return self.mask.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """What has one row a text or video: all but the states of single layers, which nothing below keeps."""
        return {name: values for name, values in self.items() if isinstance(values, Tensor)}

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(**{name: change(values) for name, values in self.tensors().items()})

    def select(self, rows: Sequence[int] | Tensor) -> Self:
        """These rows, in this order."""
        rows = torch.as_tensor(rows, device=self.mask.device)
        return self._each(lambda values: values[rows])

    def pad(self, slots: int) -> Self:
        """With that many slots: zeros that the mask does not count, or without slots that it does not count anyway."""
        if self.mask[:, slots:].any():
            raise ValueError(f"{slots} slots are less than the features count")
        padded = self.tensors()
        for name in self.slotted:
            if name in self:
                kept = padded[name][:, :slots]
                padded[name] = kept.new_zeros(len(kept), slots, *kept.shape[2:])
                padded[name][:, : kept.shape[1]] = kept
        return type(self)(**padded)

    def trim(self) -> Self:
        """Without the slots that no row counts."""
        counted = self.mask.any(dim=0).nonzero()
        return self.pad(int(counted.max()) + 1 if len(counted) else 1)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, padded to the most slots; gradients flow through."""
        slots = max(part.num_slots for part in parts)
        padded = [part if part.num_slots == slots else part.pad(slots) for part in parts]
        return type(parts[0])(**{name: torch.cat([part[name] for part in padded]) for name in padded[0].tensors()})

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """On another device; with `dtype` also as other numbers, masks as they are."""
        return self._each(lambda values: values.to(device, dtype if values.is_floating_point() else None))

    def save(self, path: str | os.PathLike, metadata: dict[str, str] | None = None, **more: Tensor) -> None:
        """Writes or replaces a safetensors file as a whole, with `metadata` in its header and `more` tensors beside.

        Raises:
            OSError: it cannot be written, for example because the disk is full; an older file stays.
        """
        path = Path(path)
        new = path.with_name(f".{path.name}.{secrets.randbits(62)}.partial")
        tensors = {name: values.detach().contiguous().cpu() for name, values in {**self.tensors(), **more}.items()}
        try:
            save_file(tensors, new, {"format": "pt", **(metadata or {})})
            new.replace(path)
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from error
        finally:
            new.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> tuple[Self, dict[str, Tensor], dict[str, str]]:
        """The features, the other tensors and the metadata that [`~GLCCLFeatures.save`] wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no file of these features; the message names the file and what is wrong in it.
        """
        if not Path(path).exists():
            raise FileNotFoundError(f"no feature file {path}")
        try:
            with safe_open(path, "pt") as file:
                tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a feature file, or damaged: {error}") from error
        names = [field.name for field in fields(cls) if field.name not in LAYERS]
        if lacking := [name for name in names if name not in tensors and name not in cls.optional]:
            raise ValueError(f"{path} is not a feature file of this kind: it has no tensor {lacking[0]!r}")
        own = {name: tensors.pop(name) for name in names if name in tensors}
        mask = own[cls.slotted[-1]]
        wrong = [f"{name} {list(values.shape)}" for name, values in own.items() if values.shape[:1] != mask.shape[:1]]
        wrong += [f"{name} {list(own[name].shape)}" for name in cls.slotted if own[name].shape[:2] != mask.shape]
        if mask.ndim != 2 or mask.dtype != torch.bool or wrong:
            raise ValueError(f"{path} is damaged: {', '.join(wrong) or 'its mask'} does not fit {list(mask.shape)}")
        return cls(**own), tensors, metadata


@dataclass(repr=False)
class GLCCLTextFeatures(GLCCLFeatures):
    """Features of A texts, not normalised.

    Args:
        sentence: [A, D], the projected state of the first EOS.
        words: [A, Nw, D], the projected state of every position, BOS and EOS included.
        word_mask: [A, Nw] bool, the slots that count in the scores; the counted slots come first.
        hidden_states: of the text tower, before its first and after every layer, each [A, Nw, its width]; on request.
        attentions: of every layer, [A, heads, Nw, Nw]; on request.
    """

    slotted: ClassVar[tuple[str, ...]] = ("words", "word_mask")

    sentence: Tensor = REQUIRED
    words: Tensor = REQUIRED
    word_mask: Tensor = REQUIRED
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    @property
    def last_hidden_state(self) -> Tensor:
        """[A, Nw, D], the words by the name that they have in transformers."""
        return self.words

    @property
    def pooler_output(self) -> Tensor:
        """[A, D], the sentences by the name that they have in transformers."""
        return self.sentence


@dataclass(repr=False)
class GLCCLVideoFeatures(GLCCLFeatures):
    """Features of V videos, not normalised.

    Args:
        frames: [V, Nf, D], frame features after the temporal encoder.
        frame_mask: [V, Nf] bool, the frames that count in the scores.
        hidden_states: of the vision tower, before its first and after every layer, each [encoded frames, patches, its
            width], then of the temporal encoder, each [V, Nf, D]; on request.
        attentions: of every layer of the two, [encoded frames or V, heads, N, N]; on request.
    """

    slotted: ClassVar[tuple[str, ...]] = ("frames", "frame_mask")

    frames: Tensor = REQUIRED
    frame_mask: Tensor = REQUIRED
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    @property
    def last_hidden_state(self) -> Tensor:
        """[V, Nf, D], the frames by the name that they have in transformers."""
        return self.frames

    @property
    def pooler_output(self) -> Tensor:
        """[V, D], the mean of each video's counted frames: GLCCL itself pools them anew for every text."""
        counted = self.frame_mask[..., None]
        return self.frames.masked_fill(~counted, 0.0).sum(dim=1) / counted.sum(dim=1)


class Moment(NamedTuple):
    """Seconds in the video: the span that a text is about, and the frame within it that counts most."""

    start: float
    end: float
    peak: float


def find_moment(weights: np.ndarray, times: np.ndarray, start: float, end: float) -> Moment:
    """The run of frames that outweighs all others, where frames with less than half of an equal weight count against.

    Half, because GLIM's weights spread over all frames that a text is about, and a caption of several events gives
    each of them less than an equal weight where one event stands out (docs/search.md has the measurements). A frame
    stands for the time nearer to it than to its neighbours, so a moment is no finer than their spacing.

    Args:
        weights: [n], GLIM's weights of a text over the frames of a clip (they sum to 1).
        times: [n] seconds of the frames, ascending.
        start, end: seconds of the clip.
    """
    best, first, last = -np.inf, 0, 0
    total, run_start = 0.0, 0
    for position, excess in enumerate(weights - weights.mean() / 2):
        if total <= 0:
            total, run_start = 0.0, position
        total += excess
        if total > best:
            best, first, last = total, run_start, position
    borders = np.concatenate([[start], (times[1:] + times[:-1]) / 2, [end]])
    peak = first + int(weights[first : last + 1].argmax())
    return Moment(float(borders[first]), float(borders[last + 1]), float(times[peak]))
