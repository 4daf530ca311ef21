"""Personal data in texts: e-mail and IP addresses, telephone, card and bank account numbers become placeholders.

The placeholders are values that are reserved for examples, so that the text stays natural, nobody can be meant by them,
and a second pass changes nothing. Where a number may as well be something else (a version, an ISBN, an identifier) it
stays: a checksum, a separator, a label or a reserved range decides.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from ..common.addresses import private_kind

PLACEHOLDERS = {
    "e-mail": "email@example.com",  # RFC 2606
    "IPv4 address": "192.0.2.1",  # RFC 5737
    "IPv6 address": "2001:db8::1",  # RFC 3849
    "phone number": "555-0100",  # reserved for fiction in the North American plan
    "card number": "0000 0000 0000 0000",
    "bank account": "XX00 0000 0000 0000",  # XX is no country
}

Accept = Callable[["re.Match[str]"], bool]


def mask_pii(text: str) -> tuple[str, Counter[str]]:
    """Returns the text with personal data replaced, and how many of each kind of `PLACEHOLDERS` there were."""
    counts: Counter[str] = Counter()
    if "@" in text:
        text = _replace(text, "e-mail", _EMAIL, _is_email, counts)
    if ":" in text:
        text = _replace(text, "IPv6 address", _IPV6, _is_public_ipv6, counts)
    if not _LONG_NUMBER.search(text):
        return text, counts
    text = _replace(text, "IPv4 address", _IPV4, _is_public_ipv4, counts)
    text = _replace(text, "bank account", _IBAN, _is_iban, counts)
    text = _replace(text, "card number", _CARD, _is_card, counts)
    for pattern, accept in _PHONES:
        text = _replace(text, "phone number", pattern, accept, counts)
    return text, counts


def _replace(text: str, kind: str, pattern: re.Pattern[str], accept: Accept, counts: Counter[str]) -> str:
    """Returns `text` with the accepted matches replaced."""

    def placeholder(match: re.Match[str]) -> str:
        if not accept(match):
            return match[0]
        counts[kind] += 1
        return PLACEHOLDERS[kind]

    return pattern.sub(placeholder, text)


_GAP = r"[ .\-/\u00a0\u2011\u2013]"
_LONG_NUMBER = re.compile(rf"\d(?:(?:(?:[()]|{_GAP}){{0,3}}\d){{6}}|\.\d{{1,3}}\.\d{{1,3}}\.\d)")
"""Where this is not found there is no number of the kinds below: one search in place of eight.

All of them begin with the first character, then look back: so the search goes from digit to digit, three times as fast.
"""


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


# ---------------------------------------------------------------- e-mail

# After a word of one, an address cannot begin; 64 is the longest local part (RFC 5321).
_EMAIL = re.compile(
    r"(?<![\w.%+-])[A-Za-z0-9_][\w.%+-]{0,63}+@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+([A-Za-z]{2,18})\b",
    re.ASCII,
)
_RESERVED_DOMAIN = re.compile(r"[@.](?:example\.(?:com|org|net|edu)|example|test|invalid|localhost)$", re.IGNORECASE)
# With the two-letter codes of countries these end nearly all addresses; `x@self.weight` and `logo@2x.png` do not.
_LONG_TOP_DOMAINS = """
    academy aero agency app art berlin bio biz blog business buzz capital care cat center church city cloud club
    coach com community company consulting coop design dev digital edu education email energy engineering events
    expert family film finance fitness foundation fun fund gallery global gov group guide guru health help host house
    inc info int international jobs land law legal life link live london ltd management market marketing media mil
    mobi money museum name net network news ngo nyc one online ong org page partners photography photos plus press
    pro pub quest school science services shop site social software solutions space store studio support systems
    team tech technology tel today tools top tours town training travel university ventures video vip wiki win wine
    work works world xyz yoga zone
"""
_TOP_DOMAINS = frozenset(_LONG_TOP_DOMAINS.split())
_SOURCE_FILES = frozenset(["cc", "gz", "js", "md", "pl", "py", "rb", "rs", "sh", "so", "ts"])
"""Countries' codes that more often end the name of a file after an @ (`icon@2x.js`)."""


def _is_email(match: re.Match[str]) -> bool:
    """Returns whether it is somebody's address: not reserved for examples, not a place in a repository, not code."""
    domain = match[1].lower()
    if len(domain) == 2 and domain in _SOURCE_FILES and match[0].count(".") == 1:
        return False
    if (len(domain) > 2 and domain not in _TOP_DOMAINS) or _RESERVED_DOMAIN.search(match[0]):
        return False
    before, after = match.string[max(match.start() - 3, 0) : match.start()], match.string[match.end() :][:2]
    is_code = after[:1] in ("(", "[") or re.match(r":[\w/~]", after) is not None  # x@y.to(...), git@host:path
    return not is_code and not before.endswith("://")


# ---------------------------------------------------------------- IP addresses

_IPV4 = re.compile(r"\d(?<![\w.-]\d)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?![\w-]|\.\w|/\d)")  # with /24 it is a network
_IPV6 = re.compile(r"[23](?<![\w:.].)[0-9a-fA-F]{3}:[0-9a-fA-F:]{3,34}(?![\w:]|\.\d)")
_VERSION_BEFORE = re.compile(
    r"(?:\b(?:v|ver|versions?|releases?|rev|revision|build|updates?|firmware|driver|section|chapter|clause|python|"
    r"chrome|chromium|windows|android|ios|kernel)[\s.:=-]*|[A-Za-z]/|[=<>~]=\s?|\^|§\s?)$",
    re.IGNORECASE,
)
_ADDRESS_NEAR = re.compile(
    r"\b(?:ips?|ipv4|address(?:es)?|hosts?|servers?|ping|traceroute|dns|gateway|proxy|subnet|netmask|whois)\b",
    re.IGNORECASE,
)
_RESOLVERS = frozenset(["1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9"])
"""Public name servers that everybody names: general knowledge, not personal data."""
_SMALL_NUMBER = 32
"""Four numbers below this are a version or a section unless the text around them speaks of addresses."""


def _is_public(address: str) -> bool:
    """Returns whether an address may be somebody's: a public one, or one with a public one in it."""
    try:
        return private_kind(address) in (None, "a 6to4", "a Teredo")
    except ValueError:
        return False


def _is_public_ipv4(match: re.Match[str]) -> bool:
    if match[0] in _RESOLVERS or not _is_public(match[0]):
        return False
    before = match.string[max(match.start() - 60, 0) : match.start()]
    if _VERSION_BEFORE.search(before[-24:]):
        return False
    if max(map(int, match[0].split("."))) >= _SMALL_NUMBER:
        return True
    return _ADDRESS_NEAR.search(before + match.string[match.end() :][:40]) is not None


def _is_public_ipv6(match: re.Match[str]) -> bool:
    """Returns whether it is an address: at least three groups are written, so that a slice `x[2000::2]` is none."""
    return sum(map(bool, match[0].split(":"))) >= 3 and _is_public(match[0])


# ---------------------------------------------------------------- card and account numbers

_CARD = re.compile(r"\d(?<![\w.=/+-].)(?<!\d .)(?:[ -]?\d){12,18}(?![\w.=/-]*\w)(?! \d)")
# Visa, Mastercard, American Express, Discover, JCB, Diners, each with its lengths.
_ISSUERS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}|"
    r"(?:6011|64[4-9]\d|65\d\d|35[2-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}"
)
_CARD_GROUPS = re.compile(r"\d+|\d{4}([ -])\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5}")
_IBAN = re.compile(r"[A-Z](?<![\w-].)[A-Z]\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")


def _is_card(match: re.Match[str]) -> bool:
    digits = _digits(match[0])
    is_issued = _CARD_GROUPS.fullmatch(match[0]) and _ISSUERS.fullmatch(digits)
    return bool(is_issued) and luhn_holds(digits)


def luhn_holds(digits: str) -> bool:
    """Returns whether the last digit is the check digit of those before it (ISO/IEC 7812-1, Luhn's formula)."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0


def _is_iban(match: re.Match[str]) -> bool:
    """Returns whether the check digits are right: with the first four moved last it is 1 modulo 97 (ISO 13616)."""
    code = match[0].replace(" ", "")
    if not (15 <= len(code) <= 34 and sum(map(str.isdigit, code)) >= 10):
        return False
    return int("".join(str(int(char, 36)) for char in code[4:] + code[:4])) % 97 == 1


# ---------------------------------------------------------------- telephone numbers

_COUNTRY = (
    r"(?:1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|2[1-689]\d|3[578]\d|42\d|5[09]\d|6[789]\d|"
    r"8[05789]\d|9[679]\d)"
)
_INTERNATIONAL = re.compile(
    rf"(?:\+(?<![\w+.].)|00(?<![\w.,:+/-]00)(?<!\d 00) ?(?=[1-9]))(?:\(0?{_COUNTRY}\)|{_COUNTRY}){_GAP}?"
    rf"(?:\(\d{{1,5}}\){_GAP}?)?\d(?:{_GAP}?\d){{5,12}}(?![\w+]|{_GAP}\d)"
)
_AREA = r"[2-9][0-8]\d"
_NORTH_AMERICAN = re.compile(
    r"[(1-9](?<![\w.+/=-].)(?<!\d .)"
    rf"(?:(?<=1)[-. ]\(?{_AREA}\)?[-. ]|(?<=\(){_AREA}\) ?|(?<=[2-9])[0-8]\d[-.])"
    r"[2-9]\d\d[-. ]\d{4}(?![\w=/]|[-.]\w| \d)"
)
_FRENCH = re.compile(r"0(?<![\w.,:/+-]0)(?<!\d 0)[1-9]([ .-])\d\d(?:\1\d\d){3}(?!\w|[ .,:/-]\d)")
_LEADING_ZERO = re.compile(
    r"[(0](?<![\w.,:/+-].)(?<!\d .)(?:(?<=\()0[1-9]\d{1,3}\) ?|(?<=0)[1-9]\d{1,3}[ -])"
    r"\d{3,4}[ -]?\d{3,4}(?!\w|[ .,:/-]\d)"
)
_AFTER_LABEL = re.compile(
    rf"[(\d](?<![\w.,/-].)(?:[()]|{_GAP}){{0,2}}\d(?:(?:[()]|{_GAP}){{0,2}}\d){{4,12}}(?!\w|[.,/-]\d)"
)
_LABEL = re.compile(
    r"(?<!\w)(?:tel|tél|phone|telephone|téléphone|telefon|teléfono|telefone|telefono|fax|mobile|mob|cell|handy|móvil|"
    r"whatsapp|hotline|call(?: us)?|тел|телефон|電話|电话)(?: ?(?:no|nr|number|numbers|us|at|on)\b)?"
    r"[.:：)]{0,2}[ \u00a0]{0,2}$",
    re.IGNORECASE,
)


def _is_international(match: re.Match[str]) -> bool:
    """Returns whether it is a number and not a sum or a decimal fraction: `+1.2345678` has one dot alone."""
    gaps = re.sub(r"[\d+()]", "", match[0])
    return 8 <= len(_digits(match[0])) <= 15 and gaps != "." and (gaps != "" or len(_digits(match[0])) >= 10)


def _is_north_american(match: re.Match[str]) -> bool:
    digits = _digits(match[0])[-10:]
    return not (digits[3:6] == "555" and digits[6:8] == "01")


def _has_many_digits(match: re.Match[str]) -> bool:
    """Returns whether it looks like no binary number and no year range: more than two different digits."""
    return len(set(_digits(match[0]))) > 2


def _is_labelled(match: re.Match[str]) -> bool:
    """Returns whether "phone" or the like stands right before it."""
    if match[0].startswith("555-01") or not _has_many_digits(match):
        return False
    return _LABEL.search(match.string[max(match.start() - 32, 0) : match.start()]) is not None


_PHONES: tuple[tuple[re.Pattern[str], Accept], ...] = (
    (_INTERNATIONAL, _is_international),
    (_NORTH_AMERICAN, _is_north_american),
    (_FRENCH, _has_many_digits),
    (_LEADING_ZERO, _has_many_digits),
    (_AFTER_LABEL, _is_labelled),
)
