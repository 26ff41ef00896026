"""Fresh randomness after a fork: without it two sandboxes would draw the same numbers.

OpenSSL 3 notices a fork by getpid() alone, and pids repeat across pid namespaces, so every
generator that is loaded is given new entropy here (string hash seeds stay shared).
"""

from __future__ import annotations

import os
import sys
from typing import Any

_ENTROPY = 48


def prepare() -> None:
    """Before the fork: have OpenSSL load its generators, which takes milliseconds."""
    module: Any = sys.modules.get("ssl")
    if module is not None:
        module.RAND_bytes(1)


def reseed() -> None:
    """Reseed every generator of this process that is loaded.

    `random` is not among them: its own hook has seeded it in the fork (os.register_at_fork).
    """
    _forget_identities()
    for name, step in (
        ("ssl", _reseed_ssl),
        ("cryptography.hazmat.bindings._rust", _reseed_cryptography),
        ("numpy.random", _reseed_numpy),
        ("torch", _reseed_torch),
    ):
        module = sys.modules.get(name)
        if module is not None:
            step(module)


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


def _reseed_numpy(module: Any) -> None:
    # The legacy global generator; numpy.random.default_rng() draws from the kernel each time.
    # Words of the kernel's own: a seed of numpy's choice is hashed in Python, in ten times as long.
    module.seed(list(memoryview(os.urandom(_ENTROPY)).cast("I")))


def _reseed_torch(module: Any) -> None:
    module.seed()


def _reseed_cryptography(module: Any) -> None:
    """cryptography's wheel has an OpenSSL of its own."""
    library = getattr(getattr(module, "_openssl", None), "lib", None)
    add = getattr(library, "RAND_add", None)
    if add is not None:
        entropy = os.urandom(_ENTROPY)
        add(entropy, len(entropy), float(len(entropy)))
