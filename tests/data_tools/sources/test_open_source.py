"""Every source can be opened at any of its documents."""

import json

from data_tools.sources import installed, local, the_stack


def test_sources_open_anywhere(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "code" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "code" / name / f"{i}.py").write_text(f"x = {i}\n")
    for name in ("a.jsonl", "b.jsonl"):
        lines = [json.dumps({"content": f"{name} {i}"}) for i in range(3)]
        (tmp_path / name).write_text("\n".join([*lines, "no json"]) + "\n")
    v2 = [{"files": [{"language": "Python", "path": f"{r}/{i}"} for i in range(2)]}
          for r in range(3)]  # fmt: skip
    opened = {
        "folder": lambda n: local.folder_documents(str(tmp_path / "code"), "Python", None, 99, n),
        "jsonl": lambda n: local.jsonl_documents(str(tmp_path), None, n),
        "installed": lambda n: installed.installed_documents(["packaging"], start=n),
        "v2": lambda n: the_stack.stack_v2_documents(iter(v2), None, "Python", 99, n),
    }
    for name, open_at in opened.items():
        rows = list(open_at(0))
        assert len(rows) >= 6
        for start in range(len(rows) + 2):
            assert list(open_at(start)) == rows[start:], name
