"""From an address to a client of the store that it names."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from fourfold.adapters.object_store.credentials import CredentialProcess, profile
from fourfold.adapters.object_store.errors import translated
from fourfold.core.objects import ObjectAddress

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

CONNECT_TIMEOUT_S = 5
REQUEST_TIMEOUT_S = 120
"""For one request whole; long transfers are many requests."""
TRIES = 10
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0

Client = S3Store | GCSStore | AzureStore
_TRUE = {"1", "true", "yes", "on"}


@dataclass(frozen=True, slots=True)
class Opened:
    client: Client
    options: Callable[[], dict[str, str]]
    """The same in the words of `deltalake`, which reads the environment itself."""


def opened(address: ObjectAddress) -> Opened:
    longest_s = min(LONGEST_PAUSE_S, address.patience_s / 4)
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
    }
    retry: RetryConfig = {
        "max_retries": TRIES,
        "retry_timeout": timedelta(seconds=address.patience_s),
        "backoff": {
            "init_backoff": timedelta(seconds=min(FIRST_PAUSE_S, longest_s)),
            "max_backoff": timedelta(seconds=longest_s),
            "base": 2,
        },
    }
    options = {
        "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
        "timeout": f"{REQUEST_TIMEOUT_S}s",
        "max_retries": str(TRIES),
        "retry_timeout": f"{round(address.patience_s * 1000)}ms",
        "backoff_config.init_backoff": f"{round(min(FIRST_PAUSE_S, longest_s) * 1000)}ms",
        "backoff_config.max_backoff": f"{round(longest_s * 1000)}ms",
    }
    common: dict[str, Any] = {
        "prefix": address.prefix or None,
        "client_options": client,
        "retry_config": retry,
    }
    try:
        match address.scheme:
            case "s3":
                return _s3(address, common, options)
            case "gs":
                return _gs(address, common, options)
            case _:
                return _az(address, common, options)
    except (BaseError, ValueError) as error:
        raise translated(error, address) from error


def _s3(address: ObjectAddress, common: dict[str, Any], options: dict[str, str]) -> Opened:
    """The address goes before the environment, and that before the shared files."""
    found = profile(os.environ)
    config: dict[str, str] = {
        "virtual_hosted_style_request": str(address.has_virtual_host).lower(),
        # One request per object: not every store that speaks S3 has the one for many.
        "disable_bulk_delete": "true",
    }
    in_environment = {each for each in ("AWS_REGION", "AWS_DEFAULT_REGION") if os.environ.get(each)}
    if address.region or (not in_environment and "region" in found):
        config["region"] = address.region or found["region"]
    endpoint = (
        address.endpoint
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or os.environ.get("AWS_ENDPOINT")
        or found.get("endpoint_url", "")
    )
    if endpoint:
        config["endpoint"] = endpoint
    common["client_options"]["allow_http"] = _allows_http(endpoint, "AWS_ALLOW_HTTP")
    options = {
        **options,
        **{f"aws_{name}": value for name, value in config.items() if name != "disable_bulk_delete"},
        "aws_conditional_put": "etag",
        "allow_http": str(common["client_options"]["allow_http"]).lower(),
    }
    keys = {
        name.removeprefix("aws_"): found[name]
        for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        if name in found
    }
    if not keys and "credential_process" in found:
        process = CredentialProcess(found["credential_process"])
        client = S3Store(address.bucket, config=config, credential_provider=process, **common)  # type: ignore[arg-type]

        def asked() -> dict[str, str]:
            answer = process()
            return {
                **options,
                "aws_access_key_id": answer["access_key_id"],
                "aws_secret_access_key": answer["secret_access_key"],
                **({"aws_session_token": token} if (token := answer.get("token")) else {}),
            }

        return Opened(client, asked)
    options |= {f"aws_{name}": value for name, value in keys.items()}
    return Opened(S3Store(address.bucket, config={**config, **keys}, **common), lambda: dict(options))  # type: ignore[arg-type]


def _gs(address: ObjectAddress, common: dict[str, Any], options: dict[str, str]) -> Opened:
    config = {"base_url": address.endpoint} if address.endpoint else {}
    common["client_options"]["allow_http"] = _allows_http(address.endpoint, "GOOGLE_ALLOW_HTTP")
    options = options | {f"google_{name}": value for name, value in config.items()}
    return Opened(GCSStore(address.bucket, config=config, **common), lambda: dict(options))  # type: ignore[arg-type]


def _az(address: ObjectAddress, common: dict[str, Any], options: dict[str, str]) -> Opened:
    given = {"account_name": address.account, "endpoint": address.endpoint}
    config = {name: value for name, value in given.items() if value}
    common["client_options"]["allow_http"] = _allows_http(address.endpoint, "AZURE_ALLOW_HTTP")
    options = options | {f"azure_{name}": value for name, value in config.items()}
    return Opened(AzureStore(address.bucket, config=config, **common), lambda: dict(options))  # type: ignore[arg-type]


def _allows_http(endpoint: str, variable: str) -> bool:
    """Whoever names an endpoint with http:// means it; elsewhere it takes the variable to allow it."""
    return endpoint.startswith("http://") or os.environ.get(variable, "").lower() in _TRUE
