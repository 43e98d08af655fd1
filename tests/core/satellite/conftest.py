"""A loopback S3 server for the tests of sources."""

import os

import pytest


@pytest.fixture(scope="module")
def s3():
    """A loopback S3 server holding the same granules; yields (endpoint, client)."""
    import boto3
    from moto.server import ThreadedMotoServer

    from tests.core.satellite.test_source import BUCKET, granules

    before = {name: os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    os.environ.update(dict.fromkeys(before, "test"))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    for key, content in granules().items():
        client.put_object(Bucket=BUCKET, Key=key, Body=content)
    yield endpoint, client
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
