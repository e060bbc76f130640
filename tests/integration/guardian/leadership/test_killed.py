"""A guardian that is killed or stopped and then started again makes the same decisions, each once."""

import asyncio
import random
import signal
from pathlib import Path

import pytest

from tests.support.guardian import QUICK, Guardian, play_to_the_end, world
from tests.support.sandbox_script import Script
from tests.support.servers import Restartable


@pytest.mark.stress
async def test_guardian_killed_at_random_makes_the_same_decisions_once(
    nats_server: Restartable, tmp_path: Path
) -> None:
    chance = random.Random(20261121)
    async with world(nats_server.url, tmp_path / "log", QUICK | {"MUSTER_LEASE_TTL_S": "0.5"}) as it:
        stories = [it.sandbox() for _ in range(3)]

        async def written() -> int:
            return sum([len(await it.records(script)) for script, _ in stories])

        async def kill_again_and_again() -> None:
            while True:
                known = await written()

                async def wrote(known: int = known) -> bool:
                    return await written() > known

                await it.until(wrote)
                # The guardian is in the middle of its reaction.
                await asyncio.sleep(chance.choice([0, 0, 0.001, 0.01]))
                await it.guardian.end(signal.SIGKILL)
                await it.guardian.start()

        await it.report(stories[0][0])  # The guardian and its stream exist.
        async with asyncio.TaskGroup() as tasks:
            killing = tasks.create_task(kill_again_and_again())
            await asyncio.gather(*(play_to_the_end(it, script, log, pause_s=0.4) for script, log in stories))
            killing.cancel()
        await it.guardian.end(signal.SIGKILL)
        await it.guardian.start()
        for script, _ in stories:
            await it.until_kinds(script, "outcome", "stored")

            async def all_told(script: Script = script) -> bool:
                decided = [one for one in await it.records(script) if one.role == "decision"]
                return len(await it.told(script)) == len(decided)

            await it.until(all_told)
            await it.assert_folds_again(script)
            report = await it.report(script)
            assert len(report.findings) == 1
            assert [one.outcome for one in report.interventions] == ["heeded"]
        writers = {one.guardian_epoch for script, _ in stories for one in await it.records(script)}
        assert len(writers) > 2


async def test_next_guardian_executes_pending_decisions_of_a_finished_run(
    nats_server: Restartable, tmp_path: Path
) -> None:
    async with world(nats_server.url, tmp_path / "log") as it:
        script, log = it.sandbox()
        it.neighbours.answers.clear()
        await play_to_the_end(it, script, log)
        await it.until_kinds(script, "outcome")
        await it.until_all_acknowledged(script)
        await it.guardian.end(signal.SIGKILL)
        assert "stored" not in await it.kinds(script)
        it.neighbours.answers.set()
        await it.guardian.start()
        await it.until_kinds(script, "stored")
        await it.assert_folds_again(script)


@pytest.mark.parametrize("hurt", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped for a while"])
async def test_a_second_guardian_waits_and_takes_over(
    nats_server: Restartable, tmp_path: Path, hurt: signal.Signals
) -> None:
    async with world(nats_server.url, tmp_path / "log") as it:
        script, log = it.sandbox()
        script.step("make", "error").step("make", "error")
        await log.flush()
        await it.until_kinds(script, "policy")
        other = Guardian(nats_server.url, tmp_path / "other", QUICK)
        await other.start()
        try:
            it.guardian.hurt(hurt)
            script.step("make", "error").step("make", "error")
            await log.flush()
            await it.until_kinds(script, "finding", "stored")
            if hurt is signal.SIGSTOP:  # The guardian must not write decisions from before it was stopped.
                it.guardian.hurt(signal.SIGCONT)

                async def noticed() -> bool:
                    return "leadership lost" in it.guardian.said()

                await it.until(noticed)
                script.fenced()
                await log.flush()
                await it.until_kinds(script, "unknown")
            epochs = [record.guardian_epoch for record in await it.records(script)]
            assert epochs == sorted(epochs)
            assert len(set(epochs)) == 2
            await it.assert_folds_again(script)
        finally:
            await other.end(signal.SIGKILL)
