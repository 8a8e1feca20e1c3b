"""Faults of the published systems, and what would find each of them here.

The faults are those found in the published code of the systems that docs/formulas.md names, as far
as this library could have them; the year and place of each stand behind it.
Tests of this file are named for their fault. The others are guarded where their subject is tested:

| fault | guarded by |
|---|---|
| attention over mel bands instead of time (2022) | training/test_heads.py::test_attention_runs_over_time_and_not_over_mel_bands |
| frames that do not follow time (2022, 2023 2nd) | training/test_heads.py::test_late_impulse_moves_late_frames_only |
| frames that do not follow time, from the wave on (2022) | training/test_models.py::test_late_impulse_in_the_wave_moves_late_frames_only |
| two-way loss without its frame term (2022) | training/test_losses.py::test_two_way_loss_is_that_of_the_clip_and_of_the_loudest_frame |
| validation on crops at random places (2022) | training/test_inference.py::test_score_is_the_probability_of_the_padded_window |
| folds that are trained on all the same, unsaid (2021) | training/test_trainings.py::test_in_all_data_mode_every_teacher_hears_all_and_none_is_validated |
| class order of whatever file was read (2022) | training/test_modelfiles.py::test_rows_are_matched_by_label_whatever_their_order |
| class order of whatever file was read, in what ships | test_runtime.py::test_swapped_labels_are_refused |
| torch's own generator unseeded (2022, 2023 1st) | training/test_training.py::test_result_does_not_depend_on_the_global_generator_and_leaves_it |
| highest band above half the sample rate (2021) | test_frontend.py::test_bands_above_half_the_sample_rate_are_refused |
| top_db of the whole batch (2021, 2023 1st, 2026 2nd) | test_frontend.py::test_loud_neighbour_in_the_batch_changes_nothing |
| top_db of the whole batch, in torch | test_spectrogram.py::test_image_of_a_clip_is_the_same_alone_and_in_any_batch |
| top_db of the whole batch, in what ships | test_export.py::test_score_that_depends_on_the_batch_is_found |
| top_db of all windows of a file at test (2026 2nd) | test_runtime.py::test_scores_do_not_depend_on_the_batch |
| list of recordings that ends at its first page (2023 1st) | test_xeno_canto.py::test_1203_recordings_of_three_species_all_arrive_once |
| random filter that loses the end of the clip (2023 1st) | training/test_wavechanges.py::test_filter_that_does_nothing_gives_the_clip_back_to_its_end |
| augmentation of silence, or of odd lengths | training/test_augment.py::test_batches_of_any_size_keep_shape_and_are_finite |
| noise level by the peak of its file (2023 1st) | training/test_noises.py::test_noise_has_the_stated_ratio_to_the_clip_by_root_mean_square |
| augmentation that couples the clips of a batch | training/test_augment.py::test_process_that_takes_what_its_rows_need_gets_the_same_clips |
| zero padding in the padded average precision (2023) | test_metrics.py::test_padded_cmap_is_e24 |
| pooled folds that dilute the padding (2023) | test_metrics.py::test_fold_mean_ranks_within_folds_and_skips_folds_without_a_score |
| class that is positive everywhere (2024) | test_metrics.py::test_class_without_positives_or_without_negatives_is_skipped |
| deltas along frequency (2023 2nd) | test_frontend.py::test_deltas_of_a_steady_tone_are_zero_and_of_a_swelling_one_its_slope |
| no checkpoint after the first epoch (2023 2nd) | training/test_training.py::test_run_killed_in_mid_epoch_ends_with_the_weights_of_an_uninterrupted_one |
| moving average of weights that was never there (2023 2nd) | training/test_averaging.py::test_moving_average_is_the_recurrence_with_its_warm_up |
| batch-norm statistics of the last epoch with averaged weights (2026 2nd) | training/test_averaging.py::test_statistics_are_those_of_the_averaged_weights |
| hand label of 15 (2023 2nd) | test_pseudolabels.py::test_scores_that_are_no_probabilities_are_refused |
| logit of exact 0 or 1 in the head (2023 2nd) | training/test_heads.py::test_sure_probability_has_a_finite_logit_and_gradient |
| logit of exact 0 or 1 among members (2024 3rd) | test_export.py::test_probabilities_of_members_become_one_by_the_formula |
| logarithm of exact 0 or 1 in validation | training/test_validation.py::test_cross_entropy_is_the_formula_and_finite_at_the_ends |
| loss that grows with the batch (2023 2nd) | training/test_objective.py::test_summed_loss_grows_with_the_batch_and_the_mean_does_not |
| loss that grows with the number of processes | training/test_objective.py::test_two_processes_have_on_average_the_gradient_of_one |
| wave over its standard deviation, of silence (2024 3rd) | test_frontend.py::test_silence_and_constant_give_finite_images |
| same pseudo-labels in every process (2024 3rd) | training/test_dataset.py::test_processes_share_the_clips_of_one_batch |
| teacher that trains on its validation fold (2024 3rd) | training/test_trainings.py::test_teacher_trains_outside_its_fold_and_scores_in_it |
| pretraining that hears what a fold validates | training/test_trainings.py::test_pretraining_reads_no_recording_that_a_fold_validates |
| the newest recordings by their year of competition (2024 3rd) | test_recordings.py::test_cap_by_date_keeps_the_newest_and_the_undated_last |
| one recording under two species (2024 3rd) | test_store.py::test_labels_of_copies_join_those_of_the_kept_recording |
| recordings of one person on both sides (2025 2nd) | test_splits.py::test_no_link_ever_crosses_two_folds |
| classes that no fold validates, unsaid (2025 2nd) | test_splits.py::test_counts_name_the_species_that_no_fold_validates |
| numbers of two collections that coincide (2025 2nd) | test_competition.py::test_recordings_of_all_three_collections_keep_their_home |
| channels averaged here and dropped there (2025 2nd) | test_audio.py::test_uncorrelated_channels_are_averaged |
| misspelt setting found after hours (2025 2nd) | test_config.py::test_all_faults_of_a_section_come_at_once_with_their_full_keys |
| metric of -1 where it is undefined (2025 2nd) | test_metrics.py::test_undefined_score_is_an_error_that_says_what_is_missing |
| metric of -1 that drives checkpoints (2025 2nd) | training/test_validation.py::test_figure_that_is_undefined_is_not_reported |
| converted graph that nobody compares (2025 2nd) | test_export.py::test_planted_fault_does_not_pass_the_gate |
| half-written cache that counts as done (2025 2nd) | test_tables.py::test_failed_write_leaves_the_old_file_and_nothing_else |
| half-written clip that counts as done (2025 2nd) | test_clips.py::test_killed_encoding_leaves_no_half_clip |
| teacher's windows joined by position | test_pseudolabels.py::test_tables_are_joined_by_recording_and_time_and_not_by_position |
"""  # noqa: E501

import os
import re
import subprocess
import sys
from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from bclef.augment import AugmentConfig, Clips, augment_images, augment_waves
from bclef.clipsampling import labelled_recordings
from bclef.config import read_yaml
from bclef.crops import Crop
from bclef.dataset import BatchConfig, BatchKey, TrainingBatches
from bclef.frontend import FrontEndConfig
from bclef.graphs import Ensemble
from bclef.inference import ScoreConfig
from bclef.metrics import f1_macro, f1_micro
from bclef.modelfiles import load_model, make_card, save_model
from bclef.models import BirdModel, ModelConfig, ModelSpec, build_model
from bclef.selection import Candidates
from bclef.streams import ClipSources, PseudoWindows, clip_sources
from bclef.taxonomy import ClassList
from bclef.validation import ClipValidation
from tests.augmentations import PARAMS, train_section, tree_of

TESTS = Path(__file__).parent
CLASSES = ClassList(("ani", "bee", "cro"))
RATE_HZ = 1000

GUARDS = re.findall(r"^\| (.+?) \| (\S+)::(\w+) \|$", __doc__ or "", re.MULTILINE)


@pytest.mark.parametrize(("fault", "file", "test"), GUARDS, ids=[row[0] for row in GUARDS])
def test_guard_of_a_fault_exists(fault: str, file: str, test: str) -> None:
    text = (TESTS / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {test}\(", text, re.MULTILINE), f"nothing guards against: {fault}"


def test_every_row_of_the_table_is_read() -> None:
    assert len(GUARDS) == (__doc__ or "").count("::test_")


class Store:
    """A feature store of recordings that hold one value each; it remembers what was read."""

    def __init__(self, rows: list[dict[str, Any]], n_samples: int = RATE_HZ) -> None:
        plain = {
            "n_samples": n_samples, "role": "focal", "label": None, "secondary_labels": [],
            "annotated": False, "rating": None,
        }  # fmt: skip
        index = pd.DataFrame([plain | row for row in rows])
        self.index = index.drop(columns="value").astype(
            {"recording_id": "string", "label": "string", "rating": "Float32"}
        )
        values = dict(zip(index["recording_id"], index["value"], strict=True))
        self.waves: dict[str, NDArray[np.int16]] = {
            name: np.full(n_samples, value, np.int16) for name, value in values.items()
        }
        self.read_ids: set[str] = set()

    def read(
        self, recording_id: str, first_sample: int = 0, n_samples: int | None = None
    ) -> NDArray[np.int16]:
        self.read_ids.add(recording_id)
        return self.waves[recording_id][first_sample:][:n_samples]

    def activity(self, recording_id: str) -> NDArray[np.float32]:
        return np.zeros(10, np.float32)


def settings(**changes: Any) -> BatchConfig:
    """Settings of batches as params.yaml has them, without augmentation, and with `changes`."""
    train = train_section()
    augmented = {key: changes.pop(key) for key in AugmentConfig.model_fields if key in changes}
    tree = {name: train[name] for name in BatchConfig.model_fields} | tree_of(**augmented)
    tree |= {"window_s": 1.0, "batch_size": 8, "crop_place": "uniform"}
    return BatchConfig.from_tree(tree | changes, "train")


def labelled(n: int, label: str, **changes: Any) -> dict[str, Any]:
    """A recording whose value tells its class, and its number."""
    value = 1000 * (CLASSES.position(label) + 1) + n
    return {"recording_id": f"{label}{n}", "label": label, "value": value} | changes


def batches_of(
    store: Store, config: BatchConfig, recordings: pd.DataFrame | None = None, **streams: Any
) -> TrainingBatches:
    if recordings is None:
        recordings = labelled_recordings(store.index, CLASSES)
    sources = clip_sources(store, recordings, CLASSES, config, RATE_HZ)
    sources = ClipSources(**(vars(sources) | streams))
    return TrainingBatches(store, sources, config, RATE_HZ, 4)


def test_audio_table_filtered_and_label_table_not_2023() -> None:
    # Rating drops rows of every class, and the rows of the index are in no order.
    rows = [labelled(n, label, rating=float(n % 5 + 1)) for label in CLASSES for n in range(20)]
    noise = [{"recording_id": f"n{n}", "role": "noise", "value": -n - 1} for n in range(3)]
    rows += [*noise, {"recording_id": "s", "role": "soundscape", "value": -9000}]
    order = np.random.default_rng(1).permutation(len(rows))
    store = Store([rows[n] for n in order])
    config = settings(
        min_rating=3.0, scored_labels=["bee"], scored_share=0.25, noise_share=0.25,
        copies_up_to=15, max_per_class=16, sampler="uniform",
        selective_mixup={"probability": 1.0},
    )  # fmt: skip
    batches = batches_of(store, config)
    n_seen = 0
    for position in range(len(batches)):
        batch = batches[BatchKey(0, position, 0, 1)]
        for wave, target in zip(batch.wave.tolist(), batch.target.tolist(), strict=True):
            heard = [0.0, 0.0, 0.0]
            if wave[0] > 0:
                heard[wave[0] // 1000 - 1] = 1.0
                assert wave[0] % 1000 % 5 + 1 >= 3
            assert target == heard
            n_seen += 1
    assert n_seen == 16 * len(batches)


@pytest.mark.parametrize(("sampler", "share"), [("equal", 0.5), ("inverse_sqrt", 0.091)])
def test_class_sampler_that_was_a_no_op_2025(sampler: str, share: float) -> None:
    # 10 rare recordings of 1,000, two processes: drawn without replacement they are 1 in 100.
    rows = [labelled(n, "ani") for n in range(10)] + [labelled(n, "bee") for n in range(990)]
    config = settings(sampler=sampler, batch_size=100, clips_per_epoch=1000)
    batches = batches_of(Store(rows), config)
    for rank in range(2):
        keys = [BatchKey(0, position, rank, 2) for position in range(len(batches))]
        targets = torch.cat([batches[key].target for key in keys])
        assert len(targets) == 500
        found = float(targets[:, CLASSES.position("ani")].mean())
        assert found == pytest.approx(share, abs=4 * (share * (1 - share) / 500) ** 0.5)
        assert found > 0.03


def test_resampling_that_took_the_whole_table_2024() -> None:
    rows = [labelled(n, label) for label in CLASSES for n in range(8)]
    store = Store(rows)
    recordings = labelled_recordings(store.index, CLASSES)
    number = recordings["recording_id"].str[3:].astype(int)
    validated = set(recordings.loc[number % 2 == 0, "recording_id"])
    config = settings(
        sampler="inverse", copies_up_to=50, scored_share=0.25, scored_labels=["bee", "cro"],
        selective_mixup={"probability": 1.0}, mixup={"probability": 1.0},
    )  # fmt: skip
    batches = batches_of(store, config, recordings[number % 2 == 1])
    for epoch in range(2):
        for position in range(len(batches)):
            _ = batches[BatchKey(epoch, position, 0, 1)]
    assert store.read_ids
    assert store.read_ids.isdisjoint(validated)


def pseudo_batches(n_windows: int) -> TrainingBatches:
    """Batches of which half are pseudo-labelled windows; each window has a value of its own."""
    rows = [labelled(n, label) for label in CLASSES for n in range(8)]
    rows += [
        {"recording_id": f"s{n}", "role": "soundscape", "value": -n - 1} for n in range(n_windows)
    ]
    windows = pd.DataFrame({"weight": np.ones(n_windows)})
    windows[list(CLASSES)] = 0.4
    crops = [Crop(f"s{n}", 0, RATE_HZ, 0) for n in range(n_windows)]
    pseudo = PseudoWindows(crops, windows, CLASSES, 1.0)
    config = settings(clips_per_epoch=64)
    return batches_of(Store(rows), config, pseudo=pseudo, pseudo_share=0.5)


def pseudo_values(batches: TrainingBatches, epoch: int) -> list[list[int]]:
    """Returns the values of the pseudo-labelled windows of each batch of an epoch."""
    keys = [BatchKey(epoch, position, 0, 1) for position in range(len(batches))]
    return [[n for n in batches[key].wave[:, 0].tolist() if n < 0] for key in keys]


def test_pseudo_label_stream_that_ran_out_2024() -> None:
    batches = pseudo_batches(n_windows=3)
    for epoch in range(3):
        assert [len(values) for values in pseudo_values(batches, epoch)] == [4] * 8


def test_pseudo_label_files_that_were_never_shuffled_2024() -> None:
    batches = pseudo_batches(n_windows=40)
    epochs = [list(chain(*pseudo_values(batches, epoch))) for epoch in range(2)]
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])
    assert epochs[0] != sorted(epochs[0], reverse=True)


def test_target_outside_zero_to_one_2023() -> None:
    rows = [
        labelled(n, label, secondary_labels=["ani", "bee"], rating=float(n % 6))
        for label in CLASSES
        for n in range(8)
    ]
    always = {"probability": 1.0}
    for signal, labels in (("mean", "union"), ("add", "max"), ("blend", "blend")):
        third = {"third_probability": 0.0 if signal == "blend" else 1.0}
        config = settings(
            mixup=always | third | {"signal": signal, "labels": labels},
            image_mixup=always | {"labels": labels},
            selective_mixup=always,
            rating_weight=True,
            secondary_label_value=0.9,
        )
        batch = batches_of(Store(rows), config)[BatchKey(0, 0, 0, 1)]
        clips = Clips(batch.wave.float() / 32768, batch.target, batch.mask, batch.weight)
        waves = augment_waves(clips, batch.noise.float(), batch.draws, RATE_HZ)
        image = waves._replace(signal=waves.signal.view(len(waves.signal), 1, 20, 50))
        mixed = augment_images(image, batch.draws)
        assert not torch.equal(mixed.target[: batch.n_kept], batch.target[: batch.n_kept])
        for part in (mixed.target, mixed.mask):
            assert ((part >= 0) & (part <= 1)).all()
        total = mixed.weight[: batch.n_kept].sum().item()
        assert total == pytest.approx(batch.total_weight, abs=1e-5)


class Sure(torch.nn.Module):
    """Says with certainty what the value of a recording tells."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def images(self, wave: torch.Tensor) -> torch.Tensor:
        return wave

    def scores(self, wave: torch.Tensor) -> torch.Tensor:
        number = (wave.amax(dim=1) * 32768 / 1000).long() - 1
        return torch.nn.functional.one_hot(number, len(CLASSES)).float()


def test_smoothing_and_soft_labels_in_validation_2022() -> None:
    store = Store([labelled(n, label) for label in CLASSES for n in range(4)])
    spec = SimpleNamespace(
        labels=CLASSES.labels, sample_rate_hz=RATE_HZ, window_samples=RATE_HZ,
        scored_samples=RATE_HZ, context_samples=0,
    )  # fmt: skip
    model: Any = Sure(spec)  # type: ignore[arg-type]
    validate = ClipValidation(store, store.index, CLASSES, ScoreConfig(step_s=1.0, batch_size=5))
    figures = validate(model)
    # Of a truth that is smoothed by 0.01 the least loss would be 0.02 or more.
    assert figures["val_loss"] < 2e-6
    assert figures["val_macro_roc_auc"] == figures["val_top1"] == 1.0


def test_whole_numbers_as_truth_in_f1_2022() -> None:
    soft = np.array([[0.99, 0.0], [0.0, 0.99]])  # as integers, nothing at all
    for metric in (f1_micro(0.5), f1_macro(0.5)):
        with pytest.raises(ValueError, match="hard labels"):
            metric(soft, soft)
        assert metric(np.round(soft), soft) == 1.0


def test_best_epoch_by_a_loss_rounded_to_three_decimals_2025() -> None:
    candidates = Candidates("best", soup_size=1)
    losses = (0.12344, 0.123401, 0.1234, 0.123449)
    for epoch, loss in enumerate(losses, start=1):
        candidates.offer(epoch, loss, {"w": torch.tensor(float(epoch))})
    assert [one.epoch for one in candidates.best] == [3]
    assert candidates.mean()["w"] == 3.0


HASHED = """
import pandas as pd
from bclef.config import read_yaml
from bclef.holdout import hold_out_groups, hold_out_recordings
from bclef.nomenclature import Taxonomy
from bclef.recordings import MetadataConfig, build_recordings
from bclef.sieve import LicencesConfig
from bclef.sources.protocol import LISTED_ANNOTATIONS, LISTED_REJECTED, Listing, listed_frame
from bclef.splits import SplitsConfig, assign_folds
from bclef.taxonomy import ClassList, Synonyms

labels = ["wren", "crow", "finch", "robin", "tit"]
rows = [
    {"recording_id": f"r{n}", "source": "a", "role": "focal", "label": labels[n % 5],
     "secondary_labels": [labels[(n + 1) % 5], labels[(n + 2) % 5]], "licence": "CC0",
     "attribution": "", "url": f"https://example.org/{n}", "annotated": False,
     "recordist": f"person {n % 23}"}
    for n in range(100)
]
nothing = listed_frame([], LISTED_ANNOTATIONS), listed_frame([], LISTED_REJECTED)
config = MetadataConfig(
    sources=("a",), species=None, keep_others=True, min_recordings=1, max_recordings=15,
    cap_by="rating", min_rating=0.0, drop_same_event=True,
)
made = build_recordings(
    {"a": Listing(listed_frame(rows), *nothing)}, config, LicencesConfig(allow=None),
    Taxonomy(Synonyms({}), None),
)
recordings = made.recordings
clips = pd.DataFrame({"recording_id": recordings["recording_id"]})
for column in ("duplicate_of", "sound_group", "error"):
    clips[column] = pd.array([None] * len(clips), "string")
splits = assign_folds(
    recordings, clips, ClassList(tuple(made.classes["label"])),
    SplitsConfig(n_folds=3, group_by="recordist"), seed=0,
)
print(made.classes.to_csv(), recordings.to_csv(), splits.to_csv())
grouped = recordings.merge(splits.drop(columns="fold"), on="recording_id")
print(sorted(hold_out_groups(grouped, 0.2, 1)))
print(sorted(hold_out_recordings(set(recordings["recording_id"]), 0.2, 1)))
"""


@pytest.mark.slow
def test_class_list_and_splits_in_the_order_of_sets_2023() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", HASHED],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
            cwd=TESTS.parent,
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(runs[0]) > 1000
    assert runs[0] == runs[1]


def network(**changes: Any) -> BirdModel:
    """A tiny network with the weights of seed 0, whose scores differ between frames."""
    model = {
        "backbone": "test_efficientnet", "pretrained": False, "input_s": 1.5, "scored_s": 0.5,
        "max_share": 0.5, "frame_shift": 0,
    }  # fmt: skip
    params = read_yaml(PARAMS)
    frontend = params["frontend"] | {
        "n_fft": 512, "win_samples": 512, "hop_samples": 100, "n_mels": 32, "f_max_hz": 8000.0,
    }  # fmt: skip
    spec = ModelSpec(
        labels=CLASSES.labels,
        sample_rate_hz=16_000,
        frontend=FrontEndConfig.from_tree(frontend, "frontend"),
        model=ModelConfig.from_tree(params["model"] | model | changes, "model"),
    )
    built = build_model(spec, seed=0).eval()
    with torch.no_grad():
        built.head.classify.weight.mul_(200)
    return built


@pytest.fixture
def wave() -> torch.Tensor:
    """Noise that swells and fades, at the rate of `network`."""
    noise = torch.randn(2, 24_000, generator=torch.Generator().manual_seed(0))
    return 0.3 * noise * torch.linspace(0, 25, 24_000).sin()


def test_graph_that_ships_with_another_frame_shift_2023(wave: torch.Tensor, tmp_path: Path) -> None:
    found = []
    for shift in (0, 1, 2):
        model = network(frame_shift=shift)
        save_model(model, tmp_path / str(shift), make_card(model.spec, "random", {"a": 1}, {}))
        loaded, card = load_model(tmp_path / str(shift))
        assert card.model.frame_shift == shift
        with torch.no_grad():
            logits = loaded.features(loaded.images(wave), scored=True)
            shipped = Ensemble([loaded], "mean")(wave)
        frames = logits.frames.sigmoid()
        n_context = frames.shape[1] // 3
        middle = frames[:, n_context:-n_context]
        earlier, later = (frames[:, n_context + d :][:, : middle.shape[1]] for d in (-shift, shift))
        best = 0.5 * middle.amax(1) + 0.25 * (earlier.amax(1) + later.amax(1))
        expected = 0.5 * logits.clip.sigmoid() + 0.5 * best
        torch.testing.assert_close(shipped, expected, atol=1e-5, rtol=0)
        found.append(shipped)
    assert min((a - b).abs().max() for a, b in pairwise(found)) > 1e-3


@pytest.mark.parametrize("pooling", ["logit", "probability"])
def test_trained_on_one_pooled_score_and_scored_by_another_2025(
    pooling: str, wave: torch.Tensor
) -> None:
    model = network(clip_pooling=pooling, max_share=0.0, input_s=1.5, scored_s=1.5)
    with torch.no_grad():
        trained = model.features(model.images(wave)).clip.sigmoid()
        shipped = Ensemble([model], "mean")(wave)
    torch.testing.assert_close(shipped, trained, atol=1e-5, rtol=0)
    assert (trained[0] - trained[1]).abs().max() > 1e-4
