"""A program that logs 10,000 lines a second until it is killed: PATH SIZE."""

from __future__ import annotations

import logging
import sys
import time

from atoll.engine import Logging

BURST = 100


def main() -> None:
    log = logging.getLogger("atoll.flood")
    with Logging(sys.argv[1], max_size=int(sys.argv[2]), keep=50):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        start = time.monotonic()
        number = 0
        while True:
            for _ in range(BURST):
                log.info("line", extra={"fields": {"number": number}})
                number += 1
            time.sleep(max(0.0, start + number / 10_000 - time.monotonic()))


main()
