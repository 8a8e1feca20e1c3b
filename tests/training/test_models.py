from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bclef.config import ConfigError
from bclef.heads import make_head
from bclef.models import (
    BirdModel,
    ModelError,
    ModelSpec,
    build_model,
    load_timm_weights,
    part_images,
)


def changed(spec: ModelSpec, **model: object) -> ModelSpec:
    return ModelSpec.from_tree(spec.model_dump() | {"model": spec.model.model_dump() | model}, "t")


def seeing(spec: ModelSpec, **frontend: object) -> ModelSpec:
    tree = spec.model_dump()
    return ModelSpec.from_tree(tree | {"frontend": tree["frontend"] | frontend}, "t")


def enliven(model: BirdModel) -> BirdModel:
    """Gives batch norms the statistics of noise, so that clips differ in their scores."""
    wave = noise(32, model.spec.window_samples).cumsum(dim=1) * torch.logspace(-5, -2, 32)[:, None]
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        model.train().features(model.images(wave))
    return model.eval()


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def with_local_backbone(spec: ModelSpec) -> BirdModel:
    """A model whose maps have one column per 4 frames of the image, and nothing from elsewhere."""
    model = build_model(spec, seed=0)
    model.add_module("backbone", nn.Sequential(nn.AvgPool2d((8, 4)), nn.Conv2d(1, 6, 1)))
    model.head = make_head(6, len(spec.labels), spec.model)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [
        "efficientvit_b0",
        "mobilenetv4_conv_small_050",
        "mobilenetv3_small_050",
        "tf_efficientnet_b0",
        "resnet10t",
        "eca_nfnet_l0",
        "mambaout_femto",
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_backbones_of_many_families_give_scores_of_clips_and_frames(
    spec: ModelSpec, backbone: str
) -> None:
    sized = changed(seeing(spec, image_size=(64, 128), channels="ramp"), backbone=backbone)
    model = build_model(sized, seed=0)
    logits = model.features(model.images(noise(2, 8000)))
    assert logits.clip.shape == (2, 4)
    n_frames = 8 if "vit_tiny" in backbone else 4
    assert logits.frames.shape == (2, n_frames, 4)
    logits.clip.sum().backward()
    grads = [parameter.grad for parameter in model.head.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


def test_channels_last_maps_are_turned(spec: ModelSpec) -> None:
    model = build_model(changed(spec, backbone="mambaout_femto"), seed=0).eval()
    image = noise(1, 1, 32, 128)
    with torch.no_grad():
        raw, turned = model.backbone.network(image)[-1], model.backbone(image)
    assert raw.shape == (1, 1, 4, model.backbone.n_features)
    assert torch.equal(turned[0, :, 0, 2], raw[0, 0, 2])


def test_forward_is_the_scores_of_the_images(spec: ModelSpec) -> None:
    model = build_model(spec, seed=0).eval()
    wave = noise(20, 8000)
    expected = model.features(model.spectrogram(wave)).clip.sigmoid()
    torch.testing.assert_close(model(wave), expected)
    # More clips than are worked on at a time.
    torch.testing.assert_close(model.images(wave), model.spectrogram(wave))
    assert not model.images(wave).requires_grad


DIVIDED = {"input_s": 2.0, "scored_s": 1.0, "part_s": 0.5, "max_share": 0.5, "frame_shift": 1}


@pytest.mark.parametrize(
    "changes", [{}, {"mel_batch_norm": True}, {**DIVIDED, "clip_pooling": "probability"}]
)
def test_clip_scores_do_not_depend_on_batch_mates(
    spec: ModelSpec, changes: dict[str, object]
) -> None:
    model = enliven(build_model(changed(spec, **changes), seed=3))
    wave = 10 * noise(6, model.spec.window_samples)
    wave[::2] = wave[::2].cumsum(dim=1)
    wave *= torch.logspace(-5, -1, 6)[:, None]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        images, alone = model.images(wave), torch.cat([model.images(each[None]) for each in wave])
        torch.testing.assert_close(alone, images, atol=1e-5, rtol=0)
        # In double precision, as a network amplifies the rounding of other kernels for other sizes.
        model.double()
        together, permuted = model.scores(images.double()), model.scores(images[order].double())
        one_by_one = torch.cat([model.scores(each[None].double()) for each in images])
    torch.testing.assert_close(permuted, together[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(one_by_one, together, atol=1e-5, rtol=0)
    assert together.std(dim=0).min() > 1e-3, "the clips must differ, or this shows nothing"


def test_maps_of_six_parts_are_those_of_each_part_alone(spec: ModelSpec) -> None:
    model = enliven(build_model(changed(spec, part_s=1.0), seed=0))
    heard: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _head, given: heard.append(given[0]))
    wave = noise(3, 6 * 8000) * torch.logspace(-2, 0, 6).repeat_interleave(8000)
    with torch.no_grad():
        images = model.images(wave)
        frames = model.features(images).frames
        parts = wave.split(8000, dim=1)
        alone = [model.images(part) for part in parts]
        for part in alone:
            model.features(part)
    torch.testing.assert_close(images, torch.cat(alone, dim=3), atol=1e-5, rtol=0)
    torch.testing.assert_close(heard[0], torch.cat(heard[1:], dim=3), atol=1e-4, rtol=1e-4)
    assert frames.shape == (3, 6 * heard[1].shape[3], 4)
    assert images.shape == (3, 1, 32, 6 * 63)
    # Whole, the clip has other frames, and one dynamic range instead of six.
    whole = build_model(spec, seed=0).images(wave)
    assert whole.shape == (3, 1, 32, 376)


def test_model_trained_on_thirty_seconds_scores_five(spec: ModelSpec) -> None:
    long = enliven(build_model(changed(spec, part_s=1.0, dropout=0.0), seed=0))
    short = build_model(spec, seed=0).eval()
    short.load_state_dict(long.state_dict())
    wave = noise(2, 6 * 8000)
    assert long.features(long.images(wave)).clip.shape == (2, 4)
    torch.testing.assert_close(long(wave[:, :8000]), short(wave[:, :8000]))


@pytest.mark.parametrize("n_samples", [8001, 12000])
def test_clip_that_is_no_whole_number_of_parts_is_refused(spec: ModelSpec, n_samples: int) -> None:
    model = build_model(changed(spec, part_s=1.0), seed=0)
    with pytest.raises(ModelError, match=rf"{n_samples} samples or frames, expected a multiple of"):
        model.images(noise(1, n_samples))
    with pytest.raises(ModelError, match=r"100 samples or frames.* of the 63 of model\.part_s"):
        model.features(noise(1, 1, 32, 100))


def test_division_in_time_keeps_clips_and_channels_apart() -> None:
    wave = torch.arange(24.0).reshape(2, 12)

    def image(parts: Tensor) -> Tensor:
        return torch.stack([parts, -parts], dim=1).unsqueeze(2)

    images = part_images(image, wave, 3)
    assert images.shape == (2, 2, 1, 12)
    assert torch.equal(images[:, 0, 0], wave)
    assert torch.equal(images[:, 1, 0], -wave)


def test_late_impulse_in_the_wave_moves_late_frames_only(spec: ModelSpec) -> None:
    model = with_local_backbone(changed(seeing(spec, top_db=None), part_s=0.5))
    wave = 0.01 * noise(1, 8000)
    later = wave.clone()
    later[0, 7000] += 0.5
    with torch.no_grad():
        moved = (
            model.features(model.images(later)).frames - model.features(model.images(wave)).frames
        )
    is_moved = moved.abs().amax(dim=(0, 2)) > 1e-4
    assert len(is_moved) == 16
    late_frame = 8 + (7000 - 4000) // 128 // 4
    assert is_moved[late_frame]
    assert not is_moved[: late_frame - 1].any()
    assert not is_moved[late_frame + 2 :].any()


def test_scores_are_about_the_middle_alone_although_the_backbone_has_all(spec: ModelSpec) -> None:
    config = {"input_s": 2.0, "scored_s": 1.0, "max_share": 0.5}
    model = with_local_backbone(changed(spec, **config))
    mel = noise(1, 1, 32, 128).requires_grad_()
    model.scores(mel).sum().backward()
    assert mel.grad is not None
    touched = mel.grad.abs().amax(dim=(0, 1, 2)) > 0
    assert torch.equal(touched, (torch.arange(128) // 32 % 3) > 0)
    # What a loss sees in training is pooled over all of the clip.
    mel.grad = None
    model.features(mel).clip.sum().backward()
    assert mel.grad is not None
    assert (mel.grad.abs().amax(dim=(0, 1, 2)) > 0).all()
    real = build_model(changed(spec, **config), seed=0)
    real.scores(seen := noise(1, 1, 32, 128).requires_grad_()).sum().backward()
    assert seen.grad is not None
    assert (seen.grad.abs().amax(dim=(0, 1, 2)) > 0).all(), "the backbone hears the context"


def test_scores_blend_and_shift_over_the_middle(spec: ModelSpec) -> None:
    config = {"input_s": 2.0, "scored_s": 1.0, "max_share": 0.5, "frame_shift": 2}
    model = with_local_backbone(changed(spec, **config))
    mel = 5 * noise(3, 1, 32, 128)
    with torch.no_grad():
        scores, logits = model.scores(mel), model.features(mel, scored=True)
    p = logits.frames.sigmoid()
    assert p.shape[1] == 32
    greatest = 0.5 * p[:, 8:24].amax(1) + 0.25 * p[:, 6:22].amax(1) + 0.25 * p[:, 10:26].amax(1)
    torch.testing.assert_close(scores, 0.5 * logits.clip.sigmoid() + 0.5 * greatest)
    assert not torch.allclose(logits.clip, model.features(mel).clip)


def test_shift_beyond_the_maps_is_refused(spec: ModelSpec) -> None:
    shifted = changed(spec, max_share=1.0, frame_shift=9)
    with pytest.raises(ModelError, match=r"frame_shift: found 9 with 0 frames of context"):
        build_model(shifted, seed=0).eval()(noise(1, 8000))


def test_lengths_of_a_spec_are_in_samples(spec: ModelSpec) -> None:
    assert (spec.window_samples, spec.scored_samples) == (8000, 8000)
    assert (spec.context_samples, spec.part_samples) == (0, 8000)
    long = changed(spec, input_s=10.0, scored_s=5.0, part_s=2.5)
    assert (long.window_samples, long.scored_samples) == (80_000, 40_000)
    assert (long.context_samples, long.part_samples) == (20_000, 20_000)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"input_s": 5.0, "scored_s": 6.0}, r"scored_s 6\.0 exceeds input_s 5\.0"),
        ({"input_s": 5.0, "part_s": 2.0}, r"part_s 2\.0 does not divide input_s 5\.0"),
        ({"input_s": 5.0, "part_s": 10.0}, r"part_s 10\.0 does not divide input_s 5\.0"),
        ({"input_s": 1.000125}, "as many before the scored part as after it"),
        ({"input_s": 0.1, "scored_s": 0.1, "part_s": 0.1 / 3}, "expected a multiple of the 267"),
    ],
)
def test_times_that_do_not_agree_are_refused(
    spec: ModelSpec, changes: dict[str, object], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        changed(spec, **changes)


def test_mel_bands_are_normed_each_on_its_own(spec: ModelSpec) -> None:
    model = build_model(changed(seeing(spec, channels="ramp"), mel_batch_norm=True), seed=0).train()
    level = torch.arange(96.0).reshape(1, 3, 32, 1)
    mel = 10 * noise(4, 3, 32, 63) * (1 + level) + level
    normed = model.mel_norm(mel)
    assert normed.shape == mel.shape
    mean, deviation = normed.mean(dim=(0, 3)), normed.std(dim=(0, 3), unbiased=False)
    torch.testing.assert_close(mean, torch.zeros(3, 32), atol=1e-4, rtol=0)
    torch.testing.assert_close(deviation, torch.ones(3, 32), atol=1e-3, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"mel_batch_norm": True, "hidden_features": 8}])
def test_each_parameter_is_in_one_group(spec: ModelSpec, changes: dict[str, object]) -> None:
    model = build_model(changed(spec, frequency_pool="gem", **changes), seed=0)
    groups = model.parameter_groups()
    assert list(groups) == ["backbone", "head", "class_layers"]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(listed) == sorted(names)
    found = {group: {names[id(p)].split(".")[0] for p in groups[group]} for group in groups}
    assert found["backbone"] == ({"backbone", "mel_norm"} if changes else {"backbone"})
    in_layers = {names[id(parameter)] for parameter in groups["class_layers"]}
    layers = ("classify", "attention")
    assert in_layers == {f"head.{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    in_head = {names[id(parameter)] for parameter in groups["head"]}
    hidden = {"head.embed.1.weight", "head.embed.1.bias"} if changes else set()
    assert in_head == {"head.pool.exponent", *hidden}


def test_frames_follow_time_and_not_frequency(spec: ModelSpec) -> None:
    model = build_model(spec, seed=0).eval()
    n_frames = {
        shape: model.features(torch.zeros(1, 1, *shape)).frames.shape[1]
        for shape in [(64, 128), (128, 128), (64, 256)]
    }
    assert n_frames == {(64, 128): 4, (128, 128): 4, (64, 256): 8}


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


def test_backbone_without_feature_maps_is_refused(spec: ModelSpec) -> None:
    with pytest.raises(ModelError, match="cannot make feature maps of images of"):
        BirdModel(changed(spec, backbone="mvitv2_tiny"))


def test_transformer_of_one_size_refuses_another(spec: ModelSpec) -> None:
    model = build_model(changed(spec, backbone="vit_tiny_patch16_224"), seed=0).eval()
    assert model.features(noise(1, 1, 32, 63)).frames.shape == (1, 3, 4)
    with pytest.raises(ModelError, match=r"takes images of \(32, 63\) bands and frames, found"):
        model.features(noise(1, 1, 32, 64))


def test_unreachable_timm_weights_are_said_and_the_start_is_random(
    spec: ModelSpec, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(spec, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def unreachable(*_args: object, **_options: object) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with caplog.at_level("WARNING"):
        assert not load_timm_weights(model)
    assert "lcnet_035 starts from RANDOM weights" in caplog.text
    assert "no route to host" in caplog.text
    after: dict[str, Tensor] = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("channels", "n_channels"), [("mono", 1), ("deltas", 3)])
def test_published_weights_are_fitted_to_the_channels_of_the_images(
    spec: ModelSpec,
    channels: str,
    n_channels: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(1)
    colour = timm.create_model("lcnet_035").state_dict()
    save_file(colour, tmp_path / "published.safetensors")
    overlay = {"file": str(tmp_path / "published.safetensors")}
    from_file = partial(timm.create_model, pretrained_cfg_overlay=overlay)
    monkeypatch.setattr(timm, "create_model", from_file)
    model = build_model(seeing(spec, channels=channels), seed=0)
    head = model.head.classify.weight.clone()
    assert load_timm_weights(model)
    assert torch.equal(model.head.classify.weight, head)
    fitted = model.backbone.network.state_dict()
    first, published = fitted["conv_stem.weight"], colour["conv_stem.weight"]
    assert first.shape[1] == n_channels
    expected = published if n_channels == 3 else published.sum(1, keepdim=True)
    torch.testing.assert_close(first, expected)
    deep = "blocks.5.1.conv_pw.weight"
    torch.testing.assert_close(fitted[deep], colour[deep])
    assert model.features(model.images(noise(1, 8000))).clip.shape == (1, 4)
