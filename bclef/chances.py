"""Chance in training batches: which rows, how much, in which shares; by a passed generator."""

from math import exp, log

import numpy as np
import torch
from torch import Generator, Tensor

from bclef.config import Section


def chosen(
    probability: float, n_rows: int, generator: Generator, *, per_batch: bool = False
) -> Tensor:
    """Returns the positions of the rows that chance picks, int64 [K], rising.

    Args:
        probability: Of each row.
        n_rows: How many there are.
        generator: Of the draw.
        per_batch: One draw for all: every row or none.
    """
    n_draws = 1 if per_batch else n_rows
    return (torch.rand(n_draws, generator=generator) < probability).expand(n_rows).nonzero()[:, 0]


def between(low: float, high: float, n: int, generator: Generator) -> Tensor:
    """Returns `n` numbers drawn uniformly from `low` to `high`, float32 [n]."""
    return low + (high - low) * torch.rand(n, generator=generator)


def log_between(low: float, high: float, n: int, generator: Generator) -> Tensor:
    """Returns `n` numbers from `low` to `high` whose logarithm is drawn uniformly, float32 [n]."""
    return between(log(low), log(high), n, generator).exp().clamp(exp(log(low)), exp(log(high)))


def beta_shares(beta: float, n: int, generator: Generator) -> Tensor:
    """Returns `n` shares of a Beta(`beta`, `beta`) distribution, float32 [n]."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(beta, beta, n).astype(np.float32))


def check_range(section: Section, low: str, high: str) -> None:
    """Refuses a section whose field `low` exceeds its field `high`.

    Raises:
        ValueError: It does.
    """
    least, most = getattr(section, low), getattr(section, high)
    if least > most:
        raise ValueError(f"{low} {least} exceeds {high} {most}; swap them")
