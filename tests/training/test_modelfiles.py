import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bclef.modelfiles import (
    ModelCard,
    file_hashes,
    load_backbone,
    load_model,
    make_card,
    save_model,
)
from bclef.models import BirdModel, ModelError, ModelSpec, build_model


def card_of(model: BirdModel) -> ModelCard:
    return make_card(model.spec, "random", {"train.lr": 0.001, "model.head": "sed"}, {"a": "b"})


@pytest.fixture
def saved(lively_model: BirdModel, tmp_path: Path) -> tuple[BirdModel, Path]:
    save_model(lively_model, tmp_path / "model", card_of(lively_model))
    return lively_model, tmp_path / "model"


def relabelled(spec: ModelSpec, *labels: str) -> ModelSpec:
    return spec.model_copy(update={"labels": labels})


def test_loaded_model_scores_as_the_saved_one(saved: tuple[BirdModel, Path]) -> None:
    model, directory = saved
    loaded, card = load_model(directory)
    wave = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(wave).clip, model(wave).clip)
    assert not loaded.training
    assert card == card_of(model)
    assert card.labels == ("ani", "bee", "cro", "dov")


def test_folder_holds_two_files_and_nothing_pickled(saved: tuple[BirdModel, Path]) -> None:
    _, directory = saved
    assert sorted(path.name for path in directory.iterdir()) == [
        "model.json",
        "weights.safetensors",
    ]
    card = json.loads((directory / "model.json").read_text())
    assert card["labels"] == ["ani", "bee", "cro", "dov"]
    assert card["frontend"]["n_fft"] == 256
    assert card["packages"]["torch"] == torch.__version__.split("+")[0]
    assert not [name for name in load_file(directory / "weights.safetensors") if "spectro" in name]


def test_same_model_gives_the_same_bytes(saved: tuple[BirdModel, Path], tmp_path: Path) -> None:
    model, directory = saved
    save_model(model, tmp_path / "again", card_of(model))
    assert list(file_hashes(sorted(directory.iterdir())).values()) == list(
        file_hashes(sorted((tmp_path / "again").iterdir())).values()
    )


def test_rows_are_matched_by_label_whatever_their_order(
    saved: tuple[BirdModel, Path], spec: ModelSpec
) -> None:
    model, directory = saved
    other = build_model(relabelled(spec, "dov", "new", "ani"), seed=4)
    fresh = other.head.classify.weight[1].clone()
    report = load_backbone(other, directory)
    assert (report.n_classes_matched, report.n_classes_fresh) == (2, 1)
    assert report.n_tensors_fresh == 0
    assert report.n_tensors_matched == len(model.backbone.state_dict())
    for layer in ("classify", "attention"):
        ours, theirs = getattr(other.head, layer), getattr(model.head, layer)
        assert torch.equal(ours.weight[0], theirs.weight[3])
        assert torch.equal(ours.bias[2], theirs.bias[0])
    assert torch.equal(other.head.classify.weight[1], fresh)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(other.backbone.state_dict()[name], tensor)


def test_other_hidden_layer_stays_fresh(saved: tuple[BirdModel, Path], spec: ModelSpec) -> None:
    model, directory = saved
    wide = spec.model_copy(update={"model": spec.model.model_copy(update={"hidden_features": 16})})
    report = load_backbone(build_model(wide, seed=4), directory)
    assert (report.n_classes_matched, report.n_classes_fresh) == (0, 4)
    assert report.n_tensors_fresh == 2
    assert report.n_tensors_matched == len(model.backbone.state_dict())


def test_other_backbone_is_refused(saved: tuple[BirdModel, Path], spec: ModelSpec) -> None:
    other = spec.model_copy(
        update={"model": spec.model.model_copy(update={"backbone": "lcnet_050"})}
    )
    with pytest.raises(ModelError, match="holds lcnet_035, expected lcnet_050"):
        load_backbone(build_model(other, seed=0), saved[1])


def test_card_of_another_model_is_refused(spec: ModelSpec, tmp_path: Path) -> None:
    model = build_model(spec, seed=0)
    other = make_card(relabelled(spec, "x", "y"), "random", {}, {})
    with pytest.raises(ModelError, match="differ in labels"):
        save_model(model, tmp_path / "model", other)
    assert not (tmp_path / "model").exists()


def edit(directory: Path, **changes: object) -> None:
    path = directory / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_card_with_other_classes_than_weights_is_refused(saved: tuple[BirdModel, Path]) -> None:
    edit(saved[1], labels=["ani", "bee", "cro"])
    with pytest.raises(ModelError, match=r"4 of \d+ tensors are missing, unknown or of another"):
        load_model(saved[1])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"surprise": 1}, "surprise"),
        ({"sample_rate_hz": "8000"}, "sample_rate_hz"),
        ({"version": 2}, "version"),
    ],
)
def test_broken_card_is_refused(
    saved: tuple[BirdModel, Path], changes: dict[str, object], fault: str
) -> None:
    edit(saved[1], **changes)
    with pytest.raises(ModelError, match=fault):
        load_model(saved[1])


def test_missing_and_unknown_tensors_are_refused(saved: tuple[BirdModel, Path]) -> None:
    path = saved[1] / "weights.safetensors"
    tensors = load_file(path)
    tensors["stranger"] = tensors.pop("head.classify.bias")
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"2 of \d+ tensors"):
        load_model(saved[1])


def test_cut_weights_are_refused(saved: tuple[BirdModel, Path]) -> None:
    path = saved[1] / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        load_model(saved[1])


def test_missing_files_are_said(saved: tuple[BirdModel, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_model(tmp_path / "nowhere")
    (saved[1] / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"weights\.safetensors: no such file"):
        load_model(saved[1])
