"""The report of a made-up run: what it says, that it stands alone, and that nothing escapes."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
from matplotlib import image
from numpy.typing import NDArray

from bclef import report
from bclef.evaluation import PER_CLASS, WINDOWS
from bclef.frontend import FrontEndConfig
from bclef.report import render_report, spectrogram_uri, write_report
from bclef.reportdata import Loss, chosen_windows, losses
from bclef.reportinputs import ReportInputs, read_report_inputs
from bclef.reportscores import Estimate
from bclef.tables import Schema, TableError, write_json, write_table

HOSTILE = "Parus <script>alert(1)</script> & \"major\" 'x'"
RATE_HZ = 16_000
FRONT_END = FrontEndConfig(
    n_fft=512, win_samples=512, hop_samples=160, n_mels=48, f_min_hz=50, f_max_hz=8000,
    mel_scale="htk", mel_norm=None, normalise_window=False, power=2, wave_scaling="none",
    top_db=80, scaling="n80", padding="reflect", channels="mono", image_size=None,
)  # fmt: skip
LABELS = tuple(f"sp{i:02d}" for i in range(26))


class SungStore:
    """A sweep in noise for every recording."""

    def __init__(self, directory: Path) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, recording_id: str) -> NDArray[np.int16]:
        seed = sum(recording_id.encode())
        time_s = np.arange(20 * RATE_HZ) / RATE_HZ
        song = np.sin(2 * np.pi * (1500 + 60 * (seed % 50) + 800 * np.sin(3 * time_s)) * time_s)
        noise = np.random.default_rng(seed).normal(size=len(time_s))
        return (6000 * song * (np.sin(4 * time_s) > 0) + 400 * noise).astype(np.int16)


def estimate(value: float, spread: float = 0.03) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def evaluation() -> dict[str, Any]:
    def card(auc: float) -> dict[str, Any]:
        return {
            "macro_roc_auc": estimate(auc), "padded_cmap": estimate(auc - 0.2),
            "f1_micro": estimate(auc - 0.3), "f1_macro": estimate(auc - 0.33),
        }  # fmt: skip

    def oof(auc: float) -> dict[str, Any]:
        return {"macro_roc_auc": estimate(auc), "top1": estimate(auc - 0.4), "fold": {}}

    return {
        "soundscape": card(0.883) | {"n_recordings": 16, "n_windows": 192, "n_classes_scored": 22},
        "teacher": card(0.871),
        "first_model": card(0.832),
        "student_minus_teacher": {"macro_roc_auc": estimate(0.012)},
        "oof": {
            "network": oof(0.914), "baseline": oof(0.811), "n_clips": 210, "n_folds": 3,
            "n_classes_scored": 24, "network_minus_baseline": {"macro_roc_auc": estimate(0.103)},
        },
        "notes": ["teacher: nothing to add"],
    }  # fmt: skip


def curve(seed: int, n_epochs: int) -> pd.DataFrame:
    epoch = np.arange(n_epochs)
    noise = np.random.default_rng(seed).normal(scale=0.01, size=(3, n_epochs))
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": 0.05 + 0.3 * np.exp(-epoch / 4) + noise[0],
            "val_loss": 0.09 + 0.25 * np.exp(-epoch / 3) + noise[1],
            "val_macro_roc_auc": 0.9 - 0.35 * np.exp(-epoch / 4) + noise[2],
        }
    )


def windows_table() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    truth = [[LABELS[i % 26], *([LABELS[i % 7]] if i % 3 else [])] for i in range(24)]
    table = pd.DataFrame(
        {
            "recording_id": pd.Series([f"demo-{i // 2:04d}" for i in range(24)], dtype="string"),
            "start_s": 5.0 * (np.arange(24) % 2),
            "end_s": 5.0 * (np.arange(24) % 2) + 5,
            "truth": [sorted(set(labels)) for labels in truth],
        }
    )
    scores = generator.random((24, 26)).astype(np.float32) * 0.5
    for row, labels in enumerate(table["truth"]):
        for label in labels:
            scores[row, LABELS.index(label)] += np.float32(generator.random() * 0.5)
    return pd.concat([table, pd.DataFrame(scores, columns=list(LABELS))], axis=1)


def per_class_table() -> pd.DataFrame:
    generator = np.random.default_rng(1)
    auc = np.sort(generator.uniform(0.48, 1.0, 26))
    auc[:2] = np.nan
    return pd.DataFrame(
        {
            "label": pd.Series(LABELS, dtype="string"),
            "n_train_recordings": generator.integers(4, 40, 26),
            "n_positive_windows": np.where(np.isnan(auc), 0, generator.integers(1, 30, 26)),
            "roc_auc": auc, "average_precision": auc, "f1": auc,
            "teacher_roc_auc": np.clip(auc - 0.03, 0, 1),
            "oof_roc_auc": auc, "baseline_roc_auc": auc - 0.1,
        }
    )  # fmt: skip


def a_run() -> ReportInputs:
    recordings = pd.DataFrame(
        {
            "recording_id": pd.Series([f"demo-{i:04d}" for i in range(300)], dtype="string"),
            "source": "demo",
            "role": ["focal"] * 240 + ["soundscape"] * 50 + ["noise"] * 10,
            "recordist": pd.Series([f"R {i % 31}" for i in range(300)], dtype="string"),
            "licence": pd.Series(
                ["CC BY-NC-SA 4.0" if i % 3 else None for i in range(300)], dtype="string"
            ),
            "annotated": False,
        }
    )
    names = [f"Genus species{i:02d}" for i in range(25)] + [HOSTILE]
    mass = {label: 40.0 / (i + 1) for i, label in enumerate(LABELS)}
    pseudo = {
        "n_windows_kept": 311, "share_kept": 0.62, "label_mass": sum(mass.values()),
        "label_mass_per_window": 0.5,
    }  # fmt: skip
    return ReportInputs(
        recordings=recordings,
        classes=pd.DataFrame(
            {
                "label": pd.Series(LABELS, dtype="string"),
                "scientific_name": pd.Series(names, dtype="string"),
                "common_name": pd.Series(["Great Tit"] * 20 + [None] * 6, dtype="string"),
                "target": True,
            }
        ),
        rejections=pd.DataFrame(
            {
                "recording_id": list("xyzbca"),
                "source": "demo",
                "stage": ["metadata"] * 3 + ["fetch", "resample", "features"],
                "reason": ["cap", "cap", "renamed", "gone", "truncated", "duplicate_exact"],
                "detail": "",
            }
        ),
        index=pd.DataFrame(
            {
                "recording_id": list("abcd"),
                "role": ["focal", "focal", "soundscape", "noise"],
                "n_samples": [8 * RATE_HZ, 9 * RATE_HZ, 60 * RATE_HZ, 5 * RATE_HZ],
            }
        ),
        per_class=per_class_table(),
        windows=windows_table(),
        metrics={
            "evaluate": evaluation(),
            "export": {
                "max_abs_dp": {"onnxruntime": 1.2e-6, "openvino_fp32": 3.1e-6},
                "ms_per_window": {"onnxruntime": {"1": 3.61, "16": 2.8}},
                "n_bytes_onnx": 15_400_123,
            },
            "pseudo_label/1": pseudo, "pseudo_label/2": pseudo, "pseudo_label/3": {"skipped": True},
        },
        curves={
            "pretrain": curve(0, 12), "finetune/0": curve(1, 15), "finetune/1": curve(2, 15),
            "finetune/2": curve(3, 15), "distill/1": curve(4, 10), "distill/2": curve(5, 10),
        },
        label_masses=dict.fromkeys(
            ("pseudo_label/1", "pseudo_label/2"),
            pd.DataFrame({"label": mass.keys(), "label_mass": mass.values()}),
        ),
        model={
            "labels": list(LABELS), "window_samples": 320_000, "scored_samples": 160_000,
            "sample_rate_hz": 32_000,
            "files": {"model.onnx": {"n_bytes": 15_400_123}},
        },
        features_dir=Path(__file__).parent,
        front_end=FRONT_END,
        sample_rate_hz=RATE_HZ,
    )  # fmt: skip


def bare_run() -> ReportInputs:
    return replace(
        a_run(), rejections=pd.DataFrame(columns=["stage", "reason"]), index=None, per_class=None,
        windows=None, metrics={}, curves={}, label_masses={}, model=None,
    )  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _sung() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "Store", SungStore)
        yield


@pytest.fixture(scope="module")
def page() -> str:
    """The report of a whole run."""
    return render_report(a_run())


def text_of(page: str) -> str:
    """The words of a page without its tags and styles."""
    bare = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", bare)


def test_names_from_outside_cannot_become_markup(page: str) -> None:
    assert "Parus &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page


def test_page_fetches_nothing(page: str) -> None:
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert not re.search(r"https?://|@import|url\(", page)
    assert page.count("data:image/png;base64,") == 6


def test_same_run_gives_the_same_bytes(page: str, tmp_path: Path) -> None:
    write_report(a_run(), tmp_path / "index.html")
    assert (tmp_path / "index.html").read_bytes() == page.encode()


def test_scores_stand_with_their_intervals_and_a_verdict(page: str) -> None:
    words = text_of(page)
    assert (
        "Exported model on annotated soundscapes: macro ROC-AUC 0.883 95 %: 0.853 to 0.913" in words
    )
    assert "0.811 [0.781, 0.841]" in words
    assert "The exported model and the fold ensemble cannot be told apart" in words
    assert "The networks beat the regression" in words


def test_every_part_of_an_unfinished_run_says_what_is_missing() -> None:
    page = render_report(bare_run())
    for said in (
        "the stage evaluate has not run", "No class could be scored", "No spectrograms",
        "no training has run", "No round of pseudo-labelling", "The stage export has not run",
        "The stage features has not run",
    ):  # fmt: skip
        assert said in page
    assert "None" not in text_of(page)
    assert "nan" not in text_of(page)


def test_page_says_why_no_clip_was_held_out() -> None:
    note = "out-of-fold scores left out: the 3 fold models held no labelled clip out"
    scores = {name: tree for name, tree in evaluation().items() if name != "oof"} | {
        "notes": [note]
    }
    run = a_run()
    per_class = per_class_table().assign(oof_roc_auc=np.nan, baseline_roc_auc=np.nan)
    for tree in (scores, {"notes": [note]}):
        metrics = {**run.metrics, "evaluate": tree}
        words = text_of(render_report(replace(run, metrics=metrics, per_class=per_class)))
        assert f"Note: {note}." in words
        assert "Networks" not in words
        assert "nan" not in words.split()


def test_page_says_what_is_heard_and_what_is_scored(page: str) -> None:
    assert "waves of 10 s, of which the middle 5 s are scored, at 32,000 Hz" in text_of(page)


def test_page_is_well_formed(page: str) -> None:
    void = {"meta", "img", "br"}
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_startendtag(self, *_: object) -> None: ...

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in void:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    for each in (page, render_report(bare_run())):
        Checker().feed(each)
        assert open_tags == []


def test_losses_are_counted_in_order_of_stages_most_first() -> None:
    assert losses(a_run().rejections) == [
        Loss("metadata", "cap", 2),
        Loss("metadata", "renamed", 1),
        Loss("fetch", "gone", 1),
        Loss("resample", "truncated", 1),
        Loss("features", "duplicate_exact", 1),
    ]


def test_windows_are_chosen_by_margin_and_one_of_a_recording() -> None:
    windows = pd.DataFrame(
        {
            "recording_id": ["r", "r", "s", "t", "u"],
            "start_s": 0.0, "end_s": 5.0,
            "truth": [["a"], ["a"], ["a", "b"], [], ["b"]],
            "a": [0.9, 0.8, 0.5, 0.9, 0.9], "b": [0.1, 0.1, 0.7, 0.9, 0.1], "c": [0, 0, 0.1, 0, 0],
        }
    )  # fmt: skip
    best, worst = chosen_windows(windows, 2)
    assert [w["recording_id"] for w in best] == ["r", "s"]
    assert best[0]["margin"] == pytest.approx(0.8)
    assert best[0]["top"][0] == ("a", 0.9, True)
    assert [w["recording_id"] for w in worst] == ["u"]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.01, 0.02, "A beat B"), (-0.02, -0.01, "A fell behind B"), (-0.1, 0.1, "told apart")],
)
def test_verdict_follows_the_interval(low: float, high: float, said: str) -> None:
    assert said in Estimate(0.0, low, high).verdict("A", "B")


def write_run(run: ReportInputs, root: Path) -> None:
    """Lays `run` out on disk as the stages would."""
    data = root / "data"
    tables = {"recordings": run.recordings, "classes": run.classes, "rejected": run.rejections}
    for name, table in tables.items():
        kinds = {str(c): "bool" if table[c].dtype == bool else "string?" for c in table}
        required = {"recording_id", "source", "role", "label", "scientific_name"}
        required |= {"stage", "reason", "detail"}
        kinds |= dict.fromkeys(required & set(table), "string")
        write_table(table, data / f"{name}.parquet", Schema(name, (table.columns[0],), kinds))
    assert run.per_class is not None
    write_table(run.per_class, data / "evaluation/per_class.parquet", PER_CLASS)
    schema = WINDOWS.with_columns(dict.fromkeys(LABELS, "float32"))
    assert run.windows is not None
    write_table(run.windows.iloc[:0], data / "evaluation/windows.parquet", schema)
    write_table(run.windows, data / "evaluation/clips.parquet", schema)
    for name, tree in run.metrics.items():
        write_json(root / "metrics" / f"{name}.json", tree)
    for name, each in {**run.curves, **run.label_masses}.items():
        path = root / "plots" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        each.to_csv(path, index=False)
    (root / "plots/finetune/3.csv").write_text("")
    (root / "plots/evaluate.csv").write_text("label,roc_auc\nsp00,0.9\n")


def test_inputs_are_read_from_what_the_stages_wrote(tmp_path: Path) -> None:
    run = a_run()
    write_run(run, tmp_path)
    found = read_report_inputs(tmp_path, FRONT_END, RATE_HZ)
    assert list(found.curves) == sorted(run.curves)
    assert found.label_masses.keys() == run.label_masses.keys()
    assert found.metrics.keys() == run.metrics.keys()
    assert losses(found.rejections) == losses(run.rejections)
    assert found.windows is not None
    assert len(found.windows) == 24  # no annotated windows: the held-out clips are shown
    assert "Parus &lt;script&gt;" in render_report(found)


def test_run_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"recordings\.parquet|classes\.parquet"):
        read_report_inputs(tmp_path, FRONT_END, RATE_HZ)


def test_spectrogram_is_a_png_with_low_bands_at_the_bottom_and_the_same_bytes_twice() -> None:
    mel = np.zeros((8, 20))
    mel[0] = 1.0
    uri = spectrogram_uri(mel)
    assert uri == spectrogram_uri(mel.copy())
    pixels = image.imread(io.BytesIO(base64.b64decode(uri.split(",")[1])), format="png")
    assert pixels.shape[:2] == (8, 20)
    assert pixels[-1, :, :3].min() > 0.5 > pixels[0, :, :3].max()


def test_silent_spectrogram_can_be_drawn() -> None:
    assert spectrogram_uri(np.zeros((4, 4))).startswith("data:image/png;base64,")
