"""The processes of a training, one per GPU or, without any, on the CPU; started by Lightning.

The first process starts the others of its machine by running its own command again, unless a
launcher (torchrun, SLURM) has started them all. Such a command must come to one training only.
"""

import logging
import os
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.utilities.warnings import PossibleUserWarning

from bclef.ranks import is_first_process

_LOG = logging.getLogger(__name__)
_PATIENCE = timedelta(days=1)
"""How long the others wait for the first process, which alone validates and averages."""


class DeviceError(Exception):
    """The machines or processes at hand are not those that the settings ask for."""


@contextmanager
def processes(n_devices: int, n_nodes: int) -> Iterator[Fabric]:
    """Gives this process's device and its connection to the others, which end with it.

    All of them should leave together, or by an error; a SystemExit of 0 is none.

    Args:
        n_devices: Processes on each machine.
        n_nodes: Machines.

    Raises:
        DeviceError: There are not so many GPUs, or this is one of more processes.
    """
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and n_devices > torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise DeviceError(f"train.devices is {n_devices}, and this machine has {found} GPUs")
    is_alone = n_devices * n_nodes == 1
    if is_alone and not is_first_process():
        raise DeviceError(
            "a launcher has started several processes, and train.devices x train.nodes is 1: "
            "set them to what the launcher starts"
        )
    with _quiet():
        if is_alone:
            yield Fabric(accelerator=accelerator, devices=1)
            return
        _LOG.info("training begins when all %d processes are there", n_devices * n_nodes)
        # Some backbones have weights that their feature maps do not need.
        strategy = DDPStrategy(timeout=_PATIENCE, find_unused_parameters=True)
        fabric = Fabric(
            accelerator=accelerator, strategy=strategy, devices=n_devices, num_nodes=n_nodes
        )
        with _launched(strategy, fabric):
            yield fabric


@contextmanager
def _launched(strategy: DDPStrategy, fabric: Fabric) -> Iterator[None]:
    """Starts the processes; in the end they are gone, and the environment is as it was."""
    environment, n_threads, is_done = dict(os.environ), torch.get_num_threads(), False
    try:
        fabric.launch()
        yield
        is_done = True
    except SystemExit as end:
        is_done = not end.code  # so do all leave but the first, when they have done their part
        raise
    finally:
        if is_done:
            _leave_group()  # NCCL may want all of a machine to do so at once: before waiting
        _end_children(strategy, by_force=not is_done)
        _leave_group()
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        torch.set_num_threads(n_threads)


def _leave_group() -> None:
    """Gives up the connection to the other processes, unless it is gone."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _end_children(strategy: DDPStrategy, *, by_force: bool) -> None:
    """Waits for the processes that this one has started."""
    started: list[subprocess.Popen[bytes]] = getattr(strategy.launcher, "procs", [])
    children = list(started)
    # Lightning watches that list, and would kill this process for the end of one of the others.
    started.clear()
    for child in children:
        if by_force:
            child.kill()
        child.wait()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Lightning's hints and banner out of a stage's output.

    But not why it kills this process, which is all that its launcher ever logs: that another one
    has died.
    """
    fabric = logging.getLogger("lightning.fabric")
    launcher = logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script")
    levels = fabric.level, launcher.level
    fabric.setLevel(logging.ERROR)
    launcher.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
            # Lightning 2.6 uses a name that torch 2.13 has deprecated; there is nothing to do here.
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            yield
    finally:
        fabric.setLevel(levels[0])
        launcher.setLevel(levels[1])
