"""More than one way to steer and to stop a robot."""

from dataclasses import dataclass, field

import numpy as np

from deploy.operators.several import AnyOf, FirstOf


@dataclass
class Says:
    wish: float | None
    asked: list[float] = field(default_factory=list)

    def wants(self, t_s, last_A, /):
        self.asked.append(t_s)
        return None if self.wish is None else np.array([self.wish])


@dataclass
class Thrown:
    thrown: str = ""

    def release(self):
        self.thrown = ""


def test_the_first_who_asks_is_heard_and_those_after_it_are_not_asked():
    silent, first, second = Says(None), Says(1.0), Says(2.0)
    wish = FirstOf([silent, first, second]).wants(0.5, np.zeros(1))
    assert wish is not None
    assert wish.tolist() == [1.0]
    assert (silent.asked, first.asked, second.asked) == ([0.5], [0.5], [])
    assert FirstOf([silent, Says(None)]).wants(0.5, np.zeros(1)) is None


def test_any_switch_stops():
    a, b = Thrown(), Thrown()
    both = AnyOf([a, b])
    assert both.thrown == ""
    b.thrown = "web page"
    assert both.thrown == "web page"
    a.thrown = "keyboard"
    assert both.thrown == "keyboard"
    both.release()
    assert (a.thrown, b.thrown, both.thrown) == ("", "", "")
