"""A frozen bucket: all objects of one S3 bucket in a tar.xz; keys and ETags survive a restore on a plain S3 server."""

from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path

import boto3

FOLDER = Path(__file__).parent


def save(endpoint: str, bucket: str, target: Path) -> None:
    """Write every object of the bucket into `target`, so that equal objects give equal bytes."""
    client = boto3.client("s3", endpoint_url=endpoint)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = sorted(entry["Key"] for page in pages for entry in page.get("Contents", ()))
    with lzma.open(target, "wb", preset=9) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for key in keys:
            data = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            info = tarfile.TarInfo(key)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def restore(endpoint: str, bucket: str, source: Path) -> None:
    """Create the bucket and put every object of `source` into it, in place of whatever it held."""
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=bucket)
    paginator = client.get_paginator("list_objects_v2")
    for page in paginator.paginate(Bucket=bucket):
        for entry in page.get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=entry["Key"])
    with lzma.open(source, "rb") as packed, tarfile.open(fileobj=packed, mode="r") as tar:
        for member in tar:
            body = tar.extractfile(member)
            assert body is not None
            client.put_object(Bucket=bucket, Key=member.name, Body=body.read())
