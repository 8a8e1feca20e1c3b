"""Model folders: `weights.safetensors` and `model.json`, checked strictly, never unpickled.

The card says all that is needed to use the weights: front end, sample rate, network and labels in
order; and where they came from: training params, hashes of the data, versions. A folder may also
hold a backbone alone, to start other networks from.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bclef.backbones import architecture
from bclef.config import ConfigError, Scalar
from bclef.models import BirdModel, ModelError, ModelSpec, load_timm_weights
from bclef.tables import TableError, atomic_dir, read_json, write_json

_LOG = logging.getLogger(__name__)

WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "model.json"
_PACKAGES = ("torch", "timm", "lightning")
_CONSTANTS = "spectrogram."
"""Tensors under this name follow from the card and are not stored."""
_BACKBONE = ("backbone.", "mel_norm.")
"""What the names of a backbone's tensors begin with; all others are the head's."""


class ModelCard(ModelSpec):
    """Contents of `model.json`: the `ModelSpec`, and how its weights came to be."""

    version: Literal[2]
    """Layout of the model folder."""
    kind: Literal["model", "backbone"]
    """Whether all weights are there, or those of the backbone alone; then there are no labels."""
    started_from: str
    """Where the weights started: `random`, `timm`, or a folder."""
    training: dict[str, Scalar]
    """Settings of the run that made the weights, by name in params.yaml."""
    data: dict[str, str]
    """SHA-256 of each table that was trained on, by path."""
    packages: dict[str, str]
    """Versions of the packages that the weights depend on."""


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` found, in tensors and classes."""

    n_tensors_matched: int
    """Tensors taken over, those of the class layers not counted."""
    n_tensors_fresh: int
    """Tensors that kept the start they had, those of the class layers not counted."""
    n_classes_matched: int
    """Classes whose rows of the class layers were taken over."""
    n_classes_fresh: int
    """Classes whose rows kept the start they had."""


def make_card(
    spec: ModelSpec,
    started_from: str,
    training: Mapping[str, Scalar],
    data: Mapping[str, str],
) -> ModelCard:
    """Returns the card of a model; versions are those of this process."""
    return ModelCard(
        **{name: getattr(spec, name) for name in ModelSpec.model_fields},
        version=2,
        kind="model",
        started_from=started_from,
        training=dict(training),
        data=dict(data),
        packages={name: version(name) for name in _PACKAGES},
    )


def file_hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Returns the SHA-256 of each file, by its path as given; for `ModelCard.data`."""
    return {path.as_posix(): sha256(path.read_bytes()).hexdigest() for path in paths}


def save_model(model: BirdModel, directory: Path, card: ModelCard) -> None:
    """Writes the model folder, whole or not at all.

    Raises:
        ModelError: `card` describes another network than `model`.
    """
    differing = [f for f in ModelSpec.model_fields if getattr(card, f) != getattr(model.spec, f)]
    if differing:
        raise ModelError(f"{directory}: the card and the model differ in {', '.join(differing)}")
    tensors = {name: tensor.contiguous().cpu() for name, tensor in _stored(model).items()}
    _write_folder(directory, tensors, card)


def read_card(directory: Path) -> ModelCard:
    """Returns the card of the model folder `directory`.

    Raises:
        ModelError: No card there, or not one of this version with every field as it should be.
    """
    path = directory / CARD_FILE
    try:
        return ModelCard.from_tree(read_json(path), str(path))
    except (TableError, ConfigError) as error:
        raise ModelError(f"no model of this version in {directory}: {error}") from error


def load_model(directory: Path) -> tuple[BirdModel, ModelCard]:
    """Returns the model in `directory`, in evaluation mode on the CPU, and its card.

    Raises:
        ModelError: A file is missing or broken, tensors and card do not fit each other, or there is
            a backbone alone.
    """
    card = read_card(directory)
    if card.kind == "backbone":
        raise ModelError(
            f"{directory}: holds a backbone alone, which cannot score; expected a whole model: "
            "train one that starts from it"
        )
    # Weights are about to be replaced, so the seed has no bearing; the global one is left alone.
    with torch.random.fork_rng(devices=[]):
        model = BirdModel(card)
    saved, expected = _read_tensors(directory), _stored(model)
    if wrong := sorted(_differing(saved, expected)):
        raise ModelError(
            f"{directory / WEIGHTS_FILE}: {len(wrong)} of {len(expected)} tensors are missing, "
            f"unknown or of another shape than {CARD_FILE} says, such as {wrong[0]}; "
            "take both files from the same model"
        )
    model.load_state_dict(saved, strict=False)
    return model.eval(), card


def load_weights(model: BirdModel, directory: Path, *, with_head: bool) -> LoadReport:
    """Puts the weights in `directory` into `model` and returns what was taken over.

    Tensors are matched by name and shape, but layers with one row per class by label: class lists
    may differ in members and order.

    Args:
        model: A network whose backbone is that of the folder.
        directory: Model folder, of either kind.
        with_head: Whether the head is taken over too, as far as it fits; else it stays as it is.

    Raises:
        ModelError: The folder holds another backbone, one for another number of channels, or is
            not whole.
    """
    card = read_card(directory)
    _check_backbone(card, model.spec, directory)
    saved, own = _read_tensors(directory), _stored(model)
    if not with_head:
        saved = {name: tensor for name, tensor in saved.items() if name.startswith(_BACKBONE)}
    layers = model.head.class_layers
    class_rows = {f"head.{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    shared = own.keys() - class_rows
    matched = {name for name in shared & saved.keys() if saved[name].shape == own[name].shape}
    rows = _row_pairs(card.labels, model.spec.labels)
    n_classes = 0
    with torch.no_grad():
        for name in matched:
            own[name].copy_(saved[name])
        if all(_fits(name, saved, own) for name in class_rows):
            n_classes = len(rows)
            for name in class_rows:
                own[name][[new for _, new in rows]] = saved[name][[old for old, _ in rows]]
    return LoadReport(
        n_tensors_matched=len(matched),
        n_tensors_fresh=len(shared) - len(matched),
        n_classes_matched=n_classes,
        n_classes_fresh=len(model.spec.labels) - n_classes,
    )


def initialise(model: BirdModel, directory: Path | None, with_head: bool) -> str:
    """Gives `model` the weights that it starts from and returns their name for its card.

    Args:
        model: As `build_model` made it.
        directory: Model folder to start from, of either kind; None for timm's weights if
            `model.pretrained` asks for them, else the random ones that it has.
        with_head: Whether the head of that folder is taken over too, as far as it fits.

    Raises:
        ModelError: As `load_weights`.
    """
    if directory is not None:
        report = load_weights(model, directory, with_head=with_head)
        _LOG.info(
            "starting from %s: %d tensors and %d classes taken over, %d and %d begin afresh",
            directory, report.n_tensors_matched, report.n_classes_matched,
            report.n_tensors_fresh, report.n_classes_fresh,
        )  # fmt: skip
        return directory.as_posix()
    return "timm" if model.spec.model.pretrained and load_timm_weights(model) else "random"


def extract_backbone(model_dir: Path, directory: Path) -> int:
    """Writes the backbone in `model_dir` to a folder of its own and returns its number of tensors.

    A folder of a backbone that stands there is replaced.

    Args:
        model_dir: Model folder.
        directory: Folder to write, for `initialise`; `load_model` refuses it.

    Raises:
        ModelError: `model_dir` is no whole model folder, or `directory` holds something else.
    """
    card, tensors = read_card(model_dir), _read_tensors(model_dir)
    _check_replaceable(directory)
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith(_BACKBONE)}
    alone = card.model_copy(update={"kind": "backbone", "labels": ()})
    _write_folder(directory, kept, alone)
    return len(kept)


def _check_backbone(card: ModelCard, spec: ModelSpec, directory: Path) -> None:
    """Refuses weights that are not for the backbone of `spec`."""
    if architecture(card.model.backbone) != architecture(spec.model.backbone):
        raise ModelError(
            f"{directory}: holds {card.model.backbone}, expected {spec.model.backbone}; start from "
            "another folder or set model.backbone to what this one holds"
        )
    if card.frontend.n_channels != spec.frontend.n_channels:
        raise ModelError(
            f"{directory}: holds a backbone for images of {card.frontend.n_channels} channels, "
            f"expected {spec.frontend.n_channels}: set frontend.channels to what it was trained "
            f"on, {card.frontend.channels}, or start from another folder"
        )


def _check_replaceable(directory: Path) -> None:
    """Refuses to write over anything but a backbone's folder or an empty one."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    files = {WEIGHTS_FILE, CARD_FILE}
    if not directory.is_dir() or {entry.name for entry in directory.iterdir()} != files:
        raise ModelError(f"{directory}: holds other files, which stay; name a new folder")
    if read_card(directory).kind != "backbone":
        raise ModelError(f"{directory}: holds a whole model, which stays; name a new folder")


def _write_folder(directory: Path, tensors: Mapping[str, Tensor], card: ModelCard) -> None:
    with atomic_dir(directory) as temporary:
        save_file(dict(tensors), temporary / WEIGHTS_FILE)
        write_json(temporary / CARD_FILE, card.model_dump(mode="json"))


def _stored(model: BirdModel) -> dict[str, Tensor]:
    """The tensors of `model` that a folder holds; they share memory with the model."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith(_CONSTANTS)}


def _read_tensors(directory: Path) -> dict[str, Tensor]:
    path = directory / WEIGHTS_FILE
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; run the stage that writes this model") from error
    except SafetensorError as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error})") from error


def _differing(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> set[str]:
    return {
        name
        for name in saved.keys() | expected.keys()
        if name not in saved or name not in expected or saved[name].shape != expected[name].shape
    }


def _row_pairs(saved: tuple[str, ...], wanted: tuple[str, ...]) -> list[tuple[int, int]]:
    """(row in the file, row in the model) of each label that both have."""
    positions = {label: row for row, label in enumerate(saved)}
    return [(positions[label], row) for row, label in enumerate(wanted) if label in positions]


def _fits(name: str, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    return name in saved and saved[name].shape[1:] == own[name].shape[1:]
