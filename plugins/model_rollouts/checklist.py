"""Items of the readiness checklist."""

from dataclasses import dataclass

from model_rollouts.ports import ModelVersion


@dataclass(frozen=True, slots=True)
class Check:
    """One item of the readiness checklist."""

    name: str
    ok: bool
    detail: str


def signature_check(champion: ModelVersion, challenger: ModelVersion) -> Check:
    """Whatever callers send today must be enough for the challenger."""
    name = "input signature"
    if challenger.inputs is None:
        return Check(name, False, f"version {challenger.version} has no signature; log the model with one")
    if champion.inputs is None:
        return Check(name, False, f"version {champion.version} (champion) has no signature to compare with")
    have = dict(champion.inputs)
    sent = have.keys() - champion.optional
    missing = [f"{n} ({t})" for n, t in challenger.inputs if n not in sent and n not in challenger.optional]
    changed = [f"{n}: {have[n]} became {t}" for n, t in challenger.inputs if n in have and have[n] != t]
    if missing or changed:
        return Check(name, False, f"callers do not send {', '.join(missing) or 'anything new'}; "
                                  f"changed types: {', '.join(changed) or 'none'}")  # fmt: skip
    return Check(name, True, f"{len(challenger.inputs)} inputs, all sent by today's callers")
