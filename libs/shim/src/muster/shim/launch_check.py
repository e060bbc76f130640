"""Checks that the paths and texts of a launch can work on this machine, before anything is started."""

from pathlib import Path

from muster.common.faults import InvalidMessage
from muster.shim.protocol import LaunchRequest


def check_launch(launch: LaunchRequest) -> None:
    """Raise `InvalidMessage` with the wrong field if the launch cannot work on this machine."""
    for field, texts in (("argv", launch.argv), ("env", [*launch.env, *launch.env.values()]), ("cwd", [launch.cwd])):
        if any("\0" in text for text in texts):
            raise InvalidMessage(
                "arguments, environment variables and paths cannot contain a NUL character", field=f"$.{field}"
            )
    if any(not name or "=" in name for name in launch.env):
        raise InvalidMessage(
            "the name of an environment variable must not be empty and must not contain `=`", field="$.env"
        )
    for field, paths in (("cwd", [launch.cwd]), ("writable", launch.writable), ("readable", launch.readable)):
        for path in paths:
            if "\0" in path or not Path(path).is_absolute() or Path(path) == Path("/"):
                raise InvalidMessage(
                    f"{path!r} is not an absolute path below /; use an absolute path", field=f"$.{field}"
                )
            try:
                Path(path).stat()
            except OSError as error:
                raise InvalidMessage(f"{path}: {error.strerror}", field=f"$.{field}") from None
    if not Path(launch.cwd).is_dir():
        raise InvalidMessage(
            f"the working directory {launch.cwd} is not a directory; choose an existing one", field="$.cwd"
        )
