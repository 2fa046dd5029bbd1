"""Rows of CodeXGLUE from a local copy, by the loading code of the Hub: published columns, the docstring taken out."""

import ast

import pyarrow
import pyarrow.parquet
import pytest

pytest.importorskip("tree_sitter", reason="tree-sitter is not installed")
from data_tools.pairs.build import build_pairs
from data_tools.pairs.code_x_glue import code_x_glue_documents, commented_javascript, on_lines
from data_tools.pairs.config import PairsConfig
from llama_scale.data.examples import read_pairs
from llama_scale.errors import InputError

PYTHON = '''def settext{n}(self, text, cls='current'):
        """Set the text for this element {n}.

        Args: text."""
        self.replace_{n}(TextContent, value=text, cls=cls)
        for part_{n} in self:
            part_{n}.link(text)'''
JAVA = """protected final void fast{n}(U value, boolean delay{n}) {{
        if (delay{n}) {{
            a(value);
        }}
    }}"""
JAVASCRIPT = "function (Node, name{n}) {{\n    this.check(name{n});\n    return Node.a{n};\n  }}"
CODE = {
    "python": (PYTHON, "Set the text for this element {n}.\n\n        Args: text."),
    "java": (JAVA, "Makes sure the value {n} is queued.\n@param value the value */"),
    "javascript": (JAVASCRIPT, "Creates the node number {n} of a name.\n@param {{Node}} Node"),
}


def row(language, n):
    code, doc = (text.format(n=n) for text in CODE[language])
    return {
        "id": n, "repo": f"owner/r{n % 4}", "path": f"a/f{n}.x", "func_name": f"A.make{n}", "original_string": code,
        "language": language, "code": code, "code_tokens": code.split(), "docstring": doc,
        "docstring_tokens": doc.split(), "sha": "c5bd4a3b" * 5, "url": "https://github.com/x",
    }  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A folder as the Hub has it: a card that names the files of each language and split."""
    root = tmp_path_factory.mktemp("glue")
    card = "---\nconfigs:\n"
    for language in CODE:
        (root / language).mkdir()
        card += f"- config_name: {language}\n  data_files:\n"
        for split, numbers in (("train", range(8)), ("test", range(100, 104))):
            table = pyarrow.Table.from_pylist([row(language, n) for n in numbers])
            pyarrow.parquet.write_table(table, root / language / f"{split}-00000-of-00001.parquet")
            card += f"  - split: {split}\n    path: {language}/{split}-*\n"
    (root / "README.md").write_text(card + "---\n")
    return root


def pairs_of(copy, language, tmp_path, **fields):
    config = PairsConfig(**{
        "name": language, "out": str(tmp_path), "source": "codexglue-code-to-text", "path": str(copy),
        "language": language, "humaneval": False, "near_duplicates": False, "workers": 1,
    } | fields)  # fmt: skip
    build_pairs(config)
    return [read_pairs(tmp_path / language / f"{split}.jsonl") for split in ("train", "test")]


def test_python_rows_lose_their_docstring(copy, tmp_path):
    train, test = pairs_of(copy, "python", tmp_path)
    assert (len(train), len(test)) == (8, 4)
    pair = train[3]
    assert pair.id == "owner/r3/a/f3.x:A.make3:train-3:1"
    assert pair.prompt == "# Set the text for this element 3.\ndef settext3(self, text, cls='current'):\n"
    assert pair.completion == (
        "    self.replace_3(TextContent, value=text, cls=cls)\n    for part_3 in self:\n        part_3.link(text)\n"
    )
    assert not any("Set the text" in p.rest["reference"] for p in train + test)
    assert ast.get_docstring(ast.parse(pair.rest["reference"]).body[0]) is None
    assert {p.rest["package"] for p in test} == {"owner/r0", "owner/r1", "owner/r2", "owner/r3"}
    assert (pair.rest["license"], pair.rest["source"], pair.rest["complexity"]) == (
        "unknown",
        "owner/r3 c5bd4a3bc5bd",
        2,
    )


def test_java_and_javascript_rows(copy, tmp_path):
    pair = pairs_of(copy, "java", tmp_path)[0][0]
    assert (
        pair.prompt
        == "/** Makes sure the value 0 is queued. */\nprotected final void fast0(U value, boolean delay0) {\n"
    )
    assert pair.completion == "    if (delay0) {\n        a(value);\n    }\n}\n"
    pair = pairs_of(copy, "javascript", tmp_path, format="seed")[0][0]
    assert pair.prompt == "Prompt: Creates the node number 0 of a name.\nCode:\n"
    assert pair.completion == "function make0(Node, name0) {\n  this.check(name0);\n  return Node.a0;\n}\n"


def test_methods_and_generators_of_javascript():
    assert commented_javascript("Says it.", "function* (a) {}", "A.b") == "/**\n * Says it.\n */\nfunction* b(a) {}"
    assert commented_javascript("Says it.", "render() {}", "A.render").startswith("({\n/**")


def test_concode_gets_its_lines(tmp_path):
    code = "int function ( ) { for ( int i = 0 ; i < n ; i ++ ) { a ( i ) ; } return 1 ; }"
    assert on_lines(code) == (
        "int function ( ) {\n    for ( int i = 0 ; i < n ; i ++ ) {\n        a ( i ) ;\n    }\n    return 1 ;\n}"
    )
    root = tmp_path / "concode"
    root.mkdir()
    table = pyarrow.Table.from_pylist([{"id": 7, "nl": "gives the number one concode_field_sep int n", "code": code}])
    pyarrow.parquet.write_table(table, root / "train-00000-of-00001.parquet")
    (document,) = code_x_glue_documents("text_to_code", "java", "train", str(root))
    assert (document.package, document.path) == ("concode", "train-7")
    assert document.content == f"class C {{\n/**\n * gives the number one\n */\n{on_lines(code)}\n}}\n".encode()


def test_what_is_missing_is_named(copy, tmp_path):
    with pytest.raises(InputError, match=r"path: .*none: no such folder; give a copy of google/code_x_glue_ct"):
        list(code_x_glue_documents("code_to_text", "python", "train", str(tmp_path / "none")))
    with pytest.raises(InputError, match=r"no python validation data there"):
        list(code_x_glue_documents("code_to_text", "python", "validation", str(copy)))
    with pytest.raises(InputError, match=r"language: text_to_code is in java alone, found python"):
        list(code_x_glue_documents("text_to_code", "python", "train", str(copy)))
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "nl": ["x"]}), tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"column code is NoneType, expected str"):
        list(code_x_glue_documents("text_to_code", "java", "train", str(tmp_path)))


@pytest.mark.parametrize("text", ["null\n", '{"id": 1}\nnull\n', "[1, 2]\n", "{\n"])
def test_rows_that_are_none_are_named_before_they_are_read(tmp_path, text):
    """Of some of them the library that reads them ends the whole process."""
    (tmp_path / "train.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"train.jsonl: row \d is no JSON object; give the data set as published"):
        list(code_x_glue_documents("text_to_code", "java", "train", str(tmp_path)))
