"""Who steers: a person's device, nobody (the robot is held), or the planner; and what a person may order besides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

    from deploy.loop import Operator
    from deploy.operators.joints import Joints
    from deploy.orders import Orders
    from deploy.realtime.feed import SharedSwitch

By = Literal["device", "hold", "planner"]


class Helm:
    """An Operator around that of a device. A person who steers asks for something at every step, if only to hold still.

    So the guard, which waits for a plan or an operator, has nothing to bark at while somebody steers. Any thread may call
    what a person does; the loop calls `wants`.
    """

    def __init__(
        self, device: Operator, joints: Joints, orders: Orders, switch: SharedSwitch, planner: bool, by: By
    ) -> None:
        """`planner`: there is one to hand the robot to. `by`: who steers at first."""
        self.by: By = by
        self.waiting = False
        """Whether the robot has yet to be armed for the first time: whoever does that lets the planner go, if it is to steer."""
        self._device, self._joints, self._orders, self._switch, self._planner = device, joints, orders, switch, planner

    def wants(self, t_s: float, last_A: np.ndarray, /) -> np.ndarray | None:
        """Return what whoever steers asks for, (A,), None to leave it to the plan."""
        if self.by == "planner":
            return None
        return self._device.wants(t_s, last_A) if self.by == "device" else self._joints.held(last_A)

    def take(self) -> None:
        """The device steers."""
        self.by = "device"

    def hold(self) -> None:
        """The robot is held until somebody steers."""
        self.by = "hold"

    def hand_back(self) -> None:
        """The planner steers, if there is one."""
        self.by = "planner" if self._planner else "hold"

    def stop(self, who: str) -> None:
        """Throw the emergency stop."""
        self._switch.throw(who)
        self.hold()

    def reset(self, who: str) -> None:
        """Release the emergency stop; nothing moves until the robot is armed."""
        self.hold()
        self._orders.give("reset", who)

    def arm(self, who: str) -> None:
        """Let the robot be moved; after a fault or a stop it holds until somebody steers."""
        if not (self.waiting and self.by == "planner"):
            self.hold()
        self.waiting = False
        self._orders.give("arm", who)
        self._orders.give("start", who)

    def lose(self, why: str) -> None:
        """The device is gone: the guard holds the robot until a person arms it."""
        self.hold()
        self._orders.give("hold", why)

    def quit(self) -> None:
        """End the session."""
        self._orders.give("quit")
