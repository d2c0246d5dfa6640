"""What one visitor of the page may do: stop the robot; with the token, ask for a goal and move the robot by hand."""

from __future__ import annotations

import hmac
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import viser

    from deploy.realtime.feed import Feed
    from deploy.safety import RobotLimits
    from envs.robots import RobotSpec

BEAT_S = 0.03
"""Pause between two questions whether the page is still there."""
ANSWER_S = 1.0
"""A page that takes longer than this to answer does not steer."""


class Controls:
    """Elements of one visitor's page; nobody else can see or change them."""

    def __init__(
        self,
        client: viser.ClientHandle,
        feed: Feed,
        token: str,
        spec: RobotSpec,
        limits: RobotLimits,
        steering: threading.Lock,
    ) -> None:
        """`steering` is held by the one visitor who moves the robot."""
        self._client, self._feed, self._spec, self._limits, self._steering = client, feed, spec, limits, steering
        gui = client.gui
        stop: Any = gui.add_button("EMERGENCY STOP", color="red")

        @stop.on_click
        async def _(_: Any) -> None:
            feed.switch.throw("web page")

        word: Any = gui.add_text("token", "", hint="printed where the run was started; it lets you command")

        @word.on_update
        def _(_: Any) -> None:
            if hmac.compare_digest(word.value.encode(), token.encode()):
                word.remove()
                self._unlock()

    def _unlock(self) -> None:
        """Show what takes the token."""
        gui = self._client.gui
        with gui.add_folder("goal"):
            goal: Any = gui.add_text("objective", "", hint="for example speed:1.5+0.1*effort")
            send: Any = gui.add_button("pursue")
        with gui.add_folder("by hand"):
            self._take: Any = gui.add_checkbox("take over", False)
            sizes = zip(self._spec.action.names, self._limits.low, self._limits.high, self._limits.hold, strict=True)
            self._sliders: list[Any] = [
                gui.add_slider(name, low, high, (high - low) / 200, hold) for name, low, high, hold in sizes
            ]

        @send.on_click
        def _(_: Any) -> None:
            self._feed.goals.ask(goal.value)

        @self._take.on_update
        def _(_: Any) -> None:
            self._steer()

    def _steer(self) -> None:
        """Ask for what the sliders show each time the page answers, until the box is clear or the page is gone."""
        if not self._take.value:
            return
        if not self._steering.acquire(blocking=False):
            self._take.value = False
            self._client.add_notification("not now", "somebody else moves the robot by hand", color="red")
            return
        try:
            self._begin_as_sent()
            while self._take.value:
                if self._answers():
                    self._feed.hand.ask(np.array([slider.value for slider in self._sliders]))
                time.sleep(BEAT_S)
        except RuntimeError:  # the page is gone
            return
        finally:
            self._feed.hand.let_go()
            self._steering.release()

    def _begin_as_sent(self) -> None:
        """Put the sliders where the robot's motors are told to be, so that taking over moves nothing."""
        found = self._feed.look()
        if found is not None:
            sent_A = np.clip(found[1]["sent_A"], self._limits.low, self._limits.high)
            for slider, value in zip(self._sliders, sent_A.tolist(), strict=True):
                slider.value = value

    def _answers(self) -> bool:
        """Return whether the page has answered in time. Raises RuntimeError once it is gone."""
        try:
            self._client.local_storage.get_item("surefoot", timeout=ANSWER_S)
        except TimeoutError:
            return False
        return True
