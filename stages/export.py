"""Stage `export`: one graph from waveform to probabilities; fails where the runtimes disagree."""

from pathlib import Path

import numpy as np

from bclef.config import Seed
from bclef.credits import credits_of, read_credits
from bclef.export import (
    ExportConfig,
    ExportInputs,
    chosen_folders,
    export_model,
    probe_windows,
)
from bclef.modelfiles import read_card
from bclef.stage import stage
from bclef.store import Store
from bclef.tables import read_table

CLASSES_NEEDS = {"label": "string", "scientific_name": "string", "common_name": "string?"}

N_PROBES = 16
"""Recorded windows in the parity gate, beside the synthetic ones."""

if __name__ == "__main__":
    with stage("export") as run:
        config = run.params.section(ExportConfig, "export")
        rng = np.random.default_rng(run.params.value("seed", Seed))
        model_dirs = chosen_folders(Path("models"), config)
        is_student = any(folder.parent.name == "distill" for folder in model_dirs)
        with Store(Path("data/features")) as store:
            fetched = read_credits(Path("data/ATTRIBUTION.csv"))
            used = credits_of(store.index, fetched, with_unlabelled=is_student)
            probes = probe_windows(store, read_card(model_dirs[0]), N_PROBES, rng)
        inputs = ExportInputs(
            model_dirs=model_dirs,
            classes=read_table(Path("data/classes.parquet"), CLASSES_NEEDS),
            credits=used,
            probes=probes,
        )
        summary = export_model(inputs, Path("models/export"), config, rng)
        run.write_metrics(summary.tree())
        run.log_model(Path("models/export"))
