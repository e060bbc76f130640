"""Creates many registered agents in the database, and agent packages in folders of a test."""

from pathlib import Path

from sqlalchemy import text

from muster.agent_manager.database.engine import ManagerDatabase

SEED = """
    INSERT INTO manager.agents (agent_id, package, is_default, created_at, name, agent_type, agent_version, mode,
        capabilities, labels, desired, state)
    SELECT 'agt_seed' || n, :package, false, now() - n * interval '1 ms', 'seed-' || n, 'scripted', '0.1.0', 'sandbox',
        CASE WHEN n % 1000 = 0 THEN ARRAY['echo', 'rare'] ELSE ARRAY['echo'] END,
        jsonb_build_object('rack', (n % 100)::text, 'even', (n % 2 = 0)::text),
        CASE WHEN n % 3 = 0 THEN 'stopped' ELSE 'running' END, CASE WHEN n % 3 = 0 THEN 'stopped' ELSE 'idle' END
    FROM generate_series(1, :number) n
"""


async def seed_agents(database: ManagerDatabase, number: int, *, package: str = "echo") -> None:
    """Register agents `agt_seed1` … of a package: each third is stopped, each thousandth has the capability `rare`."""
    async with database.begin() as tx:
        await tx.connection.execute(text(SEED), {"number": number, "package": package})
    async with database.reading() as tx:
        await tx.connection.execute(text("ANALYZE manager.agents"))


def write_package(root: Path, name: str, toml: str = "", *, called: str = "", version: str = "0.1.0") -> Path:
    """Write a usable agent package and return its folder; `toml` is appended to the package's manifest."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__main__.py").write_text("")
    manifest = f'name = "{called or name}"\ntype = "test"\nversion = "{version}"\nmodule = "{name}"\n{toml}'
    # The rename replaces the manifest at once, so that no reader sees half of it.
    (folder / "agent.toml.new").write_text(manifest)
    (folder / "agent.toml.new").replace(folder / "agent.toml")
    return folder
