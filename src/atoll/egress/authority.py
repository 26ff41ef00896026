"""The installation's own certificate authority, which sandboxes with header rules trust."""

from __future__ import annotations

import datetime
import os
import ssl
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)
_AUTHORITY_DAYS = 3650
_LEAF_DAYS = 7
_RENEW_SECONDS = 86_400 * 5
_MOST_CONTEXTS = 256


@dataclass(frozen=True)
class Authority:
    """A certificate that sandboxes are told to trust, and its key, which stays on the host."""

    certificate: str
    key: str = field(repr=False)

    @classmethod
    def make(cls) -> Authority:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Atoll: this host's sandboxes")])
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            _builder(name, name, key.public_key(), _AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(_pem(certificate), _key_pem(key))

    @classmethod
    def load_or_make(cls, directory: Path) -> Authority:
        """The one kept in `directory`, made the first time. Raises OSError, ValueError."""
        path = directory / "authority.pem"
        try:
            return cls._parse(path.read_text())
        except FileNotFoundError:
            made = cls.make()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = directory / f".authority.{os.getpid()}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w") as file:
                file.write(made.key + made.certificate)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, path)  # of two engines that start together one wins
            except FileExistsError:
                return cls._parse(path.read_text())
        finally:
            draft.unlink()
        return made

    @classmethod
    def _parse(cls, text: str) -> Authority:
        key, mark, certificate = text.partition("-----BEGIN CERTIFICATE-----")
        if not mark or "PRIVATE KEY" not in key:
            raise ValueError("authority.pem holds no key with its certificate")
        return cls(mark + certificate, key)


class Issuer:
    """Makes certificates for single hosts, and TLS contexts with them."""

    def __init__(self, authority: Authority, trust: ssl.SSLContext | None = None) -> None:
        """Args:
        authority: what signs.
        trust: whom the real hosts' certificates must be signed by; the system's if None.
        """
        self.trust = trust or _system_trust()
        self._authority = x509.load_pem_x509_certificate(authority.certificate.encode())
        key = serialization.load_pem_private_key(authority.key.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is of another kind")
        self._key = key
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._contexts: OrderedDict[str, tuple[float, ssl.SSLContext]] = OrderedDict()

    def context_for(self, name: str) -> ssl.SSLContext:
        """What answers in the name of host `name`."""
        now = datetime.datetime.now(datetime.UTC).timestamp()
        made, context = self._contexts.get(name, (0.0, None))
        if context is None or now - made > _RENEW_SECONDS:
            context = self._make_context(name)
            self._contexts[name] = (now, context)
        self._contexts.move_to_end(name)
        while len(self._contexts) > _MOST_CONTEXTS:
            self._contexts.popitem(last=False)
        return context

    def _make_context(self, name: str) -> ssl.SSLContext:
        subject = x509.Name([])
        certificate = (
            _builder(subject, self._authority.subject, self._leaf_key.public_key(), _LEAF_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # ssl reads files only: this one is memory.
        fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
        try:
            os.write(fd, (_key_pem(self._leaf_key) + _pem(certificate)).encode())
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        return context


def _system_trust() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + days * _DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
