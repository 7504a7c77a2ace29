"""Connections over TCP and Unix sockets: thin shells around the wire's state machines."""
