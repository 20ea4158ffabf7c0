"""GLCCL: CLIP encoders, a temporal encoder over frames, and the global-local interaction.

Source: "Text-Video Retrieval With Global-Local Contrastive Consistency Learning" (arXiv 2605.17959).
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTextConfig, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.modeling_clip import CLIPEncoder, CLIPPreTrainedModel
from transformers.utils import logging
from transformers.utils.generic import ModelOutput, can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_glccl import GLCCLConfig
from .features_glccl import LAYERS, GLCCLTextFeatures, GLCCLVideoFeatures
from .interaction_glccl import GLCCLFrameWeights, GLCCLInteraction, GLCCLScores, check_finite, check_rows, loaded
from .loss_glccl import contrastive_loss, csc_loss
from .pipeline_glccl import TextVideoRetrievalPipeline
from .sentence_transformers_glccl import MODULES
from .towers_glccl import family_of, load_whole, read_config

logger = logging.get_logger(__name__)


@dataclass
class GLCCLOutput(ModelOutput):
    """Output of [`GLCCLModel`] for A texts and V videos.

    Args:
        loss: scalar, `contrastive_loss + csc_weight * csc_loss + auxiliary_loss`. Losses come with `return_loss=True`,
            `csc_loss` where `csc_weight` is above 0, `auxiliary_loss` of models that have one (GLCCL has none).
        logits_per_text: [A, V] float32, the mean of the four scores.
        logits_per_video: [V, A], its transpose.
        scores: the four scores, each [A, V] and times exp(logit_scale).
        text_features: sentence [A, D], words [A, Nw, D], word_mask [A, Nw].
        video_features: frames [V, Nf, D], frame_mask [V, Nf].
    """

    loss: Tensor | None = None
    contrastive_loss: Tensor | None = None
    csc_loss: Tensor | None = None
    auxiliary_loss: Tensor | None = None
    logits_per_text: Tensor | None = None
    logits_per_video: Tensor | None = None
    scores: GLCCLScores | None = None
    text_features: GLCCLTextFeatures | None = None
    video_features: GLCCLVideoFeatures | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """The values that are not None, nested outputs as tuples."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


class GLCCLTemporalEncoder(CLIPPreTrainedModel):
    """The paper's temporal encoder ("seqTransf"): T(x + P) + x over each video's frames, T made of CLIP blocks."""

    config: CLIPTextConfig

    def __init__(self, config: CLIPTextConfig):
        super().__init__(cast(Any, config))
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.encoder = CLIPEncoder(cast(Any, config))
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, frames: Tensor, padding_mask: Tensor, **outputs: Any) -> BaseModelOutput:
        """[V, Nf, D] frames and [V, Nf] mask (1 = real frame) -> [V, Nf, D]; padded frames are masked as keys."""
        hidden = frames + self.position_embedding(torch.arange(frames.shape[1], device=frames.device))
        mask = create_bidirectional_mask(self.config, inputs_embeds=hidden, attention_mask=padding_mask)
        encoded = self.encoder(inputs_embeds=hidden, attention_mask=mask, **outputs)
        return BaseModelOutput(last_hidden_state=encoded.last_hidden_state + frames)


class GLCCLModel(PreTrainedModel):
    """GLCCL text-video retrieval model.

    Example (random weights; `from_pretrained` and `from_clip_pretrained` load real ones):

    ```python
    >>> import torch
    >>> from modeling_glccl import GLCCLConfig, GLCCLModel

    >>> tower = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    >>> text = tower | {"vocab_size": 100, "bos_token_id": 98, "eos_token_id": 99}
    >>> vision = tower | {"image_size": 32, "patch_size": 16}
    >>> clip = {"text_config": text, "vision_config": vision, "projection_dim": 32}
    >>> model = GLCCLModel(GLCCLConfig(clip_config=clip, max_words=16)).eval()

    >>> text = model.get_text_features(torch.tensor([[98, 5, 7, 99, 0], [98, 6, 99, 0, 0]]))
    >>> video = model.get_video_features(torch.rand(3, 4, 3, 32, 32))
    >>> model.similarity(text, video).shape
    torch.Size([2, 3])
    >>> model.frame_weights(text, video).sentence.shape
    torch.Size([2, 3, 4])

    ```
    """

    config: GLCCLConfig
    config_class: type[GLCCLConfig] = GLCCLConfig
    clip: CLIPModel  # or the model of another family, which has the same parts
    # Makes scores of features: `interaction_class(config)`. Subclasses put another one in its place.
    interaction_class = GLCCLInteraction
    video_features_class = GLCCLVideoFeatures
    # Whether the parameters beside CLIP's start such that it scores as it is.
    works_untrained = True
    # A plain CLIP checkpoint then loads straight into the attribute of this name.
    base_model_prefix = "clip"
    main_input_name = "input_ids"
    input_modalities = ["video", "text"]  # noqa: RUF012
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings", "GLCCLInteraction"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: GLCCLConfig, **unknown: Any):
        if unknown:  # what `from_pretrained` has no use for
            known = ", ".join(sorted(own_fields(self.config_class)))
            raise ValueError(f"{', '.join(unknown)}: no value of {self.config_class.__name__}; it has {known}")
        super().__init__(config)
        self.clip = cast(CLIPModel, config.family.build(config.clip_config))
        self.temporal = None
        if config.temporal_num_hidden_layers:
            self.temporal = GLCCLTemporalEncoder._from_config(config.temporal_config)
        self.interaction = self.interaction_class(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GLCCLInteraction):
            for weight in module.parameters():
                init.copy_(weight, torch.eye(len(weight)))
        elif isinstance(module, GLCCLModel):
            init.constant_(module.clip.logit_scale, self.config.family.logit_scale_init(self.config.clip_config))

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls._auto_class = None  # the code of a subclass lies elsewhere and is not saved beside its weights

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As the base class; config.json and modules.json also name the pipeline and the sentence-transformers module,
        whose code this file imports, so that it is saved with the model's.
        """
        if not self.is_remote_code():
            return super().save_pretrained(save_directory, *args, **kwargs)
        loaded = getattr(self.config, "custom_pipelines", None)
        pipeline = f"pipeline_glccl.{TextVideoRetrievalPipeline.__name__}"
        self.config.custom_pipelines = {
            "text-video-retrieval": {"impl": pipeline, "pt": ["AutoModel"], "type": "multimodal"}
        }
        modules = Path(save_directory, "modules.json")
        if kwargs.get("is_main_process", True) and not modules.exists():  # somebody may have more modules
            modules.parent.mkdir(parents=True, exist_ok=True)
            modules.write_text(json.dumps(MODULES, indent=2) + "\n", encoding="utf-8")
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            if loaded is None:
                delattr(self.config, "custom_pipelines")

    def get_input_embeddings(self) -> nn.Module:
        """The text tower's embeddings of tokens."""
        return self.clip.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Puts others in their place."""
        self.clip.text_model.set_input_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As the base class; EOS keeps its id, which early CLIP configurations count from the vocabulary's end."""
        self.config.eos_token_id = self.config.eos_token_id
        return super().resize_token_embeddings(*args, **kwargs)

    @classmethod
    def is_custom_code(cls) -> bool:
        """Always False, so that `_init_weights` sees every module when weights are missing from a checkpoint.

        transformers skips modules of custom code without missing parameters of their own: this model (which
        initialises `logit_scale`), CLIP's attention and MLP blocks. That protects loaded weights from initialisers
        that do not look; those of `transformers.initialization` do.
        """
        return False

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *model_args: Any, **kwargs: Any
    ) -> Self:
        """As the base class; and a plain CLIP (or MetaCLIP 2, SigLIP) checkpoint becomes a zero-shot GLCCL.

        That is CLIP's own weights without a temporal encoder, the learned matrices as identities, padding masked:
        nothing is random and nothing trained. GLIM's temperature is that of [`~GLCCLModel.zero_shot_temperature`].
        Values of [`GLCCLConfig`] can be given by name (`max_frames=24`, `glim_temperature=5.0`).

        Raises:
            ValueError: a checkpoint of another kind (lists the families), a plain one that is not complete, values
                that the configuration does not know or the encoders do not allow; by name.
            OSError: no such folder or repository.
        """
        name = pretrained_model_name_or_path
        explicit = name is None or kwargs.get("config") is not None or kwargs.get("state_dict") is not None
        if explicit or read_config(str(name), **kwargs).get("model_type") == cls.config_class.model_type:
            return super().from_pretrained(name, *model_args, **kwargs)
        known = own_fields(cls.config_class)
        config = {key: kwargs.pop(key) for key in list(kwargs) if key in known}
        return cls.from_clip_pretrained(str(name), zero_shot=True, clip_kwargs=kwargs, **config)

    @classmethod
    def from_clip_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        zero_shot: bool = False,
        clip_kwargs: dict[str, Any] | None = None,
        **config: Any,
    ) -> Self:
        """A GLCCL model on the weights of a plain CLIP (MetaCLIP 2, SigLIP): the start of a training, as the paper's.

        The frame position table becomes the text position table, temporal block i becomes text block i where there is
        one of its shape (see [`~GLCCLModel.init_temporal_from_clip`]), and the learned score matrices are identities.

        Args:
            pretrained_model_name_or_path: on the Hub ("openai/clip-vit-base-patch32"), or a folder.
            zero_shot: to be used as it is: what [`~GLCCLModel.from_pretrained`] makes.
            clip_kwargs: of `from_pretrained` (`dtype`, `revision`, `cache_dir`, `token`).
            **config: values of [`GLCCLConfig`] (`max_frames=12`, `csc_weight=0.5`, ...).

        Raises:
            ValueError: not of a known family, tensors missing, an unknown configuration value.
        """
        name, clip_kwargs = os.fspath(pretrained_model_name_or_path), dict(clip_kwargs or {})
        if zero_shot and (config.get("temporal_num_hidden_layers") or not cls.works_untrained):
            raise ValueError(
                f"{name}: an untrained {cls.__name__} with a temporal encoder or random weights finds nothing; "
                "from_clip_pretrained starts its training"
            )
        unknown = {key: config.pop(key) for key in config.keys() - own_fields(cls.config_class)}
        clip = read_config(name, **clip_kwargs)
        family_of(clip.get("model_type"), name)  # refuses others by the name of the checkpoint
        make = cls.config_class.for_zero_shot if zero_shot else cls.config_class
        info = clip_kwargs.pop("output_loading_info", False)
        options = {**clip_kwargs, **unknown, "config": make(clip_config=clip, **config)}
        model, report = load_whole(super().from_pretrained, name, "clip.", **options)
        model.init_temporal_from_clip()
        model.name_or_path = model.config.name_or_path = name if zero_shot else ""  # a local path is not published
        if zero_shot:
            if "glim_temperature" not in config:
                model.config.glim_temperature = model.zero_shot_temperature()
            logger.warning(
                f"{name} is a plain {clip['model_type']} model: used as zero-shot GLCCL. "
                "To train it on your own videos and captions: docs/own_data.md"
            )
        return cast(Any, (model, report)) if info else model

    @torch.no_grad()
    def zero_shot_temperature(self) -> float:
        """GLIM's temperature for encoders that were not trained with it: 5 |s| |x| / exp(logit_scale).

        GLIM's softmax over t . x_k / temperature then is one over CLIP's own logits divided by 5, for a text and a
        frame of usual norms |s| and |x|; the paper's 5 is this value where |s| |x| = exp(logit_scale). The norms are
        measured here, on rows of random tokens and on smooth random pictures, which have those of captions and frames
        (docs/method.md): neither texts nor videos are needed. Rounded to three digits, so that machines agree on it.
        """
        config, device = self.config.clip_config, self.device
        generator = torch.Generator().manual_seed(0)
        slots = self.config.text_slots or 8
        input_ids = torch.randint(4, config.text_config.vocab_size - 2, (32, slots), generator=generator)
        input_ids[:, 7:] = self.config.eos_token_id
        sentences = self.get_text_features(input_ids.to(device)).sentence
        side = config.vision_config.image_size
        coarse = torch.randn(32, config.vision_config.num_channels, 4, 4, generator=generator)
        pictures = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").to(device, self.dtype)
        frames = torch.cat([self._encode_frames(part).pooler_output for part in pictures.split(8)])
        norms = sentences.float().norm(dim=-1).mean() * frames.float().norm(dim=-1).mean()
        temperature = float(f"{(5 * norms / self.clip.logit_scale.float().exp()).item():.3g}")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"GLIM's temperature is {temperature}: are the weights those of a trained CLIP?")
        return temperature

    def fit_glim_temperature(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> float:
        """GLIM's temperature for a model that was not trained with it, from any texts and videos, unlabelled.

        One standard deviation, within a video, of the products of a sentence with the frames, averaged over all pairs:
        frames that a text is about then stand out from the others by what is usual (docs/method.md). To use it:
        `model.config.glim_temperature = model.fit_glim_temperature(text, video)`.

        It takes a dozen texts or more, of any kind, and eight videos or more; those of one frame are passed over.

        Raises:
            ValueError: in no video do two frames differ.
        """
        products = torch.einsum("ad,vkd->vak", text.sentence.float(), video.frames.float())
        counted = [rows[:, mask] for rows, mask in zip(products, video.frame_mask, strict=True) if mask.sum() > 1]
        deviation = torch.stack([rows.std(dim=-1).mean() for rows in counted]).mean().item() if counted else 0.0
        if not deviation > 0:
            raise ValueError("no video has two frames that differ: GLIM's temperature cannot be fitted to them")
        return deviation

    @torch.no_grad()
    def init_temporal_from_clip(self) -> None:
        """Starts the temporal encoder, if there is one, from CLIP's text tower where its shapes fit.

        The frame position table becomes the text position table, block i becomes text block i. A block that has no
        text block of its shape, and the table where the widths differ, start as zeros where they add to the frames:
        then the frames keep their directions (the residual form of the encoder makes them twice as long).
        """
        if self.temporal is None:
            return
        text, sources = self.clip.text_model, self.clip.text_model.encoder.layers
        positions = self.temporal.position_embedding.weight
        fits = text.config.hidden_size == self.config.width
        positions.copy_(text.embeddings.position_embedding.weight if fits else torch.zeros_like(positions))
        fits = fits and text.config.num_attention_heads == self.config.temporal_num_attention_heads
        for number, block in enumerate(self.temporal.encoder.layers):
            if fits and number < len(sources):
                block.load_state_dict(sources[number].state_dict())
                continue
            for name, weight in block.named_parameters():
                if name.startswith(("self_attn.out_proj.", "mlp.fc2.")):
                    weight.zero_()

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> GLCCLTextFeatures:
        """Encodes texts with CLIP's text tower.

        Args:
            input_ids: [A, Nw] int64, BOS, words, EOS, then padding; as [`GLCCLProcessor`] makes them.
            attention_mask: [A, Nw], 1 up to and including the first EOS. Optional: the first EOS says the same.
            output_hidden_states, output_attentions: return the states and attentions of the tower's layers with the
                features, the latter with `attn_implementation="eager"`; as the configuration says by default.

        Returns:
            sentence [A, D] (state of the first EOS), words [A, Nw, D] (state of every position), word_mask [A, Nw]
            bool. Nothing is normalised. With `mask_padding=False` every slot counts, as in the authors' release.

        Raises:
            ValueError: a row without EOS, more than `max_words` tokens (or other than `max_words` with
                `mask_padding=False`), a mask that disagrees with the ids, non-finite features.
        """
        word_mask = self._word_mask(input_ids, attention_mask)
        outputs = self._outputs(output_hidden_states, output_attentions)
        words, sentence, tower = self.config.family.encode_text(self.clip, input_ids, word_mask.sum(dim=1), **outputs)
        word_mask = word_mask[:, : words.shape[1]]
        if not self.config.mask_padding:
            word_mask = torch.ones_like(word_mask)
        check_finite("word features", words, word_mask)
        text = GLCCLTextFeatures(sentence=sentence, words=words, word_mask=word_mask)
        return _with_layers(text, tower)

    def _outputs(self, hidden_states: bool | None, attentions: bool | None) -> dict[str, Any]:
        """What is asked of the towers: as the configuration says where the call does not."""
        given = {"output_hidden_states": hidden_states, "output_attentions": attentions, "return_dict": True}
        return {name: getattr(self.config, name) if value is None else value for name, value in given.items()}

    def _word_mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """[A, Nw] bool, True up to and including the first EOS of each row."""
        config = self.config
        if input_ids.ndim != 2:
            raise ValueError(f"input_ids must be [texts, words]; got shape {tuple(input_ids.shape)}")
        slots = input_ids.shape[1]
        exact = config.text_slots or (None if config.mask_padding else config.max_words)
        if exact and slots != exact:
            name = f"the {exact} slots of this text tower" if config.text_slots else f"exactly max_words={exact}"
            raise ValueError(
                f"padding counts, so texts must be padded to {name} (GLCCLProcessor does); got {slots} slots"
            )
        if not exact and slots > config.max_words:
            raise ValueError(
                f"input_ids have {slots} slots but max_words={config.max_words}: truncate the texts (GLCCLProcessor "
                "does) or train with a larger max_words"
            )
        is_eos = input_ids == config.eos_token_id
        check_rows(
            is_eos.any(dim=1),
            lambda rows: (
                f"row {rows[0]} of input_ids has no EOS token (id {config.eos_token_id}), whose state is the sentence "
                "feature: tokenise with the processor of this checkpoint, which keeps EOS when it truncates"
            ),
        )
        word_mask = is_eos.int().cumsum(dim=1) - is_eos.int() == 0
        if attention_mask is None:
            return word_mask
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask {tuple(attention_mask.shape)} must have the shape of input_ids "
                f"{tuple(input_ids.shape)}"
            )
        # The release never reads its attention mask, so neither does mask_padding=False.
        if config.mask_padding:
            check_rows(
                (attention_mask.bool() == word_mask).all(dim=1),
                lambda rows: (
                    f"attention_mask counts {int(attention_mask[rows[0]].sum())} tokens in row {rows[0]}, but its "
                    f"first EOS is token {int(word_mask[rows[0]].sum())}: the mask must be 1 up to and including the "
                    "first EOS"
                ),
            )
        return word_mask

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: Tensor,
        padding_mask_videos: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> GLCCLVideoFeatures:
        """Encodes every frame with CLIP's vision tower, then the frames of each video with the temporal encoder.

        Args:
            pixel_values_videos: [V, Nf, 3, H, W] normalised pixels; 1 <= Nf, and Nf <= the position table (77) where
                there is a temporal encoder.
            padding_mask_videos: [V, Nf], 1 = real frame, 0 = padding. Optional: all frames are real.
            output_hidden_states, output_attentions: as of [`~GLCCLModel.get_text_features`], of the vision tower and
                of the temporal encoder.

        Returns:
            frames [V, Nf, D], not normalised, and frame_mask [V, Nf] bool. With `mask_padding=False` padded frames
            are encoded and counted, as in the authors' release; otherwise they cost nothing and are zero.

        Raises:
            ValueError: a wrong shape, too many frames, a video without a real frame, non-finite features.
        """
        shape, channels = tuple(pixel_values_videos.shape), self.config.clip_config.vision_config.num_channels
        if len(shape) != 5 or shape[2] != channels:
            raise ValueError(f"pixel_values_videos must be [videos, frames, {channels}, height, width]; got {shape}")
        if not shape[1]:
            raise ValueError(f"pixel_values_videos {shape} have no frame")
        if self.temporal is not None and shape[1] > self.config.max_positions:
            raise ValueError(
                f"{shape[1]} frames per video, but the frame position table has {self.config.max_positions} rows: "
                "sample fewer frames, or split long videos into clips"
            )
        if padding_mask_videos is None:
            padding_mask_videos = torch.ones(shape[:2], device=pixel_values_videos.device)
        elif tuple(padding_mask_videos.shape) != shape[:2]:
            raise ValueError(
                f"padding_mask_videos {tuple(padding_mask_videos.shape)} must be the first two dimensions of "
                f"pixel_values_videos {shape}"
            )
        real = padding_mask_videos.bool()
        check_rows(real.any(dim=1), lambda rows: f"video {rows[0]} of the batch has no real frame")

        outputs = self._outputs(output_hidden_states, output_attentions)
        # How many frames are real is data: what is compiled or exported encodes padding, too.
        if torch.compiler.is_compiling() or real.all() or not self.config.mask_padding:
            tower = self._encode_frames(pixel_values_videos.flatten(0, 1), **outputs)
            frames = tower.pooler_output.unflatten(0, shape[:2])
        else:
            tower = self._encode_frames(pixel_values_videos[real], **outputs)
            frames = tower.pooler_output.new_zeros(*shape[:2], tower.pooler_output.shape[-1])
            frames[real] = tower.pooler_output
        if self.temporal is None:
            return _with_layers(self._video_features(frames, frames, real), tower)
        temporal = self.temporal(frames, real, **outputs)
        return _with_layers(self._video_features(frames, temporal.last_hidden_state, real), tower, temporal)

    def _video_features(self, clip_frames: Tensor, frames: Tensor, real: Tensor) -> GLCCLVideoFeatures:
        """What the interaction gets of frames [V, Nf, D] before and after the temporal encoder, with the real ones."""
        frame_mask = real if self.config.mask_padding else torch.ones_like(real)
        check_finite("frame features", frames, frame_mask)
        return GLCCLVideoFeatures(frames=frames.masked_fill(~frame_mask[..., None], 0.0), frame_mask=frame_mask)

    def _encode_frames(self, pixel_values: Tensor, **outputs: Any) -> Any:
        """[N, 3, H, W] -> `pooler_output` [N, D], CLIP's projected image features, not normalised."""
        return self.clip.get_image_features(pixel_values, **outputs)

    def get_scores(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> GLCCLScores:
        """The four scores of every text with every video, each [A, V] float32 and times exp(logit_scale)."""
        with loaded(self.clip):
            return self.interaction(text, video, self.clip.logit_scale)

    def prepare_videos(self, video: GLCCLVideoFeatures) -> Any:
        """What [`~GLCCLModel.similarity`] takes in place of video features, made once for any number of texts."""
        return self.interaction.prepare_video(video)

    def similarity(self, text: Any, video: Any) -> Tensor:
        """Logits [A, V] in float32, the mean of the four scores: exact, block by block, in bounded memory.

        Args:
            text: A texts, from [`~GLCCLModel.get_text_features`] or [`~GLCCLModel.encode_query`].
            video: V videos, from [`~GLCCLModel.get_video_features`] or [`~GLCCLModel.encode_document`]; frame counts
                may differ through the mask. Where both are pooled vectors [N, D] or [D]: their dot products instead.

        Raises:
            ValueError: what is no pair of these, shapes or masks that do not fit, or non-finite features.
        """
        if _are_pooled(text, video):
            return torch.atleast_2d(text) @ torch.atleast_2d(video).T
        return self.get_scores(text, video).logits

    def similarity_pairwise(self, text: Any, video: Any) -> Tensor:
        """[N], the diagonal of [`~GLCCLModel.similarity`] of N texts and N videos, without most of the rest."""
        pooled = _are_pooled(text, video)
        texts, videos = (len(torch.atleast_2d(side)) if pooled else side.num_rows for side in (text, video))
        if texts != videos:
            raise ValueError(f"{texts} texts and {videos} videos are no pairs; similarity scores all")
        if pooled:
            return (torch.atleast_2d(text) * torch.atleast_2d(video)).sum(dim=-1)
        blocks = torch.arange(texts).split(8)
        return torch.cat([self.similarity(text.select(rows), video.select(rows)).diagonal() for rows in blocks])

    def pool(self, features: GLCCLTextFeatures | GLCCLVideoFeatures) -> Tensor:
        """[N, D] float32, one vector of norm 1 for every text or video, for databases of vectors.

        Of a video its mean frame, of a text [`~GLCCLModel.query_vectors`]. Dot products rank somewhat worse than
        the logits do (docs/interfaces.md has the recall); let them propose videos, and `similarity` rank these.
        """
        texts = isinstance(features, GLCCLTextFeatures)
        return normalize((self.query_vectors(features) if texts else features.pooler_output).float(), dim=-1)

    def query_vectors(self, text: GLCCLTextFeatures) -> Tensor:
        """[A, D] float32, the linear part of the score of a video of one frame, whatever that is (docs/search.md).

        That is the mean of sentence and mean word, normalised, each with and without its learned matrix.
        """
        with loaded(self.interaction):
            return self.interaction.query_vectors(text)

    def encode_query(self, texts: str | Sequence[str], processor: Any = None, **options: Any) -> Any:
        """[`~TextVideoRetrievalPipeline.encode_query`] of a pipeline of this model and a [`GLCCLProcessor`].

        By default that which lies where this model was loaded from, read anew each time.
        """
        return self._pipeline(processor).encode_query(texts, **options)

    def encode_document(self, videos: Any, processor: Any = None, **options: Any) -> Any:
        """[`~TextVideoRetrievalPipeline.encode_document`], with a processor as of [`~GLCCLModel.encode_query`]."""
        return self._pipeline(processor).encode_document(videos, **options)

    def _pipeline(self, processor: Any) -> TextVideoRetrievalPipeline:
        device = None if getattr(self, "hf_device_map", None) else self.device  # accelerate places it otherwise
        return TextVideoRetrievalPipeline(self, processor, device=device)

    def csc_inputs(self, scores: GLCCLScores) -> Tensor:
        """[S, A, V]: the scores that the CSC loss compares, those named in `csc_scores`."""
        return torch.stack([scores[name] for name in self.config.csc_scores])

    def auxiliary_loss(
        self,
        text: GLCCLTextFeatures,
        video: GLCCLVideoFeatures,
        average: Callable[[Tensor], Tensor] = nn.Identity(),  # noqa: B008 (it has no state)
    ) -> Tensor | None:
        """A scalar that a model adds to contrastive and CSC loss of matching pairs; None, as GLCCL adds nothing.

        `average` takes a tensor that is a mean over the pairs of one process to that over all processes.
        """
        return None

    def frame_weights(self, text: GLCCLTextFeatures, video: GLCCLVideoFeatures) -> GLCCLFrameWeights:
        """GLIM's weights, which say what frames a text is about: sentence [A, V, Nf] and words [A, V, Nw, Nf]."""
        return self.interaction.frame_weights(text, video)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values_videos: Tensor,
        attention_mask: Tensor | None = None,
        padding_mask_videos: Tensor | None = None,
        return_loss: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> GLCCLOutput | tuple[Any, ...]:
        """Scores A texts against V videos; with `return_loss=True` (A = V, in the same order) also the losses.

        Args:
            input_ids, attention_mask: [A, Nw] int64; the mask is 1 up to and including the first EOS.
            pixel_values_videos: [V, Nf, 3, H, W] normalised pixels.
            padding_mask_videos: [V, Nf], 1 = real frame.
            output_hidden_states, output_attentions: those of the towers' layers, in the features.
            return_dict: `False` returns a plain tuple.

        Raises:
            ValueError: see [`~GLCCLModel.get_text_features`], [`~GLCCLModel.get_video_features`]; with `return_loss`
                also A != V, or a batch of one while `csc_weight` is above 0.
        """
        outputs = self._outputs(output_hidden_states, output_attentions)
        text = self.get_text_features(input_ids, attention_mask, **outputs)
        video = self.get_video_features(pixel_values_videos, padding_mask_videos, **outputs)
        scores = self.get_scores(text, video)
        logits = scores.logits
        loss = retrieval = consistency = auxiliary = None
        if return_loss:
            loss = retrieval = contrastive_loss(logits)
            if self.config.csc_weight:
                consistency = csc_loss(self.csc_inputs(scores), self.config.csc_variant)
                loss = retrieval + self.config.csc_weight * consistency
            if (auxiliary := self.auxiliary_loss(text, video)) is not None:
                loss = loss + auxiliary
        output = GLCCLOutput(loss, retrieval, consistency, auxiliary, logits, logits.T, scores, text, video)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()


def own_fields(config_class: type[PreTrainedConfig]) -> set[str]:
    """The names of a configuration's own values, without those that every configuration has."""
    return {field.name for field in fields(config_class)} - {field.name for field in fields(PreTrainedConfig)}


def _are_pooled(text: Any, video: Any) -> bool:
    """Whether both are pooled vectors; ValueError where one is, or where they are no texts and videos."""
    pooled = [isinstance(side, Tensor) for side in (text, video)]
    if not all(pooled) and (any(pooled) or not hasattr(text, "sentence") or hasattr(video, "sentence")):
        raise ValueError(
            "similarity takes features of texts and then of videos, or pooled vectors of both; got "
            f"{type(text).__name__} and {type(video).__name__}"
        )
    return all(pooled)


def _with_layers(features: Any, *towers: Any) -> Any:
    """The features with the hidden states and attentions of the towers that made them, where these were asked for."""
    for name in LAYERS:
        if name in towers[0]:
            features[name] = tuple(state for tower in towers for state in tower[name])
    return features


GLCCLModel.register_for_auto_class("AutoModel")
