import pandas as pd

from bclef.holdout import hold_out_groups, hold_out_recordings


def table(groups: dict[str, str]) -> pd.DataFrame:
    """Four recordings of each group; the value names their labels, one letter each."""
    rows = [
        {"recording_id": f"{group}{i}", "group": group, "label": labels[i % len(labels)]}
        for group, labels in groups.items()
        for i in range(4)
    ]
    return pd.DataFrame(rows)


def test_whole_groups_are_held_out_up_to_the_share() -> None:
    recordings = table({f"g{i:02d}": "ab" for i in range(20)})
    held_out = hold_out_groups(recordings, 0.25, seed=0)
    assert len(held_out) == 20
    sizes = recordings[recordings["recording_id"].isin(held_out)].groupby("group").size()
    assert (sizes == 4).all()


def test_no_label_is_left_without_training_recordings() -> None:
    recordings = table({"g1": "a", "g2": "b", "g3": "b", "g4": "b", "g5": "bc"})
    for seed in range(10):
        held_out = hold_out_groups(recordings, 0.9, seed)
        left = recordings[~recordings["recording_id"].isin(held_out)]
        assert set(left["label"]) == {"a", "b", "c"}
        assert held_out


def test_choice_depends_on_the_seed_and_not_on_the_order() -> None:
    recordings = table({f"g{i:02d}": "ab" for i in range(20)})
    one = hold_out_groups(recordings, 0.2, seed=0)
    assert one == hold_out_groups(recordings[::-1], 0.2, seed=0)
    assert one != hold_out_groups(recordings, 0.2, seed=1)


def test_nothing_is_held_out_at_share_zero() -> None:
    assert hold_out_groups(table({"g": "a", "h": "a"}), 0.0, seed=0) == set()
    assert hold_out_recordings(["a", "b"], 0.0, seed=0) == set()


def test_share_of_recordings_is_held_out_once_each() -> None:
    ids = [f"s{i}" for i in range(10)] * 3
    held_out = hold_out_recordings(ids, 0.35, seed=0)
    assert len(held_out) == 3
    assert held_out == hold_out_recordings(ids[::-1], 0.35, seed=0)
    assert held_out != hold_out_recordings(ids, 0.35, seed=1)
