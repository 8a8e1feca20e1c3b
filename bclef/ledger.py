"""The MLflow side of tracking: experiment, runs, metrics, artifacts and the registered model.

Importing this imports mlflow, so only the shipper does, in a process of its own and under its lock:
several writers that meet a new sqlite database at once break its migrations.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
from mlflow.entities import Experiment, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from sqlalchemy.exc import SQLAlchemyError

from bclef.redaction import redact
from bclef.spools import End, Header, Metrics, SpoolError

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

__all__ = ["Ledger", "RunError", "ServerError", "translated"]

log = logging.getLogger(__name__)

NAME = "bclef"
"""Name of the experiment and of the registered model."""

# MLflow takes 100 params and 1,000 metrics in a call.
_PARAMS_PER_CALL, _METRICS_PER_CALL = 100, 900
_MAX_TAG_CHARACTERS = 5000
# What MLflow says of the content sent, and of the run that it was sent to.
_REFUSALS = {"INVALID_PARAMETER_VALUE"}
_OF_ONE_RUN = {"RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE", "BAD_REQUEST"}


class ServerError(Exception):
    """MLflow or its database cannot be reached, so other runs would fare no better."""


class RunError(Exception):
    """MLflow did not take this run now; other runs may go on."""


@contextmanager
def translated() -> Iterator[None]:
    """Turns errors of MLflow and what is below it into what the shipper has to do about them.

    Raises:
        SpoolError: MLflow will never take this.
        RunError: Not now, but other runs.
        ServerError: Nothing now.
    """
    try:
        yield
    except MlflowException as error:
        message = redact(str(error)).strip()
        if error.error_code in _REFUSALS:
            raise SpoolError(message) from error
        if error.error_code in _OF_ONE_RUN:
            raise RunError(message) from error
        raise ServerError(message) from error
    except (OSError, SQLAlchemyError) as error:
        raise ServerError(redact(str(error))) from error


class Ledger:
    """The experiment of this project on one MLflow."""

    def __init__(self, uri: str, artifacts: Path) -> None:
        """Connects to `uri`, where a local database keeps artifacts in the folder `artifacts`.

        The folder must be said: by default it is in the current directory, and an experiment that
        is made from a temporary workspace would lose its artifacts with it.
        """
        mlflow.set_tracking_uri(uri)
        self._client = mlflow.MlflowClient(uri)
        is_remote = uri.startswith(("http://", "https://"))
        self._experiment_id = self._experiment(None if is_remote else artifacts.as_uri())

    def begin(self, header: Header, run: str | None) -> tuple[str, str]:
        """Returns the ids of the stage's run and its pipeline's, found or made.

        Args:
            header: Of the stage's spool.
            run: The stage's run, if it is known.
        """
        pipeline = self._find("pipeline", "pipeline.key", header.pipeline) or self._create(
            header,
            header.tags.get("exp", header.pipeline),
            {"kind": "pipeline"},
        )
        if run is None:
            run = self._find("stage", "spool.id", header.id) or self._create(
                header,
                header.stage,
                {
                    "kind": "stage",
                    "spool.id": header.id,
                    "mlflow.parentRunId": pipeline,
                    "stage": header.stage,
                    "host": header.host,
                    **header.tags,
                },
            )
            self.settle(pipeline)
        return run, pipeline

    def log_params(self, header: Header, run: str, pipeline: str) -> None:
        """Records the params of a stage, and those that are new to its pipeline there too."""
        self._log_params(run, header.params)
        known = self._client.get_run(pipeline).data.params
        self._log_params(pipeline, {k: v for k, v in header.params.items() if k not in known})

    def log_metrics(self, stage: str, records: list[Metrics], run: str, pipeline: str) -> None:
        """Records metrics of a stage; what is final stands in its pipeline under `stage.name`."""
        prefix = stage.replace("@", "-")
        self._log_metrics(
            run, [_metric(record, name) for record in records for name in record.values]
        )
        finals = [
            _metric(record, name, prefix)
            for record in records
            if record.is_summary
            for name in record.values
        ]
        self._log_metrics(pipeline, finals)

    def log_artifact(self, run: str, copy: Path, place: str) -> None:
        """Records a file, unless its copy is gone.

        Args:
            run: The stage's run.
            copy: The file beside the spool.
            place: Folder in the run's artifacts, empty for their root.
        """
        if copy.exists():
            self._client.log_artifact(run, str(copy), place or None)

    def log_model(self, run: str, directory: Path) -> None:
        """Records and registers the ONNX model in `directory`, once for a run."""
        onnx_path = directory / "model.onnx"
        if not onnx_path.exists() or self._client.search_model_versions(f"run_id = '{run}'"):
            return
        import mlflow.onnx  # noqa: PLC0415 brings onnx, for the one stage that exports
        import onnx  # noqa: PLC0415

        model = onnx.load(onnx_path)
        with mlflow.start_run(run_id=run):
            mlflow.onnx.log_model(
                model,
                name="model",
                signature=_signature(model),
                registered_model_name=NAME,
                # Left to itself MLflow would run the model in a new process to find its imports.
                pip_requirements=["onnxruntime", "numpy"],
                extra_files=[
                    str(path) for path in sorted(directory.iterdir()) if path != onnx_path
                ],
            )

    def end(self, end: End, run: str, pipeline: str) -> None:
        """Closes a stage's run, and its pipeline's with what all its stages came to."""
        if end.error:
            self._client.set_tag(run, "error", end.error[:_MAX_TAG_CHARACTERS])
        self._client.set_terminated(run, end.status, end.t)
        self.settle(pipeline)

    def settle(self, pipeline: str) -> None:
        """Gives a pipeline the status of its stages: the newest run of each stage counts."""
        where = f"tags.`mlflow.parentRunId` = '{pipeline}'"
        runs = self._client.search_runs([self._experiment_id], where, order_by=["start_time"])
        newest = {run.data.tags["stage"]: run.info for run in runs}.values()
        found = {info.status for info in newest}
        status = next((s for s in ("RUNNING", "FAILED", "KILLED") if s in found), "FINISHED")
        if status == "RUNNING" or not newest:
            self._client.update_run(pipeline, "RUNNING")
        else:
            self._client.set_terminated(
                pipeline, status, max(info.end_time or 0 for info in newest)
            )

    def _experiment(self, artifact_location: str | None) -> str:
        experiment: Experiment | None = self._client.get_experiment_by_name(NAME)
        if experiment is None:
            try:
                return self._client.create_experiment(NAME, artifact_location)
            except MlflowException as error:
                # Another machine with the same server was faster.
                experiment = self._client.get_experiment_by_name(NAME)
                if experiment is None:
                    raise ServerError(redact(str(error))) from error
        if experiment.lifecycle_stage == "deleted":
            log.warning("the MLflow experiment %r was deleted; it is restored", NAME)
            self._client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id

    def _find(self, kind: str, tag: str, value: str) -> str | None:
        # Stages carry the key of their pipeline too, so the kind belongs to the question.
        where = f"tags.kind = '{kind}' and tags.`{tag}` = '{value}'"
        found: list[Run] = self._client.search_runs([self._experiment_id], where, max_results=1)
        return found[0].info.run_id if found else None

    def _create(self, header: Header, name: str, tags: Mapping[str, str]) -> str:
        tags = {"pipeline.key": header.pipeline, **tags}
        run = self._client.create_run(self._experiment_id, header.t, dict(tags), name)
        return run.info.run_id

    def _log_params(self, run: str, params: Mapping[str, str]) -> None:
        batch = [Param(name, value) for name, value in params.items()]
        for first in range(0, len(batch), _PARAMS_PER_CALL):
            self._client.log_batch(run, params=batch[first : first + _PARAMS_PER_CALL])

    def _log_metrics(self, run: str, batch: list[Metric]) -> None:
        for first in range(0, len(batch), _METRICS_PER_CALL):
            self._client.log_batch(run, metrics=batch[first : first + _METRICS_PER_CALL])


def _metric(record: Metrics, name: str, prefix: str | None = None) -> Metric:
    key = f"{prefix}.{name}" if prefix else name
    return Metric(key, record.values[name], record.t, record.step)


def _signature(model: ModelProto) -> ModelSignature:
    return ModelSignature(
        inputs=Schema([_tensor(value) for value in model.graph.input]),
        outputs=Schema([_tensor(value) for value in model.graph.output]),
    )


def _tensor(value: ValueInfoProto) -> TensorSpec:
    from onnx.helper import tensor_dtype_to_np_dtype  # noqa: PLC0415 as in log_model

    kind = value.type.tensor_type
    # A dimension without a number, such as the batch, is free: MLflow writes -1.
    shape = tuple(dimension.dim_value or -1 for dimension in kind.shape.dim)
    return TensorSpec(tensor_dtype_to_np_dtype(kind.elem_type), shape, value.name)
