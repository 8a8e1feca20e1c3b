"""Exports trained models as one graph from raw waveform to probabilities, or refuses to.

A fold ensemble shares one front end, and its members' probabilities become one. The folder
takes its name only when every runtime agrees with torch within the tolerances; `exportfolder` says
what is in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.random import Generator
from pydantic import Field

from bclef.audio import Wave
from bclef.config import Section
from bclef.credits import licence_counts, write_credits
from bclef.crops import WaveStore, n_samples_by_id, read_crops, window_crops
from bclef.exportfolder import (
    ATTRIBUTION_FILE,
    CARD_FILE,
    CARD_VERSION,
    CREDITS_FILE,
    LABELS_FILE,
    ONNX_FILE,
    PARITY_FILE,
    ExportError,
    describe_file,
)
from bclef.graphs import Combination, write_graphs
from bclef.modelfiles import ModelCard, load_model
from bclef.models import BirdModel, ModelSpec
from bclef.parity import (
    TORCH,
    Parity,
    make_probes,
    measure_parity,
    measure_speed,
    open_runtimes,
    torch_runtime,
)
from bclef.skipped import worked_folders
from bclef.tables import atomic_dir, write_json

_SHARED = ("labels", "sample_rate_hz", "frontend")
"""Fields of a card that the members of an ensemble must agree in, beside `_LENGTHS`."""
_LENGTHS = ("window_samples", "scored_samples", "part_samples")
"""Lengths, which follow from a card, that they must agree in too."""
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino")
_CLASS_COLUMNS = ["label", "scientific_name", "common_name"]


class ExportConfig(Section):
    """What is exported and how exactly (section `export`)."""

    ensemble: Literal["last", "student", "teachers"]
    """`student`: the last distilled one. `teachers`: the finetuned fold models together.
    `last`: the student, or the teachers where no round of distillation ran."""
    combine: Combination
    """How the probabilities of several models become one: their `mean`, `quadratic_mean` (root of
    the mean square), or `logit_mean` (sigmoid of the mean logit)."""
    opset: int = Field(ge=18, le=23)
    """ONNX operator set; a lower one is read by older runtimes."""
    tolerance_fp32: float = Field(gt=0, lt=1)
    """Greatest difference in probability from torch that float32 runtimes may have."""
    tolerance_fp16: float = Field(gt=0, lt=1)
    """The same for OpenVINO with weights stored as float16."""
    large_batch: int = Field(ge=4, le=256)
    """Windows in the greatest batch of the parity gate and the timing."""


@dataclass(frozen=True)
class ExportInputs:
    """What an export is made of."""

    model_dirs: Sequence[Path]
    """Model folders; more than one make an ensemble."""
    classes: pd.DataFrame
    """label, scientific_name, common_name of at least the models' labels."""
    credits: pd.DataFrame
    """The recordings that the models learnt from, as `credits.credits_of` returns them."""
    probes: Wave
    """Recorded clips for the parity gate, float32 [n, window_samples]."""


@dataclass(frozen=True)
class ExportSummary:
    """What an export came to."""

    n_models: int
    """Members of the ensemble."""
    n_classes: int
    """Outputs of the graph."""
    n_bytes: Mapping[str, int]
    """Size of each file."""
    max_abs_dp: Mapping[str, float]
    """Greatest difference from torch, in probability, by runtime."""
    ms_per_window: Mapping[str, Mapping[str, float]]
    """Time for one window by runtime and batch size, on the machine that exported."""

    def tree(self) -> dict[str, object]:
        """Returns it as a metrics file holds it."""
        return {
            "n_models": self.n_models,
            "n_classes": self.n_classes,
            "n_bytes_onnx": self.n_bytes[ONNX_FILE],
            "max_abs_dp": self.max_abs_dp,
            "ms_per_window": self.ms_per_window,
        }


def chosen_folders(models: Path, config: ExportConfig) -> list[Path]:
    """Returns the model folders below `models` that the params choose to export.

    Raises:
        ExportError: There is no such model, because its folds or rounds were passed over.
    """
    students = worked_folders(models / "distill")
    if config.ensemble == "teachers" or (config.ensemble == "last" and not students):
        if folders := worked_folders(models / "finetune"):
            return folders
        raise ExportError("no fold model to export: expected one of folds.f0, f1, ... to be true")
    if students:
        return [max(students, key=lambda folder: int(folder.name))]
    raise ExportError(
        "no student to export, as pseudo_label.rounds is 0: "
        "raise it, or set export.ensemble to last or teachers"
    )


def probe_windows(store: WaveStore, card: ModelSpec, n_windows: int, rng: Generator) -> Wave:
    """Returns recorded windows for the parity gate, float32 [n_windows, T], any recordings."""
    rows = store.index.iloc[rng.integers(len(store.index), size=n_windows)]
    durations_s = rows["n_samples"].to_numpy() / card.sample_rate_hz
    starts_s = np.floor(rng.random(n_windows) * durations_s)
    windows = pd.DataFrame({"recording_id": rows["recording_id"].to_numpy(), "start_s": starts_s})
    crops = window_crops(
        windows,
        n_samples_by_id(store.index),
        card.window_samples,
        card.sample_rate_hz,
        lead_samples=card.context_samples,
    )
    return read_crops(store, crops, card.window_samples)


def export_model(
    inputs: ExportInputs, directory: Path, config: ExportConfig, rng: np.random.Generator
) -> ExportSummary:
    """Returns the summary of the export that it wrote to `directory`, whole or not at all.

    When the gate is not passed, its figures are left beside the folder as
    `<directory>.failed.json`, and a folder that stood there before stands unchanged.

    Args:
        inputs: Models, names, credits and clips.
        directory: Export folder.
        config: What and how exactly.
        rng: Draws the synthetic clips of the gate.

    Raises:
        ExportError: The models do not fit together, a label has no name, the clips have another
            length, or a runtime differs from torch beyond its tolerance.
        ModelError: A model folder is broken.
    """
    models, cards = zip(*_load_members(inputs.model_dirs), strict=True)
    card: ModelCard = cards[0]
    if inputs.probes.ndim != 2 or inputs.probes.shape[1] != card.window_samples:
        raise ExportError(
            f"found probe clips of shape {inputs.probes.shape}, expected "
            f"[n, {card.window_samples}], the window of {inputs.model_dirs[0]}"
        )
    failed_path = directory.with_name(f"{directory.name}.failed.json")
    with atomic_dir(directory) as folder:
        _write_labels(folder / LABELS_FILE, card.labels, inputs.classes)
        write_graphs(folder, models, config.combine, config.opset)
        write_credits(inputs.credits, folder / ATTRIBUTION_FILE, folder / CREDITS_FILE)
        runtimes = open_runtimes(folder)
        parity = measure_parity(
            runtimes,
            torch_runtime(models, config.combine),
            make_probes(inputs.probes, rng),
            _tolerances(config),
            config.large_batch,
        )
        _require(parity, failed_path)
        write_json(folder / PARITY_FILE, parity.tree())
        n_bytes = _write_card(folder, inputs, cards, config.combine)
        speed = measure_speed(runtimes, card.window_samples, config.large_batch)
    failed_path.unlink(missing_ok=True)
    return ExportSummary(len(models), len(card.labels), n_bytes, parity.worst(), speed)


def _load_members(model_dirs: Sequence[Path]) -> list[tuple[BirdModel, ModelCard]]:
    """Returns the models and their cards, which are for one and the same use."""
    if not model_dirs:
        raise ExportError("no model to export; expected at least one trained model")
    members = [load_model(directory) for directory in model_dirs]
    first = members[0][1]
    for directory, (_, card) in zip(model_dirs, members, strict=True):
        shared = (*_SHARED, *_LENGTHS)
        if differing := [name for name in shared if getattr(card, name) != getattr(first, name)]:
            raise ExportError(
                f"{directory} and {model_dirs[0]} differ in {', '.join(differing)}; an ensemble "
                "shares one front end and class list: train its members with the same params"
            )
    return members


def _write_labels(path: Path, labels: Sequence[str], classes: pd.DataFrame) -> None:
    names = classes.set_index("label", drop=False)
    if unnamed := [label for label in labels if label not in names.index]:
        raise ExportError(
            f"{len(unnamed)} of {len(labels)} labels of the model are not among the "
            f"{len(classes)} classes, such as {unnamed[0]!r}; export with the classes it was "
            "trained on"
        )
    rows = names.loc[list(labels), _CLASS_COLUMNS].reset_index(drop=True).astype("string")
    rows.fillna("").to_csv(path, index_label="index", lineterminator="\n")


def _tolerances(config: ExportConfig) -> dict[str, float]:
    exact = dict.fromkeys((TORCH, "onnxruntime", "openvino_fp32"), config.tolerance_fp32)
    return {**exact, "openvino_fp16": config.tolerance_fp16}


def _require(parity: Parity, failed_path: Path) -> None:
    if faults := parity.faults():
        write_json(failed_path, parity.tree())
        raise ExportError(
            f"the exported graphs do not agree with torch in {len(faults)} cases: {faults[0]}; "
            f"all figures are in {failed_path}"
        )


def _write_card(
    folder: Path, inputs: ExportInputs, cards: Sequence[ModelCard], how: Combination
) -> dict[str, int]:
    """Writes the card and returns the size of each other file."""
    files = {
        path.relative_to(folder).as_posix(): describe_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    shared = cards[0].model_dump(mode="json", include=set(_SHARED))
    card = {
        **shared,
        **{name: getattr(cards[0], name) for name in _LENGTHS},
        "version": CARD_VERSION,
        "combine": how,
        "exported_from": [directory.as_posix() for directory in inputs.model_dirs],
        "licences": licence_counts(inputs.credits),
        "members": [card.model_dump(mode="json", exclude=set(_SHARED)) for card in cards],
        "packages": {name: version(name) for name in _PACKAGES},
        "files": files,
    }
    write_json(folder / CARD_FILE, card)
    return {name: (folder / name).stat().st_size for name in files}
