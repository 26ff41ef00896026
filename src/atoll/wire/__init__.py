"""Packets between processes of ours: a leaf that launchers and the egress proxy share.

Empty, as bare processes import it: `packets` needs the standard library's smallest part only.
"""
