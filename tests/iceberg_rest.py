"""An Iceberg REST catalog for tests: the protocol's few calls that a writer needs, over a SQL catalog.

No REST catalog can be installed from the Python index, so this one is ours: it shows that our client speaks
the protocol, not that it gets on with any particular service.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableRequest, StagedTable, Table

_STATUS: dict[type[Exception], tuple[int, str]] = {
    NoSuchTableError: (404, "NoSuchTableException"),
    NoSuchNamespaceError: (404, "NoSuchNamespaceException"),
    NamespaceAlreadyExistsError: (409, "AlreadyExistsException"),
    TableAlreadyExistsError: (409, "AlreadyExistsException"),
    CommitFailedException: (409, "CommitFailedException"),
}


@contextmanager
def rest_catalog(folder: Path, *, token: str = "") -> Iterator[str]:
    """Serve a catalog whose tables lie in `folder`; gives its address."""
    catalog = SqlCatalog(
        "rest", uri=f"sqlite:///{folder}/rest.db?timeout=30", warehouse=f"file://{folder}/rest"
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                if token and self.headers.get("Authorization") != f"Bearer {token}":
                    status, told = 401, _error(401, "NotAuthorizedException", "no token, or a wrong one")
                else:
                    path = [unquote(each) for each in urlsplit(self.path).path.split("/")[2:]]
                    status, told = _answer(catalog, self.command, path, json.loads(body or "{}"))
            except tuple(_STATUS) as error:
                status, kind = _STATUS[type(error)]
                told = _error(status, kind, str(error))
            data = b"" if told is None else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    for method in ("GET", "POST", "HEAD", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _answer(catalog: Catalog, method: str, path: list[str], body: dict[str, Any]) -> tuple[int, Any]:
    match method, path:
        case "GET", ["config"]:
            return 200, {"defaults": {}, "overrides": {}}
        case "POST", ["namespaces"]:
            catalog.create_namespace(tuple(body["namespace"]), body.get("properties") or {})
            return 200, {"namespace": body["namespace"], "properties": {}}
        case (("GET" | "HEAD"), ["namespaces", namespace]):
            told = catalog.load_namespace_properties(_parts(namespace))
            return 200, {"namespace": list(_parts(namespace)), "properties": dict(told)}
        case "GET", ["namespaces", namespace, "tables"]:
            found = catalog.list_tables(_parts(namespace))
            return 200, {"identifiers": [{"namespace": list(each[:-1]), "name": each[-1]} for each in found]}
        case "POST", ["namespaces", namespace, "tables"]:
            return 200, _loaded(_made(catalog, (*_parts(namespace), body["name"]), body))
        case "GET", ["namespaces", namespace, "tables", name]:
            return 200, _loaded(catalog.load_table((*_parts(namespace), name)))
        case "HEAD", ["namespaces", namespace, "tables", name]:
            catalog.load_table((*_parts(namespace), name))
            return 204, None
        case "POST", ["namespaces", namespace, "tables", name]:
            return 200, _committed(catalog, (*_parts(namespace), name), body)
        case "DELETE", ["namespaces", namespace, "tables", name]:
            catalog.drop_table((*_parts(namespace), name))
            return 204, None
    return 404, _error(404, "NotFound", f"{method} {path}")


def _made(catalog: Catalog, identifier: tuple[str, ...], body: dict[str, Any]) -> Table:
    given = body.get("partition-spec")
    make = catalog._create_staged_table if body.get("stage-create") else catalog.create_table  # type: ignore[attr-defined]
    table: Table = make(
        identifier,
        Schema.model_validate(body["schema"]),
        location=body.get("location"),
        partition_spec=PartitionSpec.model_validate(given) if given else UNPARTITIONED_PARTITION_SPEC,
        properties=body.get("properties") or {},
    )
    return table


def _committed(catalog: Catalog, identifier: tuple[str, ...], body: dict[str, Any]) -> dict[str, Any]:
    request = CommitTableRequest.model_validate(
        {**body, "identifier": {"namespace": identifier[:-1], "name": identifier[-1]}}
    )
    try:
        table = catalog.load_table(identifier)
    except NoSuchTableError:
        if not any(each.type == "assert-create" for each in request.requirements):
            raise
        table = StagedTable(identifier, None, "", None, catalog)  # type: ignore[arg-type]
    done = catalog.commit_table(table, request.requirements, request.updates)
    return {
        "metadata-location": done.metadata_location,
        "metadata": json.loads(done.metadata.model_dump_json()),
    }


def _loaded(table: Table) -> dict[str, Any]:
    staged = isinstance(table, StagedTable)
    location = {} if staged else {"metadata-location": table.metadata_location}
    return {**location, "metadata": json.loads(table.metadata.model_dump_json()), "config": {}}


def _parts(namespace: str) -> tuple[str, ...]:
    return tuple(namespace.split("\x1f"))


def _error(status: int, kind: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": status}}
