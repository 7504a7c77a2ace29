"""Compare this system with others of its kind, side by side on the same cores.

Each suite is one file: its cases, how they are run, and our side. What another library does is in
that library's own file. Sides are processes of their own, each with an environment that suits it,
and take turns.
"""
