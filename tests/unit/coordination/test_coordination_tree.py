import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramserver.coordination.port import LARGEST_VALUE, Check, Create, Delete, Op, Set
from paramserver.coordination.tree import MOST_OPS, TICK, Tree
from paramserver.errors import (
    BadVersion,
    NodeExists,
    NoNode,
    NotEmpty,
    SessionExpired,
    StoreError,
    Unavailable,
    ValueTooLarge,
)

A, B = 11, 22
T = 6.0


@pytest.fixture
def tree() -> Tree:
    tree = Tree(0.0)
    tree.open(A, T, 0.0)
    tree.open(B, T, 0.0)
    return tree


def create(tree: Tree, path: str, data: bytes = b"", *, session: int = A, **kind: bool) -> str:
    made = tree.multi(session, [Create(path, data, **kind)])[0]
    assert made is not None
    return made[0]


def advance(tree: Tree, begin: float, end: float) -> list[int]:
    over = []
    for step in range(round(begin / TICK) + 1, round(end / TICK) + 1):
        over += tree.tick(step * TICK)
    return over


def test_a_node_keeps_its_data_and_counts_its_versions(tree: Tree) -> None:
    create(tree, "/a", b"one")
    data, made = tree.get("/a")
    assert (data, made.version, made.owner) == (b"one", 0, 0)
    assert made.czxid == made.mzxid
    tree.multi(A, [Set("/a", b"two", 0)])
    data, changed = tree.get("/a")
    assert (data, changed.version, changed.czxid) == (b"two", 1, made.czxid)
    assert changed.mzxid > made.mzxid


@pytest.mark.parametrize(
    ("op", "error"),
    [
        (Create("/a", b""), NodeExists),
        (Create("/none/b", b""), NoNode),
        (Create("/e/b", b""), StoreError),
        (Create("/big", bytes(LARGEST_VALUE + 1)), ValueTooLarge),
        (Set("/a", bytes(LARGEST_VALUE + 1), -1), ValueTooLarge),
        (Set("/none", b"", -1), NoNode),
        (Set("/a", b"", 1), BadVersion),
        (Check("/a", 1), BadVersion),
        (Check("/none", -1), NoNode),
        (Delete("/a", 0), NotEmpty),
        (Delete("/a/b", 7), BadVersion),
        (Delete("/none", -1), NoNode),
        (Delete("/", -1), StoreError),
        (Create("a", b""), StoreError),
        (Create("/a/", b""), StoreError),
        (Create("//a", b""), StoreError),
        (Create("/a/../c", b""), StoreError),
        (Create("/" + "x" * 2000, b""), StoreError),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(
    tree: Tree, op: Op, error: type[StoreError]
) -> None:
    create(tree, "/a")
    create(tree, "/a/b")
    create(tree, "/e", ephemeral=True)
    before = repr(tree)
    with pytest.raises(error) as caught:
        tree.multi(B, [Create("/new", b"x"), op])
    assert caught.value.detail["op"] == 1
    assert repr(tree) == before
    with pytest.raises(NoNode):
        tree.get("/new")


def test_a_multi_has_one_transaction_number_and_a_bounded_length(tree: Tree) -> None:
    tree.multi(A, [Create("/a", b""), Create("/b", b"")])
    assert tree.get("/a")[1].czxid == tree.get("/b")[1].czxid
    with pytest.raises(ValueTooLarge):
        tree.multi(A, [Check("/a", 0)] * (MOST_OPS + 1))


def test_sequential_nodes_are_numbered_in_ten_digits_and_never_again(tree: Tree) -> None:
    create(tree, "/q")
    assert create(tree, "/q/x-", sequential=True) == "/q/x-0000000000"
    tree.multi(A, [Delete("/q/x-0000000000", -1)])
    assert create(tree, "/q/y-", sequential=True) == "/q/y-0000000001"
    with pytest.raises(NoNode):
        tree.multi(A, [Create("/q/z-", b"", sequential=True), Check("/none", -1)])
    assert create(tree, "/q/z-", sequential=True) == "/q/z-0000000002"


def test_ephemeral_nodes_go_with_their_session_alone(tree: Tree) -> None:
    create(tree, "/a", ephemeral=True)
    create(tree, "/b", ephemeral=True, session=B)
    create(tree, "/c")
    tree.end(A)
    assert tree.children("/") == ["b", "c"]
    with pytest.raises(SessionExpired):
        tree.touch(A, 1, 0.1)


@pytest.mark.parametrize("heard", [0.0, 0.1, 1.0, 1.9])
def test_a_silent_session_ends_within_a_tick_of_its_timeout(tree: Tree, heard: float) -> None:
    """Heard last at ``heard``, dead at 2.0: it is gone within [2T/3, T + tick] of its death."""
    create(tree, "/a", ephemeral=True)
    tree.touch(A, 1, heard)
    dead = 2.0
    step = 0
    while "a" in tree.children("/"):
        step += 1
        tree.touch(B, 1, step * TICK)
        tree.tick(step * TICK)
    assert heard + T <= step * TICK <= heard + T + TICK + 1e-9
    assert 2 * T / 3 - 1e-9 <= step * TICK - dead <= T + TICK
    assert tree.sessions() == [B]


def test_a_stalled_host_evicts_nobody_when_it_wakes(tree: Tree) -> None:
    create(tree, "/a", ephemeral=True)
    assert advance(tree, 0, 2.0) == []
    assert tree.tick(1000.0) == []
    assert advance(tree, 1000.0, 1003.0) == []
    tree.touch(A, 1, 1003.0)
    assert advance(tree, 1003.0, 1006.0) == [B]
    assert tree.children("/") == ["a"]


def test_a_stall_is_seen_by_whatever_looks_at_the_clock_first(tree: Tree) -> None:
    tree.touch(A, 1, 1000.0)
    tree.touch(B, 1, 1000.1)
    assert tree.sessions() == [A, B]


def test_a_session_that_is_late_itself_is_over_before_the_tick(tree: Tree) -> None:
    for step in range(1, 60):
        tree.touch(B, 1, step * 0.1)
    with pytest.raises(SessionExpired):
        tree.touch(A, 1, 6.0)


def test_the_latest_attachment_alone_speaks_for_a_session(tree: Tree) -> None:
    assert tree.attach(A, 1.0)[0] == 2
    with pytest.raises(Unavailable):
        tree.touch(A, 1, 1.0)
    tree.touch(A, 2, 1.0)
    with pytest.raises(SessionExpired):
        tree.attach(99, 1.0)


@pytest.mark.parametrize(
    ("kind", "path", "op", "fires"),
    [
        ("data", "/a", Set("/a", b"", -1), True),
        ("data", "/a", Delete("/a", -1), True),
        ("data", "/n", Create("/n", b""), True),
        ("data", "/a", Create("/n", b""), False),
        ("data", "/", Create("/n", b""), False),
        ("children", "/", Create("/n", b""), True),
        ("children", "/", Delete("/a", -1), True),
        ("children", "/", Set("/a", b"", -1), False),
        ("children", "/n", Create("/n", b""), True),
        ("children", "/a", Create("/a/b", b""), True),
        ("children", "/a", Set("/a", b"", -1), False),
    ],
)
def test_watches_fire_for_what_they_watch(
    tree: Tree, kind: str, path: str, op: Op, fires: bool
) -> None:
    create(tree, "/a")
    woken: list[int] = []
    tree.listen(woken.append)
    tree.watch(B, path, kind)
    tree.multi(A, [op])
    assert tree.events(B, 0) == ([(1, path, kind)] if fires else [])
    assert woken == ([B] if fires else [])


def test_a_watch_fires_once_and_its_event_stays_until_acknowledged(tree: Tree) -> None:
    create(tree, "/a")
    tree.watch(B, "/a", "data")
    tree.watch(B, "/a", "data")
    for _ in range(3):
        tree.multi(A, [Set("/a", b"", -1)])
    assert tree.events(B, 0) == [(1, "/a", "data")]
    assert tree.events(B, 0) == [(1, "/a", "data")]
    assert tree.events(B, 1) == []
    tree.watch(B, "/a", "data")
    tree.multi(A, [Set("/a", b"", -1)])
    assert tree.events(B, 1) == [(2, "/a", "data")]


def test_a_refused_multi_fires_nothing(tree: Tree) -> None:
    create(tree, "/a")
    tree.watch(B, "/a", "data")
    with pytest.raises(BadVersion):
        tree.multi(A, [Set("/a", b"", -1), Check("/a", 0)])
    assert tree.events(B, 0) == []


def test_watches_of_dead_sessions_are_forgotten(tree: Tree) -> None:
    create(tree, "/a")
    tree.watch(B, "/a", "data")
    tree.end(B)
    tree.multi(A, [Set("/a", b"", -1)])
    with pytest.raises(SessionExpired):
        tree.events(B, 0)


PATHS = st.sampled_from(["/a", "/b", "/a/x", "/a/y", "/b/x"])
OPS = st.one_of(
    st.builds(Check, PATHS, st.integers(-1, 2)),
    st.builds(Create, PATHS, st.binary(max_size=3), st.booleans(), st.booleans()),
    st.builds(Set, PATHS, st.binary(max_size=3), st.integers(-1, 2)),
    st.builds(Delete, PATHS, st.integers(-1, 2)),
)


def image(tree: Tree) -> object:
    nodes = {
        path: (node.data, node.stat(), node.numbered, frozenset(node.children))
        for path, node in tree._nodes.items()
    }
    owned = {one: frozenset(session.ephemerals) for one, session in tree._sessions.items()}
    return nodes, owned, tree._bytes, tree.zxid


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.lists(OPS, max_size=6)), max_size=12))
def test_a_multi_does_all_or_nothing(history: list[tuple[int, list[Op]]]) -> None:
    tree = Tree(0.0)
    for session in (A, B):
        tree.open(session, T, 0.0)
    for session, ops in history:
        before = image(tree)
        try:
            assert len(tree.multi(session, ops)) == len(ops)
        except StoreError:
            assert image(tree) == before
        nodes = tree._nodes
        for path, node in nodes.items():
            assert all(f"{path.rstrip('/')}/{name}" in nodes for name in node.children)
        assert tree._bytes == sum(len(node.data) for node in nodes.values())
        for one, held in tree._sessions.items():
            assert held.ephemerals == {p for p, node in nodes.items() if node.owner == one}
