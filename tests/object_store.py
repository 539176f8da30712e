"""An S3 server on this machine, for tests: what Amazon's clients, and so s3fs, take for the real one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
from moto.server import ThreadedMotoServer

_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}


class ObjectStore:
    """A bucket that can be reached until it is stopped.

    Attributes:
        environment: What a process needs in its environment to reach it.
    """

    def __init__(self, bucket: str) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        self.environment = {**_CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}
        # All such servers of a process share what they hold.
        httpx.post(f"{endpoint}/moto-api/reset").raise_for_status()
        self._bucket = bucket
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="any",
            aws_secret_access_key="any",
        )
        self._client.create_bucket(Bucket=bucket)

    def put(self, key: str, content: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=content)

    def upload(self, folder: Path, prefix: str) -> None:
        """Copies the files of a folder, in the order of their names."""
        for file in sorted(folder.iterdir()):
            self.put(f"{prefix}/{file.name}", file.read_bytes())

    def remove(self, prefix: str) -> None:
        """Removes all objects below a prefix, one after the other."""
        for found in self._client.list_objects_v2(Bucket=self._bucket, Prefix=f"{prefix}/").get(
            "Contents", ()
        ):
            self._client.delete_object(Bucket=self._bucket, Key=found["Key"])

    def stop(self) -> None:
        """Has nobody reach it any more."""
        self._server.stop()
        self._client.close()


@contextmanager
def object_store(bucket: str) -> Iterator[ObjectStore]:
    """A store with a bucket; stopped afterwards."""
    store = ObjectStore(bucket)
    try:
        yield store
    finally:
        store.stop()
