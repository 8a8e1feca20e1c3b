"""How far the exported graphs are from torch, and how fast they are.

Every runtime scores the same clips in batches of several sizes, each size new to it when it first
comes, and is compared with torch scoring each clip alone. So one number per case shows a wrong
graph, a clip that depends on its batch mates, and a kernel that errs at its first call.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bclef.audio import Wave
from bclef.exportfolder import INPUT_NAME, ONNX_FILE, OPENVINO_FILES, OUTPUT_NAME
from bclef.graphs import Combination, combine, openvino_core
from bclef.models import BirdModel
from bclef.runtime import Scores, open_session

_LOG = logging.getLogger(__name__)

Runtime = Callable[[Wave], Scores]
"""Probabilities [N, C] of waves [N, T]."""

TORCH = "torch"
_SMALL_BATCHES = (1, 3)
_N_TIMED = 5
_BLIND_RATIO = 10
"""The gate sees little if torch's own scores differ between clips by less than tolerances."""


@dataclass(frozen=True)
class Parity:
    """Greatest differences from torch, in probability."""

    differences: Mapping[str, Mapping[str, Mapping[str, float]]]
    """By runtime, by batch size as in `batch_3`, by kind of clip."""
    tolerances: Mapping[str, float]
    """Greatest difference allowed, by runtime."""
    reference_spread: float
    """Greatest difference of torch's own probabilities between two of the clips, over classes."""

    def worst(self) -> dict[str, float]:
        """Returns the greatest difference of each runtime."""
        return {
            runtime: max(value for kinds in batches.values() for value in kinds.values())
            for runtime, batches in self.differences.items()
        }

    def faults(self) -> list[str]:
        """Returns a sentence for each case beyond its tolerance; empty when the gate is passed."""
        return [
            f"{runtime} differs by {value:.2g} on {kind} clips in {batch}, "
            f"expected at most {self.tolerances[runtime]:.2g}"
            for runtime, batches in self.differences.items()
            for batch, kinds in batches.items()
            for kind, value in kinds.items()
            if value > self.tolerances[runtime]
        ]

    def tree(self) -> dict[str, object]:
        """Returns all of it as JSON holds it."""
        return {
            "differences": self.differences,
            "tolerances": self.tolerances,
            "reference_spread": self.reference_spread,
            "passed": not self.faults(),
        }


def make_probes(real: Wave, rng: np.random.Generator) -> dict[str, Wave]:
    """Returns clips of several kinds, each float32 [n, T]: `real` ones and hard ones.

    Args:
        real: Recorded clips, float32 [n, T]; n may be 0.
        rng: Draws the others.
    """
    noise = rng.normal(0, 0.1, (2, real.shape[1])).astype(np.float32)
    clipped = np.clip(20 * noise[:1], -1.35, 1.35)  # lossy codecs overshoot full scale that far
    short = (real if len(real) else noise)[:1].copy()
    short[:, real.shape[1] // 10 :] = 0
    return {
        "random": noise,
        "quiet": noise[:1] * np.float32(1e-4),
        "silent": np.zeros_like(noise[:1]),
        "clipped": clipped,
        "short": short,
        **({"real": real} if len(real) else {}),
    }


def torch_runtime(models: Sequence[BirdModel], how: Combination) -> Runtime:
    """Returns the scores of `models` together as torch calculates them, with their own front ends.

    The models must be in evaluation mode.
    """

    def run(waves: Wave) -> Scores:
        with torch.inference_mode():
            wave = torch.from_numpy(waves)
            members = torch.stack([model(wave) for model in models])
            scores: Scores = combine(members, how).numpy()
        return scores

    return run


def open_runtimes(directory: Path) -> dict[str, Runtime]:
    """Returns the runtimes of an export folder by name: onnxruntime and both forms of OpenVINO."""
    session = open_session(directory / ONNX_FILE, None)
    runtimes: dict[str, Runtime] = {
        "onnxruntime": lambda waves: session.run([OUTPUT_NAME], {INPUT_NAME: waves})[0]
    }
    return runtimes | {
        name: _openvino_runtime(directory / file) for name, file in OPENVINO_FILES.items()
    }


def measure_parity(
    runtimes: Mapping[str, Runtime],
    reference: Runtime,
    probes: Mapping[str, Wave],
    tolerances: Mapping[str, float],
    large_batch: int,
) -> Parity:
    """Returns how far `runtimes`, and torch in batches, are from torch one clip at a time.

    Args:
        runtimes: What to measure, by name.
        reference: Torch.
        probes: Clips by kind, each [n, T].
        tolerances: Greatest difference allowed for each runtime and for `TORCH`.
        large_batch: Clips in the greatest batch.
    """
    kinds = np.repeat(list(probes), [len(waves) for waves in probes.values()])
    waves = np.concatenate(list(probes.values()))
    expected = np.concatenate([reference(wave[None]) for wave in waves])
    differences = {
        name: {
            f"batch_{size}": _by_kind(kinds, _batched_differences(run, waves, expected, size))
            # The last two sizes come to a runtime that has already grown.
            for size in (*_SMALL_BATCHES, large_batch, 2)
        }
        for name, run in {TORCH: reference, **runtimes}.items()
    }
    parity = Parity(differences, tolerances, float(np.ptp(expected, axis=0).max()))
    if parity.reference_spread < _BLIND_RATIO * max(tolerances.values()):
        _LOG.warning(
            "the model hardly tells the probe clips apart (by %.2g in probability), so the parity "
            "gate sees little",
            parity.reference_spread,
        )
    return parity


def measure_speed(
    runtimes: Mapping[str, Runtime], window_samples: int, large_batch: int
) -> dict[str, dict[str, float]]:
    """Returns milliseconds per window by runtime and batch size, the median of some calls."""
    silence = np.zeros((large_batch, window_samples), np.float32)
    return {
        name: {f"batch_{size}": _median_ms(run, silence[:size]) / size for size in (1, large_batch)}
        for name, run in runtimes.items()
    }


def _openvino_runtime(path: Path) -> Runtime:
    # Where the CPU has bfloat16, OpenVINO would calculate in it unasked.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(path, "CPU", exact)
    return lambda waves: np.array(compiled(waves)[0])


def _batched_differences(run: Runtime, waves: Wave, expected: Scores, size: int) -> Scores:
    """Returns the greatest difference of each clip, [n], scored in batches of `size`.

    The last batch is filled up from the first clip on. What is no number counts as 1, the greatest
    difference that two probabilities can have.
    """
    n_batches = -(-len(waves) // size)
    rows = np.resize(np.arange(len(waves)), (n_batches, size))
    scores = np.concatenate([run(np.ascontiguousarray(waves[batch])) for batch in rows])
    away = np.abs(scores - expected[rows.ravel()])
    worst = np.where(np.isfinite(away), away, 1).max(axis=1)
    per_clip = np.zeros(len(waves), np.float32)
    np.maximum.at(per_clip, rows.ravel(), worst)
    return per_clip


def _by_kind(kinds: np.ndarray, differences: Scores) -> dict[str, float]:
    return {str(kind): float(differences[kinds == kind].max()) for kind in dict.fromkeys(kinds)}


def _median_ms(run: Runtime, waves: Wave) -> float:
    run(waves)
    times_s = []
    for _ in range(_N_TIMED):
        began_s = time.perf_counter()
        run(waves)
        times_s.append(time.perf_counter() - began_s)
    return float(np.median(times_s)) * 1000
