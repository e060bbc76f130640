"""Turns titles into what may stand in a URL."""


def slug(title: str) -> str:
    """`Hello, World!` becomes `hello-world`."""
    raise NotImplementedError
