"""Which benchmark tasks the training data's sources held, as its preparation found them."""

from pathlib import Path

from llama_scale.errors import InputError
from llama_scale.files import read_json

FORMAT = "llama_scale.contamination.v1"
Contamination = dict[str, dict[str, list[str]]]  # {suite: {task_id: files of the training data}}


def contamination(data: str | None) -> Contamination:
    """Return the tasks that sources of the training data held, which were removed for it; none if not known."""
    path = Path(data or "") / "contamination.json"
    if not data or not path.is_file():
        return {}
    report, contaminated = read_json(path), {}
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise InputError(f"{path}: not {FORMAT}; run launch/prepare.py again")
    try:
        for row in report["files"]:
            for match in row["matches"]:
                files = contaminated.setdefault(match["benchmark"], {}).setdefault(match["task"], [])
                if (name := f"{row['package']}/{row['path']}") not in files:
                    files.append(name)
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"damaged ({type(error).__name__}: {error})"
        raise InputError(f"{path}: {problem}; run launch/prepare.py again") from None
    return contaminated
