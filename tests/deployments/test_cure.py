"""Runs whose worker was killed with them are called crashed, and no others."""

import json
from functools import partial

import httpx
import pytest

from deployments.stack import cure
from flows.access import Auth


def test_an_unfinished_run_without_a_process_is_called_crashed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, object]]] = []
    busy = [1]

    def answer(request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, json.loads(request.content)
        assert request.headers["authorization"].startswith("Basic ")
        if busy:
            busy.pop()
            return httpx.Response(503)
        asked.append((path, body))
        if path == "/api/flow_runs/filter":
            return httpx.Response(200, json=[{"id": "1", "name": "alive"}, {"id": "2", "name": "dead"}])
        return httpx.Response(200, json={"status": "ACCEPT"})

    monkeypatch.setattr(cure.time, "sleep", lambda _: None)
    monkeypatch.setattr(cure.httpx, "Client", partial(httpx.Client, transport=httpx.MockTransport(answer)))
    named = cure.crash_the_dead("http://x/api", Auth("someone", "a long password"), ["fewcast-cpu"], {"1"})
    assert named == ["dead"]
    (_, filters), (path, state) = asked
    assert filters["work_pools"] == {"name": {"any_": ["fewcast-cpu"]}}
    assert filters["flow_runs"] == {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
    assert (path, state["force"]) == ("/api/flow_runs/2/set_state", True)
    assert state["state"]["type"] == "CRASHED"


def test_a_server_that_does_not_answer_leaves_it_to_its_own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cure.time, "sleep", lambda _: None)
    assert cure.crash_the_dead("http://127.0.0.1:9/api", None, ["fewcast-cpu"], set()) == []
