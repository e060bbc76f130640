"""The synchronous client is generated from the asynchronous one."""

import subprocess
import sys
import tokenize

from tests.support.sync_client import GENERATED, outdated


def test_generated_modules_are_up_to_date():
    assert outdated() == [], "run `python -m tests.support.sync_client`"


def test_generated_modules_contain_no_word_of_asyncio():
    for path in GENERATED.glob("*.py"):
        with path.open("rb") as source:
            words = {
                token.string.lower() for token in tokenize.tokenize(source.readline) if token.type == tokenize.NAME
            }
        assert [word for word in words if "async" in word or word in ("await", "aclose")] == [], path.name


def test_import_of_the_errors_loads_no_http_client():
    code = "import sys, muster.client.errors; print([m for m in ('httpcore', 'asyncio', 'ssl') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "[]"


def test_each_public_name_can_be_imported():
    import muster.client

    assert [name for name in muster.client.__all__ if getattr(muster.client, name, None) is None] == []
