"""Files of one cgroup that are read again and again: kept open, as far as descriptors allow."""

from __future__ import annotations

import errno
import os
import resource

from atoll.launch.linux.cgroups_tree import Tree

_SHARE = 4  # of the descriptors that this process may open, metrics take one in so many
_MOST_BYTES = 1 << 16


class DescriptorBudget:
    """How many descriptors the files of all cgroups of one owner may still take.

    The limit is asked when the first is taken, as an engine raises it at its start.
    """

    def __init__(self, most: int | None = None) -> None:
        self._left = most

    def take(self) -> bool:
        """One descriptor; False if there is none left for this."""
        if self._left is None:
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            self._left = (1 << 20 if soft == resource.RLIM_INFINITY else soft) // _SHARE
        if self._left <= 0:
            return False
        self._left -= 1
        return True

    def give_back(self, count: int) -> None:
        """So many were closed."""
        if self._left is not None:
            self._left += count


class KeptFiles:
    """The files of the cgroup `name`. A kept one costs a quarter of one that is opened anew."""

    def __init__(self, name: str, budget: DescriptorBudget) -> None:
        self._name = name
        self._budget = budget
        self._kept: dict[str, int] = {}
        self._missing: set[str] = set()

    def read(self, tree: Tree, file: str) -> bytes | None:
        """What `file` says now; None if the kernel has no such file.

        Raises:
            FileNotFoundError: the cgroup is gone.
        """
        kept = self._kept.get(file)
        try:
            if kept is not None:
                return os.pread(kept, _MOST_BYTES, 0)
            return None if file in self._missing else self._read_first(tree, file)
        except OSError as error:
            # What a descriptor of a removed cgroup says.
            if error.errno == errno.ENODEV:
                raise FileNotFoundError(f"cgroup {self._name} is gone") from error
            raise

    def close(self) -> None:
        """Give the descriptors back; may be called twice."""
        kept, self._kept = self._kept, {}
        for descriptor in kept.values():
            os.close(descriptor)
        self._budget.give_back(len(kept))

    def _read_first(self, tree: Tree, file: str) -> bytes | None:
        try:
            descriptor = tree.open(self._name, file, os.O_RDONLY)
        except FileNotFoundError:
            if not tree.has(self._name, "."):
                raise
            self._missing.add(file)
            return None
        if self._budget.take():
            self._kept[file] = descriptor
            return os.pread(descriptor, _MOST_BYTES, 0)
        try:
            return os.pread(descriptor, _MOST_BYTES, 0)
        finally:
            os.close(descriptor)
