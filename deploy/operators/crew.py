"""Everybody who may steer a run beside its planner: a device, and the keyboard for orders, put together from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.commandline import Options
from deploy.operators.helm import Helm
from deploy.operators.joints import Joints, Stick
from deploy.operators.keyboard import Keyboard, terminal
from deploy.operators.keys import SPEEDS, Console
from deploy.operators.leader import Leader, LeaderConfig, options_of
from deploy.orders import Orders
from deploy.realtime.feed import SharedSwitch
from deploy.robots.lerobot_units import parse_units

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from deploy.guard import Guard
    from deploy.loop import Operator

HELP = f"""operator:
  --with DEVICE        keyboard (of this terminal, also over SSH), gamepad, script, or a lerobot teleoperator's type with
                       its own options: --with so101_leader --teleop.port=/dev/ttyACM0
                       web: whoever is at the page of --view web, who can steer beside any of these
  --script FILE        CSV for --with script: columns t_s, joints' names, order (hold, stop, quit); a
                       row counts until the next; one without numbers leaves the robot to the plan
  --operator-speed X   share of what the limits allow: {", ".join(f"{s:g}" for s in SPEEDS)} at the keys
  --operator-stale S   a teleoperator that says nothing for so long: the robot is held until somebody arms it
  --operator-units U   what a teleoperator counts in, where its motors do not say: degrees, radians, range_0_100,
                       range_m100_100; or JOINT=UNIT,...
"""
OWN = ("keyboard", "gamepad", "script", "web")
WHO = {"device": "you", "hold": "nobody: held", "planner": "the planner"}


@dataclass(frozen=True)
class OperatorConfig:
    """Which device, and how it is used."""

    device: str
    """keyboard, gamepad, script, web, or what lerobot calls a teleoperator."""
    script: Path | None = None
    speed: float = 0.2
    """Share of what the robot's limits allow."""
    stale_s: float = 0.25
    """Longest silence of a teleoperator [s]."""
    units: str = ""
    options: tuple[str, ...] = ()
    """lerobot's: --teleop.type=... --teleop.port=..."""

    def __post_init__(self) -> None:
        if not 0 < self.speed <= 1:
            raise ValueError(f"--operator-speed must be in (0, 1], got {self.speed}")
        if not self.stale_s > 0:
            raise ValueError(f"--operator-stale must be > 0, got {self.stale_s}")
        if (self.device == "script") != (self.script is not None):
            raise ValueError("--with script and --script FILE come together")
        if self.options and self.device in OWN:
            raise ValueError(f"{self.options[0]} is for one of lerobot's teleoperators, not for {self.device}")
        bare = [option for option in self.options if "=" not in option]
        if bare:
            raise ValueError(f"{bare[0]} needs its value in the same word: {bare[0]}=VALUE")

    @property
    def is_person(self) -> bool:
        """Whether it needs time to be real."""
        return self.device != "script"


def take_options(argv: Sequence[str], name: str) -> tuple[OperatorConfig | None, list[str]]:
    """Return who operates, None where nobody was asked for by option `name`, and the arguments that are left.

    Raises ValueError, in one line, for what is no such option.
    """
    parser = Options()
    parser.add_argument(name, dest="device")
    parser.add_argument("--script", type=Path)
    parser.add_argument("--operator-speed", dest="speed", type=float)
    parser.add_argument("--operator-stale", dest="stale_s", type=float)
    parser.add_argument("--operator-units", dest="units")

    own, rest = parser.parse_known_args(argv)
    options = tuple(arg for arg in rest if arg.startswith("--teleop."))
    rest = [arg for arg in rest if arg not in options]
    given = {key: value for key, value in vars(own).items() if value is not None}
    if options:
        given.setdefault("device", "lerobot")
    if given and "device" not in given:
        raise ValueError(f"{', '.join(f'--{key}' for key in given)} needs {name} DEVICE")
    return (OperatorConfig(**given, options=options) if given else None), rest


@dataclass
class Crew:
    """An operator with its devices, which are connected between `with` and its end, in the main thread.

    Connecting raises ValueError, in one line, for a device that is not there.
    """

    operator: Operator
    orders: Orders
    switch: SharedSwitch
    devices: list[AbstractContextManager[object]] = field(default_factory=list)
    helm: Helm | None = None
    console: Console | None = None
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Crew:
        with ExitStack() as opening:
            for device in self.devices:
                opening.enter_context(device)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def rows(self, guard: Guard) -> dict[str, str]:
        """Return what the person should see."""
        steers = "script" if self.helm is None else WHO[self.helm.by]
        shown = {"robot": f"{guard.mode.value} ({guard.reason})", "steers": steers}
        if self.console is not None:
            shown |= {"you move": self.console.chosen} if self.console.chosen else {}
            shown |= {"goal": self.console.goal} if self.console.goal else {}
            shown["keys"] = self.console.help
        return shown


def crew_of(cfg: OperatorConfig, joints: Joints, planner: bool) -> Crew:
    """Return who operates a robot with these joints; `planner`: there is one that steers when no person does.

    Raises ValueError, in one line, for bad input.
    """
    switch, fd = SharedSwitch(), terminal()
    if cfg.script is not None:
        return _scripted(cfg.script, joints, planner, switch)
    if cfg.device == "keyboard" and fd is None:
        raise ValueError("the keyboard is that of a terminal, and standard input is none (over ssh: ssh -t)")
    orders, stick = Orders(attended=fd is not None or cfg.device == "gamepad"), Stick(joints)
    leader = None if cfg.device in OWN else _leader(cfg, joints, orders)
    # a planner goes first, unless nobody could then ask for the device
    first = "planner" if planner and (orders.attended or cfg.device == "web") else "device"
    helm = Helm(stick if leader is None else leader, joints, orders, switch, planner, first)
    crew = Crew(helm, orders, switch, helm=helm)
    if leader is not None:
        crew.devices.append(leader)
    elif cfg.device == "gamepad":
        from deploy.operators.gamepad import Gamepad

        crew.devices.append(Gamepad(helm, stick, cfg.speed))
    if fd is not None:
        crew.console = Console(helm, stick if cfg.device == "keyboard" else None, cfg.speed)
        crew.devices.append(Keyboard(crew.console, helm, fd))
    return crew


def _scripted(path: Path, joints: Joints, planner: bool, switch: SharedSwitch) -> Crew:
    from deploy.operators.script import Script, read_script

    orders = Orders(attended=False)
    return Crew(Script(read_script(path, joints), joints, orders, switch, not planner), orders, switch)


def _leader(cfg: OperatorConfig, joints: Joints, orders: Orders) -> Leader:
    options = options_of(cfg.device, cfg.options)
    return Leader(LeaderConfig(options, parse_units(cfg.units), cfg.stale_s), joints, orders, cfg.speed)
