"""The factorised scores against the naive twin, and both against the authors' numbers."""

import pytest
import torch
from models import random_features, tiny_config
from paths import TESTS
from reference import SCORES, guided_features, reference_scores
from safetensors.torch import load_file

from modeling_glccl import interaction_glccl, scoring_glccl
from modeling_glccl.features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from modeling_glccl.interaction_glccl import GLCCLInteraction

GOLDEN = TESTS / "golden"
LOGIT_SCALE = torch.tensor(2.0)


@pytest.fixture(autouse=True, params=["as on a CPU", "as on a GPU"])
def way(request, monkeypatch):
    """On a GPU texts of unlike lengths share blocks, and frames have other factors."""
    if request.param == "as on a CPU":
        return

    def padded(text, video, weights, settings):
        return scoring_glccl.score_states(text, video, weights, settings._replace(padded=True))

    monkeypatch.setattr(interaction_glccl, "score_states", padded)
    monkeypatch.setattr(scoring_glccl, "_factors", scoring_glccl.cholesky_factors)


def noisy_interaction(seed=0, **config):
    """The learned matrices as identities plus noise; max_words=8, width 32."""
    interaction = GLCCLInteraction(tiny_config(**config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in interaction.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return interaction


def matrices(interaction):
    return {name: weight.detach().double() for name, weight in interaction.named_parameters()}


def twin_scores(interaction, text, video, weights=None):
    options = {name: getattr(interaction.config, name) for name in ("glim_temperature", "glim_global", "glim_local")}
    options["aosm_temperature"] = interaction.config.aosm_temperature
    return reference_scores(text, video, weights or matrices(interaction), LOGIT_SCALE.double(), **options)


def assert_equal_to_twin(interaction, text, video, tolerance=5e-4):
    """Forward and every gradient, each error relative to the largest value of its tensor."""
    text = GLCCLTextFeatures(**{name: value.detach().clone() for name, value in text.items()})
    video = GLCCLVideoFeatures(**{name: value.detach().clone() for name, value in video.items()})
    features = [text.sentence.requires_grad_(), text.words.requires_grad_(), video.frames.requires_grad_()]
    scores = torch.stack(interaction(text, video, LOGIT_SCALE).to_tuple())
    weights = {name: weight.requires_grad_() for name, weight in matrices(interaction).items()}
    expected = twin_scores(interaction, text, video, weights)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(expected.shape, generator=generator, dtype=torch.float64)

    ours = torch.autograd.grad((scores.double() * direction).sum(), [*features, *interaction.parameters()])
    twins = torch.autograd.grad(
        (expected * direction).sum(), [*features, *weights.values()], allow_unused=True, materialize_grads=True
    )
    names = ["sentence", "words", "frames", *weights]
    pairs = [("scores", scores, expected), *zip(names, ours, twins, strict=True)]
    for name, value, reference in pairs:
        error = (value.double() - reference).abs().max() / reference.abs().max().clamp_min(1e-12)
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


def golden_case(split):
    golden = load_file(GOLDEN / "glccl_forward_s0.safetensors")
    golden = {name.removeprefix(f"{split}.out."): value for name, value in golden.items() if f"{split}.out" in name}
    words, frames = golden["word_features"], golden["frame_features_post_temporal"]
    text = GLCCLTextFeatures(
        sentence=golden["sentence_features"], words=words, word_mask=torch.ones(words.shape[:2], dtype=torch.bool)
    )
    video = GLCCLVideoFeatures(frames=frames, frame_mask=torch.ones(frames.shape[:2], dtype=torch.bool))
    weights = load_file(GOLDEN / "glccl_weights_s0.safetensors")
    return golden, text, video, weights


@pytest.mark.parametrize("split", ["train", "eval"])
def test_the_twin_equals_the_authors(split):
    golden, text, video, weights = golden_case(split)
    for a, (sentence, words) in enumerate(zip(text.sentence, text.words, strict=True)):
        for v, frames in enumerate(video.frames):
            global_feature, local_features = guided_features(sentence, words, frames)
            torch.testing.assert_close(global_feature, golden["glim_video"][a, v], rtol=0, atol=1e-6)
            torch.testing.assert_close(local_features, golden["glim_word"][a, v], rtol=0, atol=1e-6)
    square = {name: weight for name, weight in weights.items() if weight.ndim == 2 and "." not in name}
    scores = reference_scores(text, video, square, weights["clip.logit_scale"])
    for name, score in zip(SCORES, scores, strict=True):
        torch.testing.assert_close(score, golden[f"score_{name}"], rtol=0, atol=3e-5)
    torch.testing.assert_close(scores.mean(dim=0), golden["logits"], rtol=0, atol=3e-5)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_scores_equal_the_authors(split):
    golden, text, video, weights = golden_case(split)
    clip = tiny_config().clip_config.to_dict() | {"projection_dim": 64}
    interaction = GLCCLInteraction(tiny_config(clip_config=clip))
    interaction.load_state_dict({name: weights[name] for name in interaction.state_dict()})
    scores = interaction(text, video, weights["clip.logit_scale"])
    for name in SCORES:
        torch.testing.assert_close(scores[name], golden[f"score_{name}"], rtol=0, atol=3e-5)
    torch.testing.assert_close(scores.logits, golden["logits"], rtol=0, atol=3e-5)


CASES = {
    "full": ([8, 8, 8], [4, 4]),
    "ragged": ([3, 8, 1, 5, 2], [4, 1, 6, 2]),
    "more videos": ([4, 2], [3, 7, 1, 2, 5]),
    "one frame": ([6, 3], [1, 1, 1]),
    "one pair": ([1], [1]),
    "many frames": ([5, 3], [40, 12]),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_and_gradients_equal_the_twin(case):
    words, frames = CASES[case]
    assert_equal_to_twin(noisy_interaction(), *random_features(words, frames, word_slots=8))


@pytest.mark.parametrize("seed", range(4))
def test_random_masks_equal_the_twin(seed):
    """Frames may be missing anywhere, not only at the end."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, 9, (4,), generator=generator).tolist()
    text, video = random_features(words, [6] * 5, word_slots=8, seed=seed)
    video.frame_mask = torch.rand(5, 6, generator=generator) < 0.5
    video.frame_mask[torch.arange(5), torch.randint(6, (5,), generator=generator)] = True
    assert_equal_to_twin(noisy_interaction(seed), text, video)


@pytest.mark.parametrize("glim_global", [True, False])
@pytest.mark.parametrize("glim_local", [True, False])
@pytest.mark.parametrize("temperatures", [{}, {"glim_temperature": 100.0, "aosm_temperature": 0.1}])
def test_switches_and_temperatures_equal_the_twin(glim_global, glim_local, temperatures):
    interaction = noisy_interaction(glim_global=glim_global, glim_local=glim_local, **temperatures)
    assert_equal_to_twin(interaction, *random_features([3, 8, 1], [4, 1, 6]))


@pytest.mark.parametrize("remainder", [1e-1, 1e-2, 1e-3])
def test_nearly_cancelling_frames_equal_the_twin(remainder):
    """Frames x and -x + r, equally weighted: half of r is left, |r| = remainder * |x|.

    Any float32 sum of the frames loses the digits of |x| / |r|; a squared norm x G x would lose twice as many.
    """
    text, video = random_features([3, 5], [2, 2], scale=1.0)
    opposite = -video.frames[:, 0] + remainder * video.frames[:, 1]
    video.frames = torch.stack([video.frames[:, 0], opposite], dim=1)
    assert_equal_to_twin(noisy_interaction(glim_temperature=1e4), text, video, tolerance=2e-5 / remainder)


def test_a_still_video_and_a_word_that_no_frame_is_near_equal_the_twin():
    """The word's logits lie 200 below those of another word, more than the exponentials of float32 span."""
    text, video = random_features([3, 8], [6, 6])
    video.frames[0] = video.frames[0, :1]
    assert_equal_to_twin(noisy_interaction(), text, video)
    text, video = random_features([3, 8], [4, 6])
    text.words[:, 0] = video.frames[:, 0]
    text.words[:, 1] = -text.words[:, 0]
    video.frames = video.frames[:, :1] + 0.1 * video.frames
    assert_equal_to_twin(noisy_interaction(), text, video)


def test_exactly_cancelling_frames_stay_finite():
    text, video = random_features([3, 5], [2, 2], scale=1.0)
    video.frames[0, 1] = -video.frames[0, 0]
    video.frames[1] = 0
    video.frames.requires_grad_()
    interaction = noisy_interaction(glim_global=False, glim_local=False)
    scores = interaction(text, video, LOGIT_SCALE)
    scores.logits.sum().backward()
    assert scores.logits.isfinite().all()
    assert video.frames.grad.isfinite().all()


def test_padding_changes_nothing_whatever_it_holds():
    text, video = random_features([3, 8, 5], [4, 1, 6])
    interaction = noisy_interaction()
    scores = interaction(text, video, LOGIT_SCALE).logits
    text.words[~text.word_mask] = torch.nan
    video.frames[~video.frame_mask] = torch.inf
    assert torch.equal(interaction(text, video, LOGIT_SCALE).logits, scores)
    wider = GLCCLVideoFeatures(
        frames=torch.cat([video.frames, torch.randn(3, 5, 32, dtype=torch.float64)], dim=1),
        frame_mask=torch.cat([video.frame_mask, torch.zeros(3, 5, dtype=torch.bool)], dim=1),
    )
    torch.testing.assert_close(interaction(text, wider, LOGIT_SCALE).logits, scores)


def test_blocks_of_any_size_give_the_same_scores_and_gradients():
    text, video = random_features([3, 8, 1, 5, 2, 8, 8, 3], [4, 1, 6, 2, 6, 6, 4])
    interaction = noisy_interaction()
    results = []
    for memory_budget in (1, 2**14, 2**30):
        scores = torch.stack(interaction(text, video, LOGIT_SCALE, memory_budget=memory_budget).to_tuple())
        gradients = torch.autograd.grad(scores.square().sum(), list(interaction.parameters()))
        results.append([scores.detach(), *gradients])
    for result in results[1:]:
        for value, expected in zip(result, results[0], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("texts", "videos"), [(0, 2), (2, 0)])
def test_no_texts_or_no_videos_have_no_scores(texts, videos):
    text, video = random_features([3, 8], [4, 6])
    text = GLCCLTextFeatures(**{name: value[:texts] for name, value in text.items()})
    video = GLCCLVideoFeatures(**{name: value[:videos] for name, value in video.items()})
    assert noisy_interaction()(text, video, LOGIT_SCALE).logits.shape == (texts, videos)


def test_prepared_features_give_the_same_scores():
    text, video = random_features([3, 8, 1], [4, 1, 6])
    interaction = noisy_interaction()
    texts, videos = interaction.prepare_text(text), interaction.prepare_video(video)
    expected = interaction(text, video, LOGIT_SCALE).logits
    for left, right in [(texts, video), (text, videos), (texts, videos)]:
        assert torch.equal(interaction(left, right, LOGIT_SCALE).logits, expected)


def test_no_gradient_is_needed_and_one_may_be_taken_twice():
    text, video = random_features([3, 8], [4, 6])
    interaction = noisy_interaction()
    logits = interaction(text, video, LOGIT_SCALE).logits
    with torch.inference_mode():
        assert torch.equal(interaction(text, video, LOGIT_SCALE).logits, logits)
    weights = list(interaction.parameters())
    first = torch.autograd.grad(logits.sum(), weights, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(logits.sum(), weights), first)


def test_a_frozen_side_leaves_the_other_gradients_as_they_are():
    text, video = random_features([3, 8], [4, 6])
    interaction, logit_scale = noisy_interaction(), LOGIT_SCALE.clone().requires_grad_()
    video.frames.requires_grad_()
    logits = interaction(text, video, logit_scale).logits.sum()
    expected, scale_gradient = torch.autograd.grad(logits, [video.frames, logit_scale])
    torch.testing.assert_close(scale_gradient, logits)  # they are proportional to its exponential
    interaction.requires_grad_(False)
    (gradient,) = torch.autograd.grad(interaction(text, video, LOGIT_SCALE).logits.sum(), video.frames)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_bf16_products_stay_near():
    text, video = random_features([3, 8, 5], [4, 1, 6], scale=1.0)
    interaction = noisy_interaction()
    exact, low = (interaction(text, video, LOGIT_SCALE, precision=precision).logits for precision in ("fp32", "bf16"))
    assert 0 < (exact - low).abs().max() < 0.05 * LOGIT_SCALE.exp()
    with pytest.raises(ValueError, match="precision='fp8'"):
        interaction(text, video, LOGIT_SCALE, precision="fp8")


def test_no_text_guided_features_are_formed():
    """The largest tensor stays far below the [A, V, Nw, D] of the guided features."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for value in out if isinstance(out, tuple | list) else [out]:
                if isinstance(value, torch.Tensor):
                    largest = max(largest, value.numel())
            return out

    clip = tiny_config().clip_config.to_dict() | {"projection_dim": 512}
    interaction = GLCCLInteraction(tiny_config(clip_config=clip))
    text, video = random_features([8] * 40, [4] * 40, width=512)
    with Watch():
        interaction(text, video, LOGIT_SCALE).logits.sum().backward()
    assert 0 < largest < 40 * 40 * 8 * 512 / 8


def test_products_are_kept_while_four_times_the_budget_holds_them(monkeypatch):
    """With the padding that is among them: [1] * 7 + [8] words are 15 on a CPU, and 64 in a block that they share."""
    sizes, products = [], scoring_glccl._products

    def measured(*given):
        found = products(*given)
        sizes.append(sum(part.nbytes for part in found))
        return found

    monkeypatch.setattr(scoring_glccl, "_products", measured)
    text, video = random_features([1] * 7 + [8], [2] * 200)
    noisy_interaction()(text, video, LOGIT_SCALE, memory_budget=32_000)
    assert max(sizes) <= 4 * 32_000


def test_frame_weights_equal_the_twins_softmax():
    text, video = random_features([3, 8, 5], [4, 1, 6])
    weights = noisy_interaction().frame_weights(text, video)
    for a, words in enumerate([3, 8, 5]):
        for v, frames in enumerate([4, 1, 6]):
            products = video.frames[v, :frames] @ torch.cat([text.sentence[a, None], text.words[a, :words]]).T
            expected = (products.T / 5).softmax(dim=1).float()
            torch.testing.assert_close(weights.sentence[a, v, :frames], expected[0])
            torch.testing.assert_close(weights.words[a, v, :words, :frames], expected[1:])
            assert (weights.sentence[a, v, frames:] == 0).all()
            assert (weights.words[a, v, :, frames:] == 0).all()
            assert (weights.words[a, v, words:] == 0).all()
    torch.testing.assert_close(weights.sentence.sum(-1), torch.ones(3, 3))
    off = noisy_interaction(glim_global=False).frame_weights(text, video)  # equal ones
    torch.testing.assert_close(off.sentence[0, 0], torch.tensor([0.25] * 4 + [0] * 2))


def with_changes(features, **changes):
    return type(features)(**{**features, **changes})


def test_unusable_features_are_errors():
    text, video = random_features([3, 8], [4, 6])

    def but(tensor, place, value):
        changed = tensor.clone()
        changed[place] = value
        return changed

    nan, infinite = but(video.frames, (1, 2, 0), torch.nan), but(text.sentence, (0, 0), torch.inf)
    for wrong_text, wrong_video, message in [
        (text, with_changes(video, frames=nan), r"frame features are not finite .* rows \[1\]"),
        (with_changes(text, sentence=infinite), video, r"sentence features are not finite .* rows \[0\]"),
        (with_changes(text, words=text.words * torch.inf), video, r"word features are not finite .* rows \[0, 1\]"),
        (
            with_changes(text, word_mask=but(text.word_mask, 1, False)),
            video,
            "row 1 of the words? mask counts no slot",
        ),
        (with_changes(text, word_mask=but(text.word_mask, (1, 3), False)), video, "leading slots"),
        (with_changes(text, word_mask=text.word_mask[:, :4]), video, r"mask.*\(2, 8, 32\), \(2, 4\)"),
        (text, with_changes(video, frame_mask=but(video.frame_mask, 0, False)), "row 0 of the frames? mask counts no"),
        (text, with_changes(video, frames=video.frames[..., :16]), r"\[N, slots, 32\].*got \(2, 6, 16\)"),
        (random_features([3, 9], [4])[0], video, "up to 9 words but max_words=8"),
        (with_changes(text, sentence=text.sentence[:1]), video, r"sentence.*\(1, 32\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            noisy_interaction()(wrong_text, wrong_video, LOGIT_SCALE)
