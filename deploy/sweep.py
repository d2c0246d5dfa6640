"""`surefoot sweep SPEC [options]`: many trials of one command, on this machine or on a Ray cluster.

SPEC is a YAML file or one of the names below. --seeds, --draws, --retries and --time-out-s override it; options that are
no options of the sweep go to every trial: surefoot sweep linear --episodes 20.

--out FOLDER takes everything (default runs/<time>-sweep-<preset>): a journal with one JSON per trial, results.json and
report.html. `surefoot sweep resume FOLDER` goes on with a sweep that was interrupted or killed, and needs nothing of Ray's.

Without --address Ray is started on this machine, for --cpus processors (default: all). --address HOST:PORT (or auto) joins
a cluster, whose nodes need our libraries, but no checkout and no common disk: --storage then names a URL (s3://...) or a
folder that all of them reach.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.interrupt import Interrupts
    from deploy.sweeps.plan import Sweep


def parser() -> argparse.ArgumentParser:
    """Return the parser of what is the sweep's own."""
    from deploy.commandline import Options

    own = Options("surefoot sweep")
    own.add_argument("--out", type=Path)
    own.add_argument("--storage")
    own.add_argument("--seeds", type=int, nargs="+")
    own.add_argument("--draws", type=int)
    own.add_argument("--retries", type=int)
    own.add_argument("--time-out-s", type=float)
    return with_ray(own)


def with_ray(own: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return the parser with the options that say what runs the trials."""
    own.add_argument("--address")
    own.add_argument("--cpus", type=float)
    return own


def laid_out(argv: Sequence[str]) -> tuple[Path, argparse.Namespace]:
    """Lay out the new sweep that a command line asks for; return its folder and the options. Raises ValueError, in one line."""
    from configs.sweeps import SWEEPS
    from deploy.sweeps.plan import new_sweep
    from deploy.sweeps.spec import read_spec, spec_of, tree_of

    own, more = parser().parse_known_args(list(argv[1:]))
    path = Path(argv[0])
    if argv[0] not in SWEEPS and not path.is_file():
        near = difflib.get_close_matches(argv[0], SWEEPS) or list(SWEEPS)
        raise ValueError(f"no sweep {argv[0]!r}: name a YAML file, or one of {', '.join(near)}")
    tree: dict[str, Any] = tree_of(SWEEPS[argv[0]][1]) if argv[0] in SWEEPS else read_spec(path)
    overrides = {name: getattr(own, name) for name in ("seeds", "draws", "retries", "time_out_s")}
    spec = spec_of(tree | {name: value for name, value in overrides.items() if value is not None}, argv[0])
    for word in more:
        meant = difflib.get_close_matches(
            word, ["--out", "--storage", "--seeds", "--draws", "--retries", "--time-out-s"]
        )
        if word.removeprefix("--") in spec.searched:
            raise ValueError(f"{word} is searched by {argv[0]}: it cannot be given to every trial")
        if word.startswith("--") and meant and word.removeprefix("--") not in spec.options:
            raise ValueError(f"no option {word!r}; near misses: {', '.join(meant)}")
    folder = own.out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-sweep-{spec.preset}"
    new_sweep(folder, spec, more, own.storage)
    return folder, own


def go(sweep: Sweep, address: str | None, cpus: float | None, stop: Interrupts) -> int:
    """Run what is not over; return the exit code: 0, 1 where a trial failed, 130 when interrupted. Leaves results and page."""
    from rich.console import Console

    from deploy.commandline import complain
    from deploy.sweeps.cluster import connected, slots
    from deploy.sweeps.display import Display
    from deploy.sweeps.driver import Driver

    if address and cpus:
        raise ValueError("--cpus is for Ray on this machine, and --address joins a cluster: give one of them")
    display = Display(sweep, Console(stderr=True))
    driver = Driver(sweep, stop.shield, display.tell)
    total = len(sweep.journal.trials)
    try:
        driver.close()
        if display.over < total:
            print(f"{display.over} of {total} trials are over; {sweep.folder}", file=sys.stderr)
            with connected(address, sweep.code, cpus), display:
                if address is None and not slots(sweep.spec.resources):
                    raise ValueError(f"a trial asks for {sweep.spec.resources}, which this machine has not")
                driver.run()
    except KeyboardInterrupt:
        with stop.shield():
            driver.close()
            write(sweep, "interrupted")
        return complain(f"interrupted; {display.over} of {total} trials are over; {again(sweep)} goes on", 130)
    except ConnectionError as error:
        driver.close()
        return complain(f"{error}; {again(sweep)} goes on", 1)
    except ValueError:
        driver.close()
        raise
    write(sweep, "ok")
    return conclude(sweep)


def again(sweep: Sweep) -> str:
    """Return the command that goes on with a sweep."""
    return f"surefoot sweep resume {sweep.folder}"


def write(sweep: Sweep, status: str) -> None:
    """Write results.json and report.html."""
    from deploy.sweeps.report import write_page
    from deploy.sweeps.results import results
    from deploy.telemetry import write_json

    write_json(sweep.folder / "results.json", results(sweep, status))
    write_page(sweep, sweep.folder / "report.html", status)


def conclude(sweep: Sweep) -> int:
    """Say what was found; return 1 where a trial failed."""
    from deploy.sweeps.report import headline
    from deploy.sweeps.results import found

    trials = list(sweep.journal.trials.values())
    print(headline(sweep.spec, trials, found(sweep.spec, trials), "ok"))
    print(f"{sweep.folder / 'results.json'}; {sweep.folder / 'report.html'}")
    return int(any(trial.status == "failed" for trial in trials))


def usage() -> str:
    """Return the help, with the specs that have names."""
    from configs.sweeps import SWEEPS

    width = max(map(len, SWEEPS))
    lines = [f"  {name:<{width}}  {about}" for name, (about, _) in SWEEPS.items()]
    return "\n".join(
        [parser().format_usage().rstrip(), "       surefoot sweep resume FOLDER", "", __doc__ or "", *lines]
    )


def main(argv: Sequence[str]) -> int:
    """Sweep, or go on with a sweep; return the exit code: 0, 1 (a trial failed), 2 (bad input) or 130 (interrupted)."""
    from deploy.commandline import HELP, Options, complain, guarded
    from deploy.interrupt import Interrupts
    from deploy.sweeps.journal import alone
    from deploy.sweeps.plan import open_sweep

    def body() -> int:
        if not argv or any(arg in HELP for arg in argv):
            print(usage())
            return 0 if argv else 2
        try:
            if argv[0] != "resume":
                folder, own = laid_out(argv)
            else:
                asked = with_ray(Options("surefoot sweep resume"))
                asked.add_argument("folder", type=Path)
                own = asked.parse_args(list(argv[1:]))
                folder = open_sweep(own.folder).folder
            with alone(folder):
                return go(open_sweep(folder), own.address, own.cpus, stop)  # as it is once nobody else writes
        except OSError as error:
            return complain(str(error), 1)

    with Interrupts() as stop:
        return guarded(body)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
