"""Fresh randomness after a fork: without it two sandboxes would draw the same numbers.

OpenSSL 3 notices a fork by getpid() alone, and pids repeat across pid namespaces, so every
generator that is loaded is given new entropy here (string hash seeds stay shared). `random` is not
among them: its own hook has seeded it in the fork (os.register_at_fork).
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

_ENTROPY = 48
_MT19937_WORDS = 624
_MT19937_BYTES = 4 * _MT19937_WORDS


class Generators:
    """The random generators of this process; what can be done before the fork is done now.

    Made in a zygote, it saves each fork some milliseconds: OpenSSL has loaded its generators, and
    it is known where numpy keeps the state of its global one.
    """

    def __init__(self) -> None:
        ssl: Any = sys.modules.get("ssl")
        if ssl is not None:
            ssl.RAND_bytes(1)
        numpy_random: Any = sys.modules.get("numpy.random")
        self._numpy_state = None if numpy_random is None else _mt19937_state(numpy_random)

    def reseed(self) -> None:
        """Give new entropy to every generator that is loaded."""
        _forget_identities()
        for name, step in (
            ("ssl", _reseed_ssl),
            ("cryptography.hazmat.bindings._rust", _reseed_cryptography),
            ("numpy.random", self._reseed_numpy),
            ("torch", _reseed_torch),
        ):
            module = sys.modules.get(name)
            if module is not None:
                step(module)

    def _reseed_numpy(self, module: Any) -> None:
        # The legacy global generator; numpy.random.default_rng() draws from the kernel each time.
        if self._numpy_state is None:
            module.seed()
            return
        ctypes.memmove(self._numpy_state, os.urandom(_MT19937_BYTES), _MT19937_BYTES)
        # As after 624 draws: the next one stirs the whole state.
        position = ctypes.c_int.from_address(self._numpy_state + _MT19937_BYTES)
        position.value = _MT19937_WORDS


def _mt19937_state(module: Any) -> int | None:
    """Where numpy's global generator has its state (numpy/random/src/mt19937/mt19937.h).

    None if it is no Mersenne Twister, or does not lie in memory as that header says: its own
    seed() does it then, in some hundred times as long.
    """
    module.seed()
    words = module.get_state(legacy=False)
    if words["bit_generator"] != "MT19937":
        return None
    address = int(module.mtrand._rand._bit_generator.ctypes.state_address)
    expected = words["state"]["key"].tobytes() + int(words["state"]["pos"]).to_bytes(
        4, sys.byteorder
    )
    return address if ctypes.string_at(address, len(expected)) == expected else None


def _forget_identities() -> None:
    # Their own generators compare getpid(), which is not enough (see above).
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None
    uuid: Any = sys.modules.get("uuid")
    if uuid is not None:
        uuid._node = None
        uuid._last_timestamp = None


def _reseed_ssl(module: Any) -> None:
    module.RAND_add(os.urandom(_ENTROPY), float(_ENTROPY))


def _reseed_torch(module: Any) -> None:
    module.seed()


def _reseed_cryptography(module: Any) -> None:
    """cryptography's wheel has an OpenSSL of its own."""
    library = getattr(getattr(module, "_openssl", None), "lib", None)
    add = getattr(library, "RAND_add", None)
    if add is not None:
        entropy = os.urandom(_ENTROPY)
        add(entropy, len(entropy), float(len(entropy)))
