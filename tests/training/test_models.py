import logging
import math

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from bclef.models import (
    BirdModel,
    CnnHead,
    FrequencyPool,
    ModelConfig,
    ModelError,
    ModelSpec,
    SedHead,
    build_model,
    load_timm_weights,
)

N_FEATURES, N_CLASSES = 6, 3


def changed(spec: ModelSpec, **changes: object) -> ModelSpec:
    return spec.model_copy(update={"model": spec.model.model_copy(update=changes)})


def eval_head(kind: type[CnnHead | SedHead], config: ModelConfig) -> nn.Module:
    torch.manual_seed(0)
    return kind(N_FEATURES, N_CLASSES, config).eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [
        "efficientvit_b0",
        "mobilenetv4_conv_small_050",
        "mobilenetv3_small_050",
        "tf_efficientnet_b0",
        "resnet18",
        "eca_nfnet_l0",
    ],
)
@pytest.mark.parametrize("head", ["cnn", "sed"])
def test_backbones_of_many_families_give_scores_of_clips_and_frames(
    spec: ModelSpec, backbone: str, head: str
) -> None:
    model = build_model(changed(spec, backbone=backbone, head=head), seed=0)
    mel = torch.randn(2, 1, 64, 256, generator=torch.Generator().manual_seed(0))
    logits = model.features(mel)
    assert logits.clip.shape == (2, 4)
    assert logits.frames.shape == (2, 8, 4)
    logits.clip.sum().backward()
    grads = [parameter.grad for parameter in model.head.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


def test_forward_is_the_features_of_the_spectrogram(spec: ModelSpec) -> None:
    model = build_model(spec, seed=0).eval()
    wave = 0.1 * torch.randn(20, 8000, generator=torch.Generator().manual_seed(0))
    expected = model.features(model.spectrogram(wave)).clip
    torch.testing.assert_close(model(wave).clip, expected)
    # More clips than are worked on at a time.
    torch.testing.assert_close(model.images(wave), model.spectrogram(wave))
    assert not model.images(wave).requires_grad


def test_clip_scores_do_not_depend_on_batch_mates(lively_model: BirdModel) -> None:
    wave = torch.randn(6, 8000, generator=torch.Generator().manual_seed(0))
    wave[::2] = wave[::2].cumsum(dim=1)
    wave *= torch.logspace(-5, -1, 6)[:, None]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    together, permuted = lively_model(wave).clip, lively_model(wave[order]).clip
    alone = torch.cat([lively_model(each[None]).clip for each in wave])
    torch.testing.assert_close(permuted, together[order], atol=1e-5, rtol=0)
    # Other kernels work on one clip than on six; the network amplifies their rounding.
    torch.testing.assert_close(alone.sigmoid(), together.sigmoid(), atol=1e-4, rtol=0)
    assert together.std(dim=0).min() > 1e-2, "the clips must differ, or this shows nothing"


@pytest.mark.parametrize("kind", [CnnHead, SedHead])
def test_late_impulse_moves_late_frames_only(
    kind: type[CnnHead | SedHead], model_config: ModelConfig
) -> None:
    head = eval_head(kind, model_config)
    maps = torch.rand(1, N_FEATURES, 4, 10, generator=torch.Generator().manual_seed(0))
    later = maps.clone()
    later[..., 8] += 5
    moved = (head(later).frames - head(maps).frames).abs().amax(dim=(0, 2))
    assert (moved[[*range(8), 9]] == 0).all()
    assert moved[8] > 0.01
    assert (head(later).clip - head(maps).clip).abs().max() > 0.001


def test_frames_follow_time_and_not_frequency(spec: ModelSpec) -> None:
    model = build_model(spec, seed=0).eval()
    n_frames = {
        shape: model.features(torch.zeros(1, 1, *shape)).frames.shape[1]
        for shape in [(64, 128), (128, 128), (64, 256)]
    }
    assert n_frames == {(64, 128): 4, (128, 128): 4, (64, 256): 8}


def test_attention_is_the_published_formula(model_config: ModelConfig) -> None:
    head = eval_head(SedHead, model_config)
    maps = torch.randn(2, N_FEATURES, 4, 7, generator=torch.Generator().manual_seed(0))
    x = maps.numpy().mean(axis=2).swapaxes(1, 2)
    weights = {name: value.detach().numpy() for name, value in head.named_parameters()}
    frames = x @ weights["classify.weight"].T + weights["classify.bias"]
    a = np.tanh(x @ weights["attention.weight"].T + weights["attention.bias"])
    share = np.exp(a) / np.exp(a).sum(axis=1, keepdims=True)
    logits = head(maps)
    np.testing.assert_allclose(logits.frames.detach(), frames, atol=1e-5)
    np.testing.assert_allclose(logits.clip.detach(), (share * frames).sum(axis=1), atol=1e-5)


def test_attention_of_two_frames_differs_by_at_most_e_squared(model_config: ModelConfig) -> None:
    head = eval_head(SedHead, model_config)
    nn.init.constant_(head.attention.weight, 100.0)
    nn.init.zeros_(head.classify.weight)
    nn.init.zeros_(head.classify.bias)
    head.classify.weight.data[:, 0] = 1.0
    maps = torch.zeros(1, N_FEATURES, 2, 2)
    maps[:, 0, :, 0], maps[:, 1, :, 1] = 1.0, -1.0
    share = math.e / (math.e + 1 / math.e)
    torch.testing.assert_close(head(maps).clip, torch.full((1, N_CLASSES), share))


def test_cnn_clip_score_is_that_of_the_mean_over_time(model_config: ModelConfig) -> None:
    head = eval_head(CnnHead, model_config)
    logits = head(torch.rand(2, N_FEATURES, 4, 9, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(logits.clip, logits.frames.mean(dim=1))


def test_generalised_mean_starts_at_the_cube(rng: np.random.Generator) -> None:
    maps = rng.uniform(0, 2, size=(2, 3, 5, 4)).astype(np.float32)
    pool = FrequencyPool("gem")
    expected = np.mean(maps**3, axis=2) ** (1 / 3)
    np.testing.assert_allclose(
        pool(torch.tensor(maps)).detach(), expected.swapaxes(1, 2), rtol=1e-5
    )
    pool(torch.zeros(1, 3, 5, 4)).sum().backward()
    assert pool.exponent is not None
    assert pool.exponent.grad is not None
    assert torch.isfinite(pool.exponent.grad)


def test_scores_start_at_the_chance_of_one_class(model_config: ModelConfig) -> None:
    logits = eval_head(SedHead, model_config)(torch.zeros(1, N_FEATURES, 2, 2))
    torch.testing.assert_close(logits.clip.sigmoid(), torch.full((1, 3), 1 / 3))


def test_weights_depend_on_the_seed_and_leave_the_global_one(spec: ModelSpec) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build_model(spec, seed).head.classify.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_unknown_backbone_is_refused_with_similar_names(spec: ModelSpec) -> None:
    with pytest.raises(ModelError, match=r"no network 'lcnet_036'.*lcnet_035"):
        BirdModel(changed(spec, backbone="lcnet_036"))


def test_backbone_without_drop_path_refuses_it(spec: ModelSpec) -> None:
    with pytest.raises(ModelError, match=r"set model\.drop_path to 0"):
        BirdModel(changed(spec, backbone="efficientvit_b0", drop_path=0.1))


def test_backbone_with_channels_last_maps_is_refused(spec: ModelSpec) -> None:
    with pytest.raises(ModelError, match="channels last"):
        BirdModel(changed(spec, backbone="swin_tiny_patch4_window7_224"))


def test_unreachable_timm_weights_are_said_and_the_start_is_random(
    spec: ModelSpec, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(spec, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def unreachable(*_args: object, **_options: object) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with caplog.at_level(logging.WARNING):
        assert not load_timm_weights(model)
    assert "lcnet_035 starts from RANDOM weights" in caplog.text
    assert "no route to host" in caplog.text
    after: dict[str, Tensor] = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_timm_weights_go_into_the_backbone_alone(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, published = build_model(spec, seed=0), build_model(spec, seed=9)
    head = model.head.classify.weight.clone()
    asked: dict[str, object] = {}

    def create_model(*_args: object, **options: object) -> nn.Module:
        asked.update(options)
        return published.backbone

    monkeypatch.setattr(timm, "create_model", create_model)
    assert load_timm_weights(model)
    assert asked["pretrained"] is True
    ours, theirs = model.backbone.state_dict(), published.backbone.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.equal(model.head.classify.weight, head)
