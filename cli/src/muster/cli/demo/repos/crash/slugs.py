"""Converts titles to slugs for a URL."""


def slug(title: str) -> str:
    """Return the slug of a title: `Hello, World!` becomes `hello-world`."""
    raise NotImplementedError
