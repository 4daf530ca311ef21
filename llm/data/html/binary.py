"""Files that are no text, whatever their HTTP header says: told by the bytes they begin with."""

from __future__ import annotations

# https://mimesniff.spec.whatwg.org, section 6, and the formats' own descriptions
SIGNATURES = (
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\x89PNG\r\n", "PNG image"),
    (b"\xff\xd8\xff", "JPEG image"),
    (b"GIF87a", "GIF image"),
    (b"GIF89a", "GIF image"),
    (b"II*\x00", "TIFF image"),
    (b"MM\x00*", "TIFF image"),
    (b"\x00\x00\x01\x00", "icon"),
    (b"RIFF", "RIFF media"),
    (b"OggS", "Ogg media"),
    (b"ID3", "MP3 audio"),
    (b"fLaC", "FLAC audio"),
    (b"\x1a\x45\xdf\xa3", "Matroska video"),
    (b"PK\x03\x04", "zip archive"),
    (b"PK\x05\x06", "zip archive"),
    (b"\x1f\x8b", "gzip archive"),
    (b"BZh", "bzip2 archive"),
    (b"\xfd7zXZ\x00", "xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (b"\x28\xb5\x2f\xfd", "zstandard archive"),
    (b"Rar!\x1a\x07", "RAR archive"),
    (b"\xd0\xcf\x11\xe0", "old Office file"),
    (b"{\\rtf", "RTF file"),
    (b"SQLite format 3\x00", "SQLite file"),
    (b"PAR1", "Parquet file"),
    (b"\x7fELF", "program"),
    (b"\xca\xfe\xba\xbe", "program"),
    (b"\x00asm", "program"),
    (b"MZ\x90", "program"),
    (b"wOFF", "font"),
    (b"wOF2", "font"),
    (b"\x00\x01\x00\x00", "font"),
    (b"OTTO", "font"),
)


WORDS = (b"RIFF", b"OggS", b"ID3", b"fLaC", b"BZh", b"PAR1", b"wOFF", b"wOF2", b"OTTO")
"""Signatures that a text may begin with too: a zero byte further on proves them."""


def binary_kind(body: bytes) -> str:
    """Returns what kind of binary file `body` is ("PDF"), "" for what may be text. White space may stand before it."""
    if body[4:8] == b"ftyp":
        return "MP4 media"
    for start in (body[:512], body[:512].lstrip()):
        for signature, kind in SIGNATURES:
            if start.startswith(signature) and (signature not in WORDS or b"\x00" in start):
                return kind
    return ""
