"""Prometheus metrics on a loopback port of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PORT = 9464
"""What OpenTelemetry's Prometheus exporter listens on as well."""

_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATIENCE = 10.0


class Exposes(Protocol):
    """`Engine` or `SyncEngine`."""

    def prometheus(self) -> bytes:
        """Metrics as text; called in another thread than the engine's."""


@contextmanager
def serve_metrics(engine: Exposes, port: int = PORT) -> Iterator[int]:
    """Answer ``GET http://127.0.0.1:PORT/metrics`` until the block ends; gives the port.

    Every account of this machine can read it, and nobody else. Nothing in it is secret: counts,
    the names of templates and the ids of sandboxes.

    Args:
        engine: the one to ask.
        port: 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """
    # Costs as much as two creates: only for those who ask.
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Answer(BaseHTTPRequestHandler):
        timeout = _PATIENCE  # of a client that says nothing

        def do_GET(self) -> None:
            """One scrape."""
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404)
                return
            body = engine.prometheus()
            self.send_response(200)
            self.send_header("Content-Type", _TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A scrape every few seconds is nothing to tell."""

    with ThreadingHTTPServer(("127.0.0.1", port), Answer) as server:
        # Waiting for a client's thread would let a silent client hold up the end.
        server.daemon_threads, server.block_on_close = True, False
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
