"""A policy whose network has gone wrong: after some good actions NaN, infinity and 1e30 take turns."""

from dataclasses import dataclass
from itertools import chain, cycle, repeat

from lerobot.configs import PreTrainedConfig
from lerobot_policy_surefoot import SurefootConfig, SurefootPolicy

GOOD_STEPS = 3


@PreTrainedConfig.register_subclass("broken")
@dataclass
class BrokenConfig(SurefootConfig):
    pass


class BrokenPolicy(SurefootPolicy):
    config_class = BrokenConfig
    name = "broken"

    def __init__(self, config, **rest):
        super().__init__(config, **rest)
        bad = cycle([float("nan"), float("inf"), float("-inf"), 1e30])
        self._factors = chain(repeat(1.0, GOOD_STEPS), bad)

    def select_action(self, batch, **rest):
        return (super().select_action(batch, **rest) + 0.5) * next(self._factors)
