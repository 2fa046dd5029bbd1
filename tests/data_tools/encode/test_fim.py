"""Fill-in-the-middle cuts a share of the documents, anywhere."""

import numpy as np
import pytest

from data_tools.encode.fim import FimSettings, cut_for_fim


def test_fim_cuts_a_share_anywhere():
    text = "é" + "abc\n" * 25
    found = [cut_for_fim(text, str(i), FimSettings(0.4, 0.25, 7)) for i in range(4000)]
    assert all("".join(parts) == text for _, parts in found)
    kinds = [kind for kind, _ in found]
    assert kinds.count(None) / 4000 == pytest.approx(0.6, abs=0.03)
    assert kinds.count("spm") / 1600 == pytest.approx(0.25, abs=0.04)
    cuts = np.array([(len(p), len(p) + len(m)) for kind, (p, m, _) in found if kind])
    assert cuts.min() == 0
    assert cuts.max() == len(text)
    assert cuts.mean(axis=0) == pytest.approx([len(text) / 3, 2 * len(text) / 3], rel=0.06)
    assert found == [cut_for_fim(text, str(i), FimSettings(0.4, 0.25, 7)) for i in range(4000)]
    assert [cut_for_fim(text, str(i), FimSettings(0.4, 0.25, 8))[0] for i in range(4000)] != kinds
    assert cut_for_fim("", "x", FimSettings(1.0, 0.0, 0)) == ("psm", ("", "", ""))
