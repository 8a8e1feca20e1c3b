"""The `bclef` command. Heavy imports stand inside the commands, so that `--help` is quick."""

from importlib.util import find_spec
from pathlib import Path

import click

_SHIP_WAIT_S = 60.0
"""How long `bclef track` waits for another process that is shipping."""


@click.group()
@click.version_option(package_name="bclef")
def main() -> None:
    """Bird sounds: detect species with a trained model, and look after the pipeline's runs."""


@main.command()
@click.argument("recordings", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    "model_dir",
    default="models/export",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder written by the export stage.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Table of detections, .csv or .parquet; a table of all files is written beside it.",
)
@click.option(
    "--threshold",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Least confidence of a detection.",
)
@click.option("--step-s", type=float, help="Seconds between windows.  [default: one window]")
@click.option("--workers", type=click.IntRange(0), help="Processes.  [default: one per core]")
def predict(
    recordings: tuple[Path, ...],
    model_dir: Path,
    output: Path,
    threshold: float,
    step_s: float | None,
    workers: int | None,
) -> None:
    """Detect species in RECORDINGS, which are sound files and folders of them.

    Every file gets a row in the table of files, with the reason if it could not be read. Fails only
    when no file could be read at all.
    """
    # These take most of a second.
    from bclef import detections, exportfolder, pools, scanning  # noqa: PLC0415

    options = scanning.ScanOptions(model_dir, threshold, step_s)
    try:
        paths = scanning.list_files(recordings)
        if not paths:
            raise click.ClickException("no file in the folders named; expected recordings")
        totals = scanning.scan_recordings(paths, options, output, workers)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except (exportfolder.ExportError, pools.ClusterError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"{totals.n_read} of {totals.n_files} files read, {totals.sound_s / 3600:.2f} h of sound "
        f"in {totals.took_s:.1f} s ({totals.sound_s / totals.took_s:.0f} times real time)",
        err=True,
    )
    if totals.n_read == 0:
        reasons = detections.scanned_path(output)
        raise click.ClickException(
            f"none of {totals.n_files} files could be read; reasons: {reasons}"
        )


@main.command()
def track() -> None:
    """Send what the pipeline's stages recorded to MLflow."""
    if find_spec("mlflow") is None:
        raise click.ClickException("mlflow is not installed; run `pip install bclef[train]`")
    # Needs the training install, which `bclef predict` does without.
    from bclef.shipping import ship  # noqa: PLC0415
    from bclef.tracking import WorkspaceError, find_dvc_root  # noqa: PLC0415

    try:
        report = ship(find_dvc_root(Path.cwd()), wait_s=_SHIP_WAIT_S)
    except WorkspaceError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{report.shipped} runs shipped, {report.kept} kept, {report.bad} bad")
    if report.reason:
        raise click.ClickException(report.reason)
