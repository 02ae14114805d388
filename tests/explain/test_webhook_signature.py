"""Webhook signatures by the Standard Webhooks specification."""

import base64
import time

import pytest

import veridict.explain
from veridict.explain.jobs.webhook_signature import ID, SIGNATURE, TIMESTAMP, parse_secrets, sign, sign_headers, verify

SECRET, OTHER = ("whsec_" + base64.b64encode(bytes([byte]) * 24).decode() for byte in (1, 2))
BODY = b'{"state": "done"}'


def test_the_signature_of_the_published_test_vector():
    # from the tests of the reference libraries: github.com/standard-webhooks/standard-webhooks/tree/main/libraries
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_receiver_accepts_what_the_sender_signs():
    headers = sign_headers(SECRET, "1-0", BODY)
    assert set(headers) == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    assert veridict.explain.verify(SECRET, headers, BODY)
    assert verify(SECRET, {name.title(): value for name, value in headers.items()}, BODY)
    assert not verify(OTHER, headers, BODY)
    assert not verify(SECRET, headers, BODY + b" ")


def test_one_of_several_signatures_or_secrets_is_enough():
    rotated = sign_headers(f"{SECRET} {OTHER}", "1-0", BODY)
    assert len(rotated[SIGNATURE].split()) == 2
    assert verify(SECRET, rotated, BODY)
    assert verify(OTHER, rotated, BODY)
    assert verify(f"{OTHER} {SECRET}", sign_headers(SECRET, "1-0", BODY), BODY)
    headers = sign_headers(SECRET, "1-0", BODY)
    headers[SIGNATURE] = f"v1a,AAAA malformed v1,AAAA {headers[SIGNATURE]}"
    assert verify(SECRET, headers, BODY)


@pytest.mark.parametrize("age", [-301, 301])
def test_a_request_from_another_time_is_refused(age):
    timestamp = str(int(time.time()) - age)
    headers = {ID: "1-0", TIMESTAMP: timestamp, SIGNATURE: sign(SECRET, "1-0", timestamp, BODY)}
    assert not verify(SECRET, headers, BODY)
    assert verify(SECRET, headers, BODY, tolerance=400)


@pytest.mark.parametrize(
    "change",
    [
        {ID: ""},
        {ID: "2-0"},
        {ID: "\ud800"},
        {TIMESTAMP: ""},
        {TIMESTAMP: "nan"},
        {TIMESTAMP: "soon"},
        {SIGNATURE: ""},
        {SIGNATURE: "v1"},
        {SIGNATURE: "v1,"},
        {SIGNATURE: "v1,é\ud800"},
    ],
)
def test_a_malformed_request_is_refused_without_an_error(change):
    assert not verify(SECRET, {**sign_headers(SECRET, "1-0", BODY), **change}, BODY)
    (name,) = change
    headers = sign_headers(SECRET, "1-0", BODY)
    del headers[name]
    assert not verify(SECRET, headers, BODY)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "a plain password of many letters",
        SECRET.removeprefix("whsec_"),
        "whsec_",
        "whsec_!" + "A" * 40,
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        f"{SECRET} password",
    ],
)
def test_a_malformed_secret_is_an_error_that_does_not_show_it(secret):
    with pytest.raises(ValueError, match="webhook secret is") as caught:
        parse_secrets(secret)
    assert "password" not in str(caught.value)


def test_secrets_have_24_to_64_bytes_and_need_no_padding():
    for size in (24, 25, 64):
        encoded = base64.b64encode(bytes(size)).decode()
        assert parse_secrets(f"whsec_{encoded}") == parse_secrets("whsec_" + encoded.rstrip("=")) == [bytes(size)]
