"""The bucket's policies give a reader and a writer what they need and nothing else, enforced by a server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count

from core.archive.lock import LOCK
from core.verify.folder import INPUTS, OWN

POLICIES = Path(__file__).parents[2] / "infra" / "s3"
BUCKET = "archives"
FRAME = "korea/archive.zarr/brightness_temperature/c/0"
LEASE = "korea/archive.zarr/.lock"


def policy(name: str) -> str:
    return (POLICIES / f"{name}.json").read_text().replace("FEWCAST_BUCKET", BUCKET)


@pytest.mark.parametrize("name", ["reader", "writer"])
def test_a_policy_allows_named_actions_on_one_bucket(name: str) -> None:
    document = json.loads(policy(name))
    assert document["Version"] == "2012-10-17"
    for statement in document["Statement"]:
        assert {*statement} == {"Sid", "Effect", "Action", "Resource"}
        assert statement["Effect"] == "Allow"
        for action in [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]:
            assert action.startswith("s3:")
            assert "*" not in action
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        assert all(resource.startswith(f"arn:aws:s3:::{BUCKET}") for resource in resources)


def test_a_writer_deletes_its_lease_the_parts_of_a_build_and_an_old_scorecard_alone() -> None:
    statements = json.loads(policy("writer"))["Statement"]
    [tidy] = [statement for statement in statements if "s3:DeleteObject" in statement["Action"]]
    assert tidy["Action"] == "s3:DeleteObject"
    assert tidy["Resource"] == [f"arn:aws:s3:::{BUCKET}/*/{name}" for name in (LOCK, "parts/*", INPUTS, *OWN)]


@pytest.fixture(params=["reader", "writer"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    """An S3 client of a user with one of the policies; the server checks each of its calls."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    keys = {"aws_access_key_id": "root", "aws_secret_access_key": "root", "region_name": "us-east-1"}
    with mock_aws():
        root = boto3.session.Session(**keys)
        for bucket in (BUCKET, "another"):
            root.client("s3").create_bucket(Bucket=bucket)
            root.client("s3").put_object(Bucket=bucket, Key=FRAME, Body=b"frame")
            root.client("s3").put_object(Bucket=bucket, Key=LEASE, Body=b"lease")
        iam = root.client("iam")
        iam.create_user(UserName="someone")
        iam.put_user_policy(UserName="someone", PolicyName="it", PolicyDocument=policy(request.param))
        key = iam.create_access_key(UserName="someone")["AccessKey"]
        session = boto3.session.Session(key["AccessKeyId"], key["SecretAccessKey"], region_name="us-east-1")
        yield request.param, session.client("s3")


def allowed(call: Any, **arguments: Any) -> bool:
    """Whether the server lets a call pass; any other refusal than of rights is an error."""
    try:
        set_initial_no_auth_action_count(0)(call)(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("AccessDenied", "403"):
            raise
        return False
    return True


def test_what_each_may_do(client: tuple[str, Any]) -> None:
    name, s3 = client
    writes = name == "writer"
    assert allowed(s3.list_objects_v2, Bucket=BUCKET)
    assert allowed(s3.get_object, Bucket=BUCKET, Key=FRAME)
    assert allowed(s3.put_object, Bucket=BUCKET, Key=FRAME, Body=b"again") == writes
    assert not allowed(s3.delete_object, Bucket=BUCKET, Key=FRAME), "no frame is ever deleted"
    assert allowed(s3.delete_object, Bucket=BUCKET, Key=LEASE) == writes
    assert allowed(s3.delete_object, Bucket=BUCKET, Key="korea/episodes.zarr/parts/7.json") == writes
    for key in (INPUTS, *(name.replace("*", "lively-window") for name in OWN)):
        assert allowed(s3.delete_object, Bucket=BUCKET, Key=f"korea/scorecard/{key}") == writes
    assert not allowed(s3.delete_object, Bucket=BUCKET, Key="korea/scorecard/baselines/steps-test/20240601.parquet")
    assert not allowed(s3.get_object, Bucket="another", Key=FRAME)
    assert not allowed(s3.put_object, Bucket="another", Key=FRAME, Body=b"")
    assert not allowed(s3.delete_bucket, Bucket=BUCKET)
    assert not allowed(s3.put_bucket_policy, Bucket=BUCKET, Policy="{}")
