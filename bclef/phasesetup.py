"""What a training stage sets up before its phase: tables, settings, a place for checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bclef.config import Seed
from bclef.frontend import FrontEndConfig
from bclef.modelfiles import WEIGHTS_FILE, file_hashes
from bclef.models import ModelConfig
from bclef.phases import PhaseSetup
from bclef.stage import StageRun
from bclef.store import Store
from bclef.tables import read_table
from bclef.training import TrainConfig

SPLITS_NEEDS = {"recording_id": "string", "group": "string", "fold": "int64?"}


@contextmanager
def open_setup(run: StageRun, train: TrainConfig, *inputs: Path) -> Iterator[PhaseSetup]:
    """Gives what every phase needs, from the stage's params and the tables in its workspace.

    Args:
        run: The stage; it must declare seed, audio.sample_rate_hz, frontend and model.
        train: Settings of the phase.
        inputs: What the result depends on besides features and splits: tables, model folders.

    Raises:
        ConfigError: A section is not as it should be.
        TableError: Features or splits are missing.
    """
    features, splits = Path("data/features"), Path("data/splits.parquet")
    files = [path / WEIGHTS_FILE if path.is_dir() else path for path in inputs]
    data = file_hashes([features / "index.parquet", splits, Path("data/classes.parquet"), *files])
    with Store(features) as store:
        yield PhaseSetup(
            store=store,
            splits=read_table(splits, SPLITS_NEEDS),
            sample_rate_hz=run.params.value("audio.sample_rate_hz", int),
            frontend=run.params.section(FrontEndConfig, "frontend"),
            model=run.params.section(ModelConfig, "model"),
            train=train,
            seed=run.params.value("seed", Seed),
            work_dir=run.work_dir(*(f"{path} {digest}" for path, digest in sorted(data.items()))),
            on_metrics=run.log_metrics,
            params=run.params.flat(),
            data=data,
        )
