"""A run and what it has beside its config: who steers it, which real robot it moves, and where it is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.operators.crew import HELP as DEVICES
from deploy.operators.crew import OperatorConfig, crew_of, take_options
from deploy.operators.keyboard import terminal
from deploy.robots.hardware import HELP as HARDWARE
from deploy.robots.hardware import as_real, connected, spec_of, take_hardware

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.interrupt import Interrupts
    from deploy.operators.crew import Crew
    from envs.robots import RobotSpec

HELP = f"""{DEVICES}
{HARDWARE}
recording:
  --record PATH        add the run's episodes to the data set (LeRobotDataset v3) in this folder, by whom they were
                       steered, step by step; Ctrl-C keeps the episode under way up to there
"""


@dataclass(frozen=True)
class Company:
    """What the command line says beside the config."""

    operator: OperatorConfig | None = None
    hardware: tuple[str, ...] = ()
    at_once: bool = False
    """Whether a real robot is armed without a person."""
    record: Path | None = None


def take_company(argv: Sequence[str], name: str) -> tuple[Company, list[str]]:
    """Return what is said beside the config, the operator by option `name`, and the other arguments.

    Raises ValueError, in one line, for bad input.
    """
    from deploy.commandline import Options

    operator, rest = take_options(argv, name)
    hardware, at_once, rest = take_hardware(rest)
    parser = Options()
    parser.add_argument("--record", type=Path)
    own, rest = parser.parse_known_args(rest)
    return Company(operator, hardware, at_once, own.record), rest


def live(cfg: RunConfig, stop: Interrupts, company: Company, planner: bool = True, args: Sequence[str] = ()) -> int:
    """Run, with whoever may steer; return the exit code. For a person time is real, if `args` do not say otherwise.

    Raises ValueError or KeyError, in one line, for bad input.
    """
    from deploy.run_agent import prepare

    cfg = _in_company(cfg, company, args)
    if not cfg.hardware and company.operator is None:
        return prepare(cfg, stop, record=company.record).go()
    spec = spec_of(cfg)
    with ExitStack() as stack:
        crew = _crew(cfg, company, spec, planner)
        if crew is not None:
            stack.enter_context(crew)
        connect = partial(stack.enter_context, connected(cfg, spec, stop.shield)) if cfg.hardware else None
        return prepare(cfg, stop, crew, planner, company.record, connect, company.at_once).go()


def _in_company(cfg: RunConfig, company: Company, args: Sequence[str]) -> RunConfig:
    """Return the config as those beside it need it."""
    operator = company.operator
    if operator is not None and operator.device == "web" and cfg.view != "web":
        raise ValueError("the page that somebody steers from needs --view web")
    if company.hardware:
        cfg = replace(cfg, hardware=company.hardware)
    if cfg.hardware:
        return as_real(cfg, args)
    if company.at_once:
        raise ValueError("--arm at-once is for a real robot: --robot.type=TYPE; a simulated one is always armed")
    if operator is not None and operator.is_person and not any(arg.partition("=")[0] == "--time" for arg in args):
        return replace(cfg, time="realtime")
    return cfg


def _crew(cfg: RunConfig, company: Company, spec: RobotSpec, planner: bool) -> Crew | None:
    """Return who may steer; beside a real robot always the keys of the terminal, if there is one."""
    from deploy.operators.joints import Joints

    operator = company.operator
    if operator is None and terminal() is not None:
        operator = OperatorConfig("keyboard")
    joints = Joints.of(spec.action, cfg.limits, spec.dt_s)
    crew = None if operator is None else crew_of(operator, joints, planner)
    if cfg.hardware and not company.at_once and (crew is None or not crew.orders.attended):
        raise ValueError("nobody is here to arm the robot: run it on a terminal, or say --arm at-once")
    if crew is not None and crew.helm is not None:
        crew.helm.waiting = bool(cfg.hardware) and not company.at_once
    return crew
