"""Implements `muster up`, which starts the stack on this machine."""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from muster.cli.client.target import configured, configured_data_directory, data_directory
from muster.cli.commands.call_api import PATH
from muster.cli.commands.stack.alias_notes import say_aliases
from muster.cli.commands.stack.announcement import announce
from muster.cli.commands.stack.detached import start_detached
from muster.cli.commands.stack.isolation_option import isolation_option, refuse_without_isolation
from muster.cli.commands.stack.network_options import network_options, network_variables
from muster.cli.commands.stack.provider_option import (
    ProviderChoice,
    provider_environment,
    provider_isolation,
    provider_option,
)
from muster.cli.commands.stack.saved_folders import StackFolders
from muster.cli.commands.stack.start_view import StartPipe, start_view
from muster.cli.console.output import OutputFormat, fail, output_option
from muster.common.contracts.task_spec import NetworkMode
from muster.embedded.ready import Ready
from muster.shim.protocol import IsolationChoice

DIRECTORY = click.Path(path_type=Path, file_okay=False, exists=True)


def _folder_option[F: Callable[..., Any]](name: str, text: str) -> Callable[[F], F]:
    return click.option(name, metavar="DIR", type=DIRECTORY, multiple=True, help=f"{text} May be repeated.")


@click.command()
@click.option("--ephemeral", is_flag=True, help="Use free ports and, without --data, a temporary data directory.")
@click.option("--data", metavar="DIR", type=PATH, help="Keep the stack's data in DIR. [MUSTER_DATA_DIR]")
@click.option(
    "--ready-file", metavar="FILE", type=PATH, help="Write URLs, pids and keys also to FILE when the stack is ready."
)
@click.option("--detach", is_flag=True, help="Return when the stack is ready, and leave it running.")
@_folder_option("--scripts", "Let scripted models read their scripts from DIR.")
@_folder_option("--packages", "Find agent packages in DIR too, also those added later.")
@_folder_option("--repo-root", "Allow tasks with file:// repositories below DIR.")
@network_options
@isolation_option
@provider_option
@output_option
@click.option("--remove-data", is_flag=True, hidden=True, help="Delete the data directory when the stack has stopped.")
@click.option("--verbose", is_flag=True, help="Write the stack's own log to stderr instead of a file.")
@click.option("--progress-fd", type=int, hidden=True, help="Write the progress of the start to this file descriptor.")
@click.option("--ready-fd", type=int, hidden=True, help="Write ready.json to this file descriptor and close it.")
def up(
    *,
    ephemeral: bool,
    data: Path | None,
    ready_file: Path | None,
    detach: bool,
    scripts: tuple[Path, ...],
    packages: tuple[Path, ...],
    repo_root: tuple[Path, ...],
    network: NetworkMode | None,
    allow: tuple[str, ...],
    isolation: IsolationChoice,
    provider: ProviderChoice | None,
    form: OutputFormat,
    remove_data: bool,
    verbose: bool,
    progress_fd: int | None,
    ready_fd: int | None,
) -> None:
    """Start NATS, PostgreSQL, the shim and the four services; Ctrl-C stops them.

    Prints the progress of each part, and then where each part listens. The stack's own log is DIR/logs/up.log.

    Without --scripts, --packages or --repo-root, the folders from the last start with this data directory are used.
    """
    data = data or configured_data_directory()
    data_dir = data if ephemeral else data_directory(data)
    _make_writable(data_dir)
    folders = _folders(data_dir, scripts=scripts, packages=packages, repo_root=repo_root)
    say_aliases(os.environ)
    if detach:
        announce(start_detached(ephemeral=ephemeral, data=data), form, detached=True)
        return
    refuse_without_isolation(isolation)
    from muster.cli.commands.stack.run_stack import run_stack
    from muster.embedded.config import StackConfig

    def config(variables: Mapping[str, Mapping[str, str]]) -> StackConfig:
        return StackConfig(
            data_dir=data_dir,
            ephemeral=ephemeral,
            remove_data=remove_data,
            ready_file=ready_file,
            scripts_dirs=folders.scripts,
            repo_roots=folders.repo_root,
            isolation=isolation,
            provider_isolation=provider_isolation(provider),
            **_servers(),
            env=variables,
            user_env={**os.environ, **_packages_variable(folders.packages), **network_variables(network, allow)},
        )

    def tell(ready: Ready) -> None:
        folders.save(Path(ready.data_dir))
        if progress_fd is None:
            announce(ready, form, detached=False)
        _write_ready(ready_fd, ready)

    view = start_view(in_place=not verbose) if progress_fd is None else StartPipe(progress_fd)
    with (
        tempfile.TemporaryDirectory(prefix="muster-sandboxes-") as sandboxes,
        provider_environment(provider, Path(sandboxes)) as variables,
    ):
        code = asyncio.run(run_stack(config(variables), tell, view, verbose=verbose))
    sys.exit(code)


def _servers() -> dict[str, Any]:
    """Return the `StackConfig` fields for external NATS and PostgreSQL servers; exit with 2 if a setting is wrong."""
    from muster.common.service_process import read_settings
    from muster.common.settings import ServersSettings

    servers = read_settings(ServersSettings)
    return {
        "nats_url": servers.nats_url.get_secret_value(),
        "nats_credentials": servers.nats_credentials,
        "nats_tls": servers.nats_tls,
        "database_url": servers.database_url.get_secret_value(),
    }


def _write_ready(ready_fd: int | None, ready: Ready) -> None:
    if ready_fd is None:
        return
    with contextlib.suppress(BrokenPipeError), os.fdopen(ready_fd, "wb") as pipe:
        pipe.write(msgspec.json.encode(ready))


def _folders(data_dir: Path | None, **given: tuple[Path, ...]) -> StackFolders:
    """Return the folders of the options, completed from the last start with this data directory."""
    folders = StackFolders(**given)
    # If `data_dir` is None, the stack gets a new temporary directory, which contains no saved folders.
    return folders if data_dir is None else folders.completed_from(data_dir)


def _packages_variable(folders: tuple[Path, ...]) -> dict[str, str]:
    """Return MUSTER_PACKAGES_DIRS: the option's folders, then the folders of the environment or configuration file."""
    if not folders:
        return {}
    before = os.environ.get("MUSTER_PACKAGES_DIRS", configured("packages_dirs"))
    paths = [*(str(folder.resolve()) for folder in folders), before]
    return {"MUSTER_PACKAGES_DIRS": os.pathsep.join(filter(None, paths))}


def _make_writable(data_dir: Path | None) -> None:
    """Create the data directory if it is missing; end the command if no file can be written to it.

    If `data_dir` is None, the stack gets a new temporary directory.
    """
    if data_dir is None:
        return
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        fail(f"the data directory {data_dir} cannot be created: {error.strerror}; choose another with --data")
    try:
        tempfile.TemporaryFile(dir=data_dir).close()
    except OSError as error:
        fail(f"the data directory {data_dir} cannot be written: {error.strerror}; choose another with --data")
