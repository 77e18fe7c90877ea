"""Whatever is sent is answered or refused with what is wrong, and ends nothing in the server."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st

from flows.serving.app import REQUEST_ID
from flows.serving.tensors import BINARY_HEADER
from tests.flows.serving.conftest import KINDS, Registry, Running
from tests.flows.serving.test_recorder import kept, recording

TEXTS = st.text(st.characters(), max_size=10)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.sampled_from([10**12, 10**4000, "²", "9" * 5000])
)
VALUES = st.recursive(
    SCALARS, lambda one: st.lists(one, max_size=3) | st.dictionaries(TEXTS, one, max_size=3), max_leaves=6
)
HEADERS = st.sampled_from(["", "0", "7", "-1", "1.5", "9" * 18, "9" * 5000])

RECORDS = [
    {"text": "a good film", "adapter": "beft-tiny-films", "version": "1"},
    {"text": "a good film", "text_pair": "dull", "adapter": "beft-tiny-three@champion"},
    {"text": "a good film", "choices": ["fine", "dull"], "adapter": "beft-tiny-choice"},
]
SCORING = [
    {"inputs": ["fine", "dull"], "params": {"adapter": "beft-tiny-films"}},
    {"inputs": {"text": ["fine"], "adapter": ["beft-tiny-score"]}},
    {"dataframe_split": {"columns": list(RECORDS[2]), "data": [list(RECORDS[2].values())]}},
    *({"dataframe_records": [record]} for record in RECORDS),
]
TEXT = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["fine"], "parameters": {}}
INFERENCE = [
    {
        "id": "mine",
        "inputs": [TEXT],
        "outputs": [{"name": "truncated", "parameters": {"binary_data": True}}],
        "parameters": {"binary_data_output": True},
    },
    {"inputs": [TEXT, {**TEXT, "name": "choices", "shape": [1, 2], "data": ["a", "b"]}]},
]
FEEDBACK = [
    {"feedback": [{"request_id": "mine", "row": 0, "label": "good", "source": "some"}], "source": "all"},
    {"feedback": [{"request_id": "mine", "row": "1", "label": [{"start": 0, "end": 2, "label": "place"}]}]},
]


@st.composite
def changed(draw: st.DrawFn, right: Sequence[Any]) -> Any:
    """A right request in which something is replaced by any JSON value."""
    value = draw(st.sampled_from(right))
    for _ in range(draw(st.integers(1, 2))):
        value = _replaced(value, draw(st.sampled_from(list(_paths(value)))), draw(TEXTS | VALUES))
    return value


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from ((key, *rest) for rest in _paths(part))


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = _replaced(value[path[0]], path[1:], new)
    return copied


def test_no_body_ends_in_an_error_of_the_server(filled: Registry) -> None:
    app = recording(filled, keep_texts=True, shadow=1.0, features=1.0)
    names = [*KINDS, "日本", "nothing"]

    def send(path: str, body: Any, headers: dict[str, str]) -> None:
        response = app.client.post(path, content=json.dumps(body), headers=headers)
        assert response.status_code < 500, response.text
        assert response.status_code == 200 or response.json()["error"]
        told = response.headers.get(REQUEST_ID, "")
        assert told.isascii() and told.isprintable() and told == told.strip()

    @settings(max_examples=300)
    @given(changed(SCORING), TEXTS)
    def score(body: Any, request_id: str) -> None:
        header = quote(request_id, safe=" \t", errors="surrogatepass")
        send("/invocations", body, {"Content-Type": "application/json", REQUEST_ID: header})

    @settings(max_examples=300)
    @given(changed(INFERENCE), st.sampled_from(names), st.none() | HEADERS)
    def infer(body: Any, name: str, length: str | None) -> None:
        headers = {} if length is None else {BINARY_HEADER: length}
        send(f"/v2/models/{quote(name)}/infer", body, headers)

    @settings(max_examples=300)
    @given(changed(FEEDBACK))
    def tell(body: Any) -> None:
        send("/v1/feedback", body, {})

    checks: list[Callable[[], None]] = [score, infer, tell]
    for check in checks:
        check()
    send("/invocations", SCORING[0], {REQUEST_ID: "the last one"})
    app.server.close()
    assert app.server.recorder is not None and app.server.recorder.traffic.dropped == 0
    assert [one["request_id"] for one in kept(filled)][-2:] == ["the last one"] * 2


def test_a_deep_body_is_refused(app: Running) -> None:
    for path, body in (
        ("/invocations", '{{"inputs": [{}], "params": {{"adapter": "beft-tiny-films"}}}}'),
        ("/v2/models/beft-tiny-films/infer", '{{"inputs": [{{"name": "text", "shape": {}}}]}}'),
        ("/v2/models/beft-tiny-films/infer", '{{"inputs": [], "id": {}}}'),
    ):
        for depth in (300, *range(850, 1000)):  # about as deep as json reads, which depends on the stack
            deep = "[" * depth + "]" * depth
            assert app.client.post(path, content=body.format(deep)).status_code == 400
