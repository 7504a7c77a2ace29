"""Faults on the way to ZooKeeper, and what becomes of a client in them: ``scripts/aiozk-faults``.

proxy      a way that suffers
clients    this project's session and plain aiozk, behind one interface
scenarios  the faults, one by one: the same for both
__main__   all of them, as a table
"""
