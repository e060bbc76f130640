"""A path finds what is there, and what stands in its places."""

from hypothesis import given
from hypothesis import strategies as st

from muster.management_api.domain.paths import Paths

PARTS = st.text("ab/", max_size=3).map(lambda text: text.replace("/", "")) | st.sampled_from(["{x}", "{y}"])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map(lambda parts: f"/{'/'.join(parts)}")


def by_trying(known: list[str], path: str) -> tuple[int, dict[str, str]] | None:
    """One after the other: the plain meaning of it."""
    if path in known and "{" not in path:
        return known.index(path), {}
    given = path.split("/")
    for number, one in enumerate(known):
        parts = one.split("/")
        if "{" in one and len(parts) == len(given):
            named = {part[1:-1]: there for part, there in zip(parts, given, strict=True) if part[:1] == "{"}
            fits = all(part == there for part, there in zip(parts, given, strict=True) if part[:1] != "{")
            if fits and all(there for part, there in zip(parts, given, strict=True) if part[:1] == "{"):
                return number, named
    return None


def test_a_path_without_places_goes_before_one_with_and_a_place_is_never_empty() -> None:
    paths = Paths[str]()
    for path in ("/agents", "/agents/{agent_id}", "/agents/find", "/agents/{agent_id}/logs", "/docs/{file}"):
        assert paths.setdefault(path, path) == path

    assert paths.setdefault("/agents", "again") == "/agents"
    assert paths.find("/agents/find") == ("/agents/find", {})
    assert paths.find("/agents/a1") == ("/agents/{agent_id}", {"agent_id": "a1"})
    assert paths.find("/agents/a1/logs") == ("/agents/{agent_id}/logs", {"agent_id": "a1"})
    assert paths.find("/docs/docs.js") == ("/docs/{file}", {"file": "docs.js"})
    for nowhere in ("/agents/", "/agents//logs", "/agents/a1/none", "/", "", "/docs/a/b"):
        assert paths.find(nowhere) is None


@given(templates=st.lists(PATHS.filter(lambda path: path.count("{") < 2), max_size=6, unique=True), path=PATHS)
def test_a_look_up_finds_what_trying_all_would_have_found(templates: list[str], path: str) -> None:
    paths = Paths[int]()
    for number, template in enumerate(templates):
        paths.setdefault(template, number)
    wanted = path.replace("{", "").replace("}", "")

    found, tried = paths.find(wanted), by_trying(templates, wanted)

    assert (found is None) == (tried is None)
