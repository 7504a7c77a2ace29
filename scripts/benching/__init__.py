"""Compare this system with others of its kind, side by side on the same cores.

Each suite is one file: its cases, how they are run, and its sides, which are processes of their own
so that thread counts can be set before anything is imported. Turns of both sides alternate.
"""
