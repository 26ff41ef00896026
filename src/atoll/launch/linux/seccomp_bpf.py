"""A small assembler for the classic BPF programs that seccomp runs.

Only what the hand-written filters need: loads from `struct seccomp_data`, compares, forward jumps
and returns. Source of the encodings: <linux/filter.h>, <linux/bpf_common.h>, <linux/seccomp.h>.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

INSTRUCTION = struct.Struct("<HBBI")
"""struct sock_filter: code, jt, jf, k. Both supported architectures are little-endian."""

ALLOW = 0x7FFF0000
NUMBER = 0
"""Offset of seccomp_data.nr; 4 is .arch, 8 .instruction_pointer, 16 .args[0]."""

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP = 0x05  # BPF_JMP | BPF_JA
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_JUMP_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K


def errno_action(number: int) -> int:
    """The filter's answer "fail with this errno" (SECCOMP_RET_ERRNO)."""
    return 0x00050000 | number


def argument(index: int) -> int:
    """Offset of the low 32 bits of argument `index` in seccomp_data."""
    return 16 + 8 * index


@dataclass
class Assembler:
    """Collects instructions; jumps name labels, which must come later in the program."""

    _code: list[tuple[int, int, str | None]] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)

    def load(self, offset: int) -> None:
        """Put 32 bits of seccomp_data into the accumulator."""
        self._code.append((_LOAD, offset, None))

    def if_equal(self, value: int, label: str) -> None:
        """Jump if the accumulator is `value`."""
        self._code.append((_JUMP_EQUAL, value, label))

    def if_at_least(self, value: int, label: str) -> None:
        """Jump if the accumulator, unsigned, is `value` or more."""
        self._code.append((_JUMP_AT_LEAST, value, label))

    def if_any_bit(self, mask: int, label: str) -> None:
        """Jump if the accumulator has any bit of `mask`."""
        self._code.append((_JUMP_ANY_BIT, mask, label))

    def jump(self, label: str) -> None:
        """Jump always."""
        self._code.append((_JUMP, 0, label))

    def answer(self, action: int) -> None:
        """End the program with this answer."""
        self._code.append((_RETURN, action, None))

    def label(self, name: str) -> None:
        """Name the next instruction (or the end: what is appended to the program)."""
        self._labels[name] = len(self._code)

    def assemble(self) -> bytes:
        """The program. Raises ValueError for a jump that is backward or too far."""
        return b"".join(self._encode(*item) for item in enumerate(self._code))

    def _encode(self, position: int, instruction: tuple[int, int, str | None]) -> bytes:
        code, value, label = instruction
        if label is None:
            return INSTRUCTION.pack(code, 0, 0, value)
        distance = self._labels[label] - position - 1
        if code == _JUMP:
            return INSTRUCTION.pack(code, 0, 0, distance)
        if not 0 <= distance <= 255:
            raise ValueError(f"jump to {label} over {distance} instructions")
        return INSTRUCTION.pack(code, distance, 0, value)
