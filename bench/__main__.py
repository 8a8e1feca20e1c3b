"""What the exported model and the feature store cost, each beside its limit or peer.

Needs a finished `make repro`: it times models/export and data/features.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bclef.runtime import Predictor
from bclef.store import Store

N_CROPS = 2_000
N_WINDOWS = 256


def seconds(action: Callable[[], object]) -> float:
    """Returns the least time of three calls of `action`, s."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return min(times)


def crops_per_second(store: Store, n_samples: int) -> tuple[float, float]:
    """Returns crops per second at random places, and one after the other (the limit)."""
    rng = np.random.default_rng(0)
    long = store.index[store.index["n_samples"] > n_samples]
    rows = long.iloc[rng.integers(len(long), size=N_CROPS)]
    ids, n = rows["recording_id"].tolist(), rows["n_samples"].to_numpy()
    firsts = rng.integers(n - n_samples)
    first_id = ids[0]
    random = seconds(
        lambda: [store.read(i, int(f), n_samples) for i, f in zip(ids, firsts, strict=True)]
    )
    limit = seconds(lambda: [store.read(first_id, 0, n_samples) for _ in range(N_CROPS)])
    return N_CROPS / random, N_CROPS / limit


def main() -> None:
    """Prints the figures."""
    if not Path("models/export/model.json").exists():
        sys.exit("models/export is not there: run `make repro` first")
    predictor = Predictor(Path("models/export"))
    noise = np.random.default_rng(0).normal(0, 0.1, (N_WINDOWS, predictor.window_samples))
    waves = noise.astype(np.float32)
    graph_s = seconds(lambda: predictor.scores(waves)) / N_WINDOWS
    whole = waves.reshape(-1)[: N_WINDOWS * predictor.scored_samples]
    streamed_s = seconds(lambda: predictor.predict_samples(whole)) / N_WINDOWS
    with Store(Path("data/features")) as store:
        random, limit = crops_per_second(store, predictor.window_samples)
    times_real = predictor.scored_s / graph_s
    print(f"graph alone          {1000 * graph_s:.2f} ms a window, {times_real:.0f} x real time")
    print(
        f"windows of a stream  {1000 * streamed_s:.2f} ms, {graph_s / streamed_s:.2f} of the limit"
    )
    print(f"random crops         {random:.0f} a second, {random / limit:.2f} of reading one place")


if __name__ == "__main__":
    main()
