"""Params are what the file says, nothing undeclared, and every fault is named at once."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from bclef.config import ConfigError, Params, Section, Seed, read_yaml
from bclef.declared import declared_params, stage_items


class MixConfig(Section):
    """A section within a section."""

    probability: float = Field(ge=0, le=1)
    """Share of clips, 0 to 1."""
    share: float


class TrainConfig(Section):
    """Every kind of field that a section may have."""

    epochs: int = Field(gt=0)
    loss: Literal["bce", "focal"]
    amp: bool
    lr: float
    name: str
    band_hz: tuple[float, float]
    mixup: MixConfig
    noise: tuple[MixConfig, ...]
    limit: int | None
    size: float | Literal["auto"]


class OwnConfig(Section):
    """What one training has and the others do not."""

    rounds: int


class BandConfig(Section):
    """A section with a contradiction to refuse."""

    f_min_hz: float
    f_max_hz: float

    @model_validator(mode="after")
    def _band_is_not_empty(self) -> "BandConfig":
        if self.f_min_hz >= self.f_max_hz:
            raise ValueError(f"f_min_hz {self.f_min_hz} is not below f_max_hz {self.f_max_hz}")
        return self


GOOD = {
    "epochs": 3,
    "loss": "bce",
    "amp": True,
    "lr": 0.001,
    "name": "a",
    "band_hz": [50, 14000.0],
    "mixup": {"probability": 0.5, "share": 0},
    "noise": [],
    "limit": None,
    "size": "auto",
}

PARAMS = """
seed: 7
audio: {sample_rate_hz: 32000}
train: {epochs: 3, loss: bce, amp: true, lr: 1e-05, name: a, band_hz: [50, 14000],
        mixup: {probability: 0.5, share: 0}, limit: null, size: auto,
        noise: [{probability: 0.1, share: 0}, {probability: 0.2, share: 0}]}
finetune: {phases: null, lr: null, epochs: 9, mixup: {probability: null}, noise: null, rounds: 2}
folds: {f0: true, f1: false}
models: {b-0: {lr: 1}, b-1: {lr: 2}}
secret: {key: 1}
"""

DVC = """
stages:
  plain: {cmd: x, params: [seed, audio.sample_rate_hz]}
  none: {cmd: x}
  phase: {cmd: x, params: [train, finetune]}
  fold:
    matrix: {fold: [0, 1]}
    cmd: x
    params: [seed, "folds.f${item.fold}"]
  grid:
    matrix: {model: [b-0, b-1], fold: [0, 1]}
    cmd: x
    params: ["models.${item.model}.lr", "folds.f${ item.fold }"]
  each:
    foreach: [b-0, b-1]
    do: {cmd: x, params: ["models.${item}"]}
  named:
    foreach: {'0': {previous: b-0}, '1': {previous: b-1}}
    do: {cmd: x, params: ["models.${item.previous}.lr", "folds.f${key}"]}
  other:
    cmd: x
    params: [seed, {aug.yaml: [mixup.p]}, {whole.yaml: null}]
  broken:
    matrix: {fold: [0]}
    cmd: x
    params: ["folds.f${item.fault}"]
  absent: {cmd: x, params: [seed, train.epohcs, nothing]}
  clash: {cmd: x, params: [seed, {whole.yaml: [seed]}]}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.yaml").write_text(DVC)
    (tmp_path / "aug.yaml").write_text("mixup: {p: 0.25, q: 1}\n")
    (tmp_path / "whole.yaml").write_text("noise: {gain_db: -3}\nseed: 8\n")
    return tmp_path


@pytest.fixture
def other_root(root: Path) -> Path:
    (root / "whole.yaml").write_text("noise: {gain_db: -3}\n")
    return root


def faults(tree: object, cls: type[Section] = TrainConfig) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        cls.from_tree(tree, "params.yaml", "train")
    return sorted(str(caught.value).splitlines())


def test_good_section_loads_with_lists_as_tuples() -> None:
    config = TrainConfig.from_tree(GOOD, "params.yaml", "train")
    assert config.band_hz == (50.0, 14000.0)
    assert config.mixup == MixConfig(probability=0.5, share=0)
    assert config.size == "auto"


def test_int_is_taken_for_a_float_and_becomes_one() -> None:
    config = TrainConfig.from_tree({**GOOD, "lr": 1}, "params.yaml")
    assert type(config.lr) is float


def test_section_is_frozen() -> None:
    config = TrainConfig.from_tree(GOOD, "params.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        config.epochs = 4


def test_field_docstrings_are_descriptions() -> None:
    assert MixConfig.model_fields["probability"].description == "Share of clips, 0 to 1."


def test_all_faults_of_a_section_come_at_once_with_their_full_keys() -> None:
    tree = {
        "epohcs": 3,
        "loss": "bec",
        "amp": 1,
        "lr": "1e-3",
        "name": 5,
        "band_hz": [1, "2"],
        "mixup": {"probability": True, "probabilityx": 1, "share": 0},
        "noise": [{"probability": 0, "share": 1}, {"probability": 0, "share": "1"}],
        "limit": 1.5,
        "size": "large",
    }
    assert faults(tree) == [
        "params.yaml: train.amp: expected bool, got int 1",
        "params.yaml: train.band_hz[1]: expected float, got str '2'",
        "params.yaml: train.epochs: missing",
        "params.yaml: train.epohcs: unknown key, did you mean 'epochs'?",
        "params.yaml: train.limit: expected int, got float 1.5",
        "params.yaml: train.loss: 'bec' is none of ['bce', 'focal']",
        "params.yaml: train.lr: expected float, got str '1e-3'",
        "params.yaml: train.mixup.probability: expected float, got bool True",
        "params.yaml: train.mixup.probabilityx: unknown key, did you mean 'probability'?",
        "params.yaml: train.name: expected str, got int 5",
        "params.yaml: train.noise[1].share: expected float, got str '1'",
        "params.yaml: train.size: expected float, got str 'large' or 'large' is none of ['auto']",
    ]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("epochs", True, "expected int, got bool True"),
        ("epochs", 3.0, "expected int, got float 3.0"),
        ("epochs", 0, "expected greater than 0, got int 0"),
        ("epochs", None, "expected int, got null"),
        ("band_hz", "50-90", "expected list, got str '50-90'"),
        ("mixup", 0.5, "expected section, got float 0.5"),
        ("name", {"a": 1}, "expected str, got section with a"),
    ],
)
def test_value_of_another_kind_is_refused(field: str, value: object, said: str) -> None:
    assert faults({**GOOD, field: value}) == [f"params.yaml: train.{field}: {said}"]


def test_list_of_another_length_is_refused() -> None:
    assert faults({**GOOD, "band_hz": [1.0]}) == ["params.yaml: train.band_hz[1]: missing"]


def test_unknown_key_far_from_all_names_the_known_ones() -> None:
    assert faults({"rounds": 1, "zzz": 2}, OwnConfig) == [
        "params.yaml: train.zzz: unknown key, known are rounds"
    ]


def test_contradiction_between_fields_is_named_at_the_section() -> None:
    assert faults({"f_min_hz": 9, "f_max_hz": 5}, BandConfig) == [
        "params.yaml: train: f_min_hz 9.0 is not below f_max_hz 5.0"
    ]


def test_section_that_is_no_mapping_is_refused() -> None:
    assert faults([1], OwnConfig) == ["params.yaml: train: expected section, got list [1]"]


def test_numbers_follow_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1e-05\nb: 1e5\nc: no\nd: 1:30\ne: 0123\nf: .inf\n")
    assert read_yaml(path) == {
        "a": 1e-05, "b": 1e5, "c": "no", "d": "1:30", "e": 123, "f": float("inf")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "not YAML"),
        ("a: 1\na: 2", "duplicate key"),
        ("- 1", r"expected key: value lines, got list \[1\]"),
    ],
)
def test_broken_yaml_is_refused_with_its_path(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"a\.yaml: (?s:.*){said}"):
        read_yaml(path)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_that_numpy_would_refuse_is_refused_by_its_key(root: Path, seed: int) -> None:
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("seed: 7", f"seed: {seed}"))
    with pytest.raises(ConfigError, match=rf"params\.yaml: seed: .*{seed}"):
        Params.for_stage("plain", None, root).value("seed", Seed)


def test_missing_yaml_is_refused_and_an_empty_one_is_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "a.yaml") == {}


def test_stage_sees_only_what_it_declares(root: Path) -> None:
    params = Params.for_stage("plain", None, root)
    assert params.flat() == {"seed": 7, "audio.sample_rate_hz": 32000}
    assert params.value("seed", int) == 7
    assert Params.for_stage("none", None, root).flat() == {}


def test_undeclared_read_names_key_stage_and_cure(root: Path) -> None:
    params = Params.for_stage("plain", None, root)
    with pytest.raises(ConfigError, match=r"secret: stage 'plain' .* add 'secret' .* in dvc\.yaml"):
        params.section(MixConfig, "secret")
    with pytest.raises(ConfigError, match=r"secret\.key: stage 'plain' reads it"):
        params.value("secret.key", int)


def test_declaring_one_leaf_does_not_declare_its_section_or_its_prefix(root: Path) -> None:
    params = Params.for_stage("plain", None, root)
    with pytest.raises(ConfigError, match="audio: stage 'plain' reads it but does not declare"):
        params.section(MixConfig, "audio")
    with pytest.raises(ConfigError, match="does not declare"):
        params.value("audio.sample_rate_hz2", int)


def test_value_of_another_kind_names_its_key(root: Path) -> None:
    params = Params.for_stage("phase", None, root)
    with pytest.raises(ConfigError, match=r"params\.yaml: train\.epochs: expected str, got int 3"):
        params.value("train.epochs", str)
    with pytest.raises(ConfigError, match=r"params\.yaml: train\.nothing: missing"):
        params.value("train.nothing", int)
    assert params.value("train.band_hz", tuple[float, ...]) == (50.0, 14000.0)


def test_lists_are_json_text_when_flat(root: Path) -> None:
    assert Params.for_stage("phase", None, root).flat()["train.band_hz"] == "[50, 14000]"


@pytest.mark.parametrize(
    ("stage", "item", "keys"),
    [
        ("fold", "1", {"seed", "folds.f1"}),
        ("grid", "b-0-1", {"models.b-0.lr", "folds.f1"}),
        ("grid", "b-1-0", {"models.b-1.lr", "folds.f0"}),
        ("each", "b-1", {"models.b-1.lr"}),
        ("named", "1", {"models.b-1.lr", "folds.f1"}),
    ],
)
def test_templates_are_filled_by_name(root: Path, stage: str, item: str, keys: set[str]) -> None:
    assert Params.for_stage(stage, item, root).flat().keys() == keys


def test_items_are_named_as_dvc_names_them() -> None:
    assert list(stage_items({"matrix": {"a": ["x", {"y": 1}], "b": [True, 2]}})) == [
        "x-true", "x-2", "a1-true", "a1-2"
    ]  # fmt: skip
    assert list(stage_items({"foreach": [{"a": 1}, 5]})) == ["0", "1"]
    assert list(stage_items({"foreach": [False, 5]})) == ["false", "5"]


@pytest.mark.parametrize(
    ("stage", "item", "said"),
    [
        ("fold", "2", r"stages\.fold: found item '2', its items are 0, 1"),
        ("fold", None, "found item None, its items are 0, 1"),
        ("plain", "0", "stages.plain: found item '0', it has none"),
        ("plaim", None, "no stage 'plaim', did you mean 'plain'?"),
        ("broken", "0", r"nothing is called 'item\.fault' there"),
    ],
)
def test_stage_or_item_that_dvc_does_not_know_is_refused(
    root: Path, stage: str, item: str | None, said: str
) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        Params.for_stage(stage, item, root)


def test_declared_keys_that_are_missing_are_named_all_at_once(root: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Params.for_stage("absent", None, root)
    assert str(caught.value).splitlines() == [
        "params.yaml: train.epohcs: missing, but declared for 'absent' in dvc.yaml",
        "params.yaml: nothing: missing, but declared for 'absent' in dvc.yaml",
    ]


def test_params_of_other_files_are_read_from_them(other_root: Path) -> None:
    params = Params.for_stage("other", None, other_root)
    assert params.flat() == {"seed": 7, "mixup.p": 0.25, "noise.gain_db": -3}
    with pytest.raises(ConfigError, match=r"^aug\.yaml: mixup\.p: expected int"):
        params.value("mixup.p", int)


def test_key_declared_from_two_files_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"whole\.yaml: seed: .* from params\.yaml too"):
        Params.for_stage("clash", None, root)


def phases_of(
    root: Path, text: str = PARAMS, own: type[Section] = OwnConfig
) -> tuple[tuple[TrainConfig, ...], Section]:
    (root / "params.yaml").write_text(text)
    return Params.for_stage("phase", None, root).phases(TrainConfig, own, "finetune")


def faults_of_phases(root: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        phases_of(root, text)
    return sorted(str(caught.value).splitlines())


def listing(phases: str) -> str:
    """The params with a list of phases."""
    assert "phases: null" in PARAMS
    return PARAMS.replace("phases: null", f"phases: {phases}")


def test_null_inherits_and_a_value_overrides_at_any_depth(root: Path) -> None:
    (shared,), own = phases_of(root)
    assert (shared.lr, shared.epochs, shared.mixup.probability) == (1e-05, 9, 0.5)
    assert own == OwnConfig(rounds=2)


def test_false_and_zero_override_because_they_are_not_null(root: Path) -> None:
    text = PARAMS.replace("rounds: 2", "rounds: 2, amp: false").replace("lr: null", "lr: 0")
    (shared,), _ = phases_of(root, text)
    assert (shared.amp, shared.lr) == (False, 0.0)


def test_each_phase_overrides_what_the_training_has(root: Path) -> None:
    phases, own = phases_of(root, listing("[{loss: focal, epochs: 1}, {}, {mixup: {share: 1}}]"))
    assert [(p.loss, p.epochs, p.lr) for p in phases] == [
        ("focal", 1, 1e-05), ("bce", 9, 1e-05), ("bce", 9, 1e-05)
    ]  # fmt: skip
    assert [(p.mixup.probability, p.mixup.share) for p in phases] == [(0.5, 0), (0.5, 0), (0.5, 1)]
    assert own == OwnConfig(rounds=2)


def test_null_in_a_phase_is_a_value(root: Path) -> None:
    text = listing("[{}, {limit: null}]").replace("lr: null", "lr: null, limit: 4")
    phases, _ = phases_of(root, text)
    assert [phase.limit for phase in phases] == [4, None]
    assert faults_of_phases(root, listing("[{lr: null}]")) == [
        "params.yaml: finetune.phases[0].lr: expected float, got null"
    ]


def test_list_in_a_phase_is_replaced_whole(root: Path) -> None:
    noise = "[{probability: 1, share: 0}]"
    phases, _ = phases_of(root, listing(f"[{{noise: {noise}}}, {{noise: []}}, {{}}]"))
    assert [[mix.probability for mix in phase.noise] for phase in phases] == [[1], [], [0.1, 0.2]]


def test_faults_of_a_training_are_named_where_they_stand(root: Path) -> None:
    text = PARAMS.replace("rounds: 2", "loss: bec, roudns: 2, lrr: 1, phasse: 1")
    assert faults_of_phases(root, text.replace("amp: true", "amp: 1")) == [
        "params.yaml: finetune.loss: 'bec' is none of ['bce', 'focal']",
        "params.yaml: finetune.lrr: unknown key, did you mean 'lr'?",
        "params.yaml: finetune.phasse: unknown key, did you mean 'phases'?",
        "params.yaml: finetune.roudns: unknown key, did you mean 'rounds'?",
        "params.yaml: finetune.rounds: missing",
        "params.yaml: train.amp: expected bool, got int 1",
    ]


def test_faults_of_all_phases_come_at_once_with_their_place_in_the_list(root: Path) -> None:
    bad = "[{lrr: 1, loss: bec}, 3, {noise: [{share: 1}], mixup: {probabillity: 1}, rounds: 3}]"
    text = listing(bad).replace("epochs: 9", "epochs: 0").replace("amp: true", "amp: 1")
    assert faults_of_phases(root, text) == [
        "params.yaml: finetune.epochs: expected greater than 0, got int 0",
        "params.yaml: finetune.phases[0].loss: 'bec' is none of ['bce', 'focal']",
        "params.yaml: finetune.phases[0].lrr: unknown key, did you mean 'lr'?",
        "params.yaml: finetune.phases[1]: expected section, got int 3",
        "params.yaml: finetune.phases[2].mixup.probabillity: unknown key, "
        "did you mean 'probability'?",
        "params.yaml: finetune.phases[2].noise[0].probability: missing",
        "params.yaml: finetune.phases[2].rounds: holds for all phases, write it above them",
        "params.yaml: train.amp: expected bool, got int 1",
    ]


@pytest.mark.parametrize(
    ("phases", "found"),
    [("[]", "list []"), ("{lr: 1}", "section with lr"), ("2", "int 2"), ("''", "str ''")],
)
def test_phases_that_are_no_list_of_phases_are_refused(root: Path, phases: str, found: str) -> None:
    assert faults_of_phases(root, listing(phases)) == [
        f"params.yaml: finetune.phases: expected list of phases, or null for one, got {found}"
    ]


def test_missing_list_of_phases_is_refused(root: Path) -> None:
    assert faults_of_phases(root, PARAMS.replace("phases: null, ", "")) == [
        "params.yaml: finetune.phases: missing"
    ]


def test_training_that_is_no_section_is_refused(root: Path) -> None:
    assert faults_of_phases(root, "train: 3\nfinetune: {rounds: 1}\n") == [
        "params.yaml: train: expected section, got int 3"
    ]


def test_field_in_both_classes_of_a_training_is_a_fault_of_the_code(root: Path) -> None:
    class OwnPhases(OwnConfig):
        phases: int

    with pytest.raises(ValueError, match=r"both have \['phases'\]"):
        phases_of(root, own=OwnPhases)
    with pytest.raises(ValueError, match="both have"):
        Params.for_stage("phase", None, root).phases(OwnConfig, OwnConfig, "finetune")


def test_declared_params_name_file_and_key(root: Path) -> None:
    assert declared_params(read_yaml(root / "dvc.yaml"), "other", None) == [
        ("params.yaml", "seed"), ("aug.yaml", "mixup.p"), ("whole.yaml", None)
    ]  # fmt: skip
