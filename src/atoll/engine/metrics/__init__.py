"""What sandboxes use and what the engine does, measured: samples, history, totals, Prometheus."""

from atoll.engine.metrics.collector import Collector as Collector
from atoll.engine.metrics.series import Series as Series
from atoll.engine.metrics.settings import History as History
from atoll.engine.metrics.settings import Monitoring as Monitoring
from atoll.engine.metrics.totals import Totals as Totals
