"""The tokens of a language's own lexer: operators, brackets and Python's indentation count, comments and layout do not.

Similarities of code are computed on these. Whitespace tokens split ``f(x)`` from ``f( x )``, and a reader of words
alone (``[a-z0-9]+``) gives ``a + b`` and ``a - b`` the same score.
"""

import io
import re
import tokenize

from evals.metrics.syntax_tree import leaves, parse

LAYOUT = {tokenize.NEWLINE: "NEWLINE", tokenize.INDENT: "INDENT", tokenize.DEDENT: "DEDENT"}
LEFT_OUT = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
WORD = re.compile(r"\w+|[^\w\s]")


def language_tokens(source: str, language: str = "python") -> list[str]:
    """Return the tokens of a program or a part of one, comments left out; of what is blank there are none.

    Python has ``NEWLINE``, ``INDENT`` and ``DEDENT`` among them. Text that is not of the language has tokens all the
    same: what a lexer cannot read is split into words and signs. Java and JavaScript need tree-sitter.
    """
    if not source.strip():
        return []
    if language == "python":
        return _python_tokens(source)
    return [node.text.decode() for node in leaves(parse(source, language).root_node)]


def _python_tokens(source: str) -> list[str]:
    """Return Python's tokens; a body that is indented as a whole is read as it would stand in its function."""
    tokens, end = [], (1, 0)
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in LEFT_OUT:
                tokens.append(LAYOUT.get(token.type, token.string))
                end = token.end
    except (tokenize.TokenError, SyntaxError):
        lines = source.splitlines(keepends=True)[end[0] - 1 :]
        rest = "".join(lines)[end[1] :]
        tokens += WORD.findall(rest)
    return tokens
