"""Attacks on randomness: what two forks of one process have in common, each could guess."""

from __future__ import annotations

import json

from atoll.testing.attacks.arena import Arena
from atoll.testing.attacks.model import Attack, Verdict, all_of

SECTION = "randomness"

# Each source that is there; "seed" is shared by forks of necessity and judged apart.
_DRAW = """
import json, os, random, secrets, ssl, tempfile, uuid
drawn = {
    "random": random.random(),
    "random.SystemRandom": random.SystemRandom().random(),
    "os.urandom": os.urandom(16).hex(),
    "secrets": secrets.token_hex(16),
    "uuid1": str(uuid.uuid1()),
    "uuid4": str(uuid.uuid4()),
    "ssl.RAND_bytes": ssl.RAND_bytes(16).hex(),
    "tempfile": tempfile.mktemp(),
}
try:
    import numpy
    drawn["numpy.random.rand"] = float(numpy.random.rand())
    drawn["numpy.default_rng"] = float(numpy.random.default_rng().random())
except ImportError:
    pass
try:
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives.asymmetric import ec
    drawn["cryptography.fernet"] = Fernet.generate_key().decode()
    key = ec.generate_private_key(ec.SECP256R1())
    drawn["cryptography.ec"] = key.private_numbers().private_value
except ImportError:
    pass
print(json.dumps(drawn))
"""
_SEED = "print(hash('atoll'))"


async def _equal_draws(arena: Arena) -> Verdict:
    """Contexts of two sandboxes and two of one sandbox: no source may give the same twice."""
    draws = []
    for _ in range(2):
        async with arena.context_sandbox() as sandbox:
            for _ in range(2):
                context = await sandbox.create_context(language="python")
                execution = await sandbox.run_code(_DRAW, context=context)
                draws.append(json.loads("".join(execution.logs.stdout)))
    parts = []
    for source in draws[0]:
        values = [draw[source] for draw in draws]
        different = len(set(values)) == len(values)
        parts.append((source, different, "differs" if different else f"equal: {values}"))
    return all_of(parts)


async def _fresh_seed(arena: Arena) -> Verdict:
    """A context on a fresh interpreter has a hash seed of its own."""
    seeds = set()
    async with arena.context_sandbox() as sandbox:
        for _ in range(3):
            context = await sandbox.create_context(language="python", fresh=True)
            execution = await sandbox.run_code(_SEED, context=context)
            seeds.add("".join(execution.logs.stdout))
    return Verdict(len(seeds) == 3, f"{len(seeds)} seeds in 3 contexts", "fresh contexts")


async def _shell_draws(arena: Arena) -> Verdict:
    """Bash contexts are forks of the guest: its generator is seeded at the exec of bash."""
    drawn = set()
    for _ in range(2):
        async with arena.fresh() as sandbox:
            execution = await sandbox.run_code("echo $RANDOM$RANDOM$RANDOM", language="bash")
            drawn.add("".join(execution.logs.stdout))
    return Verdict(len(drawn) == 2, f"drawn {sorted(drawn)}", "bash contexts")


ATTACKS: tuple[Attack, ...] = (
    Attack(
        "equal-draws",
        "Do two forks draw the same numbers, keys or names from any source?",
        SECTION,
        _equal_draws,
    ),
    Attack(
        "hash-seed",
        "Do contexts on a fresh interpreter share their hash seed?",
        SECTION,
        _fresh_seed,
    ),
    Attack("shell-draws", "Do two Bash contexts draw the same numbers?", SECTION, _shell_draws),
)
