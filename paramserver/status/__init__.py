"""What people and monitoring see of a peer over HTTP: a page, JSON, metrics, health and events.

| path | answer |
|---|---|
| ``/`` | a page that follows the peer |
| ``/status`` | the status document, JSON |
| ``/events`` | the status document each second, as server-sent events |
| ``/metrics`` | Prometheus text, or OpenMetrics where the client asks for it |
| ``/livez`` | 200 as long as the event loop turns |
| ``/readyz`` | 200 ``ok`` or ``degraded: …``, 503 ``not ready: …`` |

The status document is a map of JSON values. Only ``version`` is always there; a reader copes with
other keys that are missing or null.

``version``      1, raised when a key changes its meaning or goes away
``cluster``      the cluster's name
``peer``         ``name incarnation roles address device pid``, and ``uptime`` in seconds
``coordinator``  ``kind state leader`` (a peer's name) ``term is_leader``
``members``      by name: ``incarnation roles address device``, and ``status``, host:port of this
``map``          ``serial``, and ``tables`` by name: ``size`` in float32 values, ``slices``, how
                 many are ``held`` here, and if any: ``clock applied repeated refused staleness``
``run``          null; on the peer that holds the run table what
                 `paramserver.runreport.snapshot` returns; elsewhere ``run``, its name, and
                 ``at``, that peer's name

JSON knows no NaN and no infinity: such a number is null in it. Metrics keep it.
"""
