"""Files of tokens: read as they were written, or refused; and no caller is anybody by chance."""

from hypothesis import event, given
from hypothesis import strategies as st
from tests.fuzz.budget import check_said, tries
from tests.fuzz.shapes import damaged

from model_rollouts.gateway.callers import Callers
from model_rollouts.gateway.errors import UnauthorizedError
from model_rollouts.gateway.tokens import Role, Token, TokensError, line_of, parse_tokens

TOKENS = [
    Token.of(f"name-{n}", roles, f"token {n}") for n, roles in enumerate([[Role.PREDICT], [Role.ADMIN, Role.METRICS]])
]
FILE = "# a file\n" + "\n".join(map(line_of, TOKENS)) + "\n"
KNOWN = {token.digest for token in TOKENS}


@tries(250)
@given(
    st.one_of(
        damaged(FILE.encode()).map(lambda data: data.decode("latin-1")),
        st.text(),
        st.text(alphabet="predict,:#\n sha256=0af"),
    )
)
def test_a_file_is_read_or_refused(text: str) -> None:
    try:
        tokens = parse_tokens(text)
    except TokensError as error:
        event("refused")
        check_said(error)
        return
    event("read")
    assert tokens
    assert all(token.roles and token.name for token in tokens)
    assert parse_tokens("\n".join(map(line_of, tokens))) == tokens


@tries(150)
@given(
    st.one_of(
        st.binary(max_size=60), damaged(b"Bearer token 0"), st.sampled_from([b"Bearer ", b"Basic token 0", b"token 0"])
    )
)
def test_no_header_is_a_callers_but_their_own(header: bytes) -> None:
    callers = Callers(TOKENS)
    scheme, _, token = header.partition(b" ")
    is_theirs = scheme.lower() == b"bearer" and token in (b"token 0", b"token 1")
    try:
        found = callers.known(header)
    except UnauthorizedError:
        assert not is_theirs
    else:
        assert is_theirs
        assert found.digest in KNOWN
