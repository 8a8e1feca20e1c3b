"""Evaluation over a planted world whose scores are known beforehand."""

from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from bclef import evaluation, soundscapes
from bclef.evaluation import (
    PER_CLASS,
    WINDOWS,
    EvaluationInputs,
    evaluate,
)
from bclef.metrics import macro_roc_auc
from bclef.outoffold import out_of_fold
from bclef.scorecards import EvaluationError
from bclef.soundscapes import EvaluateConfig, PostprocessConfig
from bclef.tables import Schema, read_table, write_json, write_table
from bclef.taxonomy import ClassList
from bclef.windowscores import WINDOW_SCORES, read_fold_scores

RATE_HZ = 100
CLASSES = ClassList(("a", "b", "c"))
CONFIG = EvaluateConfig(step_s=5.0, min_overlap_s=0.5, threshold=0.5, n_replicates=100)
AS_IS = PostprocessConfig(kernel=None)
SOUNDSCAPES = {  # one species code per 5 s window: 0 is none, 1 to 3 are a to c
    "s1": [1, 2, 3, 0],
    "s2": [0, 1, 1, 2],
    "s3": [3, 3, 0, 1],
}


class PlantedStore:
    """Waveforms whose level says which species sings."""

    directory: Path

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    @property
    def index(self) -> pd.DataFrame:
        index = pd.read_json(self.directory / "index.json", dtype={"recording_id": "string"})
        return index.astype({"label": "string"})

    def read(self, recording_id: str) -> NDArray[np.int16]:
        codes = np.array(SOUNDSCAPES[recording_id], dtype=np.int16)
        return np.repeat(codes * 1000, 5 * RATE_HZ)[:-100]  # the last window is partial


class PlantedModel:
    """Hears the level of each window and is always right."""

    sample_rate_hz, scored_s, labels = RATE_HZ, 5.0, ("c", "b", "a")  # not the order of CLASSES

    def __init__(self, directory: Path) -> None: ...

    def predict_samples(self, wave: NDArray[np.float32], step_s: float) -> pd.DataFrame:
        n_step = round(step_s * RATE_HZ)
        levels = np.round(wave[::n_step] * 32.768).astype(int)
        table = pd.DataFrame({"start_s": np.arange(len(levels)) * step_s})
        table["end_s"] = table["start_s"] + 5
        for code, label in ((3, "c"), (2, "b"), (1, "a")):
            table[label] = np.where(levels == code, 0.9, 0.1).astype("float32")
        return table


def teacher(noise: float, seed: int) -> pd.DataFrame:
    """Window scores of all soundscapes, worse with more noise, rows shuffled."""
    generator = np.random.default_rng(seed)
    rows = [
        {"recording_id": name, "start_s": 5.0 * t, "end_s": 5.0 * t + 5}
        | {label: 0.5 * (code == k) for k, label in enumerate("abc", start=1)}
        for name, codes in SOUNDSCAPES.items()
        for t, code in enumerate(codes)
    ]
    table = pd.DataFrame(rows).astype({"recording_id": "string"})
    table[list("abc")] += noise * generator.random((len(table), 3))
    return table.sample(frac=1, random_state=seed)


def clip_scores(ids: list[str], right: float) -> pd.DataFrame:
    """Two windows per clip; the second holds the higher score of the true class."""
    rows = []
    for clip in ids:
        for start_s, share in ((0.0, 0.2), (5.0, 1.0)):
            scores = {label: right * share if label == clip[0] else 0.3 for label in "abc"}
            rows.append({"recording_id": clip, "start_s": start_s, "end_s": start_s + 5} | scores)
    return pd.DataFrame(rows).astype({"recording_id": "string"})


FOLDS = {0: ["a0", "b0", "c0", "c1"], 1: ["a2", "b2", "c2", "b3"]}


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationInputs:
    monkeypatch.setattr(evaluation, "Store", PlantedStore)
    monkeypatch.setattr(soundscapes, "Predictor", PlantedModel)
    clips = [clip for ids in FOLDS.values() for clip in ids]
    index = pd.DataFrame(
        {
            "recording_id": [*SOUNDSCAPES, *clips],
            "role": ["soundscape"] * 3 + ["focal"] * 8,
            "label": [None] * 3 + [clip[0] for clip in clips],
            "secondary_labels": [[] for _ in range(11)],
            "annotated": [True] * 3 + [False] * 8,
            "n_samples": [19 * RATE_HZ] * 11,
        }
    )
    index.to_json(tmp_path / "index.json")
    boxes = [
        (name, 5.0 * t + 1, 5.0 * t + 4, "abc"[code - 1])
        for name, codes in SOUNDSCAPES.items()
        for t, code in enumerate(codes)
        if code
    ]
    baseline = pd.DataFrame(0.5, index=range(8), columns=list("abc"))
    baseline.insert(0, "recording_id", pd.Series(clips, dtype="string"))
    return EvaluationInputs(
        model_dir=tmp_path,
        features_dir=tmp_path,
        classes=CLASSES,
        annotations=pd.DataFrame(boxes, columns=["recording_id", "start_s", "end_s", "label"]),
        splits=pd.DataFrame(
            [(clip, fold) for fold, ids in FOLDS.items() for clip in ids],
            columns=["recording_id", "fold"],
        ).astype({"fold": "Int64"}),
        teacher_scores={0: teacher(2.0, 1), 1: teacher(0.9, 2)},
        oof_scores={fold: clip_scores(ids, 0.9) for fold, ids in FOLDS.items()},
        baseline_scores=baseline,
    )


def without_soundscapes(inputs: EvaluationInputs) -> EvaluationInputs:
    path = inputs.features_dir / "index.json"
    index = pd.read_json(path)
    index[index["role"] == "focal"].reset_index(drop=True).to_json(path)
    return inputs


def test_model_that_hears_everything_scores_one_and_is_named_by_label(
    inputs: EvaluationInputs,
) -> None:
    found = evaluate(inputs, CONFIG, AS_IS, seed=0)
    card = found.metrics["soundscape"]
    assert {m: card[m]["value"] for m in ("macro_roc_auc", "padded_cmap", "f1_micro")} == {
        "macro_roc_auc": 1.0, "padded_cmap": 1.0, "f1_micro": 1.0,
    }  # fmt: skip
    assert (card["n_recordings"], card["n_windows"], card["n_classes_scored"]) == (3, 12, 3)


def test_teacher_is_the_mean_of_the_folds_and_the_first_model_is_fold_zero(
    inputs: EvaluationInputs,
) -> None:
    found = evaluate(inputs, CONFIG, AS_IS, seed=0)
    keys = ["recording_id", "start_s"]
    first, second = (t.sort_values(keys) for t in inputs.teacher_scores.values())
    truth = np.array([[c == k for k in (1, 2, 3)] for codes in SOUNDSCAPES.values() for c in codes])
    mean = (first[list("abc")].to_numpy() + second[list("abc")].to_numpy()) / 2
    assert found.metrics["first_model"]["macro_roc_auc"]["value"] == pytest.approx(
        macro_roc_auc(truth, first[list("abc")])
    )
    teacher_auc = macro_roc_auc(truth, mean)
    assert 0.6 < teacher_auc < 1
    assert found.metrics["teacher"]["macro_roc_auc"]["value"] == pytest.approx(teacher_auc)
    assert found.metrics["student_minus_teacher"]["macro_roc_auc"]["value"] == pytest.approx(
        1 - teacher_auc
    )


def test_teacher_that_lacks_an_annotated_window_is_refused(inputs: EvaluationInputs) -> None:
    scores = inputs.teacher_scores[0]
    with pytest.raises(EvaluationError, match="1 of 12 annotated windows"):
        evaluate(replace(inputs, teacher_scores={0: scores.iloc[1:]}), CONFIG, AS_IS, 0)
    with pytest.raises(EvaluationError, match="lack 1 of 3 classes, such as b"):
        evaluate(replace(inputs, teacher_scores={0: scores.drop(columns="b")}), CONFIG, AS_IS, 0)


def test_teacher_scored_at_a_finer_step_serves_as_well(inputs: EvaluationInputs) -> None:
    coarse = inputs.teacher_scores[1]
    fine = pd.concat([coarse, coarse.assign(start_s=coarse["start_s"] + 2.5)])
    found, expected = (
        evaluate(replace(inputs, teacher_scores={1: t}), CONFIG, AS_IS, 0) for t in (fine, coarse)
    )
    assert found.metrics["teacher"] == expected.metrics["teacher"]


def test_smoothing_reaches_the_model_and_its_teachers(inputs: EvaluationInputs) -> None:
    smooth = evaluate(inputs, CONFIG, PostprocessConfig(kernel=(1.0, 1.0, 1.0)), seed=0)
    sharp = evaluate(inputs, CONFIG, AS_IS, seed=0)
    for system in ("soundscape", "teacher", "first_model"):
        assert smooth.metrics[system]["macro_roc_auc"] != sharp.metrics[system]["macro_roc_auc"]


def test_without_annotated_soundscapes_only_clips_are_scored_and_a_note_says_so(
    inputs: EvaluationInputs, tmp_path: Path
) -> None:
    found = evaluate(without_soundscapes(inputs), CONFIG, AS_IS, seed=0)
    assert set(found.metrics) == {"oof", "notes"}
    assert any("no annotated soundscape" in note for note in found.metrics["notes"])
    assert found.per_class["roc_auc"].isna().all()
    assert (found.per_class["oof_roc_auc"] == 1).all()
    schema = WINDOWS.with_columns(dict.fromkeys(CLASSES.labels, "float32"))
    write_table(found.windows, tmp_path / "w.parquet", schema)
    assert len(read_table(tmp_path / "w.parquet", schema)) == 0


def test_tables_and_figures_can_be_written(inputs: EvaluationInputs, tmp_path: Path) -> None:
    found = evaluate(inputs, CONFIG, AS_IS, seed=0)
    found.write(tmp_path, CLASSES)
    write_json(tmp_path / "m.json", found.metrics)
    schema = WINDOWS.with_columns(dict.fromkeys(CLASSES.labels, "float32"))
    windows = read_table(tmp_path / "windows.parquet", schema)
    assert windows["truth"].tolist()[:4] == [["a"], ["b"], ["c"], []]
    clips = read_table(tmp_path / "clips.parquet", schema)
    assert set(clips["start_s"]) == {5.0}  # the window with the highest score
    assert len(read_table(tmp_path / "per_class.parquet", PER_CLASS)) == 3


def test_scores_are_read_by_fold_in_the_order_of_classes(tmp_path: Path) -> None:
    schema = Schema(
        "scores", ("recording_id",), WINDOW_SCORES.columns | dict.fromkeys("bca", "float32")
    )
    for fold in (0, 10):
        write_table(clip_scores(["a0"], 0.9).iloc[:1], tmp_path / f"{fold}.parquet", schema)
    found = read_fold_scores(tmp_path, CLASSES)
    assert list(found) == [0, 10]
    assert found[10].columns.tolist()[3:] == ["a", "b", "c"]


def test_clip_score_is_its_best_window_and_the_baseline_is_chance(
    inputs: EvaluationInputs,
) -> None:
    oof = evaluate(inputs, CONFIG, AS_IS, seed=0).metrics["oof"]
    assert oof["network"]["macro_roc_auc"]["value"] == 1.0
    assert oof["baseline"]["macro_roc_auc"]["value"] == 0.5
    assert oof["network_minus_baseline"]["macro_roc_auc"]["value"] == 0.5
    assert oof["network"]["top1"]["value"] == 1.0
    assert oof["baseline"]["top1"]["value"] == pytest.approx(1 / 3)
    assert oof["network"]["fold"]["1"]["macro_roc_auc"] == 1.0
    assert (oof["n_clips"], oof["n_folds"], oof["n_classes_scored"]) == (8, 2, 3)


def test_fold_that_scored_a_clip_it_trained_on_is_refused(inputs: EvaluationInputs) -> None:
    leaking = {0: clip_scores([*FOLDS[0], "a2"], 0.9)}
    with pytest.raises(EvaluationError, match="1 clips that it did not hold out, such as a2"):
        evaluate(replace(inputs, oof_scores=leaking), CONFIG, AS_IS, 0)


def test_clip_that_is_always_trained_on_is_held_out_by_nobody(inputs: EvaluationInputs) -> None:
    always = inputs.splits.assign(
        fold=inputs.splits["fold"].mask(inputs.splits["recording_id"] == "c1")
    )
    with pytest.raises(EvaluationError, match="such as c1"):
        evaluate(replace(inputs, splits=always), CONFIG, AS_IS, 0)


def test_clip_without_a_baseline_score_is_refused(inputs: EvaluationInputs) -> None:
    fewer = inputs.baseline_scores.iloc[1:]
    with pytest.raises(EvaluationError, match="1 out-of-fold clips are not in the baseline"):
        evaluate(replace(inputs, baseline_scores=fewer), CONFIG, AS_IS, 0)


def test_untrained_folds_are_left_out_and_none_at_all_is_none(inputs: EvaluationInputs) -> None:
    oof, teachers = inputs.oof_scores, inputs.teacher_scores
    passed_over = replace(
        inputs,
        oof_scores={0: oof[0].iloc[:0], 1: oof[1]},
        teacher_scores={0: teachers[0].iloc[:0], 1: teachers[1]},
    )
    only = evaluate(passed_over, CONFIG, AS_IS, 0)
    assert only.metrics["oof"]["n_clips"] == 4
    assert only.metrics["teacher"] == only.metrics["first_model"]
    index = PlantedStore(inputs.features_dir).index
    assert out_of_fold(index, inputs.splits, {}, inputs.baseline_scores, CLASSES) is None


def test_models_that_held_nothing_out_are_judged_on_soundscapes_alone_and_a_note_says_so(
    inputs: EvaluationInputs,
) -> None:
    empty = {fold: table.iloc[:0] for fold, table in inputs.oof_scores.items()}
    found = evaluate(replace(inputs, oof_scores=empty), CONFIG, AS_IS, seed=0)
    assert "oof" not in found.metrics
    assert found.metrics["soundscape"]["macro_roc_auc"]["value"] == 1.0
    assert set(found.metrics) >= {"teacher", "first_model"}
    [note] = found.metrics["notes"]
    assert note.startswith("out-of-fold scores left out: the 2 fold models held no labelled clip")
    assert "finetune.hold_out: false" in note
    assert found.per_class["oof_roc_auc"].isna().all()
    assert found.clips.empty
    untrained = replace(inputs, oof_scores=empty, teacher_scores={})
    notes = evaluate(untrained, CONFIG, AS_IS, seed=0).metrics["notes"]
    assert notes == ["out-of-fold scores left out: no fold was trained"]


def test_padded_cmap_is_the_mean_over_folds_and_stands_beside_the_pooled_one(
    inputs: EvaluationInputs,
) -> None:
    generator = np.random.default_rng(5)
    unsure = {}
    for fold, ids in FOLDS.items():
        unsure[fold] = clip_scores(ids, 0.9)
        unsure[fold][list("abc")] = generator.random((len(unsure[fold]), 3))
    figures = evaluate(replace(inputs, oof_scores=unsure), CONFIG, AS_IS, seed=0).metrics["oof"]
    tables = []
    for fold, ids in FOLDS.items():
        best = unsure[fold].groupby("recording_id")[list("abc")].max().loc[ids].to_numpy()
        tables.append((np.array([[c == clip[0] for c in "abc"] for clip in ids]), best))

    def plain(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
        ones = np.ones((5, 3))
        return average_precision_score(np.vstack([truth, ones]), np.vstack([scores, ones]))

    by_fold = [plain(*table) for table in tables]
    pooled = plain(*(np.concatenate(parts) for parts in zip(*tables, strict=True)))
    network = figures["network"]
    assert network["padded_cmap"]["value"] == pytest.approx(np.mean(by_fold), abs=1e-12)
    assert network["pooled"]["padded_cmap"]["value"] == pytest.approx(pooled, abs=1e-12)
    assert abs(pooled - np.mean(by_fold)) > 1e-3
    for fold, value in enumerate(by_fold):
        assert network["fold"][str(fold)]["padded_cmap"] == pytest.approx(value, abs=1e-12)


def test_class_without_positive_windows_is_null_in_the_table(inputs: EvaluationInputs) -> None:
    rare = inputs.annotations[inputs.annotations["label"] != "b"]
    found = evaluate(replace(inputs, annotations=rare), CONFIG, AS_IS, seed=0)
    row = found.per_class.set_index("label").loc["b"]
    assert row["n_positive_windows"] == 0
    assert np.isnan(row["roc_auc"])
    assert found.per_class["n_train_recordings"].tolist() == [2, 3, 3]
    assert found.plot_points()["label"].tolist() == ["a", "c"]
    assert found.metrics["soundscape"]["n_classes_scored"] == 2


def test_annotation_after_the_end_of_its_recording_is_noted(inputs: EvaluationInputs) -> None:
    # The recordings are 19 s long; the last window ends at 20 s.
    boxes = pd.DataFrame(
        [("s2", 19.5, 19.8, "a"), ("s1", 18.5, 30.0, "a")], columns=inputs.annotations.columns
    )
    late = replace(inputs, annotations=pd.concat([inputs.annotations, boxes]))
    [note] = evaluate(late, CONFIG, AS_IS, seed=0).metrics["notes"]
    assert note.startswith("1 annotations begin after the end")
    assert "19.5 s of s2" in note
    assert evaluate(inputs, CONFIG, AS_IS, seed=0).metrics["notes"] == []


def test_step_beyond_the_window_is_refused_by_its_key(inputs: EvaluationInputs) -> None:
    with pytest.raises(EvaluationError, match=r"evaluate\.step_s: found 6\.0, .* 5\.0 s"):
        evaluate(inputs, CONFIG.model_copy(update={"step_s": 6.0}), AS_IS, seed=0)


def test_same_inputs_give_the_same_figures_twice(inputs: EvaluationInputs) -> None:
    first, second = (evaluate(inputs, CONFIG, AS_IS, seed=3) for _ in range(2))
    assert first.metrics == second.metrics
