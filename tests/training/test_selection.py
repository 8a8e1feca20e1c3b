import math

import pytest
import torch

from bclef.selection import Candidates, Select


def offered(select: Select, losses: list[float], soup_size: int = 2) -> Candidates:
    candidates = Candidates(select, soup_size)
    for epoch, loss in enumerate(losses):
        candidates.offer(epoch, loss, {"w": torch.tensor([float(epoch)])})
    return candidates


def epochs(candidates: Candidates) -> list[int]:
    return [candidate.epoch for candidate in candidates.best]


def test_best_is_the_epoch_of_the_least_loss_and_of_equal_ones_the_first() -> None:
    assert epochs(offered("best", [3.0, 1.0, 2.0, 1.0])) == [1]
    assert epochs(offered("last", [3.0, 1.0])) == []


def test_soup_is_the_mean_of_the_best_epochs() -> None:
    soup = offered("soup", [5.0, 1.0, 4.0, 2.0, 3.0], soup_size=3)
    assert epochs(soup) == [1, 3, 4]
    assert float(soup.mean()["w"]) == pytest.approx((1 + 3 + 4) / 3)


def test_soup_of_more_than_there_are_takes_all() -> None:
    assert float(offered("soup", [2.0, 1.0], soup_size=5).mean()["w"]) == 0.5


def test_loss_that_is_no_number_is_never_best() -> None:
    assert epochs(offered("best", [math.nan, 2.0, math.nan])) == [1]
    assert epochs(offered("soup", [math.nan])) == []


def test_candidates_are_copies_and_travel() -> None:
    weights = {"w": torch.zeros(1)}
    candidates = Candidates("best", 1)
    candidates.offer(0, 1.0, weights)
    weights["w"].fill_(9)
    resumed = Candidates("best", 1)
    resumed.load_state_dict(candidates.state_dict())
    resumed.offer(1, 2.0, weights)
    assert epochs(resumed) == [0]
    assert float(resumed.best[0].weights["w"]) == 0
