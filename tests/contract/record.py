"""Writes the golden messages again. Read the diff: other releases will see each changed line."""

from pathlib import Path

import msgspec

from muster.common.contract import decode, encode
from tests.contract.examples import least, wire


def main() -> None:
    """Write one fixture for each contract, and delete fixtures without a contract."""
    golden = Path(__file__).parent / "wire"
    golden.mkdir(exist_ok=True)
    for path in golden.glob("*.json"):
        path.unlink()
    for name, contract in wire().items():
        smallest = least(contract)
        whole = msgspec.json.decode(encode(decode(encode(smallest), contract)))
        body = msgspec.json.format(encode({"least": smallest, "whole": whole}), indent=2)
        (golden / f"{name}.json").write_bytes(body + b"\n")


if __name__ == "__main__":
    main()
