"""What `atoll run` was given: which language it is, and how the sandbox starts it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from atoll.model import FileNotFound, InvalidArgument, IsADirectory, Template, UnknownLanguage

HOME = PurePosixPath("/home/user")
_SHEBANG_BYTES = 256


@dataclass(frozen=True)
class Language:
    """How programs of one language are recognised and kept."""

    name: str
    suffixes: tuple[str, ...]
    interpreters: tuple[str, ...]


LANGUAGES = (
    Language("python", (".py", ".pyw"), ("python", "pypy")),
    Language("javascript", (".js", ".mjs", ".cjs"), ("node", "nodejs")),
    Language("typescript", (".ts", ".mts", ".cts"), ("ts-node", "tsx", "deno", "bun")),
    Language("bash", (".sh", ".bash"), ("bash", "sh", "dash")),
)
_SHORT = {
    "py": "python",
    "js": "javascript",
    "ts": "typescript",
    "sh": "bash",
    "node": "javascript",
}


@dataclass(frozen=True)
class Program:
    """A program's text, its name inside and its language."""

    content: bytes
    name: str
    language: str

    @property
    def path(self) -> str:
        """Where it is put."""
        return str(HOME / self.name)

    def argv(self, template: Template, arguments: tuple[str, ...]) -> list[str]:
        """The command that runs it in a sandbox of `template`.

        Raises:
            UnknownLanguage: the template has no interpreter for it.
        """
        return [*interpreter(self.language, template), self.path, *arguments]


def interpreter(language: str, template: Template) -> list[str]:
    """The command before the program's path.

    Raises:
        UnknownLanguage: the template has no interpreter for it.
    """
    if language == "bash":
        return ["/bin/bash"]
    found = template.python if language == "python" else template.node
    if found is None:
        raise UnknownLanguage(
            f"template {template.name!r} has no {language}",
            hint="`atoll template list` shows what each template has",
        )
    if language == "typescript":
        return [found, "--experimental-strip-types", "--no-warnings"]
    return [found]


def language_named(name: str) -> str:
    """The language that `name` means, short names included.

    Raises:
        UnknownLanguage: none.
    """
    full = _SHORT.get(name.lower(), name.lower())
    known = [language.name for language in LANGUAGES]
    if full not in known:
        raise UnknownLanguage(f"{name!r} is not a language of `atoll run`", hint=_choices())
    return full


def _choices() -> str:
    return "say --language " + ", ".join(language.name for language in LANGUAGES)


def detect(name: str, content: bytes) -> str:
    """The language of a file, by its suffix, else by its first line.

    Raises:
        UnknownLanguage: neither says.
    """
    suffix = PurePosixPath(name).suffix.lower()
    for language in LANGUAGES:
        if suffix in language.suffixes:
            return language.name
    by_line = _by_shebang(content)
    if by_line is None:
        raise UnknownLanguage(f"cannot tell which language {name} is in", hint=_choices())
    return by_line


def _by_shebang(content: bytes) -> str | None:
    if not content.startswith(b"#!"):
        return None
    line = content[2:_SHEBANG_BYTES].split(b"\n", 1)[0].decode("utf-8", "replace").split()
    words = [PurePosixPath(word).name for word in line if not word.startswith("-")]
    if words and words[0] == "env":
        words = [word for word in words[1:] if "=" not in word]
    if not words:
        return None
    for language in LANGUAGES:
        if any(words[0].rstrip("0123456789.") == known for known in language.interpreters):
            return language.name
    return None


def from_code(code: str, language: str | None) -> Program:
    """The program of ``-c CODE``; Python unless said otherwise."""
    name = language_named(language) if language else "python"
    return Program(code.encode(), f"main{_suffix(name)}", name)


def from_stdin(language: str | None) -> Program:
    """The program of ``-``: standard input to its end; Python unless it says otherwise."""
    content = sys.stdin.buffer.read()
    name = language_named(language) if language else _by_shebang(content) or "python"
    return Program(content, f"main{_suffix(name)}", name)


def from_file(path: Path, language: str | None) -> Program:
    """The program in a file of the host.

    Raises:
        FileNotFound, IsADirectory, InvalidArgument: there is no such file to be read.
        UnknownLanguage: nothing says which language it is in.
    """
    content = read_host_file(path)
    name = language_named(language) if language else detect(path.name, content)
    return Program(content, path.name, name)


def read_host_file(path: Path) -> bytes:
    """The bytes of a file that the caller names on the host.

    Raises:
        FileNotFound, IsADirectory, InvalidArgument: there is no such file to be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFound(f"there is no file {path}") from None
    except IsADirectoryError:
        raise IsADirectory(
            f"{path} is a directory, a file was expected", hint="mount it: --mount HOST:GUEST:ro"
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"cannot read {path}: {error}") from None


def _suffix(language: str) -> str:
    return next(known.suffixes[0] for known in LANGUAGES if known.name == language)
