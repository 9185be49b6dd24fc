import threading

from model_rollouts.web.hints import Hints

WAIT = 5


def test_a_model_that_waits_for_its_turn_is_looked_at_once():
    busy, go, done = threading.Event(), threading.Event(), threading.Event()
    looked = []

    def look(model):
        if model == "first":
            busy.set()
            go.wait(WAIT)
        looked.append(model)
        if model == "last":
            done.set()

    hints = Hints(look)
    hints.take("first")
    assert busy.wait(WAIT)
    for model in ("m", "m", "m", "last"):
        hints.take(model)
    go.set()

    assert done.wait(WAIT)
    assert looked == ["first", "m", "last"]


def test_a_hint_during_the_look_leads_to_another_look():
    looking, go, twice = threading.Event(), threading.Event(), threading.Event()
    looked = []

    def look(model):
        looked.append(model)
        if len(looked) == 2:
            twice.set()
        looking.set()
        go.wait(WAIT)

    hints = Hints(look)
    hints.take("m")
    assert looking.wait(WAIT)
    hints.take("m")
    go.set()

    assert twice.wait(WAIT)


def test_a_look_that_fails_does_not_stop_the_next_one():
    done = threading.Event()

    def look(model):
        if model == "bad":
            raise ConnectionError("away")
        done.set()

    hints = Hints(look)
    hints.take("bad")
    hints.take("good")

    assert done.wait(WAIT)


def test_taking_a_hint_does_not_wait_for_the_look():
    go, done = threading.Event(), threading.Event()
    hints = Hints(lambda _: (go.wait(WAIT), done.set()))

    hints.take("m")  # would not come back before the wait ends if it looked itself

    assert not done.is_set()
    go.set()
    assert done.wait(WAIT)
