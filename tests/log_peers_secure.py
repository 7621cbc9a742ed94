"""Receivers that want to know who sends, over TLS: NATS with passwords, certificates or .creds files; Kafka by SASL."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

from tests.log_peers import Kafka, Nats, free_port


class Certificates:
    """ca: what clients trust. server, client: certificate with its key in one file."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        self.server, self.client = folder / "server.pem", folder / "client.pem"
        _write(authority.issue_cert("127.0.0.1", "localhost"), self.server)
        _write(authority.issue_cert("agent@logs.example"), self.client)
        self.stranger = folder / "stranger.pem"
        trustme.CA().cert_pem.write_to_path(self.stranger)


def _write(certificate: trustme.LeafCert, path: Path) -> None:
    """Write key and certificates; Kafka reads no keys but those of PKCS 8."""
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    plain = serialization.NoEncryption()
    whole = [key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)]
    path.write_bytes(b"".join([*whole, *(one.bytes() for one in certificate.cert_chain_pems)]))


def _jwt(claims: dict[str, object], signer: object) -> str:
    """Return a token as NATS has it; `signer` is an nkeys.KeyPair."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    claims = {**claims, "iat": int(time.time()), "iss": signer.public_key.decode()}  # type: ignore[attr-defined]
    claims["jti"] = hashlib.sha256(json.dumps(claims).encode()).hexdigest()
    head = part(b'{"typ":"JWT","alg":"ed25519-nkey"}')
    text = f"{head}.{part(json.dumps(claims).encode())}"
    return f"{text}.{part(signer.sign(text.encode()))}"  # type: ignore[attr-defined]


def _pair(kind: int) -> object:
    import nkeys

    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))


class SecureNats(Nats):
    """way: password, certificate (of the client) or credentials (an operator's, in a .creds file)."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.certificates = Certificates(self.folder)
        self.credentials = self.folder / "agent.creds"
        files = self.certificates
        verify = "verify: true, " if way == "certificate" else ""
        tls = f"tls: {{cert_file: '{files.server}', key_file: '{files.server}', {verify}ca_file: '{files.ca}'}}\n"
        accounts = {
            "password": "accounts: {logs: {jetstream: enabled, users: [{user: agent, password: 'right one'}]}}\n",
            "certificate": "accounts: {logs: {jetstream: enabled, users: [{user: all, password: x}]}}\n"
            "no_auth_user: all\n",
            "credentials": "",
        }[way]
        if way == "credentials":
            accounts = self._operator()
        (self.folder / "nats.conf").write_text(
            f"listen: '127.0.0.1:{self.port}'\njetstream: {{store_dir: '{self.folder}/data'}}\n{tls}{accounts}"
        )

    def _operator(self) -> str:
        import nkeys

        operator, account, system, user = (
            _pair(kind)
            for kind in (
                nkeys.PREFIX_BYTE_OPERATOR,
                nkeys.PREFIX_BYTE_ACCOUNT,
                nkeys.PREFIX_BYTE_ACCOUNT,
                nkeys.PREFIX_BYTE_USER,
            )
        )
        names = [one.public_key.decode() for one in (operator, account, system, user)]  # type: ignore[attr-defined]
        unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
        unlimited |= dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
        kinds = {"type": "operator", "version": 2, "system_account": names[2]}
        operator_jwt = _jwt({"sub": names[0], "name": "o", "nats": kinds}, operator)
        limits = {"type": "account", "version": 2, "limits": {**unlimited, "wildcards": True}}
        account_jwt = _jwt({"sub": names[1], "name": "logs", "nats": limits}, operator)
        system_jwt = _jwt(
            {"sub": names[2], "name": "SYS", "nats": {**limits, "limits": {"conn": -1, "subs": -1}}}, operator
        )
        rights = {"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
        user_jwt = _jwt({"sub": names[3], "name": "agent", "nats": rights}, account)
        seed = user.seed.decode()  # type: ignore[attr-defined]
        self.credentials.write_text(
            f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
        return (
            f"operator: '{operator_jwt}'\nsystem_account: '{names[2]}'\nresolver: MEMORY\n"
            f"resolver_preload: {{{names[1]}: '{account_jwt}', {names[2]}: '{system_jwt}'}}\n"
        )

    def command(self) -> Sequence[str]:
        return (super().command()[0], "-c", str(self.folder / "nats.conf"))

    @property
    def url(self) -> str:
        return f"tls://127.0.0.1:{self.port}"


class SecureKafka(Kafka):
    """port: SASL over TLS. certificate_port: TLS for clients with a certificate."""

    user, password = "agent", "right-one"

    def __init__(self) -> None:
        super().__init__()
        self.certificates = Certificates(self.folder)
        self.certificate_port = free_port()

    def settings(self) -> str:
        files = self.certificates
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        listeners = f"SASL_SSL://127.0.0.1:{self.port},SSL://127.0.0.1:{self.certificate_port}"
        return (
            f"listeners={listeners},CONTROLLER://127.0.0.1:{self.controller}\nadvertised.listeners={listeners}\n"
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL\n"
            "inter.broker.listener.name=SSL\nssl.client.auth=required\n"
            "ssl.keystore.type=PEM\nssl.truststore.type=PEM\n"
            f"ssl.keystore.location={files.server}\nssl.truststore.location={files.ca}\n"
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n"
            f'listener.name.sasl_ssl.plain.sasl.jaas.config={plain} user_{self.user}="{self.password}";\n'
            f"listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={scram}\n"
            f"listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={scram}\n"
        )

    def format(self) -> Sequence[str]:
        accounts = [
            f"SCRAM-SHA-{bits}=[name={self.user},password={self.password},iterations=4096]" for bits in (256, 512)
        ]
        return [part for one in accounts for part in ("--add-scram", one)]

    @property
    def certificate_broker(self) -> str:
        return f"127.0.0.1:{self.certificate_port}"
