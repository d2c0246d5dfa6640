"""The emulated servo's registers and packets against lerobot's tables and Feetech's own SDK."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.robots.sts3215 import (
    PING,
    READ,
    REGISTERS,
    SYNC_WRITE,
    Packet,
    Servo,
    decode_sign,
    encode_sign,
    take_packets,
)

packets = st.builds(Packet, st.integers(0, 253), st.sampled_from([PING, READ, 0, 0x20]), st.binary(max_size=40))


def test_registers_are_where_lerobot_looks_for_them():
    from lerobot.motors.feetech.tables import MODEL_CONTROL_TABLE, MODEL_ENCODING_TABLE, MODEL_NUMBER_TABLE

    theirs, signs = MODEL_CONTROL_TABLE["sts3215"], MODEL_ENCODING_TABLE["sts3215"]
    assert {name: (r.address, r.size) for name, r in REGISTERS.items()}.items() <= theirs.items()
    assert all(r.sign_bit == signs.get(name) for name, r in REGISTERS.items())
    assert Servo(1)["Model_Number"] == MODEL_NUMBER_TABLE["sts3215"]


def test_the_published_example_packets():
    assert Packet(1, PING).encode() == bytes.fromhex("FF FF 01 02 01 FB")
    assert Packet(1, READ, bytes([0x38, 2])).encode() == bytes.fromhex("FF FF 01 04 02 38 02 BE")


def test_packets_of_the_sdk_are_understood():
    import scservo_sdk as scs

    class Wire:
        is_using, sent = False, bytearray()

        def clearPort(self):
            pass

        def writePort(self, data):
            self.sent += bytes(data)
            return len(data)

    wire = Wire()
    scs.PacketHandler(0).syncWriteTxOnly(wire, 42, 2, [1, 0x00, 0x08, 6, 0xFF, 0x07], 6)
    assert take_packets(wire.sent) == [Packet(254, SYNC_WRITE, bytes([42, 2, 1, 0x00, 0x08, 6, 0xFF, 0x07]))]


@given(st.lists(packets, max_size=5), st.integers(0, 200))
def test_packets_survive_being_cut_anywhere(sent, cut):
    stream = b"".join(packet.encode() for packet in sent)
    buffer = bytearray(stream[:cut])
    found = take_packets(buffer)
    buffer += stream[cut:]
    assert found + take_packets(buffer) == sent


@given(packets, st.data())
def test_one_wrong_byte_in_the_body_is_noticed(packet, data):
    wire = bytearray(packet.encode())
    at = data.draw(st.integers(4, len(wire) - 1))
    wire[at] ^= data.draw(st.integers(1, 255))
    assert packet not in take_packets(wire)


def test_a_packet_after_a_garbled_one_is_read():
    garbled = bytearray(Packet(1, READ, bytes([0x38, 2])).encode())
    garbled[5] ^= 0x10
    assert take_packets(bytearray(b"\x00\xff") + garbled + Packet(3, PING).encode()) == [Packet(3, PING)]


@given(st.integers(-5000, 5000), st.sampled_from([10, 11, 15]))
def test_signs_are_those_of_lerobot_and_saturate(value, bit):
    from lerobot.motors.encoding_utils import decode_sign_magnitude, encode_sign_magnitude

    top = (1 << bit) - 1
    within = max(-top, min(top, value))
    assert encode_sign(value, bit) == encode_sign_magnitude(within, bit)
    assert decode_sign(encode_sign(value, bit), bit) == within == decode_sign_magnitude(encode_sign(value, bit), bit)


def test_only_what_was_written_unlocked_survives_a_loss_of_power():
    servo, limit = Servo(2), REGISTERS["Max_Position_Limit"].address
    servo.write(limit, [0x00, 0x0C])
    assert servo["Max_Position_Limit"] == 3072
    servo.power_up()
    assert servo["Max_Position_Limit"] == 4095
    servo.write(REGISTERS["Lock"].address, [0])
    servo.write(limit, [0x00, 0x0C])
    servo.write(REGISTERS["Torque_Enable"].address, [1])
    servo.power_up()
    assert (servo["Max_Position_Limit"], servo["Torque_Enable"], servo["Lock"], servo.id) == (3072, 0, 1, 2)


@pytest.mark.parametrize("name", [name for name, r in REGISTERS.items() if not r.writable])
def test_readings_cannot_be_written(name):
    servo = Servo(1)
    before = servo[name]
    servo.write(REGISTERS[name].address, [0x55] * REGISTERS[name].size)
    assert servo[name] == before


def test_writes_beyond_the_memory_are_ignored():
    servo = Servo(1)
    before = bytes(servo.memory)
    servo.write(250, [1, 2, 3])
    assert bytes(servo.memory) == before
