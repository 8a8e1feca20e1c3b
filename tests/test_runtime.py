"""The torch-free predictor, on a graph whose scores are known: mean |sample| of each third."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import soundfile

from bclef.audio import DecodeError, window_starts
from bclef.exportfolder import ExportError, describe_file
from bclef.runtime import Predictor, ScoreError

RATE_HZ = 30_000


@pytest.fixture
def export(make_export, tmp_path):
    return make_export(tmp_path / "export")


@pytest.fixture
def predictor(export):
    return Predictor(export, n_threads=1)


def rewrite_card(export, **changes):
    card = json.loads((export / "model.json").read_text())
    card["files"] = {name: describe_file(export / name) for name in card["files"]}
    (export / "model.json").write_text(json.dumps({**card, **changes}))


def test_predictor_says_what_it_hears_and_calls(predictor):
    assert predictor.labels == ("first", "middle", "last")
    assert predictor.scientific_names == ("Avis first", "Avis middle", "Avis last")
    assert (predictor.sample_rate_hz, predictor.window_samples) == (RATE_HZ, RATE_HZ)
    assert (predictor.scored_samples, predictor.scored_s) == (RATE_HZ, 1.0)
    assert predictor.context_samples == 0


def test_scores_are_in_the_order_of_the_labels(predictor):
    wave = np.repeat([0.25, -0.5, 3.0], 10_000).astype(np.float32)
    scores = predictor.scores(wave[None])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [[0.25, 0.5, 1.0]], rtol=1e-6)


@pytest.mark.parametrize("n_waves", [0, 1, 7, 8, 9, 17])
def test_any_number_of_waves_is_scored_row_by_row(predictor, rng, n_waves):
    waves = rng.uniform(-1, 1, (n_waves, RATE_HZ)).astype(np.float32)
    expected = np.abs(waves).reshape(n_waves, 3, 10_000).mean(2)
    np.testing.assert_allclose(predictor.scores(waves), expected, rtol=1e-5)


def test_scores_do_not_depend_on_the_batch(export, rng):
    waves = rng.uniform(-1, 1, (5, RATE_HZ)).astype(np.float32)
    alone, together = (Predictor(export, batch_size=size).scores(waves) for size in (1, 8))
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-6)


def test_windows_of_a_stream_do_not_depend_on_its_blocks(predictor, rng):
    wave = rng.uniform(-1, 1, 95_000).astype(np.float32)
    whole = predictor.predict_samples(wave, 0.5)
    pieces = np.split(wave, [1, 2, 31_000, 60_000, 60_001])
    start_s, scores = (
        np.concatenate(parts)
        for parts in zip(*predictor.score_blocks(iter(pieces), 0.5), strict=True)
    )
    assert list(whole.columns) == ["start_s", "end_s", "first", "middle", "last"]
    assert whole["start_s"].tolist() == start_s.tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert (whole["end_s"] - whole["start_s"] == 1).all()
    np.testing.assert_array_equal(whole[list(predictor.labels)].to_numpy(), scores)
    np.testing.assert_allclose(scores[3, 0], np.abs(wave[45_000:55_000]).mean(), rtol=1e-5)


def test_last_window_is_padded_with_silence_not_dropped(predictor):
    scores = predictor.predict_samples(np.ones(RATE_HZ + 5_000, np.float32))
    assert scores["start_s"].tolist() == [0, 1]
    assert scores["first"].tolist() == [1, 0.5]
    assert scores["last"].tolist() == [1, 0]


@pytest.mark.parametrize(
    "n_samples", [0, 1, 9_999, 10_000, 10_001, 20_000, 29_999, 30_000, 30_001, 40_000, 41_000]
)
@pytest.mark.parametrize("step_samples", [10_000, 6_000])
def test_scored_parts_cover_a_recording_and_the_context_is_what_lies_around_them(
    make_export, tmp_path, rng, n_samples, step_samples
):
    predictor = Predictor(make_export(tmp_path / "export", scored_samples=10_000), batch_size=3)
    assert (predictor.scored_s, predictor.context_samples) == (1 / 3, 10_000)
    wave = rng.uniform(-1, 1, n_samples).astype(np.float32)
    found = predictor.predict_samples(wave, step_samples / RATE_HZ)
    starts = window_starts(n_samples, 10_000, step_samples)
    np.testing.assert_allclose(found["start_s"], starts / RATE_HZ, rtol=1e-12)
    np.testing.assert_allclose(found["end_s"] - found["start_s"], 1 / 3)
    around = np.concatenate([np.zeros(10_000), np.abs(wave), np.zeros(30_000)])
    for name, shift in (("first", 0), ("middle", 10_000), ("last", 20_000)):
        expected = [around[s + shift : s + shift + 10_000].mean() for s in starts]
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, err_msg=name)


def test_step_is_the_scored_part_unless_another_is_named(make_export, tmp_path):
    predictor = Predictor(make_export(tmp_path / "export", scored_samples=10_000))
    found = predictor.predict_samples(np.ones(RATE_HZ, np.float32))
    assert found["start_s"].tolist() == [0, 1 / 3, 2 / 3]
    with pytest.raises(ValueError, match=r"at most the window of 0\.333333 s"):
        predictor.predict_samples(np.ones(RATE_HZ, np.float32), 0.5)


def test_context_of_a_stream_does_not_depend_on_its_blocks(make_export, tmp_path, rng):
    predictor = Predictor(make_export(tmp_path / "export", scored_samples=12_000), batch_size=2)
    wave = rng.uniform(-1, 1, 95_000).astype(np.float32)
    whole = predictor.predict_samples(wave, 0.25)
    for cuts in ([1, 2, 31_000, 60_000, 60_001], [9_000], range(7, 95_000, 997), [95_000]):
        blocks = predictor.score_blocks(iter(np.split(wave, list(cuts))), 0.25)
        _, scores = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        np.testing.assert_array_equal(whole[list(predictor.labels)].to_numpy(), scores)


def test_stream_with_context_is_scored_before_it_ends(make_export, tmp_path):
    n_taken = 0

    def endless():
        nonlocal n_taken
        while True:
            n_taken += 1
            yield np.zeros(5_000, np.float32)

    predictor = Predictor(make_export(tmp_path / "export", scored_samples=10_000), batch_size=4)
    next(predictor.score_blocks(endless()))
    assert n_taken == (4 * 10_000 + 10_000) / 5_000  # four scored parts, and what follows them


def test_stream_is_read_no_further_than_needed_for_each_batch(export):
    n_taken = 0

    def endless():
        nonlocal n_taken
        while True:
            n_taken += 1
            yield np.zeros(RATE_HZ, np.float32)

    next(Predictor(export, batch_size=4).score_blocks(endless()))
    assert n_taken <= 5


def test_file_at_another_rate_is_resampled(predictor, make_tone, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, make_tone(440, 2.5, 48_000, peak=0.5), 48_000)
    scores = predictor.predict_file(path)
    assert scores["start_s"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(scores["middle"], [1 / np.pi, 1 / np.pi, 0.159], atol=2e-3)


def test_file_that_is_no_sound_is_refused(predictor, tmp_path):
    (tmp_path / "a.wav").write_text("<html>")
    with pytest.raises(DecodeError):
        predictor.predict_file(tmp_path / "a.wav")


@pytest.mark.parametrize("step_s", [0.0, -1.0, 1.5, 1e-9, np.inf, -np.inf, np.nan])
def test_step_that_would_leave_gaps_or_not_move_is_refused(predictor, step_s):
    with pytest.raises(ValueError, match="expected more than 0 and at most the window of 1 s"):
        predictor.predict_samples(np.zeros(10, np.float32), step_s)


def test_waves_of_another_length_are_refused(predictor):
    with pytest.raises(ValueError, match=r"shape \(2, 100\), expected \[N, 30000\]"):
        predictor.scores(np.zeros((2, 100), np.float32))
    with pytest.raises(ValueError, match="one channel"):
        predictor.predict_samples(np.zeros((2, RATE_HZ), np.float32))


def test_score_that_is_no_number_is_refused_not_returned(predictor):
    waves = np.zeros((2, RATE_HZ), np.float32)
    waves[1, 0] = np.nan
    with pytest.raises(ScoreError, match="cannot score"):
        predictor.scores(waves)


def test_missing_folder_says_what_to_do(tmp_path):
    with pytest.raises(ExportError, match=r"no such folder.*dvc repro export"):
        Predictor(tmp_path / "nowhere")


def test_folder_without_a_card_is_refused(tmp_path):
    with pytest.raises(ExportError, match="no export folder"):
        Predictor(tmp_path)


def test_folder_of_a_training_model_is_told_from_an_export(export):
    card = json.loads((export / "model.json").read_text())
    del card["files"]
    (export / "model.json").write_text(json.dumps({**card, "training": {}, "version": 1}))
    said = r"is a training model, not an export; expected an export folder such as models/export$"
    with pytest.raises(ExportError, match=said):
        Predictor(export)


@pytest.mark.parametrize("name", ["model.onnx", "labels.csv"])
def test_missing_file_is_named(export, name):
    (export / name).unlink()
    with pytest.raises(ExportError, match=f"{name} is missing"):
        Predictor(export)


def test_truncated_graph_is_named_with_both_sizes(export):
    data = (export / "model.onnx").read_bytes()
    (export / "model.onnx").write_bytes(data[:-1])
    with pytest.raises(ExportError, match=f"has {len(data) - 1} bytes, expected {len(data)}"):
        Predictor(export)


def test_one_changed_byte_is_found(export):
    data = bytearray((export / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (export / "model.onnx").write_bytes(data)
    with pytest.raises(ExportError, match=r"model\.onnx has other contents"):
        Predictor(export)


def test_graph_that_the_card_does_not_list_is_refused(export):
    rewrite_card(export, files={"labels.csv": describe_file(export / "labels.csv")})
    with pytest.raises(ExportError, match=r"model\.onnx is not listed"):
        Predictor(export)


def test_swapped_labels_are_refused(export):
    rows = (export / "labels.csv").read_text().splitlines()
    (export / "labels.csv").write_text("\n".join([rows[0], rows[2], rows[1], rows[3]]))
    rewrite_card(export)
    with pytest.raises(ExportError, match=r"are not the 3 of model\.json"):
        Predictor(export)


def test_labels_that_look_like_numbers_and_nothing_stay_text(make_export, tmp_path):
    labels = ("007", "NA", "no")
    assert Predictor(make_export(tmp_path / "odd", labels)).labels == labels


def test_graph_with_other_outputs_than_labels_is_refused(export, make_export, tmp_path):
    other = make_export(tmp_path / "other", ("only", "two"))
    shutil.copy(other / "model.onnx", export / "model.onnx")
    rewrite_card(export)
    with pytest.raises(ExportError, match="found a graph with"):
        Predictor(export)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 3}, "found layout 3"),
        ({"version": 1}, "found layout 1, expected 2: export the model again"),
        ({"scored_samples": 0}, "found scored_samples 0, expected the middle of .* 30000"),
        ({"scored_samples": 30_002}, "found scored_samples 30002"),
        ({"scored_samples": 29_999}, "found scored_samples 29999, .* as much before it as after"),
        ({"scored_samples": None}, "not as export writes it"),
        ({"labels": None}, "not as export writes it"),
        ({"sample_rate_hz": 0}, "found sample_rate_hz 0 .* expected both above 0"),
        ({"sample_rate_hz": -1}, "found sample_rate_hz -1 "),
        ({"window_samples": 0}, "and window_samples 0, expected both above 0"),
        ({"window_samples": 60_000}, "found a graph with .*30000.* expected .*60000"),
    ],
)
def test_card_of_another_layout_is_refused(export, changes, said):
    rewrite_card(export, **changes)
    with pytest.raises(ExportError, match=said):
        Predictor(export)


def test_graph_too_new_for_the_runtime_is_refused_with_advice(export):
    graph = onnx.load(export / "model.onnx")
    graph.opset_import[0].version = 99
    onnx.save(graph, export / "model.onnx")
    rewrite_card(export)
    with pytest.raises(ExportError, match=r"lower export\.opset"):
        Predictor(export)


def test_sizes_below_one_are_refused(export):
    for sizes in ({"batch_size": 0}, {"n_threads": 0}):
        with pytest.raises(ValueError, match="above 0"):
            Predictor(export, **sizes)


def test_prediction_needs_no_package_of_the_training_install():
    training = "torch pydantic openvino onnx h5py sklearn lightning timm mlflow ruamel"
    code = (
        "import sys, bclef.cli, bclef.scanning\n"
        f"print(*(name for name in '{training}'.split() if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
