"""Checks rules of this code base that no linter knows. `make check` runs this; each broken rule is printed as one line.

The rules: modules of at most 300 lines, functions of at most 40 lines, and no module names without a meaning.
"""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).relative_to(ROOT)
MODULE_LINES, FUNCTION_LINES = 300, 40
SAYS_NOTHING = re.compile(r"(^|_)(manager|helper|helpers|util|utils|data|info)($|_)")
LEVELS = {"debug", "info", "warning", "error", "exception"}
PERSONS = re.compile(r"\b(he|him|his|himself|she|her|hers)\b")
"""A caller is "the caller" or "they" (language.md, rule 4)."""
GIVEN = {"agent_manager"}
"""The only allowed name with such a word, because the users call the service so."""


def tracked(*patterns: str) -> list[Path]:
    """Return the files that git tracks or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def broken_rules(files: list[Path], root: Path = ROOT) -> Iterator[str]:
    """Yield one line for each broken rule."""
    for path in files:
        where, source = path.relative_to(root), path.read_text()
        if "/repos/" in str(where) or "/migrations/" in str(where):
            continue
        if (lines := source.count("\n")) > MODULE_LINES and "tests" not in where.parts:
            yield f"{where}: {lines} lines; a module has at most {MODULE_LINES}: split the module"
        if "src" in where.parts and SAYS_NOTHING.search(path.stem) and path.stem not in GIVEN:
            yield f"{where}: the module's name has no meaning; name the thing that the module contains"
        if where != HERE and (found := PERSONS.search(source)):
            line = source.count("\n", 0, found.start()) + 1
            yield f"{where}:{line}: {found[0]!r}: write the caller, the client or they"
        if where.parts[-2:] == ("muster", "__init__.py"):
            yield f"{where}: muster is a namespace package; this file would hide all other members"
        if "tests" not in where.parts:
            yield from long_functions(where, ast.parse(source))


def long_functions(where: Path, tree: ast.Module) -> Iterator[str]:
    """Yield one line for each function that is too long; its docstring is not counted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            if (lines := (node.end_lineno or 0) - first.lineno + 1) > FUNCTION_LINES:
                yield f"{where}:{node.lineno}: {node.name} has {lines} lines; a function has at most {FUNCTION_LINES}"


def repeated_names(files: list[Path], root: Path = ROOT) -> Iterator[str]:
    """Yield one line for each class name or log event that the code base uses twice (language.md, rules 9 and 11)."""
    classes, events = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for path in files:
        where = path.relative_to(root)
        if "src" not in where.parts or "repos" in where.parts or "migrations" in where.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.ClassDef(name=name):
                    classes[name].append(f"{where}:{node.lineno}")
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log" | "logger"), attr=attr),
                    args=[ast.Constant(value=str(event)), *_],
                ) if attr in LEVELS:
                    events[event].append(f"{where}:{node.lineno}")
                case _:
                    pass
    for kind, found in (("class", classes), ("log event", events)):
        for name, places in sorted(found.items()):
            if len(places) > 1:
                yield f"{places[0]}: the {kind} {name!r} is also in {', '.join(places[1:])}; choose another name"


def main() -> int:
    """Print each broken rule; return 1 if there is one, otherwise 0."""
    broken = [*broken_rules(tracked("*.py")), *repeated_names(tracked("*.py"))]
    if "://" in (ROOT / "requirements.lock").read_text():
        broken.append("requirements.lock names a registry; write the file again with `make lock`")
    sys.stdout.write("".join(f"{line}\n" for line in broken))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
