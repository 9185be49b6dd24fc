"""Promise 7, second half: labels that come late, the bad ones first, do not make a healthy challenger look bad."""

from bench import simulate as sim
from bench.rivals import pooled_z, z_test_at_every_look
from bench.study import Study

ALLOWED = 0.018
POCOCK = 3.29  # the bound that keeps a z-test at 200 equally spaced looks at 1 %, one-sided
TRAFFIC = sim.Traffic("ramp of 400", 400, sim.RAMP, sim.RAMP_STARTS)


def test_labels_in_the_look_of_their_request_keep_the_level_and_labels_as_they_arrive_do_not(study: Study) -> None:
    """Wrong answers are heard of after 3 looks, right ones after 30; a request is judged when it is 60 looks old."""
    labels = sim.late_labels(1, study.runs(1000), TRAFFIC, 0.05)
    hits = sim.reached(sim.harm(labels.matured, 1.0, TRAFFIC.starts), sim.ALPHA).any(1)
    study.rate_at_most("healthy rolled back", hits, sim.ALPHA, ALLOWED)
    arriving = sim.reached(sim.harm(labels.arrived, 1.0, TRAFFIC.starts), sim.ALPHA).any(1)
    study.rate_above("the same rule on labels as they arrive", arriving, 0.10)
    study.rate_above("z-test of labels as they arrive, Pocock's bound", (pooled_z(labels.arrived) > POCOCK).any(1), 0.5)
    study.rate_above("z-test of matured labels", z_test_at_every_look(labels.matured).any(1), 0.10)
