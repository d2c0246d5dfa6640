"""`surefoot COMMAND ...`: every command is a module with a `main(argv) -> int`, imported when it is called."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence

Main = Callable[[list[str]], int]


def _run() -> Main:
    from deploy.run_agent import main

    return main


def _teleop() -> Main:
    from deploy.teleop import main

    return main


def _behave() -> Main:
    from deploy.behave import main

    return main


def _collect() -> Main:
    from deploy.collect import main

    return main


def _train() -> Main:
    from deploy.train import main

    return main


def _practise() -> Main:
    from deploy.practise import main

    return main


def _evaluate() -> Main:
    from deploy.evaluate import main

    return main


def _sweep() -> Main:
    from deploy.sweep import main

    return main


def _calibrate() -> Main:
    from deploy.calibrate import main

    return main


def _certify() -> Main:
    from deploy.certify import main

    return main


def _export_policy() -> Main:
    from deploy.export_policy import main

    return main


def _doctor() -> Main:
    from deploy.doctor import main

    return main


def _record() -> Main:
    from deploy.recording import main

    return main


def _replay() -> Main:
    from deploy.replay import main

    return main


def _repair() -> Main:
    from deploy.repair import main

    return main


def _goals() -> Main:
    from deploy.goal_service.serve import main

    return main


COMMANDS: dict[str, tuple[str, Callable[[], Main]]] = {
    "run": ("run a preset and leave a report behind", _run),
    "teleop": ("steer a robot by keyboard, gamepad, leader arm or script", _teleop),
    "behave": ("train policies with RLlib, from untrained to expert, to collect from", _behave),
    "collect": ("record episodes of a policy as a data set", _collect),
    "train": ("train the parts of a world model", _train),
    "practise": ("let a model learn to pursue goals by pursuing them", _practise),
    "evaluate": ("measure the return of a preset over many episodes", _evaluate),
    "sweep": ("search options of a command with many trials, here or on a Ray cluster", _sweep),
    "calibrate": ("learn what surprise looks like on a healthy robot", _calibrate),
    "certify": ("bound how often a checkpoint's one-step model is off", _certify),
    "export-policy": ("write a preset's planner as a policy folder for lerobot", _export_policy),
    "record": ("record a preset's planner at work", _record),
    "replay": ("send the recorded actions of an episode again", _replay),
    "repair": ("mend a data set whose recording was killed", _repair),
    "goals": ("serve a language model that turns sentences into goals", _goals),
    "doctor": ("say what this machine can do", _doctor),
}


def usage() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}} {about}" for name, (about, _) in COMMANDS.items()]
    return "\n".join(["usage: surefoot COMMAND ...", "", *lines, "", "surefoot COMMAND --help says more."])


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a command; return its exit code, 2 for one that does not exist."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0 if args else 2
    if args[0] not in COMMANDS:
        near = difflib.get_close_matches(args[0], COMMANDS) or list(COMMANDS)
        print(f"error: no command {args[0]!r}; near misses: {', '.join(near)}", file=sys.stderr)
        return 2
    return COMMANDS[args[0]][1]()(args[1:])


if __name__ == "__main__":
    sys.exit(main())
