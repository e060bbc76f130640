"""Starts a model server for a person: `python -m tests.support.model_server --port 8080 --shape vllm`."""

import argparse
from typing import get_args

from tests.support.model_server.behaviours import BY_NAME
from tests.support.model_server.requests import Shape, fields
from tests.support.model_server.server import ModelServer


def main() -> None:
    """Start the server, print a line for each request, and stop at Ctrl-C."""
    asked = _parser().parse_args()
    chosen = [BY_NAME[asked.behaviour]] if asked.behaviour else []
    models = {**BY_NAME, **dict.fromkeys(asked.model, BY_NAME["good"])}
    server = ModelServer(
        asked.shape, *chosen, models=models, key=asked.key, context_length=asked.context_length, port=asked.port
    )
    with server:
        print(f"{asked.shape} server, base URL {server.api_base}", flush=True)
        print(f"models: {', '.join(models)}", flush=True)
        seen = 0
        try:
            while True:
                for request in server.wait_for_any(seen):
                    seen += 1
                    print(
                        f"{request.method} {request.path} {fields(request.body).get('model', '')}".rstrip(), flush=True
                    )
        except KeyboardInterrupt:
            print("stopped", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.model_server",
        description="Start a server that speaks as a model server does.",
        epilog=f"NAME is one of: {', '.join(BY_NAME)}.",
    )
    parser.add_argument(
        "--shape", choices=get_args(Shape), default="openai", help="speak as this provider; openai by default"
    )
    parser.add_argument("--port", type=int, default=0, help="listen on this port of 127.0.0.1; a free one by default")
    parser.add_argument(
        "--behaviour", choices=BY_NAME, metavar="NAME", help="behave so for every model, not by the model's name"
    )
    parser.add_argument("--model", action="append", default=[], help="serve also a model of this name; repeatable")
    parser.add_argument("--key", help="require this API key")
    parser.add_argument(
        "--context-length", type=int, default=32_768, metavar="TOKENS", help="context length that the server reports"
    )
    return parser


if __name__ == "__main__":
    main()
