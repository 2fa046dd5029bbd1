"""Secrets and personal data in source code: emails, keys and public IP addresses."""

import ipaddress
import re

EMAIL = re.compile(rb"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w@(])")
IPV4 = re.compile(rb"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
EMAIL_MARK = re.compile(rb"@[A-Za-z0-9-]+\.")  # begins with a literal: a fast way to say no
IPV4_MARK = re.compile(rb"\.\d{1,3}\.\d")
KEYS = re.compile(
    rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{36,}\b|"
    rb"\bhf_[A-Za-z0-9]{30,}\b|\bsk-[A-Za-z0-9_-]{32,}\b|\bxox[abprs]-[A-Za-z0-9-]{20,}|"
    rb"\bAIza[0-9A-Za-z_-]{35}|\bglpat-[\w-]{20,}|"
    rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[^-]{32,}-----END (?:[A-Z]+ )*PRIVATE KEY-----"
)
KEY_MARKS = (
    b"AKIA", b"ASIA", b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_", b"hf_", b"sk-",
    b"xox", b"AIza", b"glpat-", b"PRIVATE KEY",
)  # fmt: skip
RESERVED = (b"example.com", b"example.org", b"example.net", b".example", b".invalid", b".test")


def redact(content: bytes) -> tuple[bytes, int]:
    """Replace emails, keys and public IPv4 addresses; return the content and how many there were.

    Reserved names and addresses (example.com, private and documentation ranges) name nobody and stay.
    """
    count = 0

    def email(match: re.Match) -> bytes:
        nonlocal count
        if match[0].lower().endswith(RESERVED):
            return match[0]
        count += 1
        return b"<EMAIL>"

    def address(match: re.Match) -> bytes:
        nonlocal count
        try:
            public = ipaddress.IPv4Address(match[0].decode()).is_global
        except ValueError:
            return match[0]
        # 1.2.3.4 and the like are versions more often than hosts.
        if not public or max(map(int, match[0].split(b"."))) < 32:
            return match[0]
        count += 1
        return b"<IP_ADDRESS>"

    if any(mark in content for mark in KEY_MARKS):
        content, n_keys = KEYS.subn(b"<KEY>", content)
        count += n_keys
    if EMAIL_MARK.search(content):
        content = EMAIL.sub(email, content)
    if IPV4_MARK.search(content):
        content = IPV4.sub(address, content)
    return content, count
