"""`python deploy/run_agent.py PRESET [--overrides]` = `surefoot run`: run a robot, show it, leave a report behind."""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from deploy.arms import ControlArm, Parts
    from deploy.config import RunConfig
    from deploy.interrupt import Interrupts
    from deploy.loop import Robot
    from deploy.operators.crew import Crew
    from deploy.realtime.feed import Feed
    from deploy.record import Recorder
    from deploy.records import EpisodeRecord
    from deploy.session import Session
    from deploy.view.process import Viewer


def speed_of(cfg: RunConfig) -> Callable[[np.ndarray], float]:
    """Return the function that reads the forward speed [m/s] from a state (O,); NaN for a robot that does not report it."""
    from deploy.robots.hardware import spec_of

    column = spec_of(cfg).columns.get("speed")
    return lambda state_O: math.nan if column is None else float(state_O[column])


@dataclass
class Run:
    """One run from its open session to its report."""

    cfg: RunConfig
    folder: Path
    session: Session
    arm: ControlArm | None
    stop: Interrupts
    began_s: float
    viewer: Viewer | None = None
    crew: Crew | None = None
    recorder: Recorder | None = None

    def go(self) -> int:
        """Run both arms, then write the report; return the exit code. Whatever happens, a summary is left behind."""
        code = self._go()
        if self.recorder is None:
            return code
        from deploy.recording import finish

        with self.stop.shield():
            return max(code, finish(self.recorder))

    def _go(self) -> int:
        try:
            self._run()
            status = self._status()
            summary = self._summarise(status)
            self._report(summary)
            if status != "ok":
                print(f"the robot was stopped: {status}", file=sys.stderr)
                return 1
        except KeyboardInterrupt:
            return self._cut_short("interrupted", 130)
        except (OSError, RuntimeError, ValueError) as error:
            (self.folder / "error.txt").write_text(traceback.format_exc())
            print(f"error: {error} (details in {self.folder / 'error.txt'})", file=sys.stderr)
            return self._cut_short(f"error: {error}", 1)
        finally:
            self.session.log.close()
            if self.arm is not None:
                self.arm.stop()
            if self.viewer is not None:
                self.viewer.close()
        return 0

    def _run(self) -> None:
        from deploy.arms import finished
        from deploy.terminal import Display

        arm, session, crew = self.arm, self.session, self.crew
        display = Display(
            self.cfg,
            session.view,
            session.history,
            speed_of(self.cfg),
            lambda: arm.done if arm is not None else None,
            rows=lambda: {} if crew is None else crew.rows(session.guard),
        )

        def may_start(episode: int) -> bool:
            display.tell()
            if arm is not None:
                arm.started(episode)
            return not finished(session.history, self.cfg, episode)

        with display:
            session.run(may_start)
            display.tell()
            if arm is not None:
                arm.finish(len(session.history.episodes))

    def _status(self) -> str:
        from deploy.guard import Mode

        guard = self.session.guard
        return f"{guard.mode.value}: {guard.reason}" if guard.mode in (Mode.HOLD, Mode.ESTOP) else "ok"

    def _control(self) -> list[EpisodeRecord] | None:
        return None if self.arm is None else self.arm.episodes()

    def _summarise(self, status: str) -> dict[str, Any]:
        from deploy.arms import save_poses
        from deploy.summary import summarise
        from deploy.telemetry import commit, write_json

        with self.stop.shield():
            wall_s = time.monotonic() - self.began_s
            summary = summarise(self.cfg, self.session.history, self._control(), status, commit(), wall_s)
            write_json(self.folder / "summary.json", summary)
            save_poses(self.folder, self.session)
        return summary

    def _report(self, summary: dict[str, Any]) -> None:
        from deploy.report import write_report

        write_report(self.folder, self.cfg, summary, self.session.history, self._control() or [])
        print(headline_of(summary))
        if summary["certificate"]:
            print(f"certificate: {summary['certificate']}")
        print(f"report: {self.folder / 'report.html'}")

    def _cut_short(self, status: str, code: int) -> int:
        with self.stop.shield():
            if self.arm is not None:
                self.arm.stop()
            self._summarise(status)
        print(f"{status}; what was done is in {self.folder}", file=sys.stderr)
        return code


def headline_of(summary: dict[str, Any]) -> str:
    """Return the run in one sentence."""
    from deploy.report import headline

    return headline(summary)


def prepare(
    cfg: RunConfig,
    stop: Interrupts,
    crew: Crew | None = None,
    planner: bool = True,
    record: Path | None = None,
    connect: Callable[[], Robot] | None = None,
    at_once: bool = False,
) -> Run:
    """Return a run that is ready to go, its folder made; `record`: the data set that its episodes are added to.

    A real robot, which `connect` returns, waits for the crew to arm it, unless it is armed `at_once`. Raises ValueError
    or KeyError, in one line, for bad input.
    """
    import torch

    from deploy.arms import ControlArm, build, open_session
    from deploy.config import to_yaml
    from deploy.recording import recorder_of
    from deploy.session import SIMULATED
    from deploy.telemetry import new_folder, write_atomic

    torch.set_num_threads(1)  # the control arm has the other core
    began_s = time.monotonic()
    parts = build(cfg, planner, connect)  # refuses bad input before a folder is made
    feed, viewer = open_view(cfg, parts)
    folder = new_folder(cfg.preset, cfg.out)
    recorder = None if record is None else recorder_of(cfg, parts.robot, record)
    write_atomic(folder / "config.yaml", to_yaml(cfg))
    armed = SIMULATED if connect is None else "--arm at-once" if at_once else ""
    session = open_session(cfg, parts, folder, stop, recorder, feed, crew, armed)
    arm = ControlArm(cfg, folder) if cfg.control_arm else None
    return Run(cfg, folder, session, arm, stop, began_s, viewer, crew, recorder)


def open_view(cfg: RunConfig, parts: Parts) -> tuple[Feed, Viewer] | tuple[None, None]:
    """Return what the run shows itself through, and who shows it, if anybody does."""
    if cfg.view == "none":
        return None, None
    from deploy.view.process import Viewer, feed_of

    feed = feed_of(cfg, parts.robot)
    viewer = Viewer(cfg, feed)
    commands = f" (token to command: {viewer.token})" if cfg.view == "web" else ""
    print(f"view: {viewer.where}{commands}", flush=True)
    return feed, viewer


def read(argv: Sequence[str]) -> RunConfig:
    """Return the config that `PRESET [--overrides]` names. Raises ValueError or KeyError, in one line."""
    from configs.presets import PRESETS
    from deploy.commandline import resolve

    return resolve(argv, PRESETS, "surefoot run")


def main(argv: Sequence[str]) -> int:
    """Run `PRESET [--overrides]`; return the exit code: 0, 1 (failed), 2 (bad input) or 130 (interrupted)."""
    from deploy.commandline import HELP, guarded
    from deploy.interrupt import Interrupts
    from deploy.live import HELP as BESIDE
    from deploy.live import live, take_company

    def body() -> int:
        company, rest = take_company(argv, "--operator")
        if any(arg in HELP for arg in rest):
            print(BESIDE.replace("--with", "--operator"))
        return live(read(rest), stop, company, args=argv)

    with Interrupts() as stop:
        return guarded(body)


if __name__ == "__main__":
    # run as a file, its own folder is on the path, and would lend its names (evaluate, doctor) to other packages
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
