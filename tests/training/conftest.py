"""A small planted world for training: each species is a tone, heard over noise."""

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from bclef.frontend import FrontEndConfig
from bclef.models import BirdModel, ModelConfig, ModelSpec, build_model
from bclef.store import FEATURE_INDEX_NEEDS, VERSION, step_samples
from bclef.tables import Schema, write_table
from bclef.trainconfig import TrainConfig

SAMPLE_RATE_HZ = 8000
TONES_HZ = {"ani": 600.0, "bee": 1100.0, "cro": 1900.0, "dov": 3000.0}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are faster on one thread, and far faster beside other processes."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


class MemoryStore:
    """The feature store's interface over arrays; it counts what is read."""

    def __init__(self, index: pd.DataFrame, waves: dict[str, NDArray[np.int16]]) -> None:
        self.index = index
        self.waves = waves
        self.n_reads = 0

    def read(
        self, recording_id: str, first_sample: int = 0, n_samples: int | None = None
    ) -> NDArray[np.int16]:
        self.n_reads += 1
        wave = self.waves[recording_id]
        n_left = len(wave) - first_sample if n_samples is None else n_samples
        assert first_sample >= 0
        assert first_sample + n_left <= len(wave), "read beyond the end of a recording"
        return wave[first_sample : first_sample + n_left]

    def activity(self, recording_id: str) -> NDArray[np.float32]:
        step = SAMPLE_RATE_HZ // 10
        wave = self.waves[recording_id].astype(np.float64) / 32768
        blocks = [wave[first : first + step] for first in range(0, len(wave), step)]
        return np.array([10 * np.log10(np.mean(b**2) + 1e-10) for b in blocks], np.float32)


def make_index(rows: list[dict[str, object]]) -> pd.DataFrame:
    index = pd.DataFrame([{"rating": None, "source": "world"} | row for row in rows])
    strings = dict.fromkeys(("recording_id", "role", "label", "source"), "string")
    return index.astype({**strings, "rating": "float32"})


@pytest.fixture
def index_of() -> Callable[[list[dict[str, object]]], pd.DataFrame]:
    """A function that makes a feature index of rows."""
    return make_index


@pytest.fixture
def store_of() -> Callable[[pd.DataFrame, dict[str, NDArray[np.int16]]], MemoryStore]:
    """A function that makes a store of an index and waves."""
    return MemoryStore


@pytest.fixture
def world() -> MemoryStore:
    """48 labelled recordings of 4 species, 6 of noise and 8 soundscapes, 1 to 4 s long."""
    rng = np.random.default_rng(7)
    rows: list[dict[str, object]] = []
    waves: dict[str, NDArray[np.int16]] = {}

    def add(name: str, role: str, label: str | None, tones_hz: list[float]) -> None:
        n_samples = int(SAMPLE_RATE_HZ * rng.uniform(0.7, 4))
        time_s = np.arange(n_samples) / SAMPLE_RATE_HZ
        wave = 0.01 * rng.normal(size=n_samples)
        for tone_hz in tones_hz:
            wave += 0.1 * np.sin(2 * np.pi * tone_hz * rng.uniform(0.95, 1.05) * time_s)
        waves[name] = (wave * 32767).astype(np.int16)
        row = {"recording_id": name, "n_samples": n_samples, "role": role, "label": label}
        rows.append(row | {"secondary_labels": [], "annotated": False})

    for position in range(48):
        label = list(TONES_HZ)[position % 4]
        add(f"f{position:02d}", "focal", label, [TONES_HZ[label]])
    for position in range(6):
        add(f"n{position}", "noise", None, [])
    for position in range(8):
        add(f"s{position}", "soundscape", None, [list(TONES_HZ.values())[position % 4]])
    return MemoryStore(make_index(rows), waves)


@pytest.fixture
def world_dir(world: MemoryStore, tmp_path: Path) -> Path:
    """The same world as a feature store on disk."""
    step = step_samples(SAMPLE_RATE_HZ)
    padded = {name: np.pad(wave, (0, -len(wave) % step)) for name, wave in world.waves.items()}
    audio = np.concatenate(list(padded.values()))
    directory = tmp_path / "features"
    directory.mkdir()
    with h5py.File(directory / "all.h5", "w") as file:
        file.attrs["version"] = VERSION
        file.attrs["sample_rate_hz"] = SAMPLE_RATE_HZ
        file["audio"] = audio
        file["activity"] = np.zeros(len(audio) // step, np.float32)
    first_samples = np.cumsum([0, *map(len, padded.values())])[:-1]
    index = world.index.assign(shard="all.h5", first_sample=first_samples)
    index = index.astype({"shard": "string"})
    schema = Schema("INDEX", ("recording_id",), FEATURE_INDEX_NEEDS)
    write_table(index[list(FEATURE_INDEX_NEEDS)], directory / "index.parquet", schema)
    return directory


@pytest.fixture
def splits() -> pd.DataFrame:
    """Folds 0 and 1, and a third of the recordings in none; groups of two recordings."""
    ids = [f"f{position:02d}" for position in range(48)]
    folds = [(None, 0, 1)[position // 4 % 3] for position in range(48)]
    groups = [f"g{position // 8}{position % 4}" for position in range(48)]
    frame = pd.DataFrame({"recording_id": ids, "group": groups, "fold": folds})
    return frame.astype({"recording_id": "string", "group": "string", "fold": "Int64"})


@pytest.fixture
def frontend() -> FrontEndConfig:
    return FrontEndConfig.from_tree(
        {
            "n_fft": 256,
            "win_samples": 256,
            "hop_samples": 128,
            "n_mels": 32,
            "f_min_hz": 50.0,
            "f_max_hz": 4000.0,
            "mel_scale": "htk",
            "mel_norm": None,
            "normalise_window": False,
            "power": 2,
            "wave_scaling": "none",
            "top_db": 80.0,
            "scaling": "n80",
            "padding": "reflect",
            "channels": "mono",
            "image_size": None,
        },
        "test",
    )


@pytest.fixture
def model_config() -> ModelConfig:
    return ModelConfig(
        backbone="lcnet_035",
        pretrained=False,
        input_s=1.0,
        scored_s=1.0,
        part_s=None,
        mel_batch_norm=False,
        head="sed",
        frequency_pool="mean",
        frame_smoothing=False,
        hidden_features=None,
        dropout=0.2,
        hidden_dropout=0.0,
        n_dropouts=1,
        clip_pooling="logit",
        max_share=0.0,
        frame_shift=0,
        drop_path=0.0,
    )


@pytest.fixture
def spec(frontend: FrontEndConfig, model_config: ModelConfig) -> ModelSpec:
    return ModelSpec(
        labels=tuple(TONES_HZ),
        sample_rate_hz=SAMPLE_RATE_HZ,
        frontend=frontend,
        model=model_config,
    )


@pytest.fixture
def lively_model(spec: ModelSpec) -> BirdModel:
    """An untrained model whose scores differ between clips.

    A fresh network in evaluation mode divides by the wrong statistics, and says the same of all.
    """
    model = build_model(spec, seed=3)
    wave = torch.randn(64, spec.window_samples, generator=torch.Generator().manual_seed(1))
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        model.train()(wave.cumsum(dim=1) * torch.logspace(-5, -2, 64)[:, None])
    return model.eval()


@pytest.fixture
def train_config() -> TrainConfig:
    return TrainConfig.from_tree(
        {
            "epochs": 3,
            "max_epochs": None,
            "clips_per_epoch": 32,
            "batch_size": 8,
            "accumulate_batches": 1,
            "optimiser": "adamw",
            "lr": 5e-3,
            "backbone_lr_share": 1.0,
            "trainable": "all",
            "schedule": "cosine",
            "schedule_every": "step",
            "warmup_epochs": 0.5,
            "initial_lr_share": 0.0,
            "final_lr_share": 0.0,
            "weight_decay": 0.01,
            "gradient_clip_norm": 1.0,
            "gradient_clip_value": None,
            "ema_decay": 0.8,
            "swa_epochs": None,
            "precision": "float32",
            "devices": 1,
            "nodes": 1,
            "validate_every_epochs": 2,
            "val_step_s": 1.0,
            "select": "last",
            "soup_size": 2,
            "window_s": 1.0,
            "min_rating": 0.0,
            "sampler": "inverse_sqrt",
            "copies_up_to": None,
            "max_per_class": None,
            "crop_place": "active",
            "short_clips": "anywhere",
            "self_mixup_s": None,
            "scored_labels": None,
            "scored_share": 0.0,
            "noise_share": 0.0,
            "secondary_label_value": 1.0,
            "label_smoothing": 0.01,
            "smoothing": "spread",
            "rating_weight": False,
            "background_weight": 1.0,
            "loss": "bce",
            "clip_loss_weight": 1.0,
            "frame_loss_weight": 0.5,
            "soft_auc_weight": 0.0,
            "soft_auc_on": "probability",
            "loss_sum": False,
            "mixup": {
                "probability": 0.5,
                "per_batch": False,
                "signal": "mean",
                "labels": "union",
                "beta": 1.0,
                "gain_draw": "db",
                "gain_min_db": -6.0,
                "gain_max_db": 6.0,
                "match_level": "rms",
                "third_probability": 0.0,
                "normalise_peak": False,
            },
            "noise": [
                {
                    "kind": "recordings",
                    "recordings": "*",
                    "mode": "snr_rms",
                    "low": 0.0,
                    "high": 20.0,
                    "probability": 0.5,
                }
            ],
            "noise_at_most_one": False,
            "filtering": {"probability": 0.0, "min_db": -20.0, "n_points": 4},
            "low_pass": {
                "probability": 0.0,
                "cutoff_min_hz": 500.0,
                "cutoff_max_hz": 2000.0,
                "slope_db_per_octave": 12.0,
            },
            "gain": {"probability": 0.5, "range_db": 6.0, "transition_share": 0.0},
            "pitch_shift": {"probability": 0.0, "range_semitones": 4.0},
            "time_shift": {"probability": 0.0, "max_share": 0.5},
            "selective_mixup": {"probability": 0.0, "beta": 1.0},
            "image_mixup": {
                "probability": 0.0,
                "per_batch": False,
                "labels": "blend",
                "beta": 1.0,
            },
            "tilt": {"probability": 0.0, "max_share": 0.5},
            "power": {"probability": 0.0, "exponent_min": 0.5, "exponent_max": 2.0},
            "masks": {
                "time_probability": 0.5,
                "n_time": 1,
                "time_share": 0.2,
                "frequency_probability": 0.5,
                "n_frequency": 1,
                "frequency_share": 0.1,
                "random_number": False,
                "per_batch": False,
                "fill": "mean",
            },
        },
        "test",
    )
