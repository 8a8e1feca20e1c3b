"""The loss of a batch against the same worked out by hand, on a network of one matrix."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bclef.augment import AugmentConfig, draw
from bclef.dataset import Batch
from bclef.losses import LossConfig, bce
from bclef.models import Logits
from bclef.objective import training_loss
from tests.augmentations import NOISE
from tests.augmentations import settings as augmentation
from tests.trainsettings import LOSS

N_CLIPS, N_SAMPLES, N_CLASSES = 4, 64, 3
BANDS, FRAMES = 4, 16


class Matrix(nn.Module):
    """Hears the image as it is: the wave, folded; without normalisation, so that levels count."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = SimpleNamespace(sample_rate_hz=8000)
        self.classify = nn.Linear(BANDS, N_CLASSES)
        nn.init.normal_(self.classify.weight, generator=torch.Generator().manual_seed(2))

    def images(self, wave: Tensor) -> Tensor:
        return wave.view(len(wave), 1, BANDS, FRAMES)

    def features(self, image: Tensor) -> Logits:
        frames = self.classify(image[:, 0].swapaxes(1, 2))
        return Logits(frames.mean(dim=1), frames)


def config(**changes: Any) -> LossConfig:
    return LossConfig.from_tree(LOSS | changes, "train")


def batch_of(augment: AugmentConfig | None = None, n_partners: int = 0) -> Batch:
    """Four clips, and rows that are only mixed in; each clip has another class and weight."""
    rng = np.random.default_rng(5)
    n_rows = N_CLIPS + n_partners
    wave = rng.integers(-20_000, 20_000, size=(n_rows, N_SAMPLES)).astype(np.int16)
    generator = torch.Generator().manual_seed(3)
    draws = draw(augment or augmentation(), N_CLIPS, n_partners, generator)
    n_noises = sum(len(each.rows) for each in draws.noise if each.kind == "recordings")
    noise = rng.integers(-20_000, 20_000, size=(n_noises, N_SAMPLES)).astype(np.int16)
    weight = torch.tensor([1.0, 0.2, 0.6, 0.4] + [1.0] * n_partners)
    return Batch(
        wave=torch.from_numpy(wave),
        noise=torch.from_numpy(noise),
        target=torch.eye(N_CLASSES)[torch.arange(n_rows) % N_CLASSES],
        mask=torch.ones(n_rows, N_CLASSES),
        weight=weight,
        draws=draws,
        n_kept=N_CLIPS,
        total_weight=float(weight[:N_CLIPS].sum()),
    )


def part(batch: Batch, rows: slice) -> Batch:
    """What one of two processes sees of a batch that is not mixed."""
    kept = torch.arange(N_CLIPS)[rows]
    return batch._replace(
        wave=batch.wave[rows],
        target=batch.target[rows],
        mask=batch.mask[rows],
        weight=batch.weight[rows],
        draws=batch.draws.take(kept),
        n_kept=len(kept),
        total_weight=batch.total_weight / 2,
    )


@pytest.fixture
def model() -> Any:
    return Matrix()


def gradient(model: Any, batch: Batch, terms: LossConfig) -> Tensor:
    model.zero_grad()
    training_loss(model, batch, terms).backward()
    return torch.cat([each.grad.flatten() for each in model.parameters()])


def test_plain_loss_is_the_weighted_mean_over_the_batch(model: Any) -> None:
    batch = batch_of()
    logits = model.features(model.images(batch.wave.float() / 32768))
    both = bce(logits.clip, batch.target) + 0.25 * bce(logits.frames.amax(dim=1), batch.target)
    expected = (both.mean(dim=1) * batch.weight).sum() / batch.weight.sum()
    found = training_loss(model, batch, config(frame_loss_weight=0.25))
    torch.testing.assert_close(found, expected)


def test_rows_that_are_only_mixed_in_do_not_count_themselves(model: Any) -> None:
    batch = batch_of(n_partners=2)
    plain = training_loss(model, batch, config())
    wave, target = batch.wave.clone(), batch.target.clone()
    wave[N_CLIPS:], target[N_CLIPS:] = 30_000, 1.0
    assert training_loss(model, batch._replace(wave=wave, target=target), config()) == plain
    fewer = batch._replace(n_kept=N_CLIPS - 1)
    assert training_loss(model, fewer, config()) != plain


@pytest.mark.parametrize(
    "change",
    [
        {"mixup": {"probability": 1.0}},
        {"gain": {"probability": 1.0}},
        {"noise": [NOISE]},
        {"noise": [NOISE | {"kind": "white"}]},
        {"image_mixup": {"probability": 1.0}},
        {"selective_mixup": {"probability": 1.0}},
        {"masks": {"time_probability": 1.0, "time_share": 0.9}},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_each_augmentation_reaches_the_loss(model: Any, change: dict[str, Any]) -> None:
    n_partners = 2 if "selective_mixup" in change else 0
    batch = batch_of(augmentation(**change), n_partners)
    plain = training_loss(model, batch_of(n_partners=n_partners), config())
    varied = training_loss(model, batch, config())
    assert torch.isfinite(varied)
    assert abs(varied - plain) > 1e-4


def test_images_are_the_same_under_autocast(model: Any) -> None:
    """Shifting a pitch is a convolution, which autocast would do in half precision."""
    batch = batch_of(augmentation(pitch_shift={"probability": 1.0}))
    assert len(batch.draws.pitch.rows) == N_CLIPS
    seen: list[Tensor] = []
    features = model.features
    model.features = lambda image: (seen.append(image), features(image))[1]
    for half in (None, torch.bfloat16, torch.float16):
        with torch.autocast("cpu", half, enabled=half is not None):
            training_loss(model, batch, config())
            assert half in (None, features(seen[0]).clip.dtype), "the network is under autocast"
    assert all(torch.equal(image, seen[0]) for image in seen)


def test_class_unknown_in_one_of_two_mixed_clips_leaves_the_loss(model: Any) -> None:
    batch = batch_of(augmentation(mixup={"probability": 1.0}))
    nothing = batch._replace(target=torch.zeros_like(batch.target))
    unknown = nothing._replace(mask=nothing.mask.clone())
    unknown.mask[:, 2] = 0.0
    plain = training_loss(model, nothing, config())
    assert training_loss(model, unknown, config()) < plain - 1e-3
    known = unknown._replace(target=unknown.target.clone())
    known.target[:, 2] = 1.0  # surely held: counts, and weighs as any other
    full = nothing._replace(target=known.target)
    torch.testing.assert_close(
        training_loss(model, known, config()), training_loss(model, full, config())
    )


@pytest.mark.parametrize(
    "terms",
    [config(frame_loss_weight=1.0), config(loss="cross_entropy"), config(loss_sum=True)],
    ids=["mean", "softmax", "sum"],
)
def test_two_processes_have_on_average_the_gradient_of_one(
    model: Any, terms: LossConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of()
    whole = gradient(model, batch, terms)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    rows = (slice(0, None, 2), slice(1, None, 2))
    halves = [gradient(model, part(batch, each), terms) for each in rows]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole)


def test_summed_loss_grows_with_the_batch_and_the_mean_does_not(model: Any) -> None:
    batch = batch_of()
    logits = model.features(model.images(batch.wave.float() / 32768))
    elements = bce(logits.clip, batch.target) * batch.weight[:, None]
    found = training_loss(model, batch, config(loss_sum=True))
    torch.testing.assert_close(found, elements.sum())


def test_batch_of_no_weight_teaches_nothing_and_stays_finite(model: Any) -> None:
    batch = batch_of()
    batch = batch._replace(weight=torch.zeros(N_CLIPS), total_weight=0.0)
    for terms in (config(soft_auc_weight=1.0), config(loss_sum=True)):
        assert not gradient(model, batch, terms).any()


def test_silent_batch_has_a_finite_loss(model: Any) -> None:
    change = {"mixup": {"probability": 1.0}, "gain": {"probability": 1.0}}
    batch = batch_of(augmentation(**change))
    batch = batch._replace(wave=torch.zeros_like(batch.wave))
    assert torch.isfinite(gradient(model, batch, config(soft_auc_weight=1.0))).all()
