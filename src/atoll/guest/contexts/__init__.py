"""Stateful interpreters inside a sandbox: one process, one control socket, one cell at a time.

Standard library only; IPython where the template has it. A runner speaks the frames of
`channel.py` on its control socket (descriptor 3) and prints to descriptors 1 and 2.
"""
