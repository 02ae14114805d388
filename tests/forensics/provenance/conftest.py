"""Files with content credentials that the tests sign with a certificate chain of their own."""

import datetime
import io
import json
import zlib
from dataclasses import dataclass

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from veridict.forensics.decode import decode_image
from veridict.forensics.preprocess import shrink_for_views
from veridict.forensics.provenance.read import ProvenanceReader

from ..image_files import chunk, segment, with_chunk, with_segment

TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Chain:
    """An authority's certificate, a signer's certificate that it issued, and the signer's key (all PEM)."""

    root: str
    leaf: str
    key: str


def name(common, organisation):
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def make_chain(organisation="Example Pictures"):
    """Return a chain as the C2PA asks for: EC keys, digital signature, extended usage for e-mail protection."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    root_name = name("Example Root", "Example Authority")

    def certificate(subject, public, authority):
        days = 365 if authority else 30
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
        )
        usage |= {"decipher_only": False, "digital_signature": not authority, "key_cert_sign": authority}
        builder = (
            x509.CertificateBuilder(root_name, subject, public, x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=-1))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(authority, None), True)
            .add_extension(x509.KeyUsage(crl_sign=authority, **usage), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), False)
        )
        if not authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        return builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    leaf = certificate(name("Example Signer", organisation), key.public_key(), False)
    return Chain(certificate(root_name, root_key.public_key(), True), leaf, pem)


def created(source_type, agent="Example Model 3"):
    """Return the assertion that a picture was created so."""
    action = {"action": "c2pa.created", "digitalSourceType": TYPES + source_type, "softwareAgent": {"name": agent}}
    return {"label": "c2pa.actions.v2", "data": {"actions": [action]}}


def sign(data, chain, assertions, form="JPEG", ingredients=(), remote=""):
    """Return the file with credentials; with ``remote`` they are only named by this address and lie nowhere."""
    info = c2pa.C2paSignerInfo(b"es256", (chain.leaf + chain.root).encode(), chain.key.encode(), None)
    manifest = {
        "claim_generator_info": [{"name": "Example Program", "version": "1"}],
        "title": "picture",
        "assertions": assertions,
    }
    settings = {"verify": {"verify_after_sign": False}, "builder": {"thumbnail": {"enabled": False}}}
    settings["builder"]["actions"] = {f"auto_{n}_action": {"enabled": False} for n in ("created", "opened", "placed")}
    builder = c2pa.Builder(json.dumps(manifest), context=c2pa.Context.from_dict(settings))
    for description, ingredient, ingredient_form in ingredients:
        builder.add_ingredient(json.dumps(description), MIME[ingredient_form], io.BytesIO(ingredient))
    if remote:
        builder.set_no_embed()
        builder.set_remote_url(remote)
    signed = io.BytesIO()
    builder.sign(c2pa.Signer.from_info(info), MIME[form], io.BytesIO(data), signed)
    return signed.getvalue()


@pytest.fixture(scope="session")
def chain():
    return make_chain()


@pytest.fixture(scope="session")
def trust_list(chain, tmp_path_factory):
    path = tmp_path_factory.mktemp("trust") / "trust_list.pem"
    path.write_text(chain.root)
    return path


@pytest.fixture(scope="session")
def readers(trust_list):
    return {"nobody": ProvenanceReader(), "list": ProvenanceReader(trust_list)}


@pytest.fixture(scope="session")
def read(readers):
    """Read a file's provenance, with nobody trusted or with the tests' authority on the trust list."""

    def read(data, trust="nobody"):
        image = decode_image(data)
        return readers[trust].read(data, shrink_for_views(image.preview), (image.width, image.height))

    return read


def with_text(png, keyword, text, kind=b"tEXt"):
    """Return a PNG with one more text chunk."""
    packed = {
        b"tEXt": lambda: keyword.encode() + b"\0" + text.encode("latin-1", "replace"),
        b"zTXt": lambda: keyword.encode() + b"\0\0" + zlib.compress(text.encode("latin-1", "replace")),
        b"iTXt": lambda: keyword.encode() + b"\0\0\0\0\0" + text.encode(),
    }[kind]()
    return with_chunk(png, chunk(kind, packed))


def with_xmp(jpeg, properties):
    """Return a JPEG with an XMP packet of these attributes."""
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description {properties}/></rdf:RDF></x:xmpmeta>'
    return with_segment(jpeg, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet.encode()))


def noise(side=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
