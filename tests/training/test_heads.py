import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bclef.config import ConfigError
from bclef.heads import (
    CnnHead,
    FrequencyPool,
    Head,
    HeadConfig,
    Logits,
    SedHead,
    clip_probabilities,
    make_head,
)
from bclef.models import ModelConfig

N_FEATURES, N_CLASSES = 6, 3


def altered(config: ModelConfig, **changes: object) -> ModelConfig:
    return ModelConfig.from_tree(config.model_dump() | changes, "test")


def eval_head(config: HeadConfig) -> Head:
    torch.manual_seed(0)
    return make_head(N_FEATURES, N_CLASSES, config).eval()


def random_maps(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def arrays(head: nn.Module) -> dict[str, NDArray[np.float64]]:
    return {k: v.detach().numpy().astype(np.float64) for k, v in head.named_parameters()}


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def attended(
    head: nn.Module, maps: Tensor, frames: slice = slice(None)
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """E4 in plain numpy: attention shares and frame logits, each [B, F', C]."""
    weights, x = arrays(head), maps.numpy().astype(np.float64).mean(axis=2).swapaxes(1, 2)
    v = x @ weights["classify.weight"].T + weights["classify.bias"]
    a = np.tanh(x @ weights["attention.weight"].T + weights["attention.bias"])[:, frames]
    return np.exp(a) / np.exp(a).sum(axis=1, keepdims=True), v


def test_logit_pooled_attention_is_the_published_formula(model_config: ModelConfig) -> None:
    head, maps = eval_head(model_config), random_maps(2, N_FEATURES, 4, 7)
    share, v = attended(head, maps)
    logits = head(maps)
    np.testing.assert_allclose(logits.frames.detach(), v, atol=1e-6)
    np.testing.assert_allclose(logits.clip.detach(), (share * v).sum(axis=1), atol=1e-6)


def test_probability_pooled_attention_is_the_published_formula(model_config: ModelConfig) -> None:
    head = eval_head(altered(model_config, clip_pooling="probability"))
    maps = random_maps(2, N_FEATURES, 4, 7)
    share, v = attended(head, maps)
    p = (share * sigmoid(v)).sum(axis=1)
    logits = head(maps)
    np.testing.assert_allclose(logits.clip.detach(), np.log(p / (1 - p)), atol=1e-6)
    np.testing.assert_allclose(logits.clip.detach().sigmoid(), p, atol=1e-6)


@pytest.mark.parametrize("level", [-200.0, 200.0])
def test_sure_probability_has_a_finite_logit_and_gradient(
    model_config: ModelConfig, level: float
) -> None:
    head = eval_head(altered(model_config, clip_pooling="probability"))
    nn.init.constant_(head.classify.bias, level)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(random_maps(2, N_FEATURES, 4, 7))
    assert logits.clip.dtype == logits.frames.dtype == torch.float32
    limit = math.copysign(math.log((1 - 1e-6) / 1e-6), level)
    torch.testing.assert_close(logits.clip, torch.full((2, N_CLASSES), limit), atol=0.02, rtol=0)
    logits.clip.sum().backward()
    assert head.classify.weight.grad is not None
    assert torch.isfinite(head.classify.weight.grad).all()


def test_attention_of_two_frames_differs_by_at_most_e_squared(model_config: ModelConfig) -> None:
    head = eval_head(model_config)
    assert isinstance(head, SedHead)
    nn.init.constant_(head.attention.weight, 100.0)
    nn.init.zeros_(head.classify.weight)
    nn.init.zeros_(head.classify.bias)
    head.classify.weight.data[:, 0] = 1.0
    maps = torch.zeros(1, N_FEATURES, 2, 2)
    maps[:, 0, :, 0], maps[:, 1, :, 1] = 1.0, -1.0
    share = math.e / (math.e + 1 / math.e)
    torch.testing.assert_close(head(maps).clip, torch.full((1, N_CLASSES), share))


def test_attention_runs_over_time_and_not_over_mel_bands(model_config: ModelConfig) -> None:
    head = eval_head(model_config)
    maps = random_maps(1, N_FEATURES, 4, 7)
    logits = head(maps)
    # Order within a frame is nothing to it, and neither is that of whole frames.
    torch.testing.assert_close(head(maps.flip(2)).clip, logits.clip)
    torch.testing.assert_close(head(maps.flip(3)).frames, logits.frames.flip(1))
    # The same mean over time, but at other moments: attention over mel bands would not see it.
    shaken = torch.stack([maps[:, :, m].roll(m, dims=-1) for m in range(4)], dim=2)
    torch.testing.assert_close(shaken.mean(3), maps.mean(3))
    assert (head(shaken).clip - logits.clip).abs().max() > 1e-3


@pytest.mark.parametrize("head_name", ["cnn", "sed"])
@pytest.mark.parametrize("pool", ["mean", "gem"])
def test_late_impulse_moves_late_frames_only(
    model_config: ModelConfig, head_name: str, pool: str
) -> None:
    head = eval_head(altered(model_config, head=head_name, frequency_pool=pool))
    maps = random_maps(1, N_FEATURES, 4, 10).abs()
    later = maps.clone()
    later[..., 8] += 5
    moved = (head(later).frames - head(maps).frames).abs().amax(dim=(0, 2))
    assert (moved[[*range(8), 9]] == 0).all()
    assert moved[8] > 0.01
    assert (head(later).clip - head(maps).clip).abs().max() > 0.001


@pytest.mark.parametrize("head_name", ["cnn", "sed"])
@pytest.mark.parametrize("pool", ["mean", "gem"])
def test_context_frames_have_frame_scores_but_no_say_in_the_clip(
    model_config: ModelConfig, head_name: str, pool: str
) -> None:
    head = eval_head(altered(model_config, head=head_name, frequency_pool=pool))
    maps = random_maps(1, N_FEATURES, 4, 10).abs()
    louder = maps.clone()
    louder[..., [0, 2, 7, 9]] += 5
    before, after = head(maps, 3), head(louder, 3)
    assert torch.equal(before.clip, after.clip)
    torch.testing.assert_close(before.clip, head(maps[..., 3:7]).clip)
    moved = (before.frames - after.frames).abs().amax(dim=(0, 2)) > 0.01
    assert moved.tolist() == [frame in (0, 2, 7, 9) for frame in range(10)]
    louder[..., 3] += 5
    assert not torch.allclose(head(louder, 3).clip, before.clip)


def test_cnn_clip_score_is_that_of_the_mean_over_time(model_config: ModelConfig) -> None:
    head = eval_head(altered(model_config, head="cnn"))
    logits = head(random_maps(2, N_FEATURES, 4, 9))
    torch.testing.assert_close(logits.clip, logits.frames.mean(dim=1))


def test_generalised_mean_starts_at_the_cube(rng: np.random.Generator) -> None:
    maps = rng.uniform(0, 2, size=(2, 3, 5, 4))
    pool = FrequencyPool("gem")
    image = torch.tensor(maps, dtype=torch.float32)
    over_bands = np.mean(np.maximum(maps, 1e-6) ** 3, axis=2) ** (1 / 3)
    np.testing.assert_allclose(pool(image).detach(), over_bands.swapaxes(1, 2), atol=1e-6)
    jointly = np.mean(np.maximum(maps, 1e-6) ** 3, axis=(2, 3)) ** (1 / 3)
    np.testing.assert_allclose(pool.over_time(image).detach(), jointly, atol=1e-6)
    pool(torch.zeros(1, 3, 5, 4)).sum().backward()
    assert pool.exponent is not None
    assert pool.exponent.grad is not None
    assert torch.isfinite(pool.exponent.grad)


def test_cnn_pools_frequency_and_time_at_once(
    model_config: ModelConfig, rng: np.random.Generator
) -> None:
    head = eval_head(altered(model_config, head="cnn", frequency_pool="gem"))
    maps, weights = rng.uniform(-1, 2, size=(2, N_FEATURES, 5, 4)), arrays(head)
    vector = np.mean(np.maximum(maps, 1e-6) ** 3, axis=(2, 3)) ** (1 / 3)
    expected = vector @ weights["classify.weight"].T + weights["classify.bias"]
    clip = head(torch.tensor(maps, dtype=torch.float32)).clip
    np.testing.assert_allclose(clip.detach(), expected, atol=1e-6)


def test_smoothing_adds_maximum_and_mean_of_the_neighbours(model_config: ModelConfig) -> None:
    head = eval_head(altered(model_config, frame_smoothing=True))
    maps, weights = random_maps(1, N_FEATURES, 4, 7), arrays(head)
    x = maps.numpy().astype(np.float64).mean(axis=2)[0].T
    smooth = [
        x[max(0, t - 1) : t + 2].max(0) + x[max(0, t - 1) : t + 2].sum(0) / 3 for t in range(7)
    ]
    expected = smooth @ weights["classify.weight"].T + weights["classify.bias"]
    np.testing.assert_allclose(head(maps).frames[0].detach(), expected, atol=1e-6)


@pytest.mark.parametrize("head_name", ["cnn", "sed"])
def test_scores_in_training_are_the_mean_of_several_dropouts(
    model_config: ModelConfig, head_name: str
) -> None:
    changes = {"head": head_name, "dropout": 0.5, "hidden_features": 8, "hidden_dropout": 0.5}
    single = eval_head(altered(model_config, **changes)).train()
    several = eval_head(altered(model_config, **changes, n_dropouts=3)).train()
    maps = random_maps(2, N_FEATURES, 4, 7)
    torch.manual_seed(4)
    draws = [single(maps) for _ in range(3)]
    torch.manual_seed(4)
    logits = several(maps)
    for mean, each in zip(logits, zip(*draws, strict=True), strict=True):
        torch.testing.assert_close(mean, torch.stack(each).mean(0))
    assert not torch.allclose(draws[0].clip, draws[1].clip)
    torch.testing.assert_close(several.eval()(maps).clip, single.eval()(maps).clip)


def test_dropout_stands_before_and_after_the_hidden_layer(model_config: ModelConfig) -> None:
    wide = altered(model_config, dropout=0.25, hidden_dropout=0.5, hidden_features=8)
    embed = eval_head(wide).embed
    assert isinstance(embed, nn.Sequential)
    kinds = [(type(layer).__name__, getattr(layer, "p", None)) for layer in embed]
    assert kinds == [("Dropout", 0.25), ("Linear", None), ("ReLU", None), ("Dropout", 0.5)]
    bare = eval_head(altered(model_config, dropout=0.25, hidden_dropout=0.5)).embed
    assert isinstance(bare, nn.Dropout)
    assert bare.p == 0.25


@pytest.mark.parametrize("n_shift", [1, 3, 5])
def test_frame_shift_is_the_published_formula(model_config: ModelConfig, n_shift: int) -> None:
    config = altered(model_config, max_share=1.0, frame_shift=n_shift)
    v = 3 * random_maps(4, 20, N_CLASSES)
    p = sigmoid(v.numpy().astype(np.float64))
    centre, early, late = (
        p[:, 5:15],
        p[:, 5 - n_shift : 15 - n_shift],
        p[:, 5 + n_shift : 15 + n_shift],
    )
    expected = 0.5 * centre.max(1) + 0.25 * early.max(1) + 0.25 * late.max(1)
    found = clip_probabilities(Logits(v[:, 0], v), config, 5)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_shift_without_context_goes_as_far_as_the_clip(model_config: ModelConfig) -> None:
    config = altered(model_config, max_share=1.0, frame_shift=2)
    v = random_maps(4, 6, N_CLASSES)
    p = sigmoid(v.numpy().astype(np.float64))
    expected = 0.5 * p.max(1) + 0.25 * p[:, :4].max(1) + 0.25 * p[:, 2:].max(1)
    np.testing.assert_allclose(
        clip_probabilities(Logits(v[:, 0], v), config, 0), expected, atol=1e-6
    )


def test_probability_blends_the_pooled_score_and_the_greatest_frame(
    model_config: ModelConfig,
) -> None:
    clip, frames = random_maps(4, N_CLASSES), random_maps(4, 6, N_CLASSES)
    pooled = sigmoid(clip.numpy().astype(np.float64))
    greatest = sigmoid(frames.numpy().astype(np.float64))[:, 1:5].max(1)
    for share in (0.0, 0.25, 1.0):
        found = clip_probabilities(
            Logits(clip, frames), altered(model_config, max_share=share), n_context=1
        )
        expected = (1 - share) * pooled + share * greatest
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_scores_start_at_the_chance_of_one_class(model_config: ModelConfig) -> None:
    logits = eval_head(model_config)(torch.zeros(1, N_FEATURES, 2, 2))
    torch.testing.assert_close(logits.clip.sigmoid(), torch.full((1, 3), 1 / 3))


def test_head_is_the_one_named(model_config: ModelConfig) -> None:
    assert type(eval_head(model_config)) is SedHead
    assert type(eval_head(altered(model_config, head="cnn"))) is CnnHead


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"head": "cnn", "frame_smoothing": True}, "are of head sed"),
        ({"head": "cnn", "clip_pooling": "probability"}, "are of head sed"),
        ({"frame_shift": 2}, "max_share 0 takes nothing"),
    ],
)
def test_setting_without_effect_is_refused(
    model_config: ModelConfig, changes: dict[str, object], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        altered(model_config, **changes)
