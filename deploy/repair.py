"""`surefoot repair PATH`: mend a LeRobotDataset v3 whose recording was killed, ours or lerobot's own.

Every episode whose rows and videos are whole is kept, also out of parquet files without a footer; metadata are worked out
again. What was there stays beside it as PATH.broken. Lost are: the episode that was being recorded; an episode without
all frames of its videos, unless its single pictures are still there; everything, where meta/info.json is lost.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.shards import alone, recover, sync


def repair(root: Path) -> list[str]:
    """Mend the data set; return what was wrong and what was done, one line each, none where all was well.

    Raises ValueError, in one line, for what cannot be mended. Nothing is changed before the new data set is complete.
    """
    from deploy.rebuild import rebuild
    from deploy.salvage import salvage

    with alone(root):
        done = [*_finish(root), *recover(root)]
        if not root.is_dir():
            raise ValueError(f"there is no folder {root}")
        found = salvage(root)
        if not found.wrong:
            return done
        if not found.episodes:
            raise ValueError(f"{root} holds no whole episode: {'; '.join(found.wrong)}")
        made = _named(root, "repairing")
        shutil.rmtree(made, ignore_errors=True)
        rebuild(found, root, made)
        if wrong := salvage(made).wrong:
            raise ValueError(f"{root} could not be mended: {'; '.join(wrong)}")
        for path in (made, *made.rglob("*")):
            sync(path)
        os.replace(made, _named(root, "repaired"))
        return [*done, *found.wrong, *_finish(root), f"{len(found.episodes)} whole episodes are in {root}"]


def _named(root: Path, stage: str) -> Path:
    return root.with_name(f".{root.name}.{stage}")


def _finish(root: Path) -> list[str]:
    """Put a repaired data set, if there is one, in the place of the broken one."""
    made = _named(root, "repaired")
    if not made.exists():
        return []
    said = []
    if root.exists():
        asides = (root.with_name(f"{root.name}.broken{n or ''}") for n in range(1000))
        aside = next(path for path in asides if not path.exists())
        os.replace(root, aside)
        said = [f"what was there is now {aside}"]
    os.replace(made, root)
    sync(root.parent)
    return said


def main(argv: Sequence[str]) -> int:
    """Mend a data set and say what was done; return the exit code."""
    from deploy.commandline import Options, guarded

    own = Options("surefoot repair", __doc__)
    own.add_argument("path", type=Path)

    def body() -> int:
        path = own.parse_args(argv).path
        for line in repair(path) or [f"nothing to mend in {path}"]:
            print(line)
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
