"""The stack names what isolates the sandboxes of each provider that it uses."""

from pathlib import Path

import pytest

from muster.cli.commands.stack.isolation_option import isolation_text, sandbox_isolation, warn_of_weak_isolation
from muster.cli.commands.stack.provider_option import provider_isolation
from muster.embedded.config import StackConfig
from muster.embedded.ready import Ready


def ready(config: StackConfig, level: str = "bubblewrap") -> Ready:
    addresses = dict.fromkeys(("api_url", "gateway_url", "nats_url", "database_url", "admin_key"), "")
    return Ready(
        **addresses,
        pids={},
        pid=1,
        data_dir="/data",
        version="1",
        isolation=level,
        provider_isolation=config.isolation_of_providers(level),
    )


@pytest.mark.parametrize(
    ("providers", "text"),
    [
        ("", "bubblewrap"),
        ("local", "bubblewrap"),
        ("daytona", "daytona; process agents: bubblewrap"),
        ("daytona, local", "daytona, bubblewrap (local)"),
        ("local,mine", "bubblewrap (local), mine"),
    ],
)
def test_each_provider_has_its_own_isolation_and_process_agents_have_that_of_the_shim(
    providers: str, text: str
) -> None:
    assert isolation_text(ready(StackConfig(user_env={"MUSTER_PROVIDERS": providers}))) == text


def test_providers_of_the_configuration_file_count_and_the_environment_wins(tmp_path: Path) -> None:
    file = tmp_path / "muster.toml"
    file.write_text('[sandbox_gateway]\nproviders = "mine"\n')
    named = {"MUSTER_CONFIG": str(file)}
    assert StackConfig(user_env=named).isolation_of_providers("plain") == {"mine": "mine"}
    both = {**named, "MUSTER_PROVIDERS": "local"}
    assert StackConfig(user_env=both).isolation_of_providers("plain") == {"local": "plain"}


def test_stack_on_the_double_of_daytona_claims_no_isolation_of_sandboxes_and_warns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = StackConfig(
        env={"sandbox_gateway": {"MUSTER_PROVIDERS": "daytona"}},
        user_env={"MUSTER_PROVIDERS": "local"},
        provider_isolation=provider_isolation("daytona-double"),
    )
    stack = ready(config)
    assert sandbox_isolation(stack) == "none (double of Daytona)"
    assert isolation_text(stack) == "none (double of Daytona); process agents: bubblewrap"
    warn_of_weak_isolation(stack)
    assert "sandboxes have no isolation" in capsys.readouterr().err
    warn_of_weak_isolation(ready(StackConfig(provider_isolation=provider_isolation("daytona"))))
    assert capsys.readouterr().err == ""
