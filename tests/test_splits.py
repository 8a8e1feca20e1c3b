import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bclef.config import ConfigError, read_yaml
from bclef.leaks import LeakError, audit_leaks, refuse_leaks
from bclef.splits import (
    MOST_FOLDS,
    SPLITS,
    SplitError,
    SplitsConfig,
    assign_folds,
    split_counts,
)
from bclef.tables import write_table
from bclef.taxonomy import ClassList

BY_RECORDIST = SplitsConfig(n_folds=3, group_by="recordist")
BY_SPECIES = SplitsConfig(n_folds=3, group_by="recordist_species")
STATED = SplitsConfig(n_folds=3, group_by="stated")
TARGETS = ClassList(("a", "b"))


def _recordings(rows: list[dict[str, object]]) -> pd.DataFrame:
    columns = {
        "recording_id": "string",
        "source": "string",
        "role": "string",
        "label": "string",
        "recordist": "string",
        "group_id": "string",
        "fold": "Int64",
        "annotated": "bool",
    }
    defaults = {"source": "s", "role": "focal", "label": "a", "annotated": False}
    return (
        pd.DataFrame([defaults | row for row in rows])
        .reindex(columns=list(columns))
        .astype(columns)
    )


def _clips(
    recordings: pd.DataFrame,
    duplicate_of: dict[str, str] | None = None,
    errors: tuple[str, ...] = (),
    pcm_hash: dict[str, str] | None = None,
    sound_group: dict[str, str] | None = None,
) -> pd.DataFrame:
    ids = recordings["recording_id"]
    return pd.DataFrame(
        {
            "recording_id": ids,
            "pcm_hash": [(pcm_hash or {}).get(name, f"pcm of {name}") for name in ids],
            "duplicate_of": pd.array([(duplicate_of or {}).get(name) for name in ids], "string"),
            "sound_group": pd.array([(sound_group or {}).get(name) for name in ids], "string"),
            "error": pd.array(["corrupt" if name in errors else None for name in ids], "string"),
        }
    )


def _spread(n_recordists: int, label: str = "a", **changes: object) -> list[dict[str, object]]:
    """One recording of `label` by each of `n_recordists` people."""
    return [
        {"recording_id": f"{label}{n}", "label": label, "recordist": f"person {n}", **changes}
        for n in range(n_recordists)
    ]


def _groups(splits: pd.DataFrame) -> dict[str, str]:
    return dict(zip(splits["recording_id"], splits["group"], strict=True))


def _folds(splits: pd.DataFrame) -> dict[str, int | None]:
    folds = (None if pd.isna(fold) else int(fold) for fold in splits["fold"])
    return dict(zip(splits["recording_id"], folds, strict=True))


def _together(splits: pd.DataFrame, *ids: str) -> bool:
    groups = _groups(splits)
    return len({groups[name] for name in ids}) == 1


def _assign(
    rows: list[dict[str, object]],
    config: SplitsConfig = BY_RECORDIST,
    duplicate_of: dict[str, str] | None = None,
) -> pd.DataFrame:
    recordings = _recordings([*rows, *_spread(9, "b")])
    clips = _clips(recordings, duplicate_of)
    splits = assign_folds(recordings, clips, TARGETS, config, seed=0)
    assert audit_leaks(splits, recordings, clips, config).empty
    return splits


def test_recordist_is_one_person_in_any_spelling() -> None:
    names = ["Jos\u00e9  Garc\u00eda", "JOSE GARCIA", " jose\u0301 garci\u0301a "]
    rows = [{"recording_id": f"x{n}", "recordist": name} for n, name in enumerate(names)]
    splits = _assign([*rows, {"recording_id": "y", "recordist": "Jos Garcia"}])
    assert _together(splits, "x0", "x1", "x2")
    assert not _together(splits, "x0", "y")


@pytest.mark.parametrize("name", [None, "", "unknown", "Anonymous", "?", " N/A "])
def test_unknown_recordists_are_not_one_person(name: str | None) -> None:
    splits = _assign(
        [{"recording_id": "x", "recordist": name}, {"recording_id": "y", "recordist": name}]
    )
    assert not _together(splits, "x", "y")


def test_recordings_that_nothing_groups_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    _assign([{"recording_id": "x", "recordist": "Ana"}])
    assert not caplog.records
    _assign([{"recording_id": "x", "recordist": None}])
    assert "1 of 10 recordings have no recordist and no group" in caplog.text


def test_what_the_source_states_joins_within_that_source_only() -> None:
    rows = [
        {"recording_id": "x", "group_id": "site 1"},
        {"recording_id": "y", "group_id": "site 1"},
        {"recording_id": "z", "group_id": "site 1", "source": "other"},
    ]
    splits = _assign(rows, STATED)
    assert _together(splits, "x", "y")
    assert not _together(splits, "x", "z")


def test_links_of_different_kinds_make_one_group_through_a_shared_member() -> None:
    rows = [
        {"recording_id": "x", "recordist": "ann"},
        {"recording_id": "y", "recordist": "ann", "group_id": "site"},
        {"recording_id": "z", "recordist": "bob", "group_id": "site"},
        {"recording_id": "other", "recordist": "cyd"},
    ]
    splits = _assign(rows)
    assert _together(splits, "x", "y", "z")
    assert not _together(splits, "x", "other")


def test_copy_has_no_row_but_joins_its_recordist_to_the_original() -> None:
    rows = [
        {"recording_id": "x", "recordist": "ann"},
        {"recording_id": "copy", "recordist": "bob"},
        {"recording_id": "y", "recordist": "bob"},
    ]
    splits = _assign(rows, duplicate_of={"copy": "x"})
    assert "copy" not in set(splits["recording_id"])
    assert _together(splits, "x", "y")
    assert not _together(_assign(rows), "x", "y")


def test_copies_of_one_recording_join_their_owners_without_its_own_row() -> None:
    rows = [
        {"recording_id": "noise", "role": "noise", "label": None},
        {"recording_id": "c1", "recordist": "ann"},
        {"recording_id": "c2", "recordist": "bob"},
        {"recording_id": "x", "recordist": "ann"},
        {"recording_id": "y", "recordist": "bob"},
    ]
    assert _together(_assign(rows, duplicate_of={"c1": "noise", "c2": "noise"}), "x", "y")


def test_recordings_that_share_a_stretch_of_sound_are_one_group_and_both_stay() -> None:
    recordings = _recordings([*_spread(9), *_spread(9, "b")])
    shared = {"a1": "a1", "a2": "a1"}
    clips = _clips(recordings, sound_group=shared)
    splits = assign_folds(recordings, clips, TARGETS, BY_RECORDIST, seed=0)
    assert _together(splits, "a1", "a2")
    assert audit_leaks(splits, recordings, clips, BY_RECORDIST).empty
    apart = assign_folds(recordings, _clips(recordings), TARGETS, BY_RECORDIST, seed=0)
    assert _folds(apart)["a1"] != _folds(apart)["a2"]
    leaks = audit_leaks(apart, recordings, clips, BY_RECORDIST)
    assert leaks[["kind", "recording_id", "other_recording_id"]].to_numpy().tolist() == [
        ["shared_sound", "a1", "a2"]
    ]


def test_group_by_decides_what_recordists_join() -> None:
    rows = [
        {"recording_id": "x", "recordist": "ann", "label": "a"},
        {"recording_id": "x2", "recordist": "ann", "label": "a"},
        {"recording_id": "y", "recordist": "ann", "label": "b"},
    ]
    by_recordist, by_species, stated = (
        _assign(rows, config) for config in (BY_RECORDIST, BY_SPECIES, STATED)
    )
    assert _together(by_recordist, "x", "x2", "y")
    assert _together(by_species, "x", "x2")
    assert not _together(by_species, "x", "y")
    assert not _together(stated, "x", "x2")


def test_only_usable_focal_recordings_have_a_row() -> None:
    rows = [
        *_spread(9),
        {"recording_id": "noise", "role": "noise"},
        {"recording_id": "far", "role": "soundscape"},
        {"recording_id": "broken"},
        {"recording_id": "no clip"},
    ]
    recordings = _recordings(rows)
    clips = _clips(recordings[:-1], errors=("broken",))
    splits = assign_folds(recordings, clips, TARGETS, BY_RECORDIST, seed=0)
    assert set(splits["recording_id"]) == {f"a{n}" for n in range(9)}


def test_other_species_always_train_even_by_a_validated_recordist() -> None:
    splits = _assign([*_spread(9), *_spread(9, "other")])
    folds = _folds(splits)
    assert {folds[f"other{n}"] for n in range(9)} == {None}
    assert None not in {folds[f"a{n}"] for n in range(9)}


def test_other_species_linked_by_the_source_share_the_fold() -> None:
    rows = [*_spread(9), {"recording_id": "o", "label": "other", "group_id": "site"}]
    rows[0]["group_id"] = "site"
    folds = _folds(_assign(rows))
    assert folds["o"] == folds["a0"]
    assert folds["o"] is not None


def test_species_of_one_group_always_trains_with_its_whole_group() -> None:
    lone = [
        {"recording_id": "x", "recordist": "ann", "label": "a"},
        {"recording_id": "x2", "recordist": "ann", "label": "a"},
        {"recording_id": "y", "recordist": "ann", "label": "b"},
    ]
    folds = _folds(_assign(lone))
    assert [folds[name] for name in ("x", "x2", "y")] == [None, None, None]
    assert {folds[f"b{n}"] for n in range(9)} == {0, 1, 2}


def test_folds_are_stratified_by_label() -> None:
    recordings = _recordings([*_spread(30, "a", recordist=None), *_spread(60, "b", recordist=None)])
    splits = assign_folds(recordings, _clips(recordings), TARGETS, BY_RECORDIST, seed=3)
    rows = splits.merge(recordings[["recording_id", "label"]], on="recording_id")
    counts = rows.groupby(["fold", "label"]).size().unstack()
    assert (counts["a"] == 10).all()
    assert (counts["b"] == 20).all()


def test_seed_decides_and_order_of_rows_does_not() -> None:
    recordings = _recordings([*_spread(20, "a"), *_spread(20, "b", recordist=None)])
    clips = _clips(recordings)

    def assigned(seed: int, step: int) -> pd.DataFrame:
        return assign_folds(recordings[::step], clips[::step], TARGETS, BY_RECORDIST, seed)

    assert assigned(0, 1).equals(assigned(0, -1))
    assert not assigned(0, 1).equals(assigned(1, 1))


def test_inputs_are_not_changed() -> None:
    recordings = _recordings(_spread(9))
    clips = _clips(recordings)
    before = recordings.copy(), clips.copy()
    splits = assign_folds(recordings, clips, TARGETS, BY_RECORDIST, seed=0)
    audit_leaks(splits, recordings, clips, BY_RECORDIST)
    assert recordings.equals(before[0])
    assert clips.equals(before[1])


def test_stated_folds_are_kept_and_the_rest_is_divided() -> None:
    stated = [{**row, "fold": 2 - n % 3} for n, row in enumerate(_spread(6))]
    folds = _folds(_assign(stated, STATED))
    assert [folds[f"a{n}"] for n in range(6)] == [2, 1, 0, 2, 1, 0]
    assert {folds[f"b{n}"] for n in range(9)} == {0, 1, 2}


def test_stated_fold_of_one_recording_is_that_of_its_group() -> None:
    rows = _spread(9)
    rows[0] |= {"fold": 1, "group_id": "site"}
    rows[1] |= {"group_id": "site"}
    folds = _folds(_assign(rows))
    assert folds["a0"] == folds["a1"] == 1


def test_stated_folds_alone_are_enough() -> None:
    recordings = _recordings([{**row, "fold": n % 3} for n, row in enumerate(_spread(3))])
    splits = assign_folds(recordings, _clips(recordings), TARGETS, BY_RECORDIST, seed=0)
    assert _folds(splits) == {"a0": 0, "a1": 1, "a2": 2}


def test_stated_folds_that_tear_a_group_are_an_error_naming_both() -> None:
    rows = _spread(9)
    rows[3] |= {"fold": 0, "recordist": "ann"}
    rows[7] |= {"fold": 2, "recordist": "Ann"}
    with pytest.raises(SplitError, match="states fold 0 for a3 and fold 2 for a7"):
        _assign(rows)


@pytest.mark.parametrize("fold", [3, -1])
def test_stated_fold_that_there_is_not_is_an_error(fold: int) -> None:
    rows = _spread(9)
    rows[3] |= {"fold": fold}
    with pytest.raises(SplitError, match=f"recording a3: its source states fold {fold}"):
        _assign(rows)


@pytest.mark.parametrize("n_recordists", [0, 1, 2])
def test_too_few_groups_are_an_error_that_counts_them(n_recordists: int) -> None:
    recordings = _recordings([*_spread(n_recordists), *_spread(1, "other")])
    with pytest.raises(
        SplitError, match=f"{n_recordists} target recordings are in {n_recordists} gr"
    ):
        assign_folds(recordings, _clips(recordings), TARGETS, BY_RECORDIST, seed=0)


def test_enough_groups_of_too_small_species_are_the_same_error() -> None:
    recordings = _recordings([*_spread(2), *_spread(2, "b", recordist=None)])
    with pytest.raises(SplitError, match=r"nothing is left for folds \[0, 1, 2\]"):
        assign_folds(recordings, _clips(recordings), TARGETS, BY_RECORDIST, seed=0)


def test_species_smaller_than_the_number_of_folds_do_not_warn_or_fail() -> None:
    rows = [*_spread(2), *_spread(9, "b")]
    recordings = _recordings(rows)
    splits = assign_folds(recordings, _clips(recordings), TARGETS, BY_RECORDIST, seed=0)
    assert set(splits["fold"].dropna()) == {0, 1, 2}


def test_counts_name_the_species_that_no_fold_validates() -> None:
    rows = [*_spread(9), {"recording_id": "lone", "label": "b"}, *_spread(2, "other")]
    recordings = _recordings(rows)
    targets = ClassList(("a", "b", "c"))
    splits = assign_folds(recordings, _clips(recordings), targets, BY_SPECIES, seed=0)
    assert split_counts(splits, recordings, targets) == {
        "n_recordings": 12,
        "n_groups": 12,
        "n_target_recordings": 10,
        "n_target_recordings_always_training": 1,
        "folds": {
            str(fold): {"n_recordings": 3, "n_groups": 3, "n_species": 1} for fold in range(3)
        },
        "never_validated": ["b", "c"],
    }


def _random_world(seed: int, n_rows: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    people = [f"P\u00e9rson {n}" for n in range(max(8, n_rows // 8))]
    labels = [f"t{n}" for n in range(6)] + [f"o{n}" for n in range(4)]
    rows: list[dict[str, object]] = []
    for number in range(n_rows):
        person = people[int(len(people) * rng.random() ** 2)]
        rows.append(
            {
                "recording_id": f"r{number:06d}",
                "source": "ab"[number % 2],
                "role": rng.choice(["focal"] * 8 + ["soundscape", "noise"]),
                "label": rng.choice(labels),
                "recordist": rng.choice(
                    [person, person.upper(), unicodedata.normalize("NFD", person)]
                )
                if rng.random() < 0.8
                else None,
                "group_id": f"g{rng.integers(n_rows)}" if rng.random() < 0.3 else None,
                "annotated": bool(rng.random() < 0.3),
            }
        )
    recordings = _recordings(rows)
    copies = {
        f"r{number:06d}": f"r{rng.integers(number):06d}"
        for number in range(1, n_rows)
        if number % 25 == 0
    }
    copies = {
        copy: original
        for copy, original in copies.items()
        if original not in copies and not recordings.loc[int(copy[1:]), "annotated"]
    }
    return recordings, _clips(
        recordings, copies, errors=tuple(f"r{n:06d}" for n in range(0, n_rows, 33))
    )


@pytest.mark.parametrize("config", [BY_RECORDIST, BY_SPECIES, STATED])
@pytest.mark.parametrize("seed", range(6))
def test_no_link_ever_crosses_two_folds(seed: int, config: SplitsConfig) -> None:
    recordings, clips = _random_world(seed, 300)
    targets = ClassList(tuple(f"t{n}" for n in range(6)))
    splits = assign_folds(recordings, clips, targets, config, seed)
    write_like = splits.merge(recordings.drop(columns="fold"), on="recording_id")
    focal = recordings[recordings["role"] == "focal"].merge(clips, on="recording_id")
    usable = focal[focal["error"].isna() & focal["duplicate_of"].isna()]
    assert set(splits["recording_id"]) == set(usable["recording_id"])
    assert (splits.groupby("group")["fold"].nunique(dropna=False) == 1).all()
    spelled = write_like["recordist"].str.normalize("NFC").str.lower()
    in_folds = write_like[write_like["fold"].notna() & write_like["label"].str.startswith("t")]
    if config is BY_RECORDIST:
        assert (in_folds.groupby(spelled)["fold"].nunique() <= 1).all()
    if config is not STATED:
        keys = [spelled, write_like["label"]]
        assert (write_like.groupby(keys)["fold"].nunique(dropna=False) == 1).all()
    stated = write_like.groupby(["source", "group_id"])["fold"].nunique(dropna=False)
    assert (stated == 1).all()
    assert set(in_folds["fold"]) == {0, 1, 2}
    for label, rows in write_like[write_like["label"].isin(targets)].groupby("label"):
        for fold in set(rows["fold"].dropna()):
            assert (rows["fold"] != fold).fillna(True).any(), (label, fold)
    assert audit_leaks(splits, recordings, clips, config).empty


def test_splits_pass_their_schema(tmp_path: Path) -> None:
    write_table(_assign(_spread(9)), tmp_path / "splits.parquet", SPLITS)


def _divided(
    rows: list[dict[str, object]], folds: dict[str, int | None]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    recordings = _recordings(rows)
    splits = pd.DataFrame(
        {
            "recording_id": pd.array(list(folds), "string"),
            "group": pd.array([f"group of {name}" for name in folds], "string"),
            "fold": pd.array(list(folds.values()), "Int64"),
        }
    )
    return splits, recordings


def _kinds(leaks: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    return list(leaks.itertuples(index=False, name=None))


@pytest.mark.parametrize(
    ("one", "other", "detail"),
    [(0, 1, "fold 0 and fold 1"), (2, None, "fold 2 and always training")],
)
def test_planted_leaks_of_every_kind_are_found(one: int, other: int | None, detail: str) -> None:
    rows = [
        {"recording_id": "x", "recordist": "Ann", "group_id": "g"},
        {"recording_id": "y", "recordist": "ann", "group_id": "g"},
        {"recording_id": "z", "recordist": "bob"},
    ]
    splits, recordings = _divided(rows, {"x": one, "y": other, "z": one})
    clips = _clips(recordings, pcm_hash={"x": "same", "y": "same"})
    kinds = ("recordist", "same_audio", "stated_group")
    assert _kinds(audit_leaks(splits, recordings, clips, BY_RECORDIST)) == [
        (kind, "x", "y", detail) for kind in kinds
    ]
    assert [kind for kind, *_ in _kinds(audit_leaks(splits, recordings, clips, STATED))] == [
        "same_audio",
        "stated_group",
    ]
    splits["group"] = "one"
    leaks = audit_leaks(splits, recordings, clips, STATED)
    assert ("group", "x", "y", detail) in _kinds(leaks)


def test_same_side_is_no_leak() -> None:
    rows = [{"recording_id": name, "recordist": "ann", "group_id": "g"} for name in "xy"]
    splits, recordings = _divided(rows, {"x": 1, "y": 1})
    clips = _clips(recordings, pcm_hash=dict.fromkeys("xy", "same"))
    assert audit_leaks(splits, recordings, clips, BY_RECORDIST).empty


def test_recording_with_two_folds_is_a_leak() -> None:
    splits, recordings = _divided([{"recording_id": "x"}], {"x": 1})
    twice = pd.concat([splits, splits.assign(fold=pd.array([2], "Int64"), group="other")])
    leaks = audit_leaks(twice, recordings, _clips(recordings), BY_RECORDIST)
    assert ("id", "x", "x", "fold 1 and fold 2") in _kinds(leaks)


def test_copies_and_faulty_clips_in_the_table_are_leaks() -> None:
    splits, recordings = _divided(
        [{"recording_id": name} for name in ("broken", "copy", "far", "x")],
        {"broken": 0, "copy": 1, "x": 1, "far": 0},
    )
    recordings.loc[2, "role"] = "noise"
    clips = _clips(recordings, {"copy": "x"}, errors=("broken",))
    leaks = audit_leaks(splits, recordings, clips, STATED)
    wrong = leaks.loc[leaks["kind"] == "not_usable", "recording_id"]
    assert wrong.tolist() == ["broken", "copy", "far"]
    assert ("id", "far", "far", "always training and fold 0") in _kinds(leaks)


ANNOTATED: dict[str, object] = {
    "recording_id": "test",
    "role": "soundscape",
    "label": None,
    "annotated": True,
}


@pytest.mark.parametrize("fold", [0, None])
def test_annotated_soundscape_that_sounds_like_a_focal_recording_is_a_leak(
    fold: int | None,
) -> None:
    splits, recordings = _divided([{"recording_id": "x"}, ANNOTATED], {"x": fold})
    side = "always training" if fold is None else "fold 0"
    same = _clips(recordings, pcm_hash={"x": "same", "test": "same"})
    assert _kinds(audit_leaks(splits, recordings, same, STATED)) == [
        ("same_audio", "test", "x", f"testing and {side}")
    ]
    copy = _clips(recordings, {"test": "x"})
    assert _kinds(audit_leaks(splits, recordings, copy, STATED)) == [
        ("duplicate", "test", "x", f"testing and {side}")
    ]


@pytest.mark.parametrize("role", ["soundscape", "noise"])
def test_annotated_soundscape_that_is_also_trained_on_unlabelled_is_a_leak(role: str) -> None:
    other: dict[str, object] = {"recording_id": "u", "role": role, "label": None}
    splits, recordings = _divided([{"recording_id": "x"}, other, ANNOTATED], {"x": 0})
    same = _clips(recordings, pcm_hash={"u": "same", "test": "same"})
    assert _kinds(audit_leaks(splits, recordings, same, STATED)) == [
        ("same_audio", "test", "u", "testing and always training")
    ]
    as_copy = _clips(recordings, {"u": "test"}, pcm_hash={"u": "same", "test": "same"})
    assert audit_leaks(splits, recordings, as_copy, STATED).empty


def test_planted_leak_in_a_good_division_is_found() -> None:
    recordings, clips = _random_world(3, 300)
    targets = ClassList(tuple(f"t{n}" for n in range(6)))
    splits = assign_folds(recordings, clips, targets, BY_RECORDIST, seed=0)
    of_many = splits[splits.duplicated("group", keep=False) & splits["fold"].notna()]
    moved = splits.copy()
    moved.loc[of_many.index[0], "fold"] = (int(of_many["fold"].iloc[0]) + 1) % 3
    assert audit_leaks(splits, recordings, clips, BY_RECORDIST).empty
    assert "group" in set(audit_leaks(moved, recordings, clips, BY_RECORDIST)["kind"])


def test_refusal_counts_the_kinds_and_passes_none() -> None:
    splits, recordings = _divided([{"recording_id": "x"}, ANNOTATED], {"x": 0})
    clips = _clips(recordings, {"test": "x"})
    leaks = audit_leaks(splits, recordings, clips, STATED)
    refuse_leaks(leaks[:0])
    with pytest.raises(LeakError, match="1 duplicate, such as test and x: testing and fold 0"):
        refuse_leaks(leaks)


@pytest.mark.slow
def test_a_hundred_thousand_rows_pass_the_audit() -> None:
    n_rows, rng = 100_000, np.random.default_rng(0)
    recordings = pd.DataFrame(
        {
            "recording_id": [f"r{n}" for n in range(n_rows)],
            "source": "s",
            "role": "focal",
            "label": [f"t{n}" for n in rng.zipf(1.3, n_rows) % 400],
            "recordist": [f"p{n}" for n in rng.zipf(1.3, n_rows) % 5000],
            "group_id": None,
            "fold": None,
            "annotated": False,
        }
    ).astype({"fold": "Int64", "recordist": "string", "group_id": "string", "label": "string"})
    clips = _clips(recordings)
    targets = ClassList(tuple(f"t{n}" for n in range(200)))
    splits = assign_folds(recordings, clips, targets, BY_SPECIES, seed=0)
    assert audit_leaks(splits, recordings, clips, BY_SPECIES).empty


def test_more_folds_than_the_pipeline_finetunes_are_refused() -> None:
    repository = Path(__file__).parents[1]
    folds = read_yaml(repository / "dvc.yaml")["stages"]["finetune"]["matrix"]["fold"]
    switches = read_yaml(repository / "params.yaml")["folds"]
    assert folds == list(range(MOST_FOLDS))
    assert list(switches) == [f"f{fold}" for fold in folds]
    tree = {"n_folds": len(folds) + 1, "group_by": "recordist"}
    with pytest.raises(ConfigError, match=r"params\.yaml: splits\.n_folds: found 6, expected .* 5"):
        SplitsConfig.from_tree(tree, "params.yaml", "splits")
