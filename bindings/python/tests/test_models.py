"""Models by name, over a real HTTP server on this machine: streams, usage, costs, budgets, errors, cassettes."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lomusai import (
    Agent,
    DeniedError,
    Engine,
    InvalidError,
    LomusaiError,
    NotFoundError,
    ProviderError,
    RateLimitedError,
    UnavailableError,
    tool,
)

KEY = "sk-canary-0123456789abcdefghijklmnop"


class Server:
    """A server that speaks Chat Completions. `status` is given a request's body and gives the answer's status."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.status: Callable[[dict[str, Any]], int] = lambda _: 200
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.asked.append(body)
                server.keys.append(self.headers.get("authorization"))
                status = server.status(body)
                self.send_response(status)
                self.send_header("content-type", "text/event-stream" if status == 200 else "application/json")
                self.end_headers()
                if status != 200:
                    self.wfile.write(json.dumps({"error": {"message": f"status {status}"}}).encode())
                    return
                for piece in pieces(body):
                    self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
                self.wfile.write(b"data: [DONE]\n\n")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def pieces(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Calls the first tool, once; then says something, in two pieces."""
    called = any(message["role"] == "tool" for message in body["messages"])
    if body.get("tools") and not called:
        function = {"name": body["tools"][0]["function"]["name"], "arguments": '{"a": 19, "b": 23}'}
        yield {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "call_1", "function": function}]}}]}
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    else:
        yield {"choices": [{"index": 0, "delta": {"content": "Hello "}}]}
        yield {"choices": [{"index": 0, "delta": {"content": "there."}, "finish_reason": "stop"}]}
    details = {"cached_tokens": 100}
    yield {"choices": [], "usage": {"prompt_tokens": 300, "completion_tokens": 20, "prompt_tokens_details": details}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setenv("COMPATIBLE_BASE_URL", server.url)
    monkeypatch.setenv("COMPATIBLE_API_KEY", KEY)
    yield server
    server.close()


def small(engine: Engine, **options: Any) -> Agent[Any]:
    return Agent("small", "compatible/small", settings={"max_retries": 0}, engine=engine, **options)


PRICED = [
    {
        "provider": "compatible",
        "model": "small",
        "price": {"input": 2_000_000, "cache_read": 1_000_000, "output": 10_000_000},
    }
]


def test_a_model_is_chosen_by_a_string_and_its_usage_and_cost_are_read(server: Server) -> None:
    with Engine(models=PRICED) as engine:
        stream = small(engine).stream("Hi")
        assert "".join(stream.text) == "Hello there."
        result = stream.result()
        assert result.usage == {"input": 200, "cache_read": 100, "output": 20}
        # 200 × $2 + 100 × $1 + 20 × $10, per million.
        assert result.cost_nano_usd == 700_000
    assert server.asked[0]["model"] == "small"
    assert server.keys == [f"Bearer {KEY}"]


def test_the_cost_of_a_model_without_a_price_is_none_and_not_zero(server: Server) -> None:
    with Engine() as engine:
        assert small(engine).generate("Hi").cost_nano_usd is None


def test_a_table_gives_a_provider_another_name(server: Server) -> None:
    with Engine(providers={"mine": {"type": "compatible", "base_url": server.url, "api_key": "other"}}) as engine:
        assert Agent("a", "mine/large", engine=engine).generate("Hi").text == "Hello there."
    assert server.keys == ["Bearer other"]


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, ProviderError, "provider_rejected"),
        (401, DeniedError, "credentials_rejected"),
        (429, RateLimitedError, "provider_rate_limited"),
        (500, UnavailableError, "provider_failed"),
    ],
)
def test_each_kind_of_error_has_its_own_type(server: Server, status: int, kind: type[LomusaiError], code: str) -> None:
    server.status = lambda _: status
    with Engine() as engine, pytest.raises(kind) as error:
        small(engine).generate("Hi")
    assert error.value.code == code
    assert KEY not in str(error.value)


def test_a_missing_key_and_an_unknown_provider_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Engine() as engine:
        with pytest.raises(DeniedError, match="OPENAI_API_KEY") as missing:
            Agent("a", "openai/gpt-4o", engine=engine).generate("Hi")
        assert missing.value.code == "credentials_missing"
        with pytest.raises(NotFoundError, match="nobody"):
            Agent("b", "nobody/model", engine=engine).generate("Hi")


def test_a_fallback_answers_where_the_model_failed(server: Server) -> None:
    server.status = lambda body: 500 if body["model"] == "small" else 200
    with Engine() as engine:
        assert small(engine, fallbacks=["compatible/large"]).generate("Hi").text == "Hello there."
    assert [body["model"] for body in server.asked] == ["small", "large"]


def test_a_budget_ends_a_run_and_a_larger_one_goes_on(server: Server) -> None:
    @tool
    def add(a: int, b: int) -> int:
        return a + b

    with Engine() as engine:
        agent = small(engine, tools=[add])
        stopped = agent.generate("Add.", options={"budget": {"tokens": 320}})
        assert stopped.status == "exhausted"
        assert stopped.error is not None and stopped.error.code == "budget_exhausted"
        assert [message["role"] for message in stopped.messages] == ["user", "assistant", "tool"]
        gone_on = agent.generate([], history=stopped.messages)
        assert (gone_on.status, gone_on.text) == ("completed", "Hello there.")
        with pytest.raises(InvalidError, match="price"):
            agent.generate("Add.", options={"budget": {"cost_nano_usd": 1}})


def test_runs_share_a_budget(server: Server) -> None:
    with Engine(budgets={"team": {"calls": 2}}) as engine:
        agent = small(engine)
        outcomes = [agent.generate("Hi", options={"shared_budgets": ["team"]}).status for _ in range(3)]
        assert outcomes == ["completed", "completed", "exhausted"]
        assert engine.budgets()[0]["spent"]["calls"] == 2
        with pytest.raises(NotFoundError, match="`none`"):
            agent.generate("Hi", options={"shared_budgets": ["none"]})


def test_a_cassette_is_recorded_and_given_back_without_a_server(server: Server, tmp_path: Path) -> None:
    path, called = tmp_path / "c.jsonl", []

    @tool
    def add(a: int, b: int) -> int:
        called.append((a, b))
        return a + b

    digests = []
    for mode in ("record", "replay"):
        with Engine(cassette={"mode": mode, "path": path}) as engine:
            agent = small(engine, tools=[add])
            result = agent.generate(f"My key is {KEY}.")
            digests.append((result.text, result.usage, engine.digest(result.run_id)))
            server.status = lambda _: 500
            if mode == "replay":
                with pytest.raises(NotFoundError, match="recorded") as miss:
                    agent.generate("Something else")
                assert miss.value.code == "cassette_miss"
    assert digests[0] == digests[1]
    assert called == [(19, 23)] and len(server.asked) == 2
    assert KEY not in path.read_text()


PROGRAM = """
import sys
from lomusai import Agent, Engine, tool
calls = 0
@tool
def add(a: int, b: int) -> int:
    global calls
    calls += 1
    return a + b
for question in sys.argv[1:]:
    with Engine() as engine:
        print(Agent("small", "compatible/small", tools=[add], engine=engine).generate(question).text, calls)
"""


def test_the_environment_asks_for_a_cassette(server: Server, tmp_path: Path) -> None:
    def asks(mode: str, *questions: str) -> str:
        cassette = {"LOMUSAI_CASSETTE": mode, "LOMUSAI_CASSETTE_PATH": str(tmp_path / "c.jsonl")}
        command = [sys.executable, "-c", PROGRAM, *questions]
        program = subprocess.run(command, env={**os.environ, **cassette}, capture_output=True, text=True, check=False)
        return program.stdout if program.returncode == 0 else program.stderr

    assert asks("record", "One", "Two") == "Hello there. 1\nHello there. 2\n", "both engines of the process share it"
    assert asks("replay", "One", "Two") == "Hello there. 0\nHello there. 0\n"
    assert asks("auto", "Two") == "Hello there. 0\n"
    assert len(server.asked) == 4
    assert "recorded" in asks("replay", "Three")
    # The model is asked; what the tool said of these numbers is known.
    assert asks("auto", "Three") == "Hello there. 0\n"
    assert len(server.asked) == 6


def test_models_are_listed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with Engine(models=PRICED) as engine:
        known = {(model["provider"], model.get("model", "")): model for model in engine.models()}
    assert known["compatible", "small"]["configured"] is True
    sonnet = known["anthropic", "claude-sonnet-4-5"]
    assert "ANTHROPIC_API_KEY" in sonnet["missing"] and sonnet["tools"] and sonnet["price"]["output"] == 15_000_000
