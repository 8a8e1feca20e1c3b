"""Stage `code`: one hash per stage of the code that it imports."""

from pathlib import Path

from bclef.codehash import write_code_hashes

if __name__ == "__main__":
    write_code_hashes(Path(), Path("codehash"))
