from retinue_server.runtime.pools import ThreadPools


def test_a_models_session_is_made_once_and_kept() -> None:
    pools = ThreadPools(2)
    made: list[object] = []

    def create() -> object:
        made.append(object())
        return made[-1]

    assert pools.session("a", create) is pools.session("a", create) is made[0]
    assert len(made) == 1
    pools.drop("a")
    assert pools.session("a", create) is made[1]


def test_there_are_never_more_than_the_most_and_the_least_recently_used_goes_for_a_new_one() -> None:
    pools = ThreadPools(2, most=2)
    for model in "ababc":
        assert pools.session(model, lambda model=model: model) == model  # type: ignore[misc]
    assert pools.session("b", lambda: "made anew") == "b"
    assert pools.session("c", lambda: "made anew") == "c"
    # "a" has lost its own, and gets another not for a few requests, ...
    asked = [pools.session("a", lambda: "made anew") for _ in range(20)]
    first = asked.index("made anew")
    assert first >= 10
    assert asked == [None] * first + ["made anew"] * (20 - first)
    # ... and "b" had waited longest.
    assert pools.session("c", lambda: "made anew") == "c"
    assert pools.session("b", lambda: "made anew") is None
