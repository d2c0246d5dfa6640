"""Six STS3215 servos on the SO-101 in MuJoCo: registers become torques, and what the arm does becomes registers.

Modelled: torque switch, position and torque limits, speed limit, P gain, homing offset, loss of power (the arm sinks).
Not modelled: acceleration ramps, integral gain, heating, overload protection, backlash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from deploy.robots.sts3215 import TICKS, Servo
from envs.robots import ROBOTS
from envs.so101 import HOME_A, SPEED_RAD_S, build_model, mujoco_module

JOINTS = ROBOTS["so101"].action.names
TICKS_PER_RAD = TICKS / (2 * math.pi)
_MOUNT = np.array([1903, 2210, 1850, 2301, 2047, 1400])  # what each encoder reads at angle 0 before it is calibrated
_P_COEFFICIENT = 16  # the P gain that the model's stiffness stands for
_FULL_TORQUE = 1000
_STALL_CURRENT = 2.7 / 0.0065  # register units
_MOVING_RAD_S = 0.02

Hand = Callable[[float], np.ndarray]


def centre_ticks() -> np.ndarray:
    """Return what each calibrated servo reads at angle 0, (6,): the middle of its range reads 2047."""
    low_A, high_A = ROBOTS["so101"].action.low_A, ROBOTS["so101"].action.high_A
    middle_A = np.where(np.array(JOINTS) == "gripper", (low_A + high_A) / 2, 0.0)
    return np.round(2047 - middle_A * TICKS_PER_RAD).astype(int)


def calibration() -> dict[str, dict[str, int]]:
    """Return the emulated arm's calibration, joint -> entry, as lerobot keeps it in a JSON file."""
    spec, centre = ROBOTS["so101"].action, centre_ticks()
    low = np.ceil(centre + spec.low_A * TICKS_PER_RAD).astype(int)
    high = np.floor(centre + spec.high_A * TICKS_PER_RAD).astype(int)
    table = {}
    for i, name in enumerate(JOINTS):
        whole_turn = name == "wrist_roll"  # lerobot's calibration leaves it its whole turn
        table[name] = {
            "id": i + 1,
            "drive_mode": 0,
            "homing_offset": int(_MOUNT[i] - centre[i]),
            "range_min": 0 if whole_turn else int(low[i]),
            "range_max": TICKS - 1 if whole_turn else int(high[i]),
        }
    return table


class ServoArm:
    """The arm and its servos at simulated time `t_s`; a servo is calibrated from the start unless told otherwise.

    `hand`, a function from time [s] to angles (6,) [rad], is a person who moves the arm, as one moves a leader.
    """

    def __init__(self, start_A: np.ndarray = HOME_A, calibrated: bool = True, hand: Hand | None = None) -> None:
        self._mujoco = mujoco_module()
        self._model, self._hand = build_model(), hand
        self._data = self._mujoco.MjData(self._model)
        self._kp_A = self._model.actuator_gainprm[:, 0].copy()
        self._force_A = self._model.actuator_forcerange[:, 1].copy()
        self._data.qpos[:] = start_A
        self._mujoco.mj_forward(self._model, self._data)
        self._setpoint_A = np.array(start_A, np.float64)
        self.servos = [Servo(i + 1) for i in range(len(JOINTS))]
        if calibrated:
            self._calibrate(calibration())
        self.strength: Mapping[str, float] = {}  # joint -> share of its torque that is left
        self.power_up()

    @property
    def t_s(self) -> float:
        """Simulated time [s]."""
        return self._data.time

    @property
    def angles_A(self) -> np.ndarray:
        """True joint angles, (6,) [rad]."""
        return self._data.qpos.copy()

    def power_up(self) -> None:
        """Switch the servos on: torque off, the goal where they are."""
        for servo in self.servos:
            servo.power_up()
        self.refresh()
        for servo in self.servos:
            servo["Goal_Position"] = servo["Present_Position"]

    def advance(self, to_s: float, powered: bool) -> None:
        """Simulate until `to_s` [s] under what the registers ask for; without power nothing is held."""
        step_s = self._model.opt.timestep
        steps = int((to_s - self._data.time) / step_s + 1e-6)
        if steps <= 0:
            return
        goal_A, speed_A, held_A = self._drive(powered)
        for _ in range(steps):
            if self._hand is not None:
                self._data.qpos[:] = self._hand(self._data.time)
                self._data.qvel[:] = 0.0
            reach_A = speed_A * step_s
            towards_A = self._setpoint_A + np.clip(goal_A - self._setpoint_A, -reach_A, reach_A)
            self._data.ctrl[:] = self._setpoint_A = np.where(held_A, towards_A, self._data.qpos)
            self._mujoco.mj_step(self._model, self._data)

    def refresh(self, frozen: Mapping[str, int] = MappingProxyType({})) -> None:
        """Write what the arm does into the registers; a frozen encoder keeps reporting its old number."""
        force_A, zero_A = self._data.actuator_force / self._force_A, self._zero_ticks()
        for i, (name, servo) in enumerate(zip(JOINTS, self.servos, strict=True)):
            tick = round(float(zero_A[i] + self._data.qpos[i] * TICKS_PER_RAD)) % TICKS
            servo["Present_Position"] = frozen.get(name, tick)
            servo["Present_Velocity"] = round(self._data.qvel[i] * TICKS_PER_RAD)
            servo["Present_Load"] = round(force_A[i] * _FULL_TORQUE)
            servo["Present_Current"] = round(abs(force_A[i]) * _STALL_CURRENT)
            servo["Moving"] = int(abs(self._data.qvel[i]) > _MOVING_RAD_S)

    def _drive(self, powered: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Set stiffness and torque of each servo; return goal [rad], speed [rad/s] and whether it holds, each (6,)."""
        of = self._registers
        held_A = (of("Torque_Enable") == 1) & powered
        limit_A = np.minimum(of("Max_Torque_Limit"), of("Torque_Limit")) / _FULL_TORQUE
        limit_A = limit_A.clip(0.0, 1.0) * [self.strength.get(name, 1.0) for name in JOINTS]
        kp_A = self._kp_A * of("P_Coefficient") / _P_COEFFICIENT * held_A
        self._model.actuator_gainprm[:, 0], self._model.actuator_biasprm[:, 1] = kp_A, -kp_A
        self._model.actuator_forcerange[:] = np.outer(limit_A * self._force_A, [-1.0, 1.0])
        goal = np.clip(of("Goal_Position"), of("Min_Position_Limit"), of("Max_Position_Limit"))
        speed = np.abs(of("Goal_Velocity"))
        speed_A = np.where(speed == 0, SPEED_RAD_S, np.minimum(speed / TICKS_PER_RAD, SPEED_RAD_S))
        return (goal - self._zero_ticks()) / TICKS_PER_RAD, speed_A, held_A

    def _registers(self, name: str) -> np.ndarray:
        return np.array([servo[name] for servo in self.servos])

    def _zero_ticks(self) -> np.ndarray:
        """Return what each servo would read at angle 0, (6,)."""
        return (_MOUNT - self._registers("Homing_Offset")) % TICKS

    def _calibrate(self, table: Mapping[str, Mapping[str, int]]) -> None:
        for name, servo in zip(JOINTS, self.servos, strict=True):
            servo["Homing_Offset"] = table[name]["homing_offset"]
            servo["Min_Position_Limit"] = table[name]["range_min"]
            servo["Max_Position_Limit"] = table[name]["range_max"]
            servo.keep()
