"""The STS3215 servo as its bus sees it: packets (Feetech protocol 0), the register table, and one servo's memory.

A packet is FF FF id length instruction|error parameters.. checksum, with length = parameters + 2 and the checksum the
complement of the sum of all bytes after the header. Words are little-endian; negative numbers are sign and magnitude.
Source: Feetech's STS/SMS memory table and its SDK's protocol handler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 0x01, 0x02, 0x03, 0x82, 0x83
BROADCAST = 0xFE
HEADER = b"\xff\xff"
MODEL_NUMBER = 777
TICKS = 4096  # of a turn
SRAM_FROM = 40  # registers below survive a loss of power, if they were written unlocked
MEMORY_SIZE = 88


@dataclass(frozen=True, slots=True)
class Register:
    """One entry of the memory table; `sign_bit` of a number that may be negative."""

    address: int
    size: int = 1
    default: int = 0
    writable: bool = True
    sign_bit: int | None = None


def _reading(address: int, size: int = 1, default: int = 0, sign_bit: int | None = None) -> Register:
    return Register(address, size, default, False, sign_bit)


REGISTERS: dict[str, Register] = {
    "Firmware_Major_Version": _reading(0, default=3),
    "Firmware_Minor_Version": _reading(1, default=10),
    "Model_Number": _reading(3, 2, MODEL_NUMBER),
    "ID": Register(5, default=1),
    "Baud_Rate": Register(6),
    "Return_Delay_Time": Register(7, default=250),  # of 2 us
    "Response_Status_Level": Register(8, default=1),
    "Min_Position_Limit": Register(9, 2),
    "Max_Position_Limit": Register(11, 2, TICKS - 1),
    "Max_Temperature_Limit": Register(13, default=70),
    "Max_Voltage_Limit": Register(14, default=140),
    "Min_Voltage_Limit": Register(15, default=40),
    "Max_Torque_Limit": Register(16, 2, 1000),
    "Phase": Register(18, default=12),
    "Unloading_Condition": Register(19, default=44),
    "LED_Alarm_Condition": Register(20, default=47),
    "P_Coefficient": Register(21, default=32),
    "D_Coefficient": Register(22, default=32),
    "I_Coefficient": Register(23),
    "Minimum_Startup_Force": Register(24, 2, 16),
    "CW_Dead_Zone": Register(26, default=1),
    "CCW_Dead_Zone": Register(27, default=1),
    "Protection_Current": Register(28, 2, 500),
    "Angular_Resolution": Register(30, default=1),
    "Homing_Offset": Register(31, 2, sign_bit=11),
    "Operating_Mode": Register(33),
    "Protective_Torque": Register(34, default=20),
    "Protection_Time": Register(35, default=200),
    "Overload_Torque": Register(36, default=80),
    "Torque_Enable": Register(40),
    "Acceleration": Register(41),
    "Goal_Position": Register(42, 2, sign_bit=15),
    "Goal_Time": Register(44, 2),
    "Goal_Velocity": Register(46, 2, sign_bit=15),  # [ticks/s], 0 for as fast as it can
    "Torque_Limit": Register(48, 2, 1000),
    "Lock": Register(55, default=1),
    "Present_Position": _reading(56, 2, sign_bit=15),
    "Present_Velocity": _reading(58, 2, sign_bit=15),  # [ticks/s]
    "Present_Load": _reading(60, 2, sign_bit=10),  # [0.1 %] of the largest torque
    "Present_Voltage": _reading(62, default=120),  # [0.1 V]
    "Present_Temperature": _reading(63, default=30),  # [C]
    "Status": _reading(65),
    "Moving": _reading(66),
    "Present_Current": _reading(69, 2),  # of 6.5 mA
    "Maximum_Velocity_Limit": Register(84, default=70),
    "Maximum_Acceleration": Register(85),
}
_READ_ONLY = frozenset(r.address + i for r in REGISTERS.values() if not r.writable for i in range(r.size))


@dataclass(frozen=True, slots=True)
class Packet:
    """A whole packet: to a servo, `code` is the instruction; from one, its error bits."""

    id: int
    code: int
    parameters: bytes = b""

    def encode(self) -> bytes:
        """Return the packet's bytes."""
        body = bytes([self.id, len(self.parameters) + 2, self.code]) + self.parameters
        return HEADER + body + bytes([~sum(body) & 0xFF])


def take_packets(buffer: bytearray) -> list[Packet]:
    """Return the whole packets in `buffer` and remove them; what fails its checksum is skipped byte by byte."""
    found = []
    while (start := buffer.find(HEADER)) >= 0 and len(buffer) >= start + 6:
        del buffer[:start]
        size = buffer[3] + 4
        if buffer[2] == 0xFF or buffer[3] < 2:
            del buffer[0]
            continue
        if len(buffer) < size:
            break
        body = bytes(buffer[2 : size - 1])
        if ~sum(body) & 0xFF != buffer[size - 1]:
            del buffer[0]
            continue
        found.append(Packet(body[0], body[2], body[3:]))
        del buffer[:size]
    return found


class Servo:
    """One servo's memory. EEPROM written while `Lock` is 0 survives a loss of power; readings cannot be written."""

    def __init__(self, id_: int) -> None:
        self.memory = bytearray(MEMORY_SIZE)
        for register in REGISTERS.values():
            self._put(register, register.default)
        self._put(REGISTERS["ID"], id_)
        self._kept = bytes(self.memory)

    @property
    def id(self) -> int:
        """The number that it answers to."""
        return self["ID"]

    def __getitem__(self, name: str) -> int:
        register = REGISTERS[name]
        raw = int.from_bytes(self.memory[register.address : register.address + register.size], "little")
        return raw if register.sign_bit is None else decode_sign(raw, register.sign_bit)

    def __setitem__(self, name: str, value: int) -> None:
        """Set a register from inside the servo, saturating at what it can hold."""
        self._put(REGISTERS[name], value)

    def keep(self) -> None:
        """Make the EEPROM registers, as they are, survive a loss of power."""
        self._kept = bytes(self.memory[:SRAM_FROM]) + self._kept[SRAM_FROM:]

    def power_up(self) -> None:
        """Begin anew with what survived; torque is off."""
        self.memory[:] = self._kept
        self["Torque_Limit"] = self["Max_Torque_Limit"]

    def write(self, address: int, data: Sequence[int]) -> None:
        """Write bytes from the bus; those that are readings, or beyond the memory, are ignored."""
        for at, byte in enumerate(data, address):
            if at < MEMORY_SIZE and at not in _READ_ONLY:
                self.memory[at] = byte
        if self["Lock"] == 0:
            self.keep()

    def _put(self, register: Register, value: int) -> None:
        if register.sign_bit is not None:
            value = encode_sign(value, register.sign_bit)
        top = (1 << 8 * register.size) - 1
        self.memory[register.address : register.address + register.size] = min(max(value, 0), top).to_bytes(
            register.size, "little"
        )


def encode_sign(value: int, sign_bit: int) -> int:
    """Return sign and magnitude, saturating."""
    return min(abs(value), (1 << sign_bit) - 1) | (value < 0) << sign_bit


def decode_sign(raw: int, sign_bit: int) -> int:
    """Return the number of a sign and a magnitude."""
    magnitude = raw & ((1 << sign_bit) - 1)
    return -magnitude if raw >> sign_bit & 1 else magnitude
