"""What every launcher must do: one list of cases, run by the tests and by whoever adds a launcher.

@pytest.mark.parametrize("case", cases_for(walls=True), ids=lambda case: case.name)
async def test_contract(subject, case):
    await case.run(subject)
"""

from atoll.testing.contract.case import Case as Case
from atoll.testing.contract.case import Subject as Subject
from atoll.testing.contract.registry import CASES as CASES
from atoll.testing.contract.registry import cases_for as cases_for
