from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.clean.pii import PLACEHOLDERS, luhn_holds, mask_pii

FOUND = {
    "e-mail": [
        "anna.kovacs@mailhost.org",
        "j.doe+news@uni-bonn.de",
        "INFO@ACME.COM",
        "sales@acme.co.uk",
        "a_b-c%d@sub.domain.museum",
        "filippo@abyssdomain.family",
    ],
    "IPv4 address": ["185.220.101.45", "93.184.216.34", "100.50.200.5"],
    "IPv6 address": ["2606:4700:4700::1111", "2a00:1450:4001:82a::200e", "2606:2800:220:1:248:1893:25c8:1946"],
    "phone number": [
        "+44 20 7946 0958",
        "+1 (212) 736-5000",
        "+49 (0)30 901820",
        "+12127365000",
        "+33 1 42 68 53 00",
        "0044 20 7946 0958",
        "(212) 736-5000",
        "212-736-5000",
        "212.736.5000",
        "1-800-692-7753",
        "01 42 68 53 00",
        "020 7946 0958",
        "(030) 9018-2012",
    ],
    "card number": ["4111 1111 1111 1111", "4111111111111111", "5500-0055-5555-5559", "3782 822463 10005"],
    "bank account": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "FR14 2004 1010 0505 0001 3M02 606"],
}
FRAMES = ["{}", "Here it is: {}.", "({})", "<{}>", "we know {} and\nmore", '"{}"', "{}, or not"]


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in FOUND.items() for value in values])
def test_personal_data_become_a_placeholder(kind: str, value: str) -> None:
    for frame in FRAMES:
        masked, counts = mask_pii(frame.format(value))
        assert counts == {kind: 1}, frame
        assert masked == frame.format(PLACEHOLDERS[kind])
        assert mask_pii(masked) == (masked, Counter())


@pytest.mark.parametrize(
    "text",
    [
        "Tel: 98765 43210",
        "Telefon 089 1234567",
        "Phone: 4157365000",
        "call us at 98765 43210",
        "電話：03-1234-5678",
        "mobile no. 98765-43210",
    ],
)
def test_a_label_makes_a_number_a_telephone_number(text: str) -> None:
    assert mask_pii(text)[1] == {"phone number": 1}
    bare = text.lstrip("TelfonPcausmbi電話 :.：")
    assert mask_pii(bare.replace("089 ", "89 ").replace("03-", "3-"))[1] == {}


def test_an_address_of_small_numbers_needs_a_word_beside_it() -> None:
    assert mask_pii("see section 14.3.2.9 and 14.3.2.9") == ("see section 14.3.2.9 and 14.3.2.9", Counter())
    assert mask_pii("the host 14.3.2.9 answers")[1] == {"IPv4 address": 1}


@pytest.mark.parametrize(
    "text",
    [
        # addresses that are nobody's
        "user@example.com, me@mail.example.org, x@y.test, root@localhost",
        "127.0.0.1 192.168.1.1 10.0.0.1 172.16.3.4 255.255.255.0 0.0.0.0",
        "169.254.1.1 224.0.0.1 203.0.113.9 198.51.100.7",
        "8.8.8.8 and 1.1.1.1 resolve names",
        "::1 fe80::1 2001:db8::5 fd12:3456:789a::1",
        "555-0100, (212) 555-0134, call 911",
        # code
        "@property\ndef f(self): return x@self.weight + a@b.T",
        "w = x@w.to(device)",
        "git@github.com:org/repo.git and https://user@host.com/path",
        "npm install lodash@4.17.21 @scope/pkg@1.0.0 logo@2x.png icon@3x.js",
        "std::vector<int> a::b x[2000::2] 12:34:56 00:11:22:33:44:55",
        "/watch?v=4111111111111111 id=4111111111111111 sha-4111111111111111",
        "550e8400-e29b-41d4-a716-446655440000 0xDEADBEEF12345678",
        "2147483647 4294967295 9223372036854775807 18446744073709551615",
        "0000000 0101 1010 0110 1111 000 001 010 011",
        "x = a +12345678; y = +1.2345678; z = 1e+1012345678",
        # versions, sections, networks
        "Python 3.11.0.1, version 45.101.220.18, v93.184.216.34",
        "Chrome/91.0.44.72, pkg==45.1.2.3, lib-45.101.2.3.tar.gz",
        "1.2.3.4 Scope\n1.3.6.1.4.1.311.21 45.101.220.0/24",
        # other numbers
        "2024-10-12 12:34:56, 12.10.2024, 2024/10/12, 1999-2005, 2010-2020, UTC+0100",
        "ISBN 978-3-16-148410-0, 0-306-40615-2, ISSN 2049-3630, doi:10.1000/182",
        "1234567890 3.14159265358979 1 000 000 000 $1,234,567.89 40.712776, -74.005974",
        "100 200 300 400\n12 34 56 78 90 12\n1, 2, 3, 4, 5, 6, 7\n10-20-30-40",
        "4111111111111112, 1234 5678 9012 3456, 9999 9999 9999 9999",
        "DE00 3704 0044 0532 0130 00, GB82WEST12345698765433",
    ],
)
def test_what_only_looks_alike_stays(text: str) -> None:
    assert mask_pii(text) == (text, Counter())


def test_all_kinds_are_counted_and_the_rest_stays() -> None:
    values = [values[0] for values in FOUND.values()]
    masked, counts = mask_pii("First " + "; then ".join([*values, values[0]]) + " end.")
    assert counts == {**dict.fromkeys(FOUND, 1), "e-mail": 2}
    placeholders = [PLACEHOLDERS[kind] for kind in FOUND]
    assert masked == "First " + "; then ".join([*placeholders, placeholders[0]]) + " end."


def test_the_check_digit_finds_every_changed_digit() -> None:
    number = "4539148803436467"
    assert luhn_holds(number)
    for place, digit in enumerate(number):
        for other in set("0123456789") - {digit}:
            assert not luhn_holds(number[:place] + other + number[place + 1 :])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*(value for values in FOUND.values() for value in values), *"0123 .-+(:/@a\n"])))
def test_masking_twice_is_masking_once(pieces: list[str]) -> None:
    masked, _ = mask_pii("".join(pieces))
    assert mask_pii(masked) == (masked, Counter())


@pytest.mark.parametrize(
    "text", ["a" * 300_000, "1" * 300_000, "1 " * 150_000, "a@" * 150_000, "1.1" * 100_000, ":1" * 100_000]
)
def test_long_texts_without_an_end_take_linear_time(text: str) -> None:
    started = time.process_time()
    mask_pii(text)
    assert time.process_time() - started < 5
