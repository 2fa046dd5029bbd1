"""Fields of results, samples, verdicts and completions that files once had under another name."""

from typing import Any

RENAMED = {
    "ended_by": "finish_reason",
    "gold_prompts_cut": "gold_prompts_truncated",
    "held": "assertions_passed",
    "labelled": "labeled",
    "prompt_cut": "prompt_truncated",
    "prompts_cut": "prompts_truncated",
    "tests": "assertions",
    "tests_held": "assertion_pass_rate",
}
# What said that a document had ended, and that nobody had looked.
FINISH_REASONS = {"end": "stop", "transformers": None}


def with_current_names(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row or a result with the names and the finish reasons of today."""
    row = {RENAMED.get(name, name): value for name, value in row.items()}
    if "finish_reason" in row:
        reason = row["finish_reason"]
        row["finish_reason"] = FINISH_REASONS.get(reason, reason)
    return row
