"""How near a training step comes to the bare network, and what reading its clips costs.

The bare step runs front end, network, loss, gradient and optimiser on ready float clips; the real
one takes batches from the loader and augments them. Both take turns, with the model and the
settings of params.yaml, so that what else the machine does weighs on both alike. Goal: 0.9.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from bclef.clipsampling import labelled_recordings
from bclef.config import read_yaml
from bclef.dataset import Batch, EpochKeys, TrainingBatches, batch_loader
from bclef.features import FEATURE_INDEX
from bclef.frontend import FrontEndConfig
from bclef.models import BirdModel, ModelConfig, ModelSpec, build_model
from bclef.objective import training_loss
from bclef.store import VERSION, Store, step_samples
from bclef.streams import clip_sources
from bclef.tables import write_table
from bclef.taxonomy import ClassList
from bclef.training import TrainConfig
from bclef.transit import keep_memory

RATE_HZ = 32_000
N_CLASSES = 24
N_LABELLED, N_NOISE = 240, 30
RECORDING_S = 10.0
N_WARM = 2


def write_store(directory: Path) -> None:
    """Writes a feature store of noise to `directory`."""
    n_samples, n = round(RECORDING_S * RATE_HZ), N_LABELLED + N_NOISE
    rng = np.random.default_rng(0)
    with h5py.File(directory / "all.h5", "w") as file:
        file.attrs["version"], file.attrs["sample_rate_hz"] = VERSION, RATE_HZ
        pcm = file.create_dataset("audio", (n * n_samples,), "<i2")
        for first in range(0, len(pcm), n_samples):
            pcm[first : first + n_samples] = rng.integers(-9000, 9000, n_samples, np.int16)
        levels = rng.normal(-40, 6, n * n_samples // step_samples(RATE_HZ))
        file["activity"] = levels.astype(np.float32)
    is_noise = np.arange(n) >= N_LABELLED
    labels = [None if noise else f"c{row % N_CLASSES:02d}" for row, noise in enumerate(is_noise)]
    index = pd.DataFrame(
        {
            "recording_id": pd.Series([f"r{row:04d}" for row in range(n)], dtype="string"),
            "shard": pd.Series(["all.h5"] * n, dtype="string"),
            "first_sample": np.arange(n) * n_samples,
            "n_samples": n_samples,
            "role": pd.Series(np.where(is_noise, "noise", "focal"), dtype="string"),
            "label": pd.Series(labels, dtype="string"),
            "secondary_labels": [[] for _ in range(n)],
            "annotated": False,
            "rating": pd.Series([None] * n, dtype="float32"),
            "source": pd.Series(["noise"] * n, dtype="string"),
        }
    )
    write_table(index, directory / "index.parquet", FEATURE_INDEX)


def batches_and_model(directory: Path) -> tuple[TrainingBatches, BirdModel, TrainConfig]:
    """Returns batches of the store in `directory`, a network over their classes, and settings."""
    params = read_yaml(Path("params.yaml"))
    config = TrainConfig.from_tree(params["train"], "params.yaml", "train")
    classes = ClassList(tuple(f"c{number:02d}" for number in range(N_CLASSES)))
    spec = ModelSpec(
        labels=classes.labels,
        sample_rate_hz=RATE_HZ,
        frontend=FrontEndConfig.from_tree(params["frontend"], "params.yaml", "frontend"),
        model=ModelConfig.from_tree(params["model"], "params.yaml", "model"),
    )
    store = Store(directory)
    recordings = labelled_recordings(store.index, classes)
    sources = clip_sources(store, recordings, classes, config, RATE_HZ)
    batches = TrainingBatches(store, sources, config, round(config.window_s * RATE_HZ), 0)
    return batches, build_model(spec, seed=0).train(), config


def endless(batches: TrainingBatches) -> Iterator[Batch]:
    """Yields batches of one epoch after another, from one loader."""
    keys = EpochKeys(len(batches), rank=0, n_ranks=1)
    loader = batch_loader(batches, keys)
    for epoch in count():
        keys.set_epoch(epoch)
        yield from loader


def seconds(action: Callable[[], object]) -> float:
    """Returns the time that `action` takes, s."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def time_steps(directory: Path, n_steps: int) -> tuple[float, float]:
    """Returns the median times of a bare and of a real step, s."""
    batches, model, config = batches_and_model(directory)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr)
    stream = endless(batches)
    ready = next(stream)
    wave, target = ready.wave.float() / 32768, ready.target

    def step(loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def bare() -> None:
        logits = model.features(model.images(wave)).clip
        step(binary_cross_entropy_with_logits(logits, target))

    def real() -> None:
        step(training_loss(model, next(stream), config))

    times = [(seconds(bare), seconds(real)) for _ in range(N_WARM + n_steps)][N_WARM:]
    bare_s, real_s = (statistics.median(column) for column in zip(*times, strict=True))
    return bare_s, real_s


def time_reading(directory: Path, n_batches: int) -> tuple[float, float]:
    """Returns the median time to make a batch, s, and the crops that are read for one."""
    batches, _, _ = batches_and_model(directory)
    stream = endless(batches)
    n_crops = [len(batch.wave) + len(batch.noise) for batch in islice(stream, n_batches)]
    times = [seconds(lambda: next(stream)) for _ in range(n_batches)]
    return statistics.median(times), statistics.mean(n_crops)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30, help="steps of either kind")
    n_steps = parser.parse_args().steps
    if not torch.cuda.is_available():
        keep_memory()  # as a training does
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        write_store(directory)
        batch_s, n_crops = time_reading(directory, n_steps)
        bare_s, real_s = time_steps(directory, n_steps)
    print(f"a batch      {1000 * batch_s:.1f} ms, {n_crops / batch_s:.0f} crops a second")
    print(f"bare step    {1 / bare_s:.2f} a second")
    print(f"real step    {1 / real_s:.2f} a second, {bare_s / real_s:.3f} of the bare one")


if __name__ == "__main__":
    main()
