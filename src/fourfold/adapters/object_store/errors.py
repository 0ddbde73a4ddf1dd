"""Errors of object stores in our own words."""

from __future__ import annotations

import re

from obstore.exceptions import NotSupportedError, PermissionDeniedError, UnauthenticatedError

from fourfold.core.errors import FourfoldError, NotFound, OutOfSpace, Refused, Unavailable
from fourfold.core.objects import ObjectAddress

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "specified bucket does not exist")
_FULL = {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "AccountStorageQuotaExceeded"}
_METADATA = ("/latest/api/token", "/latest/meta-data", "computeMetadata", "metadata/identity")
"""Parts of the addresses where machines of a cloud ask for their role's keys: the chain's last resort."""

_SET = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role",
    "gs": "set GOOGLE_SERVICE_ACCOUNT to a key file, or run: gcloud auth application-default login",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or …_SAS_KEY), or: az login",
}
_MAKE = {
    "s3": "create it (aws s3 mb s3://{0}), or correct the address",
    "gs": "create it (gcloud storage buckets create gs://{0}), or correct the address",
    "az": "create it (az storage container create --name {0}), or correct the address",
}


def translated(error: BaseException, address: ObjectAddress, key: str = "") -> FourfoldError:
    """Our error for one that `obstore` raised about `key`."""
    if isinstance(error, FourfoldError):
        return error
    text = str(error)
    code = found[1] if (found := _CODE.search(text)) else ""
    status = int(found[1]) if (found := _STATUS.search(text)) else 0
    where = f"{address.scheme}://{address.bucket}" + (f" at {address.endpoint}" if address.endpoint else "")
    if any(each in text for each in _METADATA):
        return Refused(
            f"no credentials for {where} were found", ways_on=[_SET[address.scheme]], bucket=address.bucket
        )
    if any(each in text for each in _NO_BUCKET):
        return NotFound(
            f"there is no bucket '{address.bucket}' ({where})",
            ways_on=[_MAKE[address.scheme].format(address.bucket)],
            bucket=address.bucket,
        )
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{address} has no object '{key}'", bucket=address.bucket, key=key)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in (401, 403):
        return Refused(
            f"{where} refuses these credentials" + (f" ({code})" if code else f" (status {status})"),
            ways_on=[_SET[address.scheme], "they must allow reading, writing, listing and deleting objects"],
            bucket=address.bucket,
            key=key,
        )
    if status == 507 or code in _FULL:
        return OutOfSpace(
            f"{where} has no room left; nothing was stored",
            ways_on=["free some space or raise its quota, and try again"],
            bucket=address.bucket,
        )
    if "configured region" in text:
        return Refused(
            f"{where} is in another region",
            ways_on=[f"add ?region=… to the address {address}, or set AWS_REGION"],
            bucket=address.bucket,
        )
    if isinstance(error, NotSupportedError) or (400 <= status < 500 and status not in (408, 429)):
        return Refused(
            f"{where} did not accept a request for '{key}': {code or status or _line(text)}",
            ways_on=["check the bucket's name, region and endpoint in the address"],
            bucket=address.bucket,
            key=key,
            status=status,
        )
    return Unavailable(
        f"{where} does not answer: {code or (f'status {status}' if status else _line(text))}",
        ways_on=[
            f"it was asked for {address.patience_s:g} s at most; try again later",
            "check the endpoint and the network",
        ],
        bucket=address.bucket,
        endpoint=address.endpoint,
        key=key,
    )


def _line(text: str) -> str:
    """The first line of a foreign message, without what it says of its own tries."""
    line = text.strip().splitlines()[0] if text.strip() else "no reason given"
    return re.sub(r"^Generic \w+ error: | in [\d.]+[mµn]?s, after .*? - ", " ", line).strip()[:200]
