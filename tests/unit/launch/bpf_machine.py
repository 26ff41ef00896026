"""A small machine for classic BPF, to ask a filter about calls of any architecture."""

from __future__ import annotations

import struct
from dataclasses import dataclass

ALLOW = 0x7FFF0000
X86_64 = 0xC000003E
AARCH64 = 0xC00000B7
I386 = 0x40000003
ARM = 0x40000028


@dataclass(frozen=True)
class Answer:
    """What the filter said: allowed, or the errno it answers with."""

    allowed: bool
    errno: int


def answer(program: bytes, arch: int, number: int, *args: int) -> Answer:
    """Run `program` on one call, as the kernel does (net/core/filter.c)."""
    padded = [value & 0xFFFFFFFFFFFFFFFF for value in (*args, 0, 0, 0, 0, 0, 0)][:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *padded)
    code = list(struct.iter_unpack("<HBBI", program))
    position = accumulator = 0
    while True:
        operation, yes, no, value = code[position]
        position += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x05:
            position += value
        elif operation == 0x06:
            return _verdict(value)
        elif operation == 0x54:
            accumulator &= value
        else:
            position += yes if _compare(operation, accumulator, value) else no


def _compare(operation: int, accumulator: int, value: int) -> bool:
    if operation == 0x15:
        return accumulator == value
    if operation == 0x25:
        return accumulator > value
    if operation == 0x35:
        return accumulator >= value
    if operation == 0x45:
        return bool(accumulator & value)
    raise ValueError(f"unknown instruction {operation:#x}")


def _verdict(value: int) -> Answer:
    if value == ALLOW:
        return Answer(True, 0)
    if value & 0xFFFF0000 == 0x00050000:
        return Answer(False, value & 0xFFFF)
    raise ValueError(f"unexpected answer {value:#x}")
