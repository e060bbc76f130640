"""A real HTTP server that speaks as model servers do: OpenAI, vLLM, Anthropic, Ollama; well, badly or not at all.

`with ModelServer("vllm", RateLimited(), Good()) as server:` starts one for a test; `server.api_base` is its address.
`python -m tests.support.model_server --shape ollama` starts one for a person.
"""

from tests.support.model_server.behaviours import (
    BY_NAME,
    Behaviour,
    ContextOverflow,
    Empty,
    Garbage,
    Good,
    HalfAnswer,
    Hang,
    Length,
    Question,
    RateLimited,
    Redirect,
    Runaway,
    ServerError,
    Slow,
    WrongShape,
)
from tests.support.model_server.connect_proxy import ConnectProxy
from tests.support.model_server.requests import SHAPES, Shape
from tests.support.model_server.server import ModelServer, ReceivedRequest
from tests.support.model_server.steps import BUGFIX, Step, Text, ToolCall

__all__ = [
    "BUGFIX",
    "BY_NAME",
    "SHAPES",
    "Behaviour",
    "ConnectProxy",
    "ContextOverflow",
    "Empty",
    "Garbage",
    "Good",
    "HalfAnswer",
    "Hang",
    "Length",
    "ModelServer",
    "Question",
    "RateLimited",
    "ReceivedRequest",
    "Redirect",
    "Runaway",
    "ServerError",
    "Shape",
    "Slow",
    "Step",
    "Text",
    "ToolCall",
    "WrongShape",
]
