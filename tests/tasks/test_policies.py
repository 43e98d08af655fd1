"""What is retried, in a real task."""

import pytest
from prefect import task
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Failed

from core.errors import AwayError, FewcastError
from tasks.policies import GPU, LOCAL, NETWORK, SEGMENT, dask_client, worth_another_try


def test_only_errors_that_pass_are_worth_another_try() -> None:
    def judge(error: Exception) -> bool:
        state: State = Failed(data=error)
        return worth_another_try(task(lambda: None), TaskRun.model_construct(), state)

    assert judge(ConnectionResetError())
    assert judge(TimeoutError())
    assert judge(AwayError("s3://bucket cannot be reached", found="a timeout", mend="run again"))
    assert not judge(FewcastError("no granule", found="none", mend="look"))
    assert not judge(ValueError())
    assert NETWORK["retries"] > 0
    assert "retries" not in LOCAL


def test_what_fills_a_gpu_for_long_bears_its_tag_and_a_nowcast_does_not() -> None:
    from tasks import evaluate, forecast, ingest, train

    assert train.train.tags == evaluate.evaluate.tags == {GPU}
    assert not forecast.forecast.tags | ingest.ingest.tags


def test_a_segment_is_tried_again_unless_only_the_user_can_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(error: Exception) -> bool:
        state: State = Failed(data=error)
        return SEGMENT["retry_condition_fn"](task(lambda: None), TaskRun.model_construct(), state)

    assert judge(RuntimeError("CUDA error"))
    assert not judge(FewcastError("the meta-loss is not finite", found="nan", mend="lower train.learning_rate"))
    assert SEGMENT["retries"] > 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not judge(RuntimeError("CUDA error")), "the other ranks are gone"


def test_without_a_cluster_s_address_the_work_stays_here() -> None:
    with dask_client() as client:
        assert client is None
