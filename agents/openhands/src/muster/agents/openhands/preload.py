"""Imports all that a worker of this package imports. The fork server of the package imports this module once per host.

The manifest names this module. It must start no thread, and it reads nothing of a task. It also opens a conversation
without a model once, so that the objects that the SDK makes at its first use are made here. All workers share them.
"""

import tempfile
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path

from muster.agents.openhands.process_setup import import_openhands, set_variables

_NO_MODEL = "http://127.0.0.1:1"


def _use_once() -> None:
    """Use the SDK once: its tokenizer, its client of models and a conversation. There is no network, so no call works.

    Without this, each worker would have another 70 MiB of its own.
    """
    from pydantic import SecretStr

    from openhands.sdk import LLM, Agent, LocalConversation, Tool

    litellm = import_module("litellm")
    litellm.token_counter(model="gpt-4", text="one")
    with suppress(Exception):
        messages = [{"role": "user", "content": "one"}]
        litellm.completion(model="openai/one", messages=messages, api_base=_NO_MODEL, api_key="none", max_retries=0)
    key = SecretStr("none")
    llm = LLM(model="openai/one", base_url=_NO_MODEL, api_key=key, usage_id="agent", max_input_tokens=128_000)
    agent = Agent(llm=llm, tools=[Tool(name="file_editor")])
    with tempfile.TemporaryDirectory() as folder:
        state = str(Path(folder) / "state")
        conversation = LocalConversation(agent=agent, workspace=folder, persistence_dir=state, visualizer=None)
        with closing(conversation):
            conversation.send_message("one")


set_variables()
import_openhands()
import_module("muster.agents.openhands.agent")
_use_once()
