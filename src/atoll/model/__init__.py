"""Plain types that every room shares. Imports nothing of ours."""

from atoll.model.errors import *  # noqa: F403
from atoll.model.limits import Limits as Limits
from atoll.model.limits import Size as Size
from atoll.model.limits import parse_size as parse_size
from atoll.model.network import ConnectionRecord as ConnectionRecord
from atoll.model.network import EgressProxy as EgressProxy
from atoll.model.network import HeaderRule as HeaderRule
from atoll.model.network import NetworkPolicy as NetworkPolicy
from atoll.model.network import NetworkReport as NetworkReport
from atoll.model.results import *  # noqa: F403
from atoll.model.spec import GUEST_DIRECTORY as GUEST_DIRECTORY
from atoll.model.spec import Layer as Layer
from atoll.model.spec import Mount as Mount
from atoll.model.spec import SandboxSpec as SandboxSpec
from atoll.model.spec import Template as Template
