"""Content credentials: who signed, whether they belong to the file, what they declare; nothing leaves the machine."""

import http.server
import io
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import c2pa
import pytest

from veridict.forensics.provenance import credentials
from veridict.forensics.provenance.credentials import CredentialsReader
from veridict.forensics.provenance.read import ProvenanceReader

from ..image_files import chunk
from .conftest import TYPES, created, make_chain, noise, sign

AI = "trainedAlgorithmicMedia"


@pytest.fixture(scope="module")
def signed(chain, encode, cat):
    """A photograph in every format whose credentials say that AI made it."""
    return {form: sign(encode(cat, form), chain, [created(AI)], form) for form in ("JPEG", "PNG", "WEBP")}


def changed(data, position):
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_signer_on_the_trust_list_is_told_from_one_on_none(read, signed, form):
    known, unknown = read(signed[form], "list"), read(signed[form])
    assert (known.status, known.guarantee, known.codes) == ("trusted", "trusted", ())
    assert (unknown.status, unknown.guarantee, unknown.codes) == (
        "untrusted",
        "signed",
        ("signingCredential.untrusted",),
    )
    for found in (known, unknown):
        assert (found.declares, found.source_type) == ("ai", AI)
        assert (found.generator, found.signer) == ("Example Model 3", "Example Pictures")
    assert known.text == (
        "Content credentials signed by Example Pictures, who is on the trust list, say that the picture was generated "
        "by AI (Example Model 3)"
    )
    assert "who is on no trust list" in unknown.text


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_credentials_of_changed_pixels_are_called_tampered_and_declare_nothing(read, signed, form):
    data = signed[form]
    pixels = {"JPEG": data.find(b"\xff\xda") + 2000, "PNG": data.find(b"IDAT") + 9000, "WEBP": data.find(b"VP8 ") + 900}
    found = read(replace_pixel_byte(data, pixels[form], form), "list")
    assert (found.status, found.declares, found.guarantee) == ("tampered", "", "")
    assert "assertion.dataHash.mismatch" in found.codes
    assert "do not match the file" in found.text


def replace_pixel_byte(data, position, form):
    """Change a byte of the coded pixels; a PNG keeps readable: its deflate data are stored again."""
    if form != "PNG":
        return changed(data, position)
    end = data.find(b"IEND") - 4
    return data[:end] + chunk(b"tEXt", b"Title\0added later") + data[end:]


def test_changed_credentials_are_called_tampered(read, signed):
    data = signed["JPEG"]
    found = read(changed(data, data.find(AI.encode()) + 3), "list")
    assert (found.status, found.declares) == ("tampered", "")


def test_credentials_copied_to_another_picture_are_called_tampered(read, signed, encode, coffee):
    own = signed["PNG"]
    start = own.find(b"caBX") - 4
    block = own[start : start + 12 + int.from_bytes(own[start : start + 4], "big")]
    other = encode(coffee, "PNG")
    found = read(other[:33] + block + other[33:], "list")
    assert (found.status, found.declares) == ("tampered", "")


def test_a_file_without_credentials_says_that_this_proves_nothing(read, encode, cat):
    for form in ("JPEG", "PNG", "WEBP"):
        found = read(encode(cat, form))
        assert (found.status, found.declares, found.traces, found.camera) == ("none", "", (), "")
        assert found.text == "No provenance was found, which proves nothing: most platforms remove it"


@pytest.mark.parametrize(
    ("source_type", "declares"),
    [
        (AI, "ai"),
        ("compositeWithTrainedAlgorithmicMedia", "ai_edited"),
        ("compositeSynthetic", "composite"),
        ("digitalCapture", "capture"),
        ("digitalCreation", ""),
    ],
)
def test_source_types_say_how_a_picture_was_made(read, chain, encode, source_type, declares):
    found = read(sign(encode(noise(), "PNG"), chain, [created(source_type)], "PNG"), "list")
    assert (found.status, found.declares, found.source_type) == ("trusted", declares, source_type)


def test_a_later_step_that_used_ai_makes_an_edited_picture(read, chain, encode):
    edit = {"action": "c2pa.edited", "digitalSourceType": TYPES + AI, "softwareAgent": {"name": "Example Fill"}}
    history = created("digitalCapture")
    history["data"]["actions"].append(edit)
    found = read(sign(encode(noise(), "PNG"), chain, [history], "PNG"), "list")
    assert (found.declares, found.generator) == ("ai_edited", "Example Fill")


@pytest.mark.parametrize(
    ("relations", "declares"),
    [(["parentOf"], "ai"), (["componentOf"], "ai"), (["componentOf", "componentOf"], "ai_edited"), (["inputTo"], "")],
)
def test_what_a_picture_was_made_from_counts_as_far_as_it_is_the_picture(read, chain, encode, relations, declares):
    first = sign(encode(noise(seed=1), "PNG"), chain, [created(AI)], "PNG")
    plain = encode(noise(seed=2), "PNG")
    parts = [
        ({"title": f"part {i}", "relationship": relation}, first if not i else plain, "PNG")
        for i, relation in enumerate(relations)
    ]
    found = read(sign(encode(noise(seed=1), "PNG"), chain, [], "PNG", parts), "list")
    assert (found.declares, found.signer) == (declares, "Example Pictures")


def test_a_trusted_signer_does_not_vouch_for_what_an_unknown_one_declared(read, chain, encode):
    first = sign(encode(noise(seed=1), "PNG"), make_chain("Somebody Else"), [created(AI)], "PNG")
    parts = [({"title": "first", "relationship": "parentOf", "instance_id": "xmp:iid:1"}, first, "PNG")]
    action = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["xmp:iid:1"]}}
    opened = {"label": "c2pa.actions.v2", "data": {"actions": [action]}}
    found = read(sign(encode(noise(seed=1), "PNG"), chain, [opened], "PNG", parts), "list")
    assert (found.status, found.declares, found.guarantee) == ("trusted", "ai", "signed")


def test_credentials_that_break_a_rule_are_intact_but_not_valid(read, chain, encode):
    rules = created(AI)
    rules["data"]["actions"].insert(0, {"action": "c2pa.edited"})  # the first action must be created or opened
    found = read(sign(encode(noise(), "PNG"), chain, [rules], "PNG"), "list")
    assert (found.status, found.declares, found.guarantee) == ("nonconforming", "ai", "signed")
    assert found.codes == ("assertion.action.malformed",)
    assert "not valid by the standard" in found.text


def test_the_sample_of_a_service_is_read(read, datasets):
    data = (datasets / "provenance" / "c2pa" / "sample" / "0.png").read_bytes()
    found = read(data)
    # Its program wrote a form that the standard no longer allows, and its certificate has expired without a time stamp.
    assert (found.status, found.declares, found.guarantee) == ("nonconforming", "ai", "signed")
    assert (found.generator, found.source_type, found.signer) == ("GPT-4o", AI, "OpenAI")
    assert {"claim.malformed", "signingCredential.untrusted"} <= set(found.codes)
    assert read(data[:-12] + chunk(b"tEXt", b"Title\0x") + data[-12:]).status == "tampered"


@pytest.fixture
def server():
    """A server that counts the connections it gets."""

    class Counting(http.server.HTTPServer):
        connections = 0

        def get_request(self):
            self.connections += 1
            return super().get_request()

    with Counting(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_credentials_on_a_server_are_named_and_never_fetched(server, read, chain, encode, cat):
    address = f"http://127.0.0.1:{server.server_port}/credentials.c2pa"
    data = sign(encode(cat), chain, [created(AI)], remote=address)
    found = read(data)
    assert (found.status, found.declares) == ("remote", "")
    assert [(t.kind, t.value) for t in found.traces] == [("reference", address)]
    # Nor does the library ask where it is given such a file.
    assert CredentialsReader().read(data, "JPEG").status == "unreadable"
    assert server.connections == 0
    with pytest.raises(c2pa.C2paError):  # with its own settings it does: the test would notice
        c2pa.Reader("image/jpeg", io.BytesIO(data))
    assert server.connections == 1


def test_the_settings_forbid_every_way_to_the_network():
    settings = credentials.make_settings("")
    assert settings["verify"]["remote_manifest_fetch"] is settings["verify"]["ocsp_fetch"] is False
    assert settings["core"]["allowed_network_hosts"] == []
    assert settings["core"]["decode_identity_assertions"] is False


def test_too_large_credentials_are_not_read(read, encode):
    data = encode(noise(), "PNG")
    data = data[:33] + chunk(b"caBX", bytes(credentials.MOST_BYTES + 1)) + data[33:]
    found = read(data)
    assert (found.status, found.codes) == ("unreadable", ("tooLarge",))


def test_whatever_the_credentials_hold_nothing_is_raised(readers, signed):
    data = signed["PNG"]
    start = data.find(b"caBX") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    body, rest = data[start + 8 : start + 8 + length], data[start + 12 + length :]
    rng, preview = random.Random(0), noise()
    nested = b"".join((45 * (3000 - i)).to_bytes(4, "big") + b"jumb" + body[8:45] for i in range(3000))
    damaged = [b"", body[:50], nested]
    for _ in range(300):
        junk = bytearray(body)
        for _ in range(rng.choice((1, 3, 30))):
            place, count = rng.randrange(len(junk)), rng.randrange(1, 9)
            junk[place : place + count] = rng.randbytes(rng.choice((0, count, 2 * count)))
        damaged.append(bytes(junk))
    states = {
        readers["list"].read(data[:start] + chunk(b"caBX", part) + rest, preview, (64, 64)).status for part in damaged
    }
    assert states <= {"none", "trusted", "untrusted", "nonconforming", "tampered", "unreadable"}
    assert {"tampered", "unreadable"} <= states


def test_many_threads_share_a_reader(readers, signed, encode, cat):
    files = [signed["JPEG"], encode(cat), signed["WEBP"]] * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda data: readers["list"].read(data, noise(), (64, 64)).status, files))
    assert found == ["trusted", "none", "trusted"] * 20


@pytest.mark.parametrize(
    "content", [None, "", "no certificate", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"]
)
def test_a_wrong_trust_list_is_an_error_at_the_start(tmp_path, content):
    path = tmp_path / "list.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match="holds no certificates"):
        ProvenanceReader(path).check()


def test_an_unknown_manifest_store_is_unreadable():
    assert credentials.judge("Valid", {"active_manifest": "a", "manifests": {"a": {}}}).status == "unreadable"
    nothing = credentials.Credentials("unreadable")
    assert replace(credentials.judge("", {}), codes=()) == nothing
