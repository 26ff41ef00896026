"""What builds the walls: one port, several launchers behind it.

Others use `choose` and the port's types; a launcher's own modules are its own.
"""

from atoll.launch.adoption_port import Adopts as Adopts
from atoll.launch.adoption_port import Held as Held
from atoll.launch.port import ContextPorts as ContextPorts
from atoll.launch.port import ContextProcess as ContextProcess
from atoll.launch.port import LaunchedSandbox as LaunchedSandbox
from atoll.launch.port import Launcher as Launcher
from atoll.launch.port import Listeners as Listeners
from atoll.launch.registry import LAUNCHERS as LAUNCHERS
from atoll.launch.registry import choose as choose
