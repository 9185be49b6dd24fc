"""A version's description with the last rollout told in it, beside what people have written themselves."""

from collections.abc import Mapping

_BEGIN, _END = "<!-- model-rollouts: written anew with each step -->", "<!-- /model-rollouts -->"
_LONGEST = 5000  # MLflow keeps no more
_SHOWN = 1000
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "[": "\\[", "]": "\\]", "`": "\\`", "*": "\\*",
    "_": "\\_", "\\": "\\\\", "|": "\\|", "#": "\\#"})  # fmt: skip


def described(have: str, tags: Mapping[str, str]) -> str:
    """The description as it must be; the same text where there is nothing to do.

    What stands outside the marks is a person's and stays as it is, to the last blank. Where a person has taken one of
    the marks away, or their own text leaves no room, the description is left alone.

    Args:
        have: The description as it is.
        tags: The version's tags `rollout.id`, `.pattern`, `.state`, `.stage`, `.share` and `.reason`.
    """
    begins, ends = have.count(_BEGIN), have.count(_END)
    if not begins and not ends:
        before, after = (f"{have}\n\n" if have else ""), ""
    elif (begins, ends) == (1, 1) and have.index(_BEGIN) < have.index(_END):
        before, after = have[: have.index(_BEGIN)], have[have.index(_END) + len(_END) :]
    else:
        return have
    room = _LONGEST - len(before) - len(after)
    for longest in (_SHOWN, 200, 0):
        told = _told(tags, longest)
        if len(told) <= room:
            return before + told + after
    return have


def _told(tags: Mapping[str, str], longest: int) -> str:
    stage = tags.get("rollout.stage", "")
    number = str(int(stage) + 1) if stage.isdecimal() else "none yet"
    share = tags.get("rollout.share", "?")
    lines = [
        f"**Rollout {_safe(tags.get('rollout.id', ''))}** ({_safe(tags.get('rollout.pattern', ''))}): "
        f"**{_safe(tags.get('rollout.state', ''))}**, stage {number}, {_safe(share)} % of the units",
        _safe(tags.get("rollout.reason", "")[:longest]),
    ]
    return "\n\n".join([_BEGIN, *(line for line in lines if line), _END])


def _safe(text: str) -> str:
    """As text, whatever is in it: neither Markdown nor HTML, on one line."""
    return " ".join(text.split()).translate(_ESCAPES)
