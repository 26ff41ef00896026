"""One machine's sandboxes, as a library: what others may use of it."""

from atoll.engine.clock import Clock as Clock
from atoll.engine.clock import SystemClock as SystemClock
from atoll.engine.commands import CommandHandle as CommandHandle
from atoll.engine.commands import Commands as Commands
from atoll.engine.commands import ProcessInfo as ProcessInfo
from atoll.engine.context_record import Context as Context
from atoll.engine.engine import Engine as Engine
from atoll.engine.files import Files as Files
from atoll.engine.logs import LogEntry as LogEntry
from atoll.engine.logs import Logging as Logging
from atoll.engine.logs import bound as bound
from atoll.engine.metrics import History as History
from atoll.engine.metrics import Monitoring as Monitoring
from atoll.engine.metrics.serve import serve_metrics as serve_metrics
from atoll.engine.owner import default_data_dir as default_data_dir
from atoll.engine.pty import PtyHandle as PtyHandle
from atoll.engine.sandbox import Sandbox as Sandbox
from atoll.engine.sync import SyncEngine as SyncEngine
from atoll.engine.sync import SyncSandbox as SyncSandbox
from atoll.engine.templates import Templates as Templates
from atoll.engine.watch import Watch as Watch
