"""Paths with places in them, such as `/tasks/{task_id}`: found by a look-up, whatever their number."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

Place = tuple[int, str]


class Paths[V]:
    """What is at each path. One without places goes before one with."""

    def __init__(self) -> None:
        self._exact: dict[str, V] = {}
        self._shapes: dict[int, list[_Shape[V]]] = {}

    def setdefault(self, path: str, value: V) -> V:
        """What is at `path`; `value`, from now on, where nothing is."""
        parts = path.split("/")
        places = [(at, part[1:-1]) for at, part in enumerate(parts) if part[:1] == "{"]
        if not places:
            return self._exact.setdefault(path, value)
        fixed = [at for at, part in enumerate(parts) if part[:1] != "{"]
        shapes = self._shapes.setdefault(len(parts), [])
        shape = next((one for one in shapes if one.fixed == fixed), None)
        if shape is None:
            shapes.append(shape := _Shape(fixed, itemgetter(*fixed), {}))
        return shape.known.setdefault(shape.key(parts), _Known(places, value)).value

    def find(self, path: str) -> tuple[V, dict[str, str]] | None:
        """What is there, and what stands in the places of its path; they are never empty."""
        if (value := self._exact.get(path)) is not None:
            return value, {}
        parts = path.split("/")
        for shape in self._shapes.get(len(parts), ()):
            if found := shape.known.get(shape.key(parts)):
                named = {name: parts[at] for at, name in found.places}
                if all(named.values()):
                    return found.value, named
        return None


class _Known[V](NamedTuple):
    places: list[Place]
    value: V


class _Shape[V](NamedTuple):
    """Paths of one length whose places are at the same positions."""

    fixed: list[int]
    key: Callable[[Sequence[str]], Any]
    known: dict[Any, _Known[V]]
