"""The `bclef` command. Heavy imports stand inside the commands, so that `--help` is quick."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from bclef.redaction import redact

_INSTALL = "run `pip install '.[train]'` in a clone of bclef"
"""What brings the packages that predicting does without."""
_SHIP_WAIT_S = 60.0
"""How long `bclef track` waits for another process that is shipping."""


class _Place(click.Path):
    """A path; the empty text is none, although `Path` takes it for the working directory."""

    def __init__(self, *, dir_okay: bool = True) -> None:
        super().__init__(dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("found an empty name, expected that of a file or folder", param, ctx)
        return super().convert(value, param, ctx)


class _Commands(click.Group):
    """Commands whose errors are told without the secrets of the environment."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise click.UsageError(redact(error.format_message()), error.ctx) from None
        except click.ClickException as error:
            raise click.ClickException(redact(error.format_message())) from None


@click.group(cls=_Commands)
@click.version_option(package_name="bclef")
def main() -> None:
    """Bird sounds: detect species with a trained model, and look after the pipeline's runs."""


@main.command()
@click.argument("recordings", nargs=-1, required=True, type=_Place())
@click.option(
    "--model",
    "model_dir",
    default="models/export",
    show_default=True,
    type=_Place(),
    help="Folder written by the export stage.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=_Place(dir_okay=False),
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
    if totals.n_read == totals.n_files:
        return
    unread = (
        f"{totals.n_no_sound} no sound, {totals.n_failed} failed; "
        f"reasons: {detections.scanned_path(output)}"
    )
    if totals.n_read == 0:
        raise click.ClickException(f"none of {totals.n_files} files could be read: {unread}")
    click.echo(f"{totals.n_files - totals.n_read} files not read: {unread}", err=True)


@main.command()
@click.option(
    "--workspace",
    default=".",
    show_default=True,
    type=_Place(),
    help="Folder with the `data` folder of a run.",
)
@click.option(
    "-o",
    "--output",
    type=_Place(dir_okay=False),
    help="CSV file for every row that was taken out, with its stage, reason and detail.",
)
def data(workspace: Path, output: Path | None) -> None:
    """Show how many recordings were listed, taken out and kept, and the most suspicious ones."""
    from bclef import dataview, tables  # noqa: PLC0415  (pandas takes most of a second)

    try:
        view = dataview.view_data(workspace)
        if output:
            with tables.atomic_path(output) as temporary:
                view.rejected.to_csv(temporary, index=False)
    except (tables.TableError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(view.text, nl=False)


@main.command()
@click.argument("model", type=_Place())
@click.option(
    "-o",
    "--output",
    required=True,
    type=_Place(),
    help="Folder to write; one that holds a backbone already is replaced.",
)
def backbone(model: Path, output: Path) -> None:
    """Write the backbone of MODEL, a folder such as models/pretrain, to a folder of its own.

    Put below weights/, other networks start from it: `pretrain.start_from` in params.yaml.
    """
    if missing := [name for name in ("torch", "timm", "pydantic") if find_spec(name) is None]:
        raise click.ClickException(f"{' and '.join(missing)} not installed; {_INSTALL}")
    from bclef.exportfolder import CARD_FILE, ONNX_FILE  # noqa: PLC0415

    if (model / ONNX_FILE).exists() or not (model / CARD_FILE).is_file():
        raise click.ClickException(
            f"{model} is not the folder of a trained network; expected one such as "
            f"models/pretrain or models/finetune/0, which holds {CARD_FILE} and no {ONNX_FILE}"
        )
    from bclef import modelfiles, models  # noqa: PLC0415  (torch takes seconds)

    try:
        n_tensors = modelfiles.extract_backbone(model, output)
    except (models.ModelError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{n_tensors} tensors written to {output}", err=True)


@main.command()
def track() -> None:
    """Send what the pipeline's stages recorded to MLflow."""
    if find_spec("mlflow") is None:
        raise click.ClickException(f"mlflow is not installed; {_INSTALL}")
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


if __name__ == "__main__":
    main()
