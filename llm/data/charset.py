"""Bytes of a web page to text: byte order mark, then UTF-8, then what the page declares, then windows-1252.

A trial of UTF-8 comes before the declaration because it proves itself (other text is hardly ever valid UTF-8), while
declarations are often left over from an older version of a page.
"""

from __future__ import annotations

import codecs
import re

BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
META_BYTES = 4_096  # the HTML standard asks browsers for 1,024; real pages are later at times

# Codecs of Python for the labels of the WHATWG Encoding Standard (section 4.2). As there, a label may mean a superset
# of the charset it names: pages that say iso-8859-1 are windows-1252.
WEB_CODECS = {
    "utf-8": ("utf8",),
    "cp1252": ("windows-1252", "iso-8859-1", "latin1", "latin-1", "l1", "ascii", "us-ascii"),
    "cp1250": ("windows-1250",),
    "cp1251": ("windows-1251",),
    "cp1253": ("windows-1253",),
    "cp1254": ("windows-1254", "iso-8859-9", "latin5"),
    "cp1255": ("windows-1255",),
    "cp1256": ("windows-1256",),
    "cp1257": ("windows-1257",),
    "cp1258": ("windows-1258",),
    "cp866": ("ibm866",),
    "cp874": ("windows-874", "tis-620", "iso-8859-11"),
    "cp932": ("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j"),
    "cp949": ("euc-kr", "ks_c_5601-1987", "korean"),
    "gb18030": ("gb2312", "gbk", "x-gbk", "gb_2312-80"),
    "big5hkscs": ("big5", "big5-hkscs", "x-x-big5"),
    "euc_jp": ("euc-jp", "x-euc-jp"),
    "iso2022_jp": ("iso-2022-jp",),
    "koi8-r": ("koi8", "koi"),
    "koi8-u": ("koi8-ru",),
    "mac-roman": ("macintosh", "x-mac-roman"),
    "utf-16-le": ("utf-16", "utf-16le", "unicode"),
    "utf-16-be": ("utf-16be",),
    **{f"iso-8859-{n}": (f"iso8859-{n}", f"iso_8859-{n}") for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
}
_CODEC_OF_LABEL = {label: codec for codec, labels in WEB_CODECS.items() for label in (codec, *labels)}
_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_META_CHARSET = re.compile(rb"<meta\b[^>]{0,500}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)


def decode_html(html: bytes, content_type: str = "") -> str:
    """The text of `html`; `content_type` is the HTTP header, "" if there was none.

    Never raises: bytes that mean nothing in the charset become U+FFFD.
    """
    for mark, codec in BYTE_ORDER_MARKS:
        if html.startswith(mark):
            return html[len(mark) :].decode(codec, errors="replace")
    declared = declared_codec(html, content_type)
    if declared in ("utf-16-le", "utf-16-be", "iso2022_jp"):  # valid as UTF-8 too, and then wrong
        return html.decode(declared, errors="replace")
    try:
        # An incremental decoder forgives a last character cut in two, as where a crawler cuts a long page.
        text = codecs.getincrementaldecoder("utf-8")().decode(html)
    except UnicodeDecodeError:
        text = ""
    is_proven = not text.isascii() or len(text) == len(html)
    return text if is_proven else html.decode(declared or "cp1252", errors="replace")


def declared_codec(html: bytes, content_type: str = "") -> str | None:
    """The Python codec for the charset in the HTTP header, else in a meta element; None if none or an unknown one."""
    in_header = _HEADER_CHARSET.search(content_type)
    if in_header and (codec := _CODEC_OF_LABEL.get(in_header[1].lower())):
        return codec
    in_meta = _META_CHARSET.search(html[:META_BYTES])
    codec = _CODEC_OF_LABEL.get(in_meta[1].decode("ascii").lower()) if in_meta else None
    # A meta element that could be read as ASCII cannot be in UTF-16 (HTML standard, 13.2.3.2).
    return "utf-8" if codec in ("utf-16-le", "utf-16-be") else codec
