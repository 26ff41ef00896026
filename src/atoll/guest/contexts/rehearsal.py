"""Cells that a zygote runs before it serves: what they touch, the forks need not touch again.

Imports that are put off until first use, caches and specialised bytecode are then in memory that
all forks share. Nothing of it can be seen afterwards.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from atoll.guest.contexts.channel import Channel, encode
from atoll.guest.contexts.session import Session, open_streams

if TYPE_CHECKING:
    from atoll.guest.contexts.plain import Interpreter

_ROUNDS = 12
_CELLS = (
    "1 + 1",
    "print('x')",
    "import sys\na = [1, 2.5, 'x', {'y': None}]\nfor b in a:\n    c = f'{b}'\nprint(c)\na",
    "def f(x):\n    return x / 0\n\n\nf(1)",
    "display('x')",
    "object()",
)
_HEAVY_CELLS = {
    "numpy": "import numpy as np\nnp.arange(4).reshape(2, 2) @ np.eye(2)",
    "pandas": "import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})",
    "matplotlib.pyplot": (
        "import matplotlib.pyplot as plt\nplt.plot([1, 2], label='x')\nplt.title('x')\n"
        "plt.xlabel('x')\nplt.legend()\nplt.show()\nplt.bar(['a', 'b'], [1, 2])"
    ),
}


def rehearse(interpreter: Interpreter) -> None:
    """Run the cells through a session; what it answers is thrown away."""
    requests, ours = socket.socketpair()
    streams = sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__
    handler = signal.getsignal(signal.SIGINT)
    before = dict(interpreter.namespace)
    sys.stdout = sys.stderr = io.StringIO()
    heavy = [code for name, code in _HEAVY_CELLS.items() if name in sys.modules]
    try:
        with requests, ours, open(os.devnull, "wb") as nowhere:
            session = Session(Channel(requests.fileno(), nowhere.fileno()), interpreter)
            for _ in range(_ROUNDS):
                session.attach()
                open_streams()
            sys.stdout = sys.stderr = io.StringIO()
            for code in [*_CELLS * _ROUNDS, *heavy * 2]:
                ours.sendall(encode({"op": "run", "id": 1, "code": code}))
                session.step()
    finally:
        sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__ = streams  # type: ignore[misc]
        signal.signal(signal.SIGINT, handler)
        interpreter.forget(before)
        vars(sys).pop("last_value", None)
