"""One thin script per DVC stage: read declared params, read tables, one library call, write."""

import sys
from pathlib import Path


def item_argument(kind: str) -> str:
    """Returns the item that the command line names, such as `0` in `python -m stages.finetune 0`.

    Args:
        kind: What the items of the stage are, for the message.

    Raises:
        SystemExit: It names none, or more than one.
    """
    script, *items = sys.argv
    if len(items) == 1:
        return items[0]
    name = f"stages.{Path(script).stem}"
    raise SystemExit(
        f"{name}: found {' '.join(items) or 'nothing'} after its name, expected the number of a "
        f"{kind}, as in `python -m {name} 1`"
    )
