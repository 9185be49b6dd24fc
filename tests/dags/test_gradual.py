"""The gradual DAG in process: victory, and the instant way back."""


def test_a_good_challenger_serves_everybody_at_once_and_wins(world):
    with world.replay(wrong={"1": 0.12, "2": 0.08}):
        run = world.run("gradual")
    assert world.states(run)["cut_over"] == "success", world.states(run)
    opened = next(e for e in world.wiring.store.events(model=world.model) if e.kind == "stage_opened")
    assert opened.after == {"1": 0, "2": 100}
    assert (world.traffic.champion, world.traffic.previous, world.traffic.challenger) == ("2", "1", None)
    assert [world.alias(name) for name in ("champion", "previous", "challenger")] == ["2", "1", None]
    assert world.states(run)["watch_after"] == "success", world.states(run)


def test_a_bad_one_is_rolled_back_and_the_old_one_has_everything_again(world):
    with world.replay(errors={"2": 0.3}):
        run = world.run("gradual")
    assert world.states(run)["roll_back"] == "success", world.states(run)
    assert (world.traffic.champion, world.traffic.share, world.traffic.challenger) == ("1", 0, None)
    assert "error rate" in world.rollout.reason
    assert world.kinds[-2:] == ["stage_opened", "rolled_back"]


def test_harm_that_only_late_labels_show_undoes_the_promotion(world):
    """Labels are due seconds after the cut-over: nobody waits for them, and they still count."""
    with world.replay(wrong={"1": 0.05, "2": 0.6}):
        run = world.run("gradual", label_coverage=0, label_maturity_seconds=0)
    # accuracy is muted where labels are not asked for: this one is promoted, and nothing undoes it
    assert world.rollout.state == "promoted"
    assert world.states(run)["watch_after"] == "success"
