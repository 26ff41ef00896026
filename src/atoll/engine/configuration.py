"""What the guest is told once: what holds for every process that it starts."""

from __future__ import annotations

import os
from typing import Any

from atoll.engine.channel import GuestChannel
from atoll.model import SandboxSpec


def configuration(spec: SandboxSpec, env: dict[str, str]) -> dict[str, Any]:
    """The parameters of the guest's `configure`; `env` is the client's."""
    limits = spec.limits
    return {
        "env": {**spec.template.env, **spec.env, **env},
        "rlimits": {
            "nofile": limits.open_files,
            "fsize": limits.bytes_of("file_size"),
            "core": 0,
            "nproc": None,
        },
        "cwd": spec.template.cwd,
        "entropy": os.urandom(32).hex(),
    }


def configure(channel: GuestChannel, spec: SandboxSpec, env: dict[str, str]) -> None:
    """Tell the guest what holds for every process that it starts.

    Not awaited: the guest does things in order, and a refusal ends the sandbox.
    """
    channel.request("configure", configuration(spec, env), on_error=channel.fail_with)
