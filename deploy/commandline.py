"""Presets and overrides from the command line; whatever is wrong with them is told in one line."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import tyro

from deploy.config import RunConfig, from_yaml, near, option_names

HELP = ("-h", "--help")


class Options(argparse.ArgumentParser):
    """A command's own options, exactly as they are spelt; what is wrong with them raises ValueError, in one line."""

    def __init__(self, prog: str = "", about: str | None = None) -> None:
        """`about` None: the command tells its help itself."""
        super().__init__(prog, description=about, add_help=about is not None, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise instead of ending the program."""
        raise ValueError(message)


def complain(message: str, code: int = 2) -> int:
    """Print one line to stderr; return the exit code."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def overridden(base: RunConfig, args: Sequence[str], prog: str) -> RunConfig:
    """Return `base` with the options of `args`; `--env ROBOT` among them takes another robot, with all of its range.

    Raises ValueError or KeyError, in one line; --help prints and raises SystemExit.
    """
    if any(arg in HELP for arg in args):
        return _tyro(base, ["--help"], prog)[0]
    base, args = _on(base, args)
    cfg, unknown = in_one_line(lambda: _tyro(base, args, prog))
    if unknown:
        refuse_unknown(unknown, ["--env", *option_names(base)])
    return cfg


def _on(base: RunConfig, args: Sequence[str]) -> tuple[RunConfig, Sequence[str]]:
    """Return the preset on the robot that `--env` names, and the other arguments."""
    if "--env" not in args:
        return base, args
    from deploy.robots.sim import limits_of
    from envs.robots import robot_spec

    at = args.index("--env")
    if at + 1 == len(args):
        raise ValueError("--env needs a robot, for example dm_control:cheetah-run")
    spec = robot_spec(args[at + 1], base.version)
    return replace(base, robot=spec.name, limits=limits_of(spec)), [*args[:at], *args[at + 2 :]]


def in_one_line[T](parse: Callable[[], T]) -> T:
    """Return what tyro makes of a command line. Raises ValueError with the gist of its box; --help passes through."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return parse()
    except SystemExit as end:
        if not end.code:
            raise
        raise ValueError(_gist(said.getvalue())) from None


def refuse_unknown(unknown: Sequence[str], options: Sequence[str]) -> None:
    """Raise ValueError that names the first unknown option and the known ones nearest to it."""
    word = next((arg for arg in unknown if arg.startswith("-")), unknown[0]).partition("=")[0]
    raise ValueError(f"no option {word!r}; near misses: {', '.join(near(word, options))}")


def _tyro(base: RunConfig, args: Sequence[str], prog: str) -> tuple[RunConfig, list[str]]:
    return tyro.cli(
        RunConfig,
        default=base,
        args=list(args),
        prog=prog,
        config=(tyro.conf.AvoidSubcommands,),
        return_unknown_args=True,
    )


def _gist(box: str) -> str:
    """Return what tyro's box says above its first rule, and the nearest option where it knows one, in one line."""
    lines = [re.sub(r"[│╭╮╰╯]", "", line).strip() for line in box.splitlines()]
    sections: list[list[str]] = [[]]
    for line in lines[1:]:
        if line and not line.strip("─"):
            sections.append([])
        elif line:
            sections[-1].append(line)
    known = len(sections) > 1 and sections[1][0].startswith(("Perhaps you meant", "Available subcommands"))
    hint = sections[1][:2] if known else []
    return " ".join([*sections[0], *hint]) or "bad arguments"


def resolve(args: Sequence[str], presets: Mapping[str, tuple[str, RunConfig]], prog: str) -> RunConfig:
    """Return the config for `PRESET [--overrides]` or `--config FILE [--overrides]`.

    Raises ValueError or KeyError, in one line, for an unknown preset or robot, a misspelt option or a bad value.
    """
    bases = {name: cfg for name, (_, cfg) in presets.items()}
    if args and args[0] == "--config":
        return _from_file(args[1:], bases, prog)
    if not args or args[0] in HELP:
        print(usage(presets, prog))
        raise SystemExit(0 if args else 2)
    if args[0] not in presets:
        raise ValueError(f"no preset {args[0]!r}; choose from {', '.join(presets)}")
    return overridden(replace(bases[args[0]], preset=args[0]), args[1:], f"{prog} {args[0]}")


def _from_file(args: Sequence[str], bases: Mapping[str, RunConfig], prog: str) -> RunConfig:
    if not args:
        raise ValueError("--config needs a file")
    try:
        text = Path(args[0]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {args[0]} cannot be read: {error}") from None
    return overridden(from_yaml(text, bases, args[0]), args[1:], prog)


def usage(presets: Mapping[str, tuple[str, RunConfig]], prog: str) -> str:
    """Return the help that lists the presets."""
    width = max(map(len, presets))
    lines = [f"  {name:<{width}}  {about}" for name, (about, _) in presets.items()]
    return "\n".join(
        [
            f"usage: {prog} PRESET [--overrides]",
            f"       {prog} --config runs/.../config.yaml [--overrides]",
            "",
            "presets (PRESET --help lists what can be overridden; --env ROBOT takes another robot):",
            *lines,
        ]
    )


def guarded(body: Callable[[], int]) -> int:
    """Return what `body` returns; bad input is told in one line (2), Ctrl-C before anything was done too (130)."""
    try:
        return body()
    except (ValueError, KeyError, FileNotFoundError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        return complain(str(text))
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
