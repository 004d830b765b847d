"""Where the node's parts are wired together, a module for each role; the door wires itself.

A role loads its own parts only: the pages alone take a second of each start.
"""
