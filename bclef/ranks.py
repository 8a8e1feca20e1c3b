"""Which of several processes of one training this is, as their launcher tells each of them."""

import os

_NUMBERS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
"""Of the process among all, or on its machine, or of the machine: by torchrun, Lightning, SLURM."""


def is_first_process() -> bool:
    """Returns whether this process is the only one of its training, or number 0.

    The others compute with it and write nothing: no record, no checkpoint, no result.
    """
    return all(os.environ.get(name, "0") in {"", "0"} for name in _NUMBERS)


def leave_to_first_process() -> None:
    """Ends this process, unless it is the first: what follows is not for several of them.

    Raises:
        SystemExit: 0, in all processes but the first.
    """
    if not is_first_process():
        raise SystemExit(0)
