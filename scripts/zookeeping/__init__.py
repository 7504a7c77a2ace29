"""A real ZooKeeper on this machine, for tests and for trying things: ``scripts/zookeeper``.

jars      where ZooKeeper's programs lie
server    one server, and an ensemble of them, each a process of its own
__main__  in the foreground, as a person starts it
"""
