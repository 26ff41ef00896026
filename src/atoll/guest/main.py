"""The guest as a program: ``python -I -S /.atoll/atoll/guest/main.py --channel FD``."""

import os
import sys


def main() -> None:
    """Serve the channel that the command line names."""
    if len(sys.argv) != 3 or sys.argv[1] != "--channel" or not sys.argv[2].isdecimal():
        sys.exit("usage: main.py --channel FD")
    here = os.path.dirname(os.path.abspath(__file__))
    # In place of this directory: modules are named from the package, and none may be shadowed.
    sys.path[:] = [p for p in sys.path if p not in ("", here)]
    sys.path.append(os.path.dirname(os.path.dirname(here)))
    from atoll.guest.init import serve

    serve(int(sys.argv[2]))


if __name__ == "__main__":
    main()
