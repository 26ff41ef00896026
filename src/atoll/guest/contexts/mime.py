"""What an object shows of itself: a bundle of MIME types, after Jupyter's display protocol.

Source: IPython documentation, "Integrating your objects with IPython" (`_repr_*_` methods).
"""

from __future__ import annotations

import base64
import json
import traceback
from typing import Any

_REPR_METHODS = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_pdf_", "application/pdf"),
    ("_repr_latex_", "text/latex"),
    ("_repr_json_", "application/json"),
    ("_repr_javascript_", "application/javascript"),
)

PLAIN_TYPES = frozenset({int, float, complex, bool, str, bytes, list, tuple, dict, set, frozenset})
"""Types that show nothing but text/plain."""


def bundle(value: object) -> dict[str, Any]:
    """Every MIME type `value` offers; a method that raises is reported on stderr and left out."""
    if type(value) in PLAIN_TYPES:
        return {"text/plain": repr(value)}
    data: dict[str, Any] = {}
    if not isinstance(value, type):
        for name, mime in _REPR_METHODS:
            content = _call(value, name)
            if content is not None:
                data[mime] = content
        whole = _call(value, "_repr_mimebundle_", include=None, exclude=None)
        if whole is not None:
            data.update(whole)
    data.setdefault("text/plain", repr(value))
    return data


def _call(value: object, name: str, **arguments: Any) -> Any:
    if not callable(getattr(type(value), name, None)):
        return None
    try:
        content = getattr(value, name)(**arguments)
    except NotImplementedError:
        return None
    except Exception:
        traceback.print_exc()
        return None
    # Any of the methods may return (data, metadata).
    return content[0] if isinstance(content, tuple) and len(content) == 2 else content


def to_json(data: dict[str, Any]) -> dict[str, Any]:
    """`data` as a frame can carry it: binary content as base64, the rest as text or JSON."""
    return {str(mime): _content(str(mime), content) for mime, content in data.items()}


def _content(mime: str, content: Any) -> Any:
    if isinstance(content, str):
        return content
    if isinstance(content, (bytes, bytearray, memoryview)):
        return base64.b64encode(content).decode("ascii")
    if mime.endswith(("/json", "+json")):
        return content
    # Old notebooks hold text as a list of lines.
    if isinstance(content, list) and all(isinstance(line, str) for line in content):
        return "".join(content)
    return str(content)


def forced_json(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with everything that JSON cannot hold made text, and NaN and infinities null."""
    text = json.dumps({str(mime): content for mime, content in data.items()}, default=str)
    result: dict[str, Any] = json.loads(text, parse_constant=lambda name: None)
    return result
