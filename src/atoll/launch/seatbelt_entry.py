"""First program of a sandbox of the launcher `seatbelt`: starts the guest and outlives nobody.

    python -I -S seatbelt_entry.py PACKAGES CHANNEL LIFELINE WORD

macOS has no pid namespace and no parent-death signal. So this process waits on LIFELINE, a pipe
whose other end the engine holds: at its end the guest is told to stop, then killed. It holds WORD,
the write end of a pipe by which the engine learns that the guest is gone.

Runs behind the profile, with the standard library only.
"""

import os
import select
import signal
import sys
import time

_GRACE = 1.0


def main() -> None:
    """Start the guest and wait for its end or the engine's."""
    packages, channel, lifeline, word = sys.argv[1], *map(int, sys.argv[2:5])
    wakeup, wake = os.pipe()
    for fd in (wakeup, wake):
        os.set_blocking(fd, False)
    pid = os.fork()
    if pid == 0:
        for fd in (wakeup, wake, lifeline, word):
            os.close(fd)
        sys.path.append(packages)
        from atoll.guest.init import serve

        serve(channel)
        os._exit(0)
    os.close(channel)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        ready, _, _ = select.select([wakeup, lifeline], [], [], 1.0)
        if lifeline in ready:
            _end(pid)
            return


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
