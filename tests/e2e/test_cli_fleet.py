"""Agents, keys and users on a real stack, used only through the command line."""

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muster.common.ids import new_id
from tests.support.command import MUSTER, Ended, environment
from tests.support.command import muster as run
from tests.support.eventually import eventually
from tests.support.stack import RunningStack
from tests.support.whole_stack import WholeStack

BROKEN = """
name = "broken"
type = "custom"
version = "1.0.0"
module = "broken"
modes = ["process"]
"""


@pytest.fixture
def packages(whole: WholeStack) -> Path:
    return whole.packages


@pytest.fixture
def stack(whole: WholeStack) -> RunningStack:
    return whole.stack


@pytest.fixture
def env(stack: RunningStack, tmp_path: Path) -> dict[str, str]:
    return {"MUSTER_DATA_DIR": str(stack.data_dir), "XDG_CONFIG_HOME": str(tmp_path)}


async def test_agent_is_created_used_and_deleted_with_the_command_line(packages: Path, env: dict[str, str]):
    async def muster(*words: str, code: int = 0) -> Ended:
        ended = await run("agent", *words, **env)
        assert ended.code == code, (words, ended)
        return ended

    written = await muster("new", "hello", "--into", str(packages))
    assert written.out.strip() == str(packages / "hello")
    assert await _as_printed(written.err.splitlines()[0].partition("Test the package:")[2]) == 0
    await muster("new", "hello", "--into", str(packages), code=5)
    await eventually(lambda: _usable(env, "hello"))

    made = (await muster("register", "ada", "--package", "hello", "-l", "team=a", "-l", "env=x", "-o", "json")).json
    await muster("register", "ada", "--package", "hello", code=5)
    begin = made["agent_id"][:-2]
    assert (await muster("list", "-l", "team=a", "-l", "env=x", "-o", "name")).out.strip() == made["agent_id"]
    assert (await muster("list", "-l", "team=b", "-o", "json")).json == []
    started = (await muster("start", begin, "--wait", "-o", "json")).json
    assert (started["state"] in ("idle", "running"), started["launch"]) == (True, 1)

    status = (await muster("status", "ada", "-o", "json")).json
    assert (status["asked"], status["desired"]) == ("answered", "running")
    assert status["cites"] in (await muster("status", "ada")).out
    assert (await muster("message", "ada", "hi")).out == "You said: hi\n"
    metrics = (await muster("metrics", "ada", "-o", "json")).json
    assert metrics["counted"]["launches"] == 1
    numbers = (await muster("metrics", "ada")).out
    assert (numbers.splitlines()[0].split()[:4], numbers.count("uptime_s")) == (["METRIC", "VALUE", "AS", "OF"], 1)
    written = (await muster("logs", "ada")).out
    assert "  info     agent started  launch=1" in written
    assert "{" not in written
    assert '"event":"agent started"' in (await muster("logs", "ada", "--raw")).out

    assert (await muster("restart", "ada", "--wait", "-o", "json")).json["launch"] == 2
    assert (await muster("stop", "ada", "--wait", "-o", "json")).json["state"] == "stopped"
    await muster("message", "ada", "hi", code=5)
    changed = (await muster("update", "ada", "-l", "team=b", "--unlabel", "env", "--config", '{"greeting":"x"}')).out
    assert "team=b" in changed
    assert "env=x" not in changed
    events = (await muster("events", "ada", "--no-follow", "-o", "jsonl")).out.splitlines()
    assert len(events) > 6
    await muster("delete", "ada", code=2)
    await muster("delete", "ada", "--yes")
    await muster("get", made["agent_id"], code=3)


async def _found(env: dict[str, str], *words: str) -> bool:
    return bool((await run(*words, **env)).json)


async def _as_printed(command: str) -> int:
    """Run a command as a user does, in another directory and without the test's environment."""
    process = await asyncio.create_subprocess_shell(
        command,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert b"passed" in said, said.decode()
    return await process.wait()


async def _usable(env: dict[str, str], name: str) -> bool:
    listed = (await run("agent", "packages", "-o", "json", **env)).json
    return any(package["name"] == name and package["usable"] for package in listed)


async def test_wait_for_an_agent_that_cannot_run_prints_the_cause_and_exits_with_6(packages: Path, env: dict[str, str]):
    (packages / "broken").mkdir(exist_ok=True)
    (packages / "broken" / "__init__.py").write_text("")
    (packages / "broken" / "__main__.py").write_text("import sys\nprint('no way', flush=True)\nsys.exit(3)\n")
    (packages / "broken" / "agent.toml").write_text(BROKEN)
    await eventually(lambda: _usable(env, "broken"))

    ended = await run("agent", "register", "bad", "--package", "broken", "--start", "--wait", **env)

    assert (ended.code, ended.out) == (6, "")
    assert "bad is in state error with exit code 3" in ended.err
    assert "no way" in (await run("agent", "logs", "bad", **env)).out


SLOW = """
import asyncio, os, sys
from muster.agent.base import Agent
from muster.agent.entry import run_agent

class Slow(Agent):
    async def on_message(self, message):
        await asyncio.sleep(1.7)
        if message.text == "die":
            os._exit(9)
        return f"at last: {message.text}"

sys.exit(run_agent(Slow))
"""


async def test_message_with_wait_prints_a_late_answer_and_tells_that_the_agent_died(
    packages: Path, env: dict[str, str]
):
    (packages / "slow").mkdir(exist_ok=True)
    (packages / "slow" / "__main__.py").write_text(SLOW)
    (packages / "slow" / "agent.toml").write_text(BROKEN.replace("broken", "slow"))
    await eventually(lambda: _usable(env, "slow"))
    name = new_id("agt").replace("agt_", "sloth-")
    started = await run("agent", "register", name, "--package", "slow", "--start", "--wait", **env)
    assert started.code == 0, started

    waited = await run("agent", "message", name, "two", "--wait", **env)
    late = await run("agent", "message", name, "three", "--wait", "--timeout", "0.1", **env)
    died = await run("agent", "message", name, "die", "--wait", **env)

    assert (waited.code, waited.out) == (0, "at last: two\n")
    assert (late.code, late.out, "has not answered message msg_" in late.err) == (8, "", True)
    told = f"agent {name} died (exit 9) while it had the message; it may have acted on it"
    assert (died.code, died.out, told in died.err) == (6, "", True)
    events = (await run("agent", "events", name, "--no-follow", **env)).out
    assert ("  at last: three" in events, told in events) == (True, True)
    assert "— launch 1 ended: exited with 9" in (await run("agent", "logs", name, **env)).out


async def test_followed_log_shows_every_line_once_although_the_api_is_killed(stack: RunningStack, env: dict[str, str]):
    started = await run("agent", "register", "loud", "--package", "echo", "--start", "--wait", **env)
    assert started.code == 0, started
    following = await asyncio.create_subprocess_exec(
        MUSTER, "agent", "logs", "loud", "--follow", "--raw", stdout=asyncio.subprocess.PIPE, env=environment(**env)
    )
    assert following.stdout is not None
    try:
        seen: list[str] = []
        for part in ("before", "after"):
            for number in range(3):
                told = await run("agent", "message", "loud", f"{part}-{number}", **env)
                assert told.code == 0, told
            async with asyncio.timeout(60):
                while not any(f"{part}-2" in line for line in seen):
                    seen.append((await following.stdout.readline()).decode())
            if part == "before":
                await stack.kill("management_api", wait_s=60)
        following.send_signal(signal.SIGINT)
        assert await following.wait() == 130
    finally:
        if following.returncode is None:
            following.kill()
            await following.wait()

    echoed = [line for line in seen if "before-" in line or "after-" in line]
    assert [f"{part}-{number}" for part in ("before", "after") for number in range(3)] == [
        next(word for word in line.split('"') if word.startswith(("before-", "after-"))) for line in echoed
    ]


async def test_find_prints_why_each_other_agent_was_not_chosen(env: dict[str, str]):
    found = await run("agent", "find", "--capability", "code", "-o", "json", **env)
    named = await run("agent", "find", "--capability", "code", "-o", "name", **env)
    nobody = await run("agent", "find", "--capability", "fly", **env)

    assert found.json["agent"]["name"] == "openhands"
    why = {one["name"]: one["why"] for one in found.json["considered"] if not one["chosen"]}
    assert "code" in why["echo"]
    assert named.out.strip() == found.json["agent"]["agent_id"]
    assert (nobody.code, "No agent meets these requirements." in nobody.err, "fly" in nobody.out) == (3, True, True)


@pytest.mark.stress
async def test_key_is_created_saved_used_and_revoked(stack: RunningStack, env: dict[str, str], tmp_path: Path):
    async def muster(*words: str, stdin: str = "", code: int = 0, by: Mapping[str, str] = {}) -> Ended:
        ended = await run(*words, stdin=stdin, **env | dict(by))
        assert ended.code == code, (words, ended)
        assert words[:3] == ("auth", "keys", "create") or not secret or secret not in ended.out + ended.err
        return ended

    secret = ""
    user: dict[str, Any] = (await muster("auth", "users", "add", "Vera", "--role", "viewer", "-o", "json")).json
    await muster("auth", "keys", "create", "vera", "--role", "viewer", "--user", "Verena", code=3)
    made = await muster("auth", "keys", "create", "v", "--user", "Vera", "--expires", "1h")
    secret = made.out.strip()
    assert secret not in made.err
    keys = [
        msgspec.json.decode(line) for line in (await muster("auth", "keys", "list", "-o", "jsonl")).out.splitlines()
    ]
    (key_id,) = [key["key_id"] for key in keys if key["name"] == "v"]

    await muster("auth", "login", "--profile", "vera", stdin="mk_wrong\n", code=4)
    assert not (tmp_path / "muster" / "profiles.toml").exists()
    logged_in = await muster("auth", "login", "--profile", "vera", stdin=f"{secret}\n")
    assert "is the default now" in logged_in.err
    assert "MUSTER_DATA_DIR is set in this shell and overrides it" in logged_in.err
    assert (await muster("auth", "whoami", "-o", "json")).json["via"] == "stack"
    del env["MUSTER_DATA_DIR"]
    assert (await muster("auth", "whoami", "-o", "json")).json["user_id"] == user["user_id"]
    assert f"{stack.api_url}, from profile vera, the default" in (await muster("auth", "whoami")).out
    refused = (await muster("agent", "start", "echo", code=4)).err
    assert "operator" in refused
    assert "The key is from profile vera" in refused
    assert stack.api_url in (await muster("profile", "show")).out
    assert (await muster("auth", "whoami", "--data", str(stack.data_dir), "-o", "json")).json["via"] == "stack"

    admin = {"MUSTER_API_URL": stack.api_url, "MUSTER_API_KEY": stack.admin_key}
    await muster("auth", "keys", "revoke", key_id, code=2, by=admin)
    await muster("auth", "keys", "revoke", "v", "--yes", by=admin)
    assert "the key from profile vera, the default" in (await muster("auth", "whoami", code=4)).err
    revoked = ("auth", "audit", "--action", "revoke-key", "--since", "1h", "-o", "json")
    await eventually(lambda: _found(env | admin, *revoked))
    await muster("auth", "users", "set", "Vera", "--disable", by=admin)
    await muster("auth", "users", "delete", user["user_id"], "--yes", by=admin)
    await muster("auth", "logout", code=2)
    await muster("auth", "logout", "--yes")
    assert secret not in (tmp_path / "muster" / "profiles.toml").read_text()


async def test_doctor_shows_the_running_stack_and_the_names_of_its_gateways_keys(env: dict[str, str]):
    """The keys of the gateway are shown, not those of this shell, because the gateway calls the models."""
    looked = await run("doctor", "-o", "json", **env | {"CEREBRAS_API_KEY": "sk-canary"})

    assert "A stack runs here" in looked.err
    (row,) = [row for row in looked.json if row["check"] == "model keys"]
    assert row["found"].startswith("the running gateway has ")
    assert "cerebras" not in row["found"]
