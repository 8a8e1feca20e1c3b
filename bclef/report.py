"""One HTML page about a whole run: nothing to install, nothing fetched, readable on a phone.

Species names, recordists and reasons come from the outside and are escaped by the template engine.
The page holds no time and no machine, so the same inputs give the same bytes.
"""

import base64
import io
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import image
from numpy.typing import NDArray

from bclef.figures import axis
from bclef.frontend import log_mel
from bclef.reportdata import chosen_windows, holdings, leaves, losses, rounds
from bclef.reportinputs import ReportInputs
from bclef.reportscores import (
    MEASURES,
    class_rows,
    comparisons,
    curve_charts,
    score_axis,
    system_scores,
)
from bclef.store import Store
from bclef.tables import atomic_path

PACKAGES = (
    "bclef", "dvc", "h5py", "lightning", "numpy", "onnx", "onnxruntime", "openvino", "pandas",
    "pyarrow", "scikit-learn", "soundfile", "soxr", "timm", "torch",
)  # fmt: skip
"""Packages whose versions the page states."""

N_SPECTROGRAMS = 3
"""Best and worst windows shown, each."""


def write_report(inputs: ReportInputs, path: Path) -> None:
    """Writes the page about `inputs` to `path`.

    Raises:
        OSError: `path` cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(render_report(inputs), encoding="utf-8")


def render_report(inputs: ReportInputs) -> str:
    """Returns the page about `inputs` as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2").render(_context(inputs))


def spectrogram_uri(mel: NDArray[np.floating]) -> str:
    """Returns a log-mel image [M, F] as a PNG data URI, low bands at the bottom.

    The same image gives the same bytes: the colours run from its 5th percentile to its maximum and
    no time or version is written into it.
    """
    low, high = np.quantile(mel, 0.05), max(float(mel.max()), float(mel.min()) + 1e-6)
    buffer = io.BytesIO()
    image.imsave(
        buffer, mel, vmin=low, vmax=high, cmap="magma", origin="lower", format="png",
        metadata={"Software": "bclef"},
    )  # fmt: skip
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _context(inputs: ReportInputs) -> dict[str, Any]:
    """All that the template names."""
    evaluation = inputs.metrics.get("evaluate", {})
    systems = system_scores(evaluation)
    shown = None
    if inputs.per_class is not None:
        shown = class_rows(inputs.per_class, inputs.classes)
    return {
        "model": inputs.model,
        "n_classes": len(inputs.classes),
        "n_recordings": len(inputs.recordings),
        "evaluation": evaluation,
        "measures": MEASURES,
        "systems": systems,
        "score_axis": score_axis(systems) if systems else None,
        "comparisons": comparisons(evaluation),
        "classes": shown,
        "class_axis": axis([0.5, 1.0, *(r.value for r in shown[1] if r.value)]) if shown else None,
        "phases": curve_charts(inputs.curves),
        "sources": inputs.recordings.value_counts(["source", "role"], sort=False).sort_index(),
        "losses": losses(inputs.rejections),
        "holdings": holdings(inputs.index, inputs.sample_rate_hz),
        "rounds": rounds(inputs.metrics, inputs.label_masses),
        "heard": _heard(inputs),
        "export": leaves(inputs.metrics.get("export", {})),
        "licences": inputs.recordings["licence"].fillna("not stated").value_counts().sort_index(),
        "n_recordists": inputs.recordings["recordist"].nunique(),
        "versions": _versions(),
    }


def _heard(inputs: ReportInputs) -> list[tuple[str, list[dict[str, Any]]]]:
    """(title, windows) of the best and worst recognised windows, each with its image."""
    if inputs.windows is None or inputs.windows.empty or not inputs.features_dir.exists():
        return []
    best, worst = chosen_windows(inputs.windows, N_SPECTROGRAMS)
    with Store(inputs.features_dir) as store:
        return [
            (title, [{**window, "image": _image(store, window, inputs)} for window in windows])
            for title, windows in (("Best recognised", best), ("Worst recognised", worst))
        ]


def _image(store: Store, window: dict[str, Any], inputs: ReportInputs) -> str:
    """The spectrogram of a window as a data URI; silence where it reaches beyond the recording."""
    first, last = (round(window[end] * inputs.sample_rate_hz) for end in ("start_s", "end_s"))
    samples = store.read(window["recording_id"])[first:last]
    wave = np.pad(samples, (0, last - first - len(samples))).astype(np.float32) / 32768
    return spectrogram_uri(log_mel(wave[None], inputs.front_end, inputs.sample_rate_hz)[0, 0])


def _versions() -> dict[str, str]:
    """Installed versions of `PACKAGES`, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
