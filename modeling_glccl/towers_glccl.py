"""The CLIP families that GLCCL takes, and what differs between them: how a text is cleaned and padded, which states of
the text tower are words, which is the sentence. A frame is the image feature of the family, the same call in all.
"""

import html
import math
from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, CLIPModel, PreTrainedConfig, PreTrainedModel, SiglipModel
from transformers.activations import ACT2FN
from transformers.utils import logging

try:
    import ftfy
except ImportError:
    ftfy = None


class CLIPFamily:
    """OpenAI's CLIP and what is stored like it: LAION, DataComp, MetaCLIP.

    The text tower is causal: padding after EOS reaches no word. A text is BOS, tokens, EOS; words are the projected
    states of all of them, and that of the first EOS is the sentence.
    """

    title = "CLIP (OpenAI, LAION, DataComp, MetaCLIP)"
    has_bos = True
    # Whether padding takes part in the text tower: a text then has as many slots as the tower was trained with.
    reads_padding = False
    # Of [`GLCCLVideoProcessor`], where a checkpoint brings no settings of its own.
    image_settings: ClassVar[dict[str, Any]] = {}

    def check(self, config: PreTrainedConfig) -> None:
        """Raises ValueError for a value that transformers' configuration allows and these towers do not, by name."""
        numbers = {"text_config": ["max_position_embeddings"], "vision_config": ["image_size", "patch_size"]}
        for tower, names in numbers.items():
            values = getattr(config, tower)
            for name in names:
                value = getattr(values, name)
                if not isinstance(value, int) or value < 1:
                    raise ValueError(f"clip_config.{tower}.{name}={value!r} must be one positive number")
            if values.hidden_act not in ACT2FN:
                raise ValueError(f"clip_config.{tower}.hidden_act={values.hidden_act!r} is unknown to transformers")
        eos = config.text_config.eos_token_id
        if not isinstance(eos, int) and not (eos is None and self.reads_padding):
            raise ValueError(
                f"clip_config.text_config.eos_token_id={eos} must be one id: that of the token with which the "
                "tokenizer ends a text"
            )
        if not isinstance(self.width(config), int):
            raise ValueError(f"clip_config.projection_dim={config.projection_dim!r} must be one positive number")

    def width(self, config: PreTrainedConfig) -> int:
        """D, of the joint space of texts and images."""
        return config.projection_dim

    def eos_token_id(self, config: PreTrainedConfig) -> int:
        """Id of the token that ends a text.

        Early CLIP configurations say 2, which transformers reads as "the highest id of the row"; CLIP's EOS is the
        highest id of its vocabulary.
        """
        eos = config.text_config.eos_token_id
        return config.text_config.vocab_size - 1 if eos == 2 else eos

    def clean(self, text: str) -> str:
        """Text as the tokenizer was trained to see it: encoding repaired, HTML entities resolved.

        Without ftfy wrongly decoded text ("schÃ¶n") stays as it is.
        """
        if ftfy is not None:
            text = ftfy.fix_text(text)
        return html.unescape(html.unescape(text)).strip()

    def logit_scale_init(self, config: PreTrainedConfig) -> float:
        """Logarithm of the scale at the start of the family's own training."""
        return config.logit_scale_init_value

    def build(self, config: PreTrainedConfig) -> PreTrainedModel:
        """Both towers with random weights."""
        return AutoModel.from_config(config)

    def encode_text(
        self, clip: CLIPModel, input_ids: Tensor, lengths: Tensor, **outputs: Any
    ) -> tuple[Tensor, Tensor, Any]:
        """Words [A, Nw, D] and sentences [A, D], not normalised, and the output of the text tower.

        Args:
            clip: the towers.
            input_ids: [A, Nw] int64, as [`GLCCLProcessor`] makes them for this family.
            lengths: [A], tokens up to and including the first EOS.
            **outputs: for the tower: `output_hidden_states`, `output_attentions`.
        """
        # The tower is causal, so padding after EOS cannot reach the words and needs no attention mask.
        states = clip.text_model(input_ids=input_ids, **outputs)
        words = clip.text_projection(states.last_hidden_state)
        return words, words[torch.arange(words.shape[0], device=words.device), lengths - 1], states


class MetaCLIP2Family(CLIPFamily):
    """MetaCLIP 2: CLIP with the multilingual tokenizer of XLM-R, whose EOS is 2 and is meant so."""

    title = "MetaCLIP 2 (multilingual)"

    def eos_token_id(self, config: PreTrainedConfig) -> int:
        """As the configuration says."""
        return config.text_config.eos_token_id


class SigLIPFamily(CLIPFamily):
    """SigLIP, and SigLIP 2 with fixed resolution, which is stored as SigLIP.

    The text tower was trained on all of its slots (64), padding included and attended; the sentence is what the head
    makes of the last slot, and a word what it makes of the word's own. There is no BOS.
    """

    title = "SigLIP and SigLIP 2 (fixed resolution)"
    has_bos = False
    reads_padding = True
    image_settings: ClassVar[dict[str, Any]] = {
        "keep_aspect_ratio": False,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }

    def check(self, config: PreTrainedConfig) -> None:
        """As the base class."""
        super().check(config)
        if not config.vision_config.vision_use_head:
            raise ValueError("clip_config.vision_config.vision_use_head=False: images have no feature without it")

    def width(self, config: PreTrainedConfig) -> int:
        """D; the vision tower has no projection, so it is its width, too."""
        if config.text_config.projection_size != config.vision_config.hidden_size:
            raise ValueError(
                f"text_config.projection_size={config.text_config.projection_size} must equal "
                f"vision_config.hidden_size={config.vision_config.hidden_size}: SigLIP's images are not projected"
            )
        return config.text_config.projection_size

    def eos_token_id(self, config: PreTrainedConfig) -> int:
        """The tokenizer's, which released configurations do not name."""
        # 49407 is transformers' default, which is CLIP's; the tokenizers of SigLIP and SigLIP 2 end texts with 1.
        eos = config.text_config.eos_token_id
        return 1 if eos in (49407, None) else eos

    def clean(self, text: str) -> str:
        """Lower case, as both were trained; SigLIP's tokenizer removes punctuation itself."""
        return text.lower().strip()

    def logit_scale_init(self, config: PreTrainedConfig) -> float:
        """10, as SigLIP starts."""
        return math.log(10)

    def build(self, config: PreTrainedConfig) -> PreTrainedModel:
        """As the base class. The bias of SigLIP's own loss is kept but not trained: it ranks nothing."""
        clip = super().build(config)
        bias = cast(Tensor, clip.logit_bias).detach()
        del clip.logit_bias
        clip.register_buffer("logit_bias", bias)  # loading would make a frozen parameter one to train again
        return clip

    def encode_text(
        self, clip: SiglipModel, input_ids: Tensor, lengths: Tensor, **outputs: Any
    ) -> tuple[Tensor, Tensor, Any]:
        """As the base class, of texts padded to all slots; words are cut to the longest text's (not if compiled)."""
        output = clip.text_model(input_ids=input_ids, **outputs)
        states, head = output.last_hidden_state, cast(nn.Linear, clip.text_model.head)
        words = states if torch.compiler.is_compiling() else states[:, : int(lengths.max())]
        return head(words), head(states[:, -1]), output


# By the model_type of their configurations.
FAMILIES = {"clip": CLIPFamily(), "metaclip_2": MetaCLIP2Family(), "siglip": SigLIPFamily()}


def family_of(model_type: str | None, name: Any = "") -> CLIPFamily:
    """The family of the `model_type` of a checkpoint `name`; ValueError for others, which lists those there are."""
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    known = "; ".join(f"{family.title}: {name!r}" for name, family in FAMILIES.items())
    naflex = "Of SigLIP 2 take one with fixed resolution, such as google/siglip2-base-patch16-224. "
    raise ValueError(
        f"{name or 'this model'} is of the type {model_type!r}, and GLCCL takes the image and text towers of "
        f"these families: {known}. {naflex if model_type == 'siglip2' else ''}"
        "One of them in another format (OpenCLIP, OpenAI's .pt) must be converted to transformers' first"
    )


# Of `from_pretrained`: where a checkpoint comes from.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def read_config(name: str, missing_ok: bool = False, **kwargs: Any) -> dict[str, Any]:
    """What the config.json of a folder or Hub repository holds; `kwargs` are of `from_pretrained`.

    Raises:
        OSError: no such folder, repository or file; with `missing_ok` that is an empty configuration.
        ValueError: it is no mapping.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(
            name, **{key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
        )
    except OSError:
        if not missing_ok:
            raise
        return {}
    except (TypeError, AttributeError):  # at JSON that is no mapping
        config = None
    except (ValueError, RecursionError) as error:  # a number of too many digits, brackets in brackets
        raise ValueError(f"{name}: its config.json cannot be read ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str | None):
        raise ValueError(f"{name}: its config.json is no mapping, or model_type in it is no text")
    return config


def load_whole(load: Callable[..., Any], name: str, prefix: str = "", **options: Any) -> tuple[Any, dict[str, Any]]:
    """What `load`, a `from_pretrained` with these options, makes of a checkpoint, and `output_loading_info`.

    All tensors whose names begin with `prefix` must be in the checkpoint, which names them without it.

    Raises:
        ValueError: names tensors that are missing, have another shape than configured, or hold NaN or infinity.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of what is missing; the error below says it in a line
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        model, report = load(name, **options)
    finally:
        logging.set_verbosity(verbosity)
    wrong = [f"{key} is missing" for key in sorted(report["missing_keys"])]
    wrong += [f"{key} has shape {(*found,)}, not {(*own,)}" for key, found, own in sorted(report["mismatched_keys"])]
    if wrong := [problem.removeprefix(prefix) for problem in wrong if problem.startswith(prefix)]:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"{name} does not hold the weights that its config.json describes: {'; '.join(wrong[:5])}{more}. "
            "Is the checkpoint complete, and of this configuration?"
        )
    weights = {key: value for key, value in model.state_dict().items() if key.startswith(prefix)}
    if bad := [key.removeprefix(prefix) for key, value in weights.items() if not torch.isfinite(value).all()]:
        raise ValueError(
            f"{name} holds NaN or infinity in {', '.join(bad[:5])}: the file is damaged, or the training that made it "
            "had diverged"
        )
    return model, report
