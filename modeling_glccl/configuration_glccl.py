"""Configuration of GLCCL models."""

from math import inf, isfinite
from typing import Any, Self

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, CLIPTextConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .towers_glccl import CLIPFamily, family_of

MAX_LAYERS = 256  # of a tower; the largest CLIP has 48
SCORE_NAMES = ("video_sentence", "video_word", "sentence_frame", "frame_word")
CSC_VARIANTS = ("paper", "detached", "hard", "centred")


@strict
class GLCCLConfig(PreTrainedConfig):
    r"""
    Configuration of a [`GLCCLModel`]. The defaults are those of the paper (arXiv 2605.17959) on MSR-VTT, except
    `mask_padding`, whose released value is `False`.

    Args:
        clip_config (`dict` or `PreTrainedConfig`, *optional*):
            The encoders, by the configuration of their family: CLIP, MetaCLIP 2 or SigLIP (its `model_type` says
            which; CLIP where it says none). Defaults to CLIP ViT-B/32.
        max_words (`int`, defaults to 32):
            Word slots per text, BOS and EOS included: the side of the six learned word matrices, hence the longest
            text the model accepts. Not more than the text tower's own position table (77 of CLIP, 64 of SigLIP).
        max_frames (`int`, defaults to 12):
            Frames the processor takes from a video. A default only: the model accepts any number of frames from 1 to
            the length of the text position table, from which the frame position table is initialised; without a
            temporal encoder any number at all.
        temporal_num_hidden_layers (`int`, defaults to 4):
            Blocks of the temporal encoder over the frames of a video; 0: there is none, frames are as CLIP gives them.
        temporal_num_attention_heads (`int`, *optional*):
            Heads of the temporal encoder. Defaults to those of the text tower where that has the joint width, else to
            the joint width // 64, at least 1.
        temporal_layer_norm_eps (`float`, defaults to 1e-12):
            LayerNorm epsilon of the temporal encoder (CLIP's own is 1e-5).
        glim_temperature (`float`, defaults to 5.0):
            Temperature of GLIM's softmax over frames. It divides products of UNNORMALISED features, so a good value
            depends on their norms: 5 suits OpenAI's CLIP, others need other values (docs/method.md).
        aosm_temperature (`float`, defaults to 0.01):
            Temperature of the softmax that aggregates word and frame scores (AOSM).
        csc_weight (`float`, defaults to 0.1):
            Weight eta of the Contrastive Score Consistency loss; 0 switches it off. 0.1 in the paper's text, 0.5 in
            the commands of the authors' release.
        csc_scores (`list[str]`, defaults to all four):
            The scores whose variance the CSC loss compares, two or more of `video_sentence`, `video_word`,
            `sentence_frame` and `frame_word`. The logits are the mean of all four whatever this says.
        csc_variant (`str`, defaults to `"paper"`):
            The CSC loss as published, or for experiments: `"detached"` asks nothing of pairs that do not match,
            `"hard"` counts only the best video of each text that is not its own, `"centred"` subtracts from each
            score its mean over the videos first, which changes no rank (docs/reproduce.md measures all).
        mask_padding (`bool`, defaults to `True`):
            `True`: padded words and frames take part in no softmax and no sum, so a score never depends on padding.
            `False`: the authors' release, where they do, and every text is padded to exactly `max_words`.
        glim_global (`bool`, defaults to `True`):
            Sentence-guided weights for the video feature; `False` replaces them by the mean over the frames.
        glim_local (`bool`, defaults to `True`):
            Word-guided weights for the frame features; `False` replaces them by the mean over the frames.
        zero_shot (`bool`, defaults to `False`):
            Says that nothing was trained but the encoders: what [`GLCCLModel.from_pretrained`] makes of a plain CLIP.
        confidence_weights (`list[float]`, *optional*):
            Six numbers that turn a search result into a confidence: a constant, the weights of the four scores, and
            that of the distance to the results that follow (docs/search.md). `glccl calibrate` writes them.

    Example:

    ```python
    >>> from modeling_glccl import GLCCLConfig

    >>> tower = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    >>> text = tower | {"vocab_size": 100, "bos_token_id": 98, "eos_token_id": 99}
    >>> vision = tower | {"image_size": 32, "patch_size": 16}
    >>> clip = {"text_config": text, "vision_config": vision, "projection_dim": 32}
    >>> GLCCLConfig(clip_config=clip, max_words=16).temporal_config.num_attention_heads
    2

    ```
    """

    model_type = "glccl"
    sub_configs_defaults = {"clip_config": SubConfigSpec(AutoConfig, model_type="clip")}  # noqa: RUF012

    clip_config: Any = None  # whatever it was given as, a PreTrainedConfig once this is made
    max_words: int = 32
    max_frames: int = 12
    temporal_num_hidden_layers: int = 4
    temporal_num_attention_heads: int | None = None
    temporal_layer_norm_eps: float = 1e-12
    glim_temperature: float | int = 5.0
    aosm_temperature: float | int = 0.01
    csc_weight: float | int = 0.1
    csc_scores: list[str] | tuple[str, ...] = SCORE_NAMES
    csc_variant: str = "paper"
    mask_padding: bool = True
    glim_global: bool = True
    glim_local: bool = True
    zero_shot: bool = False
    confidence_weights: list[float | int] | None = None

    def __post_init__(self, **kwargs):
        self.csc_scores = list(self.csc_scores)
        # Code beside the weights runs only with the user's trust, so transformers asks for it where a configuration
        # names a pipeline. The installed package registers its own, which needs none.
        if not __name__.startswith("transformers_modules."):
            kwargs.pop("custom_pipelines", None)
        clip = {} if self.clip_config is None else self.clip_config
        if isinstance(clip, dict):
            model_type = clip.get("model_type", "clip")
            family_of(model_type, "clip_config")  # refuses others
            try:
                clip = AutoConfig.for_model(model_type, **{key: clip[key] for key in clip if key != "model_type"})
            except (StrictDataclassError, TypeError, ArithmeticError) as error:
                raise ValueError(f"clip_config is no configuration of {model_type!r}: {error}") from error
        if not isinstance(clip, PreTrainedConfig):
            raise ValueError(f"clip_config: {clip!r} is none of dict, PreTrainedConfig")
        self.clip_config = clip
        self.family.check(clip)
        if self.temporal_num_attention_heads is None:
            text = clip.text_config
            fits = text.hidden_size == self.width
            self.temporal_num_attention_heads = text.num_attention_heads if fits else max(1, self.width // 64)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Checks the values against each other (called by `@strict` after construction)."""
        positions = self.max_positions
        for name, limit in (("max_words", True), ("max_frames", self.temporal_num_hidden_layers > 0)):
            value = getattr(self, name)
            if value < 1 or (limit and value > positions):
                raise ValueError(f"{name}={value} must lie in 1..{positions}, the size of CLIP's text position table")
        if self.family.reads_padding and not self.mask_padding:
            raise ValueError(
                "mask_padding=False is how the authors' release scores CLIP's texts; SigLIP's have no such"
            )
        for name in ("glim_temperature", "aosm_temperature"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name}={getattr(self, name)} must be positive and finite")
        for name in ("temporal_num_hidden_layers", "csc_weight"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"{name}={getattr(self, name)} must be finite, not negative; 0 switches it off")
        towers = {f"clip_config.{name}.": getattr(self.clip_config, name) for name in ("text_config", "vision_config")}
        for tower, config in {"temporal_": self, **towers}.items():
            prefix = tower if config is self else ""
            layers, epsilon = (getattr(config, prefix + name) for name in ("num_hidden_layers", "layer_norm_eps"))
            if layers > MAX_LAYERS:  # would be built for hours before weights are found missing
                raise ValueError(f"{tower}num_hidden_layers={layers} must be at most {MAX_LAYERS}")
            if not 0 < epsilon < inf:
                raise ValueError(f"{tower}layer_norm_eps={epsilon} must be positive and finite")
        if len(self.csc_scores) < 2 or len(set(self.csc_scores) & set(SCORE_NAMES)) < len(self.csc_scores):
            raise ValueError(f"csc_scores={self.csc_scores} must be two or more of {', '.join(SCORE_NAMES)}")
        if self.csc_variant not in CSC_VARIANTS:
            raise ValueError(f"csc_variant={self.csc_variant!r} must be one of {', '.join(CSC_VARIANTS)}")
        if self.confidence_weights is not None and not (
            len(self.confidence_weights) == 2 + len(SCORE_NAMES) and all(map(isfinite, self.confidence_weights))
        ):
            raise ValueError(
                f"confidence_weights={self.confidence_weights} must be {2 + len(SCORE_NAMES)} finite numbers; "
                "glccl calibrate finds them"
            )
        heads = self.temporal_num_attention_heads
        if not heads or self.width % heads:
            raise ValueError(f"the joint width {self.width} is not a multiple of temporal_num_attention_heads={heads}")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As the base class, which reads files through this; what is wrong with a value is a ValueError."""
        try:
            return super().from_dict(config_dict, **kwargs)
        except StrictDataclassError as error:
            raise ValueError(f"config.json: {error}") from error

    @classmethod
    def for_zero_shot(cls, clip_config: dict[str, Any], **config: Any) -> Self:
        """That of encoders as they are: no temporal encoder, and texts as long as the text tower takes them."""
        towers = cls(clip_config=clip_config, max_words=1, temporal_num_hidden_layers=0)
        values = {"max_words": towers.max_positions, "temporal_num_hidden_layers": 0, "zero_shot": True}
        return cls(clip_config=towers.clip_config, **values | config)

    @property
    def family(self) -> CLIPFamily:
        """What the towers of `clip_config` are, and what is peculiar to them."""
        return family_of(getattr(self.clip_config, "model_type", None), "clip_config")

    @property
    def width(self) -> int:
        """D, the joint width of sentences, words and frames."""
        return self.family.width(self.clip_config)

    @property
    def max_positions(self) -> int:
        """Rows of the text position table, which is also the size of the frame position table (77 of CLIP)."""
        return self.text_config.max_position_embeddings

    @property
    def text_slots(self) -> int | None:
        """Slots that every text must have, where padding takes part in the text tower; None: as many as it needs."""
        return self.max_positions if self.family.reads_padding else None

    @property
    def text_config(self) -> Any:
        """That of the text tower, where transformers looks for it."""
        return self.clip_config.text_config

    @property
    def vision_config(self) -> Any:
        """That of the vision tower."""
        return self.clip_config.vision_config

    @property
    def eos_token_id(self) -> int:
        """Id of the token that ends a text."""
        return self.family.eos_token_id(self.clip_config)

    @eos_token_id.setter
    def eos_token_id(self, value: int) -> None:
        self.text_config.eos_token_id = value

    @property
    def temporal_config(self) -> CLIPTextConfig:
        """The temporal encoder as a CLIP encoder configuration: its blocks are the text tower's where widths agree."""
        assert self.temporal_num_attention_heads is not None  # see __post_init__
        text = self.text_config
        config = CLIPTextConfig(
            hidden_size=self.width,
            intermediate_size=text.intermediate_size if text.hidden_size == self.width else 4 * self.width,
            num_hidden_layers=self.temporal_num_hidden_layers,
            num_attention_heads=self.temporal_num_attention_heads,
            max_position_embeddings=self.max_positions,
            hidden_act=text.hidden_act,
            layer_norm_eps=self.temporal_layer_norm_eps,
        )
        config._attn_implementation = self._attn_implementation
        return config


GLCCLConfig.register_for_auto_class("AutoConfig")
