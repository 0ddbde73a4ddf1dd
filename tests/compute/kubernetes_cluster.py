"""The small Kubernetes of `fourfold.testing`, and independent clients in an environment apart."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.compute.peers import peer_python, unavailable

from fourfold.testing.kubernetes import FakeCluster, Schemas

RELEASE = "v1.37.0"
CERTIFY = """
import datetime, ipaddress, pathlib, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

def made(name, issuer=None):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    by, signer = issuer or (subject, key)
    begin = datetime.datetime(2020, 1, 1)
    built = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([
            x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pathlib.Path(sys.argv[1], f"{name}.pem").write_bytes(built.public_bytes(pem))
    pathlib.Path(sys.argv[1], f"{name}.key").write_bytes(private)
    return subject, key

authority = made("authority")
for name in ("server", "client"):
    made(name, authority)
made("stranger")
"""


def schemas() -> Schemas:
    """Kubernetes' own schemas; skips where they cannot be installed, fails in CI."""
    site = Path(peer_python("kubernetes")).parent.parent / "lib"
    found = sorted(site.glob(f"python*/site-packages/kubernetes_validate/**/{RELEASE}-local-strict"))
    if not found:
        unavailable(f"the package kubernetes-validate has no schemas of {RELEASE}")
    return Schemas(found[0])


def certificates(folder: Path) -> Path:
    """An authority's certificate, and those that it signed for a server and a client: `NAME.pem`, `.key`."""
    command = [peer_python("kubernetes"), "-c", CERTIFY, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def secured(folder: Path, **more: Any) -> FakeCluster:
    """A cluster that speaks HTTPS and knows its clients' certificates."""
    certificates(folder)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "authority.pem"))
    tls.verify_mode = ssl.CERT_OPTIONAL
    tls.load_cert_chain(folder / "server.pem", folder / "server.key")
    return FakeCluster(schemas(), tls=tls, certificate=(folder / "authority.pem").read_text(), **more)


class Clients:
    """`kubectl` and Python clients that know the cluster by a kubeconfig."""

    def __init__(self, cluster: FakeCluster, folder: Path) -> None:
        self.python = peer_python("kubernetes")
        self.folder = folder
        self.config = folder / "kubeconfig"
        self.config.write_text(cluster.kubeconfig())
        self.environment: Mapping[str, str] = {
            "PATH": f"{Path(self.python).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "KUBECONFIG": str(self.config),
        }

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv, env=self.environment, cwd=self.folder, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def kubectl(self, *words: str, fails: bool = False, given: str = "") -> str:
        """What `kubectl` prints; with `fails`, what it says of its failure."""
        done = subprocess.run(
            ["kubectl", *words],
            env=self.environment, cwd=self.folder, input=given, capture_output=True, text=True, timeout=90,
            check=False,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    def run(self, script: str) -> str:
        """What a script prints under the clients' own Python."""
        done = subprocess.run(
            [self.python, "-c", script],
            env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
