"""The isolation attack suite: tries to break out, and says what held.

`run_suite` attacks this machine; `ATTACKS` lists every attempt with the question it answers.
"""

from atoll.testing.attacks.model import Attack as Attack
from atoll.testing.attacks.model import Verdict as Verdict
from atoll.testing.attacks.registry import ATTACKS as ATTACKS
from atoll.testing.attacks.registry import named as named
from atoll.testing.attacks.registry import table as table
from atoll.testing.attacks.runner import Report as Report
from atoll.testing.attacks.runner import run_attack as run_attack
from atoll.testing.attacks.runner import run_suite as run_suite
