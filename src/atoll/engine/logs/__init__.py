"""Logs: JSON lines with ids, one writer a file, a log of each sandbox, and who did what."""

from atoll.engine.logs.ids import bound as bound
from atoll.engine.logs.ids import current as current
from atoll.engine.logs.sandbox_log import LogEntry as LogEntry
from atoll.engine.logs.sandbox_log import SandboxLog as SandboxLog
from atoll.engine.logs.settings import Logging as Logging
