"""Export of real networks, and the gate that must not let a wrong graph pass."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino
import pandas as pd
import pytest
import torch

from bclef.export import (
    ExportConfig,
    ExportInputs,
    chosen_folders,
    export_model,
    probe_windows,
)
from bclef.exportfolder import ExportError, describe_file
from bclef.frontend import FrontEndConfig
from bclef.graphs import combine, openvino_core, write_graphs
from bclef.inference import ScoreConfig, score_recordings
from bclef.modelfiles import make_card, save_model
from bclef.models import ModelConfig, ModelSpec, build_model
from bclef.parity import TORCH, make_probes, measure_parity, open_runtimes, torch_runtime
from bclef.runtime import Predictor
from bclef.skipped import write_skipped

LABELS = ("0123", "Aa", "Bb, \"c\"", "no", "zz")  # fmt: skip
WINDOW_SAMPLES = 16_000
CONFIG = ExportConfig(
    ensemble="teachers", combine="mean", opset=18, tolerance_fp32=1e-4, tolerance_fp16=5e-3,
    large_batch=9,
)  # fmt: skip
TOLERANCES = {TORCH: 1e-4, "onnxruntime": 1e-4, "openvino_fp32": 1e-4, "openvino_fp16": 5e-3}
CREDITS = pd.DataFrame(
    [["XC1", "Avis first", "Ana", "CC0", "Ana, XC1, CC0", "https://xeno-canto.org/1"]],
    columns=["recording_id", "scientific_name", "recordist", "licence", "attribution", "url"],
    dtype="string",
)
CLASSES = pd.DataFrame(
    {
        "label": [*reversed(LABELS), "other"],
        "scientific_name": [f"Avis {label}" for label in [*reversed(LABELS), "other"]],
        "common_name": [None, *["bird"] * 5],
    }
)


def make_spec(frontend=None, **model):
    mel = {
        "n_fft": 512, "win_samples": 400, "hop_samples": 250, "n_mels": 32, "f_min_hz": 50.0,
        "f_max_hz": 8000.0, "mel_scale": "htk", "mel_norm": None, "normalise_window": True,
        "power": 2, "wave_scaling": "none", "top_db": 80.0, "scaling": "zmm",
        "padding": "reflect", "channels": "mono", "image_size": None,
    }  # fmt: skip
    network = {
        "backbone": "test_efficientnet", "pretrained": False, "input_s": 1.0, "scored_s": 1.0,
        "part_s": None, "mel_batch_norm": False, "head": "sed", "frequency_pool": "gem",
        "frame_smoothing": False, "hidden_features": None, "dropout": 0.1, "hidden_dropout": 0.0,
        "n_dropouts": 1, "clip_pooling": "logit", "max_share": 0.0, "frame_shift": 0,
        "drop_path": 0.0,
    }  # fmt: skip
    return ModelSpec(
        labels=LABELS,
        sample_rate_hz=16_000,
        frontend=FrontEndConfig(**{**mel, **(frontend or {})}),
        model=ModelConfig(**{**network, **model}),
    )


def sounds(n_clips, seed=7):
    """Chirps of unlike pitch in noise, float32 [n_clips, WINDOW_SAMPLES]."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(WINDOW_SAMPLES) / 16_000
    pitch_hz = rng.uniform(500, 6000, (n_clips, 1))
    waves = 0.3 * np.sin(2 * np.pi * pitch_hz * time_s * (1 + 0.1 * time_s))
    return (waves + rng.normal(0, 0.01, waves.shape)).astype(np.float32)


def make_model(seed, spec=None):
    """Returns a network whose scores differ between sounds, as those of a trained one do."""
    model = build_model(spec or make_spec(), seed)
    waves = torch.from_numpy(np.tile(sounds(16), 2)[:, : (spec or make_spec()).window_samples])
    with torch.no_grad():
        norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
        for norm in (part for part in model.modules() if isinstance(part, norms)):
            norm.momentum = None  # the running mean is then the mean
        images = model.images(waves)
        model.train().features(images)
        clip = model.eval().features(images).clip
        gain = 0.7 / clip.std(0)
        layer = model.head.classify
        layer.weight.mul_(gain[:, None])
        layer.bias.copy_((layer.bias - clip.mean(0)) * gain)
    return model


def save(model, directory):
    save_model(model, directory, make_card(model.spec, "random", {"seed": 1}, {}))
    return directory


@pytest.fixture(scope="module")
def models():
    return [make_model(seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def model_dirs(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [save(model, folder / str(index)) for index, model in enumerate(models)]


def make_inputs(model_dirs, **changes):
    settings = {"model_dirs": model_dirs, "classes": CLASSES, "credits": CREDITS}
    return ExportInputs(**{**settings, "probes": sounds(3, seed=8), **changes})


@pytest.fixture(scope="module")
def exported(model_dirs, tmp_path_factory):
    """Folder and summary of the exported ensemble."""
    folder = tmp_path_factory.mktemp("exported")
    inputs = make_inputs(model_dirs)
    summary = export_model(inputs, folder / "export", CONFIG, np.random.default_rng(3))
    return folder / "export", summary


@pytest.mark.slow
def test_folder_holds_all_files_with_their_hashes(exported, model_dirs):
    directory, summary = exported
    found = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}
    listed = {
        "model.onnx", "labels.csv", "parity.json", "ATTRIBUTION.csv", "CREDITS.html",
        "openvino/model.xml", "openvino/model.bin", "openvino/model_fp16.xml",
        "openvino/model_fp16.bin",
    }  # fmt: skip
    card = json.loads((directory / "model.json").read_text())
    assert found == listed | {"model.json"}
    assert card["files"] == {name: describe_file(directory / name) for name in listed}
    assert card["labels"] == list(LABELS)
    assert card["licences"] == {"CC0": 1}
    assert [Path(path).name for path in card["exported_from"]] == [d.name for d in model_dirs]
    assert card["frontend"] == make_spec().frontend.model_dump(mode="json")
    assert [member["training"] for member in card["members"]] == [{"seed": 1}] * 2
    assert summary.n_bytes["openvino/model_fp16.bin"] < 0.6 * summary.n_bytes["openvino/model.bin"]


@pytest.mark.slow
def test_runtime_gives_the_mean_probability_of_the_members(exported, models):
    waves = sounds(5, seed=9)
    with torch.inference_mode():
        members = [model(torch.from_numpy(waves)).numpy() for model in models]
    predictor = Predictor(exported[0])
    assert np.abs(members[0] - members[1]).max() > 0.05
    np.testing.assert_allclose(predictor.scores(waves), np.mean(members, 0), rtol=0, atol=1e-5)
    assert predictor.labels == LABELS
    assert predictor.scientific_names == tuple(f"Avis {label}" for label in LABELS)


@pytest.mark.parametrize(
    ("how", "plain"),
    [
        ("mean", lambda p: (p[0] + p[1] + p[2]) / 3),
        ("quadratic_mean", lambda p: np.sqrt((p[0] ** 2 + p[1] ** 2 + p[2] ** 2) / 3)),
        (
            "logit_mean",
            lambda p: 1 / (1 + np.prod(1 / np.clip(p, 1e-6, 1 - 1e-6) - 1, axis=0) ** (1 / 3)),
        ),
    ],
)
def test_probabilities_of_members_become_one_by_the_formula(how, plain):
    members = np.random.default_rng(1).random((3, 40, 5))
    members[:, 0] = [[0.0] * 5, [1.0] * 5, [0.3] * 5]
    members[:, 1], members[:, 2] = 0, 1
    found = combine(torch.from_numpy(members.astype(np.float32)), how).numpy()
    np.testing.assert_allclose(found, plain(members), rtol=0, atol=1e-6)
    assert found.shape == (40, 5)


CONTEXT = {
    "input_s": 1.5, "scored_s": 0.5, "part_s": 0.5, "mel_batch_norm": True, "max_share": 0.25,
    "frame_smoothing": True, "clip_pooling": "probability", "hidden_features": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def context_models():
    """Networks that hear three parts of half a second, and score the middle one."""
    wide = make_spec({"channels": "deltas", "padding": "zeros", "hop_samples": 200}, **CONTEXT)
    models = [make_model(seed, wide) for seed in (1, 2)]
    with torch.no_grad():
        for model in models:
            model.head.classify.weight.mul_(0.3)  # far from 0 and 1, where float32 is coarse
    return models


class Memory:
    """A feature store of recordings of several lengths."""

    def __init__(self, lengths):
        # A new chirp begins every second.
        pcm = (sounds(3 * len(lengths), seed=4) * 32768).astype(np.int16).reshape(len(lengths), -1)
        self.waves = {f"r{n:05d}": wave[:n] for n, wave in zip(lengths, pcm, strict=True)}
        self.index = pd.DataFrame({"recording_id": list(self.waves), "n_samples": list(lengths)})

    def read(self, recording_id, first_sample=0, n_samples=None):
        return self.waves[recording_id][first_sample:][:n_samples]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["quadratic_mean", "logit_mean"])
def test_export_of_context_and_parts_scores_files_as_torch_does(context_models, tmp_path, how):
    folders = [save(model, tmp_path / str(k)) for k, model in enumerate(context_models)]
    store = Memory((1, 7_999, 8_000, 8_001, 16_000, 23_999, 24_000, 24_001, 40_000))
    probes = probe_windows(store, context_models[0].spec, 3, np.random.default_rng(1))
    inputs = make_inputs(folders, probes=probes)
    config = CONFIG.model_copy(update={"combine": how})
    summary = export_model(inputs, tmp_path / "export", config, np.random.default_rng(3))
    assert summary.max_abs_dp["onnxruntime"] <= 5e-5
    card = json.loads((tmp_path / "export/model.json").read_text())
    lengths = {"window_samples": 24_000, "scored_samples": 8_000, "part_samples": 8_000}
    assert {name: card[name] for name in lengths} == lengths
    assert card["combine"] == how
    predictor = Predictor(tmp_path / "export")
    score = ScoreConfig(step_s=0.5, batch_size=5)
    members = [score_recordings(m, store, list(store.waves), score) for m in context_models]
    both = np.stack([member[list(LABELS)].to_numpy(np.float64) for member in members])
    assert np.abs(both[0] - both[1]).max() > 0.05
    logit = np.log(both) - np.log(1 - both)
    expected = {
        "quadratic_mean": np.sqrt((both**2).mean(0)),
        "logit_mean": 1 / (1 + np.exp(-logit.mean(0))),
    }
    table = members[0].assign(**dict(zip(LABELS, expected[how].T, strict=True)))
    for name, rows in table.groupby("recording_id"):
        found = predictor.predict_samples(store.waves[name] / np.float32(32768))
        assert found["start_s"].tolist() == rows["start_s"].tolist()
        np.testing.assert_allclose(found[list(LABELS)], rows[list(LABELS)], rtol=0, atol=5e-5)


@pytest.mark.slow
def test_summary_has_differences_and_times_of_every_runtime(exported):
    summary = exported[1]
    parity = json.loads((exported[0] / "parity.json").read_text())
    assert parity["passed"] is True
    assert parity["reference_spread"] > 0.1
    assert set(parity["differences"]) == set(TOLERANCES)
    kinds = {"random", "quiet", "silent", "clipped", "short", "real"}
    for batches in parity["differences"].values():
        assert set(batches) == {"batch_1", "batch_3", "batch_9", "batch_2"}
        assert all(set(batch) == kinds for batch in batches.values())
    assert summary.max_abs_dp["onnxruntime"] <= 1e-5
    assert 0 < summary.max_abs_dp["openvino_fp16"] <= 5e-3
    assert (summary.n_models, summary.n_classes) == (2, 5)
    for times in summary.ms_per_window.values():
        assert set(times) == {"batch_1", "batch_9"}
        assert all(0 < ms < math.inf for ms in times.values())
    assert json.dumps(summary.tree())


@pytest.mark.slow
def test_graph_tells_nothing_of_the_machine_and_is_the_same_twice(exported, model_dirs, tmp_path):
    directory = exported[0]
    again = tmp_path / "again"
    export_model(make_inputs(model_dirs), again, CONFIG, np.random.default_rng(3))
    for name in ("model.onnx", "openvino/model.xml", "openvino/model_fp16.bin", "parity.json"):
        assert (again / name).read_bytes() == (directory / name).read_bytes(), name
    for path in (directory / "model.onnx", directory / "openvino/model.xml"):
        for word in (b"site-packages", b"/bclef/", str(directory.parent).encode()):
            assert word not in path.read_bytes(), path


def planted(exported, models, tmp_path, fault):
    """Returns the parity of the exported graph after `fault` has changed its tensors by name."""
    folder = tmp_path / "planted"
    (folder / "openvino").mkdir(parents=True)
    for path in exported[0].rglob("openvino/*"):
        (folder / "openvino" / path.name).write_bytes(path.read_bytes())
    graph = onnx.load(exported[0] / "model.onnx")
    for entry in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(entry)
        changed = fault(entry.name, values)
        entry.CopyFrom(onnx.numpy_helper.from_array(changed, entry.name))
    onnx.save(graph, folder / "model.onnx")
    runtime = {"onnxruntime": open_runtimes(folder)["onnxruntime"]}
    probes = make_probes(sounds(3, seed=8), np.random.default_rng(3))
    return measure_parity(runtime, torch_runtime(models, "mean"), probes, TOLERANCES, 9)


def swapped_classes(name, values):
    if "classify" not in name and values.shape[-1:] != (len(LABELS),):
        return values
    axis = values.shape.index(len(LABELS)) if len(LABELS) in values.shape else None
    return values if axis is None else np.ascontiguousarray(np.flip(values, axis))


def unfilled_tensor(name, values):
    return (
        np.zeros_like(values)
        if name.endswith("members.0.backbone.network.conv_stem.weight")
        else values
    )


def slight_shift(name, values):
    return values + np.float32(0.02) if name.endswith("members.0.head.classify.bias") else values


def nothing(_, values):
    return values


@pytest.mark.slow
@pytest.mark.parametrize("fault", [swapped_classes, unfilled_tensor, slight_shift])
def test_planted_fault_does_not_pass_the_gate(exported, models, tmp_path, fault):
    parity = planted(exported, models, tmp_path, fault)
    assert parity.faults()
    assert all(said.startswith("onnxruntime differs by") for said in parity.faults())
    assert parity.worst()["onnxruntime"] > 3e-4


@pytest.mark.slow
def test_graph_with_no_fault_planted_passes_the_gate(exported, models, tmp_path):
    assert planted(exported, models, tmp_path, nothing).faults() == []


def fake_torch(waves):
    """Two classes by level and by roughness of each clip."""
    return np.stack([np.abs(waves).mean(1), np.abs(np.diff(waves)).mean(1)], 1).clip(0, 1)


def parity_of(run, tolerance=1e-4):
    probes = make_probes(sounds(2), np.random.default_rng(1))
    tolerances = {TORCH: 1e-4, "fake": tolerance}
    return measure_parity({"fake": run}, fake_torch, probes, tolerances, 9)


def test_difference_of_a_thousandth_is_beyond_fp32_and_within_fp16():
    def run(waves):
        return fake_torch(waves) + np.float32(1e-3)

    assert parity_of(fake_torch).faults() == []
    assert parity_of(run).worst()["fake"] == pytest.approx(1e-3, rel=1e-2)
    assert len(parity_of(run).faults()) == 4 * 6
    assert parity_of(run, tolerance=5e-3).faults() == []


def test_score_that_depends_on_the_batch_is_found():
    def run(waves):
        return fake_torch(waves / max(1, np.abs(waves).max()))

    said = " ".join(parity_of(run).faults())
    assert "random clips in batch_9" in said
    assert "batch_1" not in said.replace("clipped clips in batch_1", "")


def test_fault_at_the_first_call_of_a_new_shape_is_found():
    seen = set()

    def run(waves):
        first = waves.shape not in seen
        seen.add(waves.shape)
        return fake_torch(waves) + 0.5 * (first and len(waves) == 9)

    assert all("batch_9" in fault for fault in parity_of(run).faults())
    assert parity_of(fake_torch).faults() == []


def test_score_that_is_no_number_counts_as_the_greatest_difference():
    def run(waves):
        return np.where(np.abs(waves).max(1, keepdims=True) == 0, np.nan, fake_torch(waves))

    parity = parity_of(run)
    assert parity.worst()["fake"] == 1
    assert all("silent" in fault for fault in parity.faults())
    assert json.dumps(parity.tree(), allow_nan=False)


def test_model_that_hears_nothing_is_warned_about(caplog):
    probes = make_probes(sounds(1), np.random.default_rng(1))

    def deaf(waves):
        return np.full((len(waves), 2), 0.5, np.float32)

    measure_parity({}, deaf, probes, {TORCH: 1e-4}, 9)
    assert "the parity gate sees little" in caplog.text


def test_probes_of_no_recording_still_cover_the_hard_kinds():
    probes = make_probes(np.zeros((0, 500), np.float32), np.random.default_rng(1))
    assert set(probes) == {"random", "quiet", "silent", "clipped", "short"}
    assert np.abs(probes["clipped"]).max() > 1
    assert probes["short"][0, :50].any()
    assert not probes["short"][0, 50:].any()
    assert all(waves.dtype == np.float32 for waves in probes.values())


@pytest.mark.slow
def test_failed_gate_leaves_its_figures_and_no_half_export(model_dirs, tmp_path):
    strict = CONFIG.model_copy(update={"tolerance_fp16": 1e-9})
    directory = tmp_path / "export"
    directory.mkdir()
    (directory / "old").touch()
    with pytest.raises(ExportError, match="openvino_fp16 differs by") as raised:
        export_model(make_inputs(model_dirs[:1]), directory, strict, np.random.default_rng(3))
    figures = json.loads((tmp_path / "export.failed.json").read_text())
    assert "export.failed.json" in str(raised.value)
    assert figures["passed"] is False
    assert {path.name for path in tmp_path.iterdir()} == {"export", "export.failed.json"}
    assert [path.name for path in directory.iterdir()] == ["old"]


def refused(inputs, tmp_path, said):
    with pytest.raises(ExportError, match=said):
        export_model(inputs, tmp_path / "export", CONFIG, np.random.default_rng(3))
    assert not (tmp_path / "export").exists()


def test_members_with_different_front_ends_are_refused(model_dirs, tmp_path):
    other = save(build_model(make_spec({"n_mels": 40}), 1), tmp_path / "other")
    refused(make_inputs([model_dirs[0], other]), tmp_path, "differ in frontend")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input_s": 2.0}, "differ in window_samples"),
        ({"scored_s": 0.5}, "differ in scored_samples;"),
        ({"part_s": 0.5}, "differ in part_samples;"),
    ],
)
def test_members_with_different_windows_are_refused(model_dirs, tmp_path, changes, said):
    other = save(build_model(make_spec(**changes), 1), tmp_path / "other")
    refused(make_inputs([model_dirs[0], other]), tmp_path, said)


def test_label_without_a_name_is_refused(model_dirs, tmp_path):
    classes = CLASSES[CLASSES["label"] != "no"]
    refused(make_inputs(model_dirs, classes=classes), tmp_path, "1 of 5 labels .* such as 'no'")


def test_probes_of_another_length_are_refused(model_dirs, tmp_path):
    probes = np.zeros((2, 100), np.float32)
    refused(make_inputs(model_dirs, probes=probes), tmp_path, r"shape \(2, 100\)")


def test_export_of_no_model_is_refused(tmp_path):
    refused(make_inputs([]), tmp_path, "no model to export")


@pytest.mark.slow
def test_half_precision_spares_the_front_end(exported):
    model = openvino_core().read_model(exported[0] / "openvino/model_fp16.xml")
    constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
    exact, halved = (
        [tuple(node.shape) for node in constants if node.get_element_type() == kind]
        for kind in (openvino.Type.f32, openvino.Type.f16)
    )
    n_first, n_second = 32, 16  # factors of the transform of 512
    for shape in ((2 * (n_first // 2 + 1), n_first), (2 * n_second, n_second)):
        assert shape in exact
        assert shape not in halved
    assert len(halved) > 20


@pytest.mark.slow
def test_half_precision_spares_the_resizing_of_images_too(tmp_path):
    model = make_model(1, make_spec({"image_size": (48, 40)}))
    write_graphs(tmp_path, [model], "mean", 18)
    graph = openvino_core().read_model(tmp_path / "openvino/model_fp16.xml")
    kinds = {
        tuple(node.shape): node.get_element_type()
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "Constant"
    }
    assert kinds[48, 32] == kinds[65, 40] == openvino.Type.f32  # bands, frames


@pytest.mark.parametrize(
    ("ensemble", "rounds", "chosen"),
    [
        ("last", 2, ["distill/2"]),
        ("last", 0, ["finetune/0", "finetune/1"]),
        ("student", 2, ["distill/2"]),
        ("teachers", 2, ["finetune/0", "finetune/1"]),
    ],
)
def test_params_choose_the_models_that_were_trained(tmp_path, ensemble, rounds, chosen):
    for name in ("finetune/0", "finetune/1", "distill/1", "distill/2"):
        (tmp_path / name).mkdir(parents=True)
    write_skipped(tmp_path / "finetune/2", "folds.f2 is false")
    if rounds == 0:
        for name in ("distill/1", "distill/2"):
            write_skipped(tmp_path / name, "pseudo_label.rounds is 0")
    config = CONFIG.model_copy(update={"ensemble": ensemble})
    found = chosen_folders(tmp_path, config)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == chosen


def test_student_is_refused_where_no_round_ran(tmp_path):
    write_skipped(tmp_path / "distill/1", "pseudo_label.rounds is 0")
    config = CONFIG.model_copy(update={"ensemble": "student"})
    with pytest.raises(ExportError, match=r"pseudo_label\.rounds is 0: .* export\.ensemble"):
        chosen_folders(tmp_path, config)


def test_signals_after_openvino_has_gone_are_handled(exported):
    """In a process that is told to end while or after it compares runtimes."""
    code = """
import gc, os, signal, sys
from pathlib import Path
from bclef.parity import open_runtimes

runtimes = open_runtimes(Path(sys.argv[1]))
while runtimes:  # the first one goes first
    del runtimes[next(iter(runtimes))]
    gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    command = [sys.executable, "-c", code, str(exported[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
