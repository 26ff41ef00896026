"""Programs that try one forbidden thing each. They run inside a sandbox, on its own Python.

Standard library only, Python 3.9 on, nothing of Atoll but `kit`. Every probe takes the facts it
was given and returns an `Outcome`: it is `blocked` only if the thing tried did not happen.
"""
