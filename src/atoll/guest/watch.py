"""Watches a directory or a tree: one line of JSON an event, in the order in which things happened.

A directory that appears is watched and then looked through, so what was made in it before the
watch began is reported too, once. A rename is `rename` of the old name and `create` of the new one.
"""

from __future__ import annotations

import errno
import json
import os
import select
import stat

from atoll.guest import inotify
from atoll.guest.fields import decoded
from atoll.guest.refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# While the reader is slow events wait here; past this much the kernel drops them and says so.
_MAX_WAITING = 8 << 20
# Both halves of a rename are queued within one system call; a lone half is a move out of the tree.
_PAIR_MS = 10
_quoted = json.encoder.encode_basestring_ascii


class _Node:
    """One watched directory."""

    __slots__ = ("children", "name", "number", "parent", "seen")

    def __init__(self, number: int, parent: _Node | None, name: bytes) -> None:
        self.number = number
        self.parent = parent
        self.name = name
        self.children: dict[bytes, _Node] = {}
        self.seen: set[bytes] = set()
        """Entries reported by a look through it, whose own events may still come."""

    def inner(self, name: bytes) -> bytes:
        """The path of an entry of it, from the top of the tree."""
        parts = [name]
        node: _Node | None = self
        while node is not None and node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return b"/".join(reversed(parts))


class _Tree:
    """Watched directories by number, and the events that they turn into."""

    def __init__(self, path: bytes, recursive: bool) -> None:
        self.inotify = inotify.Inotify()
        self.recursive = recursive
        self.ended = False
        self.out = bytearray()
        self._nodes: dict[int, _Node] = {}
        self._looked: list[_Node] = []
        self._moving: tuple[int, _Node | None] | None = None
        self._path = path + b"/"
        self._root = _Node(self.inotify.add(path, top=True), None, b"")
        self._nodes[self._root.number] = self._root
        if recursive:
            self._look(self._root, report=False)

    @property
    def expecting(self) -> bool:
        """True after the first half of a rename of a directory."""
        return self._moving is not None

    def settle(self) -> None:
        """Nothing more is queued: what was waited for does not come."""
        self._part()
        for node in self._looked:
            node.seen.clear()
        self._looked.clear()

    def take(self, number: int, mask: int, cookie: int, name: bytes) -> None:
        """One event of inotify."""
        if mask & inotify.OVERFLOW:
            self._overflow()
            return
        node = self._nodes.get(number)
        if node is None:
            return
        if self._moving and not (mask & inotify.MOVED_TO and self._moving[0] == cookie):
            self._part()
        if not name:
            self._own_event(node, mask)
        elif mask & (inotify.CREATE | inotify.MOVED_TO):
            self._appeared(node, mask, name)
        elif mask & (inotify.DELETE | inotify.MOVED_FROM):
            self._vanished(node, mask, cookie, name)
        else:
            self._say("write" if mask & inotify.MODIFY else "chmod", node.inner(name))

    def _own_event(self, node: _Node, mask: int) -> None:
        """Of the directory itself; its parent's watch tells the same, except for the top."""
        if mask & inotify.IGNORED:
            del self._nodes[node.number]
            self._detach(node)
            self.ended = self.ended or node is self._root
        elif mask & inotify.DELETE_SELF and node is self._root:
            self._say("remove", b".")
        elif mask & inotify.MOVE_SELF and node is self._root:
            self._say("rename", b".")
            self.ended = True  # what appears below it can no longer be found by its path

    def _appeared(self, node: _Node, mask: int, name: bytes) -> None:
        moved = self._moving[1] if self._moving and mask & inotify.MOVED_TO else None
        self._moving = None
        if name in node.seen:
            node.seen.discard(name)
        else:
            self._say("create", node.inner(name))
        if moved is not None:
            self._attach(moved, node, name)
        elif mask & inotify.ISDIR and self.recursive:
            self._descend(node, name, report=True)

    def _vanished(self, node: _Node, mask: int, cookie: int, name: bytes) -> None:
        node.seen.discard(name)
        child = node.children.pop(name, None)
        if mask & inotify.DELETE:
            self._say("remove", node.inner(name))
            return
        self._say("rename", node.inner(name))
        if mask & inotify.ISDIR and self.recursive:
            self._moving = (cookie, child)

    def _part(self) -> None:
        """Stop watching a directory that was moved out of the tree."""
        if self._moving is None:
            return
        gone = [self._moving[1]] if self._moving[1] else []
        self._moving = None
        while gone:
            node = gone.pop()
            gone.extend(node.children.values())
            self._nodes.pop(node.number, None)
            self.inotify.forget(node.number)

    def _descend(self, parent: _Node, name: bytes, report: bool) -> None:
        waiting = [(parent, name)]
        while waiting:
            parent, name = waiting.pop()
            node = self._watch(parent, name)
            if node is not None:
                waiting += [(node, inner) for inner in self._list(node, report)]

    def _look(self, node: _Node, report: bool) -> None:
        for name in self._list(node, report):
            self._descend(node, name, report)

    def _watch(self, parent: _Node, name: bytes) -> _Node | None:
        """Watch a directory below `parent`; None if there is nothing new to look through."""
        try:
            number = self.inotify.add(self._path + parent.inner(name))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENAMETOOLONG, errno.ENOMEM):
                self._say("overflow", b"")  # what happens below it will be missed
            return None
        known = self._nodes.get(number)
        if known is not None:
            if known is not self._root:
                self._attach(known, parent, name)
            return None
        node = self._nodes[number] = _Node(number, parent, name)
        parent.children[name] = node
        return node

    def _list(self, node: _Node, report: bool) -> list[bytes]:
        """Its subdirectories; all its entries are reported if they are new to the reader."""
        directories = []
        try:
            names = sorted(os.listdir(self._path + node.inner(b".")))
        except OSError:
            return []
        for name in names:
            inner = node.inner(name)
            if report:
                self._say("create", inner)
                node.seen.add(name)
            try:
                if stat.S_ISDIR(os.lstat(self._path + inner).st_mode):
                    directories.append(name)
            except OSError:
                continue  # gone again; its own event tells
        if report:
            self._looked.append(node)
        return directories

    def _attach(self, node: _Node, parent: _Node, name: bytes) -> None:
        self._detach(node)
        node.parent, node.name = parent, name
        parent.children[name] = node

    def _detach(self, node: _Node) -> None:
        if node.parent is not None and node.parent.children.get(node.name) is node:
            del node.parent.children[node.name]

    def _overflow(self) -> None:
        """Events were lost: say so, and find the directories that are there now."""
        self._say("overflow", b"")
        before = self._nodes
        self._moving = None
        self._looked.clear()
        self._root = _Node(self._root.number, None, b"")
        self._nodes = {self._root.number: self._root}
        if self.recursive:
            self._look(self._root, report=False)
        for number in before.keys() - self._nodes.keys():
            self.inotify.forget(number)

    def _say(self, kind: str, path: bytes) -> None:
        self.out += f'{{"type":"{kind}","path":{_quoted(decoded(path))}}}\n'.encode()


def watch(path: bytes, out: int, recursive: bool, answer: Callable[[], None]) -> None:
    """Report what happens in the directory `path` until nobody reads `out`.

    It ends too when the directory itself is removed or renamed, with that event for `.`.

    Raises:
        OSError: no directory, or not readable.
        Refused: the sandbox has no inotify instance or watch left.
    """
    try:
        tree = _Tree(path, recursive)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENOSPC):
            raise
        raise Refused("file_error", "the sandbox's inotify instances are used up") from None
    answer()
    os.set_blocking(out, False)
    poll = select.poll()
    poll.register(tree.inotify.fd, select.POLLIN)
    poll.register(out, 0)
    while _turn(tree, poll, out):
        pass


def _turn(tree: _Tree, poll: select.poll, out: int) -> bool:
    """Wait, pass on what has happened; False when it is over."""
    ready = dict(poll.poll(_PAIR_MS if tree.expecting else None))
    if ready.get(out, 0) & (select.POLLERR | select.POLLNVAL):
        return False
    events = tree.inotify.read() if len(tree.out) < _MAX_WAITING else None
    for event in events or ():
        if not tree.ended:
            tree.take(*event)
    if events == []:
        tree.settle()
    _flush(tree.out, out)
    if tree.ended and not tree.out:
        return False
    poll.modify(tree.inotify.fd, select.POLLIN if len(tree.out) < _MAX_WAITING else 0)
    poll.modify(out, select.POLLOUT if tree.out else 0)
    return True


def _flush(waiting: bytearray, out: int) -> None:
    try:
        while waiting:
            del waiting[: os.write(out, waiting)]
    except BlockingIOError:
        return
