import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from bclef.cli import main
from bclef.modelfiles import (
    ModelCard,
    extract_backbone,
    file_hashes,
    initialise,
    load_model,
    load_weights,
    make_card,
    read_card,
    save_model,
)
from bclef.models import BirdModel, ModelError, ModelSpec, build_model


def card_of(model: BirdModel) -> ModelCard:
    return make_card(model.spec, "random", {"train.lr": 0.001, "model.head": "sed"}, {"a": "b"})


@pytest.fixture
def saved(lively_model: BirdModel, tmp_path: Path) -> tuple[BirdModel, Path]:
    save_model(lively_model, tmp_path / "model", card_of(lively_model))
    return lively_model, tmp_path / "model"


def changed(spec: ModelSpec, **model: object) -> ModelSpec:
    return ModelSpec.from_tree(spec.model_dump() | {"model": spec.model.model_dump() | model}, "t")


def relabelled(spec: ModelSpec, *labels: str) -> ModelSpec:
    return spec.model_copy(update={"labels": labels})


def test_loaded_model_scores_as_the_saved_one(saved: tuple[BirdModel, Path]) -> None:
    model, directory = saved
    loaded, card = load_model(directory)
    wave = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(wave), model(wave))
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
    report = load_weights(other, directory, with_head=True)
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


def test_without_head_the_head_stays_as_it_is(
    saved: tuple[BirdModel, Path], spec: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    model, directory = saved
    other = build_model(spec, seed=4)
    before = {name: tensor.clone() for name, tensor in other.head.state_dict().items()}
    with caplog.at_level("INFO"):
        assert initialise(other, directory, with_head=False) == directory.as_posix()
    assert all(torch.equal(before[name], other.head.state_dict()[name]) for name in before)
    n_tensors = len(model.backbone.state_dict())
    said = f"{n_tensors} tensors and 0 classes taken over, 0 and 4 begin afresh"
    assert said in caplog.text
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(other.backbone.state_dict()[name], tensor)


def test_hidden_layer_and_band_norm_come_along(spec: ModelSpec, tmp_path: Path) -> None:
    wide = changed(spec, hidden_features=8, mel_batch_norm=True, frequency_pool="gem")
    model = build_model(wide, seed=1)
    model.state_dict()["mel_norm.norm.running_mean"].fill_(7.0)
    model.state_dict()["head.pool.exponent"].fill_(2.0)
    save_model(model, tmp_path / "model", card_of(model))
    whole, bare = build_model(wide, seed=2), build_model(wide, seed=2)
    report = load_weights(whole, tmp_path / "model", with_head=True)
    assert report.n_tensors_fresh == 0
    assert report.n_classes_matched == 4
    for name, tensor in model.state_dict().items():
        assert torch.equal(whole.state_dict()[name], tensor), name
    report = load_weights(bare, tmp_path / "model", with_head=False)
    assert report.n_tensors_fresh == 3  # hidden weight and bias, exponent
    tensors, trained = bare.state_dict(), model.state_dict()
    assert torch.equal(tensors["mel_norm.norm.running_mean"], torch.full((32,), 7.0))
    assert tensors["head.pool.exponent"] == 3.0
    assert not torch.equal(tensors["head.embed.1.weight"], trained["head.embed.1.weight"])


def test_other_hidden_layer_stays_fresh(saved: tuple[BirdModel, Path], spec: ModelSpec) -> None:
    model, directory = saved
    wide = build_model(changed(spec, hidden_features=16), seed=4)
    report = load_weights(wide, directory, with_head=True)
    assert (report.n_classes_matched, report.n_classes_fresh) == (0, 4)
    assert report.n_tensors_fresh == 2
    assert report.n_tensors_matched == len(model.backbone.state_dict())


def test_other_backbone_is_refused(saved: tuple[BirdModel, Path], spec: ModelSpec) -> None:
    other = build_model(changed(spec, backbone="lcnet_050"), seed=0)
    with pytest.raises(ModelError, match="holds lcnet_035, expected lcnet_050"):
        load_weights(other, saved[1], with_head=False)


def test_backbone_is_the_same_whatever_the_tag_of_its_weights(
    saved: tuple[BirdModel, Path], spec: ModelSpec
) -> None:
    tree = json.loads((saved[1] / "model.json").read_text())
    edit(saved[1], model=tree["model"] | {"backbone": "lcnet_035.some_weights"})
    assert load_weights(build_model(spec, seed=0), saved[1], with_head=True).n_tensors_fresh == 0


def test_backbone_for_other_channels_is_refused(
    saved: tuple[BirdModel, Path], spec: ModelSpec
) -> None:
    frontend = spec.frontend.model_copy(update={"channels": "ramp"})
    other = build_model(spec.model_copy(update={"frontend": frontend}), seed=0)
    with pytest.raises(ModelError, match="for images of 1 channels, expected 3: set frontend"):
        load_weights(other, saved[1], with_head=False)


def test_extracted_backbone_starts_networks_but_does_not_score(
    saved: tuple[BirdModel, Path], spec: ModelSpec, tmp_path: Path
) -> None:
    model, directory = saved
    alone = tmp_path / "weights" / "mine"
    assert extract_backbone(directory, alone) == len(model.backbone.state_dict())
    assert all(name.startswith("backbone.") for name in load_file(alone / "weights.safetensors"))
    card = read_card(alone)
    assert (card.kind, card.labels, card.training) == ("backbone", (), card_of(model).training)
    with pytest.raises(ModelError, match="holds a backbone alone, which cannot score"):
        load_model(alone)
    other = build_model(relabelled(spec, "new"), seed=4)
    report = load_weights(other, alone, with_head=True)
    assert (report.n_classes_matched, report.n_classes_fresh) == (0, 1)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(other.backbone.state_dict()[name], tensor)
    # Taken out again, over itself or over the first, it is the same.
    extract_backbone(alone, tmp_path / "again")
    extract_backbone(directory, alone)
    for name in ("model.json", "weights.safetensors"):
        assert (alone / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_command_takes_a_backbone_out_of_a_model(
    saved: tuple[BirdModel, Path], tmp_path: Path
) -> None:
    model, directory = saved
    arguments = ["backbone", str(directory), "-o", str(tmp_path / "alone")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{len(model.backbone.state_dict())} tensors written to ")
    assert read_card(tmp_path / "alone").kind == "backbone"
    done = CliRunner().invoke(main, [*arguments[:3], str(directory)])
    assert done.exit_code == 1
    assert "holds a whole model, which stays" in done.output


def test_backbone_takes_no_other_folders_place(
    saved: tuple[BirdModel, Path], tmp_path: Path
) -> None:
    model_bytes = (saved[1] / "weights.safetensors").read_bytes()
    with pytest.raises(ModelError, match="holds a whole model, which stays"):
        extract_backbone(saved[1], saved[1])
    assert (saved[1] / "weights.safetensors").read_bytes() == model_bytes
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name in ("notes", "file"):
        with pytest.raises(ModelError, match=f"{name}: holds other files, which stay"):
            extract_backbone(saved[1], tmp_path / name)
    assert (tmp_path / "notes" / "a.txt").read_text() == "keep"
    (tmp_path / "empty").mkdir()
    extract_backbone(saved[1], tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("keep")
    with pytest.raises(ModelError, match="holds other files"):
        extract_backbone(saved[1], tmp_path / "empty")


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
        ({"version": 1}, "version"),
        ({"kind": "head"}, "kind"),
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
