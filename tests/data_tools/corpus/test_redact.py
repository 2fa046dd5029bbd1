"""Secrets go, names that look like them stay."""

import pytest

from data_tools.corpus.redact import redact

PEM = (
    b"-----BEGIN RSA PRIVATE KEY-----\n" + b"MIIEpAIBAAKCAQEA" * 9
    + b"\n-----END RSA PRIVATE KEY-----"
)  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"# by Ada <ada.l+x@uni.ac.uk>, Bob", b"# by Ada <<EMAIL>>, Bob"),
        (b"mail = 'someone@example.com'", None),
        (b"@app.route('/')\n@pytest.mark.slow\nx @ y.T", None),
        (b"git@github.com:a/b.git ssh://git@host", b"<EMAIL>:a/b.git ssh://git@host"),
        (b"host = '93.184.216.34'", b"host = '<IP_ADDRESS>'"),
        (b"127.0.0.1 192.168.1.77 10.0.0.255 0.0.0.0 203.0.113.9", None),
        (b"version 1.2.3.4, 999.1.1.1, 1.2.3.4.5, 33.44.55.66.77", None),
        (b"key = 'AKIAIOSFODNN7EXAMPLE'", b"key = '<KEY>'"),
        (b"t = 'ghp_" + b"aB3" * 12 + b"'", b"t = '<KEY>'"),
        (b"t = 'hf_" + b"aB3" * 12 + b"' and hf_config", b"t = '<KEY>' and hf_config"),
        (b"a\n" + PEM + b"\nb", b"a\n<KEY>\nb"),
        (b"sk-learn and sk-image", None),
    ],
)
def test_redact(before, after):
    content, count = redact(before)
    assert content == (before if after is None else after)
    assert count == (after is not None)
    assert redact(content) == (content, 0), "once is enough"
