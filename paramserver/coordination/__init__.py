"""Coordination: one store port, its back ends, and the recipes that stand above it.

    port            what a store promises
    tree            the embedded store's tree and sessions, without I/O
    messages        what travels between a store's host and its users
    service         serves a tree to local and remote users
    session_store   the store's user side: one session over whatever link a dial function makes
    embedded        … in the tree's own process
    remote          … over a connection to the host
    zoolink         … over a connection to a ZooKeeper server
    zookeeper       … of an ensemble of them
    layout          where everything lies in the tree
    watching        look again whenever something may have changed
    members         who is there
    election        who leads, by terms that grow
    documents       configuration, the map, outcomes: values changed by compare-and-set
    coordinator     all of these for one peer

Nothing above ``port`` knows which back end it runs on.
"""
