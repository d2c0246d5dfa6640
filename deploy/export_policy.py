"""`surefoot export-policy PRESET --out DIR [--overrides]`: write a folder that lerobot takes as `--policy.path=DIR`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

PLUGIN = "deploy/plugins/lerobot_policy_surefoot"


def write(preset: str, overrides: Sequence[str], out: Path) -> None:
    """Write the folder. Raises ValueError, in one line, where it is not new or the plug-in is not installed."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} is taken; name a new folder")
    try:
        from lerobot_policy_surefoot import export
    except ModuleNotFoundError as error:
        if error.name != "lerobot_policy_surefoot":
            raise
        raise ValueError(f"the plug-in is not installed: pip install --no-deps ./{PLUGIN}") from None
    export(preset, shlex.join(overrides), out)


def main(argv: Sequence[str]) -> int:
    """Export a preset's planner; return the exit code."""
    from configs.presets import PRESETS
    from deploy.commandline import HELP, Options, guarded
    from deploy.pilot import planning_config

    own = Options("surefoot export-policy")
    own.add_argument("--out", type=Path)

    def body() -> int:
        mine, rest = own.parse_known_args(argv)
        if not rest or any(arg in HELP for arg in rest):
            print(f"{own.format_usage()}{__doc__}")
        planning_config(rest, PRESETS, "surefoot export-policy")
        if mine.out is None:
            raise ValueError("--out needs a folder")
        write(rest[0], rest[1:], mine.out)
        print(f"wrote {mine.out}: lerobot-rollout --policy.path={mine.out} ...")
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
