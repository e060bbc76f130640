"""The parser of server-sent events."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from muster.client.sse import EventParser

STREAM = b'retry: 1000\n: muster\n\nid: a\nevent: log\ndata: {"x":1}\n\n: still here\n\nid: b\nevent: end\ndata: {}\n\nid: c\nevent: cut'


@given(st.lists(st.integers(min_value=0, max_value=len(STREAM)), max_size=8))
def test_events_are_complete_however_the_bytes_are_split(cuts: list[int]):
    places = sorted([0, *cuts, len(STREAM)])
    parser = EventParser()

    got = [event for start, end in pairwise(places) for event in parser.events(STREAM[start:end])]

    assert got == [("log", "a", b'{"x":1}'), ("end", "b", b"{}")]
