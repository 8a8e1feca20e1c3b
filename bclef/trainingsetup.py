"""What a training stage sets up before its training: tables, settings, a place for checkpoints."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bclef.clipsampling import labelled_recordings
from bclef.config import Scalar, Seed
from bclef.crops import WaveStore
from bclef.frontend import FrontEndConfig
from bclef.modelfiles import CARD_FILE, WEIGHTS_FILE, file_hashes
from bclef.models import ModelConfig, ModelSpec
from bclef.stage import StageRun
from bclef.store import Store
from bclef.tables import read_table
from bclef.taxonomy import ClassList
from bclef.trainconfig import TrainConfig

SPLITS_NEEDS = {"recording_id": "string", "group": "string", "fold": "int64?"}


@dataclass(frozen=True)
class TrainingSetup:
    """What all trainings need alike."""

    store: WaveStore
    """The feature store."""
    splits: pd.DataFrame
    """recording_id, group, fold (null: in no fold)."""
    sample_rate_hz: int
    """Of the store."""
    frontend: FrontEndConfig
    """The front end."""
    model: ModelConfig
    """The network."""
    phases: tuple[TrainConfig, ...]
    """Settings of each phase, at least one; what is not of a phase is as in the last."""
    seed: int
    """Of everything random."""
    work_dir: Path
    """For checkpoints; it belongs to this training with these settings and data alone."""
    on_metrics: Callable[[Mapping[str, float], int], None]
    """Is told the figures of each epoch."""
    params: Mapping[str, Scalar]
    """Declared params, for the model card."""
    data: Mapping[str, str]
    """Hashes of tables and models, for the model card."""

    def recordings(self, classes: ClassList) -> pd.DataFrame:
        """Returns the labelled rows of the feature index with their group and fold."""
        return labelled_recordings(self.store.index, classes).merge(self.splits, on="recording_id")

    def clip_samples(self, phase: TrainConfig) -> int:
        """Returns the length of the clips of `phase`, which the network's input need not have."""
        return round(phase.window_s * self.sample_rate_hz)

    def spec(self, classes: ClassList) -> ModelSpec:
        """Returns the shape of a network over `classes`."""
        return ModelSpec(
            labels=classes.labels,
            sample_rate_hz=self.sample_rate_hz,
            frontend=self.frontend,
            model=self.model,
        )


@contextmanager
def open_setup(
    run: StageRun, phases: tuple[TrainConfig, ...], *inputs: Path
) -> Iterator[TrainingSetup]:
    """Gives what every training needs, from the stage's params and the tables in its workspace.

    Args:
        run: The stage; it must declare seed, audio.sample_rate_hz, frontend and model.
        phases: Settings of each phase.
        inputs: What the result depends on besides features and splits: tables, model folders.

    Raises:
        ConfigError: A section is not as it should be.
        TableError: Features or splits are missing.
    """
    features, splits = Path("data/features"), Path("data/splits.parquet")
    files = [features / "index.parquet", splits, Path("data/classes.parquet")]
    for path in inputs:
        files += [path / WEIGHTS_FILE, path / CARD_FILE] if path.is_dir() else [path]
    data = file_hashes(files)
    with Store(features) as store:
        yield TrainingSetup(
            store=store,
            splits=read_table(splits, SPLITS_NEEDS),
            sample_rate_hz=run.params.value("audio.sample_rate_hz", int),
            frontend=run.params.section(FrontEndConfig, "frontend"),
            model=run.params.section(ModelConfig, "model"),
            phases=phases,
            seed=run.params.value("seed", Seed),
            work_dir=run.work_dir(*(f"{path} {digest}" for path, digest in sorted(data.items()))),
            on_metrics=run.log_metrics,
            params=run.params.flat(),
            data=data,
        )
