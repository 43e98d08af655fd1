"""A worker asks for the runs to cancel for as long as its server is away; test_outage sees it at work."""

import asyncio

import httpx
import pytest
from prefect._internal import observers

from flows import worker


def test_what_watches_over_runs_asks_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "critical_service_loop", worker.theirs)
    worker.ask_on()
    asked: list[int] = []

    async def check(self: observers.FlowRunCancellingObserver) -> None:
        asked.append(len(asked))
        if len(asked) < 10:
            raise httpx.ConnectError("away")

    monkeypatch.setattr(observers.FlowRunCancellingObserver, "_check_for_cancelled_flow_runs", check)
    gave_up: list[object] = []

    async def watch() -> None:
        observer = observers.FlowRunCancellingObserver(lambda _: None, polling_interval=0.01, on_failure=gave_up.append)

        async def broken() -> None:
            raise OSError("the socket is closed")

        lost = asyncio.create_task(broken())
        await asyncio.wait([lost])
        observer._start_polling_task(lost)
        async with asyncio.timeout(20):
            while len(asked) < 12:
                await asyncio.sleep(0.01)
        assert observer._polling_task
        observer._polling_task.cancel()

    asyncio.run(watch())
    assert gave_up == []


def test_a_refusal_ends_the_asking() -> None:
    async def check() -> None:
        raise httpx.HTTPStatusError("no", request=httpx.Request("GET", "http://x"), response=httpx.Response(401))

    with pytest.raises(httpx.HTTPStatusError):
        asyncio.run(worker.patient_loop(check, 0.01, jitter_range=0.3))


def test_it_is_prefects_own_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["flows.worker", "--pool", "x"]
    monkeypatch.setattr(worker, "app", lambda: None)
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(observers, "critical_service_loop", worker.theirs)
    worker.main()
    assert words == ["flows.worker", "worker", "start", "--pool", "x"]
    assert observers.critical_service_loop is worker.patient_loop
