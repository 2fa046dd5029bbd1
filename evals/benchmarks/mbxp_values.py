"""MBXP's tests in Java and JavaScript: calls that a program prints the values of, and the values, known outside.

A value is written in one form, so that two are equal exactly if their lines are: Java's as ``equals`` of boxed values
and collections has it (an Integer is no Long), JavaScript's as lodash's ``isEqual``, which the published tests use.
"""

import hashlib
import re
import struct
from functools import lru_cache
from typing import Any

LOADED = "loaded"
LONGEST = 120  # characters of a value's line; of a longer one its hash is written
CALLED = {
    "python": r"^ +assert candidate(\(.*\)) ==",
    "java": r"^ +(?=\S)(?!throw).+? x\d+ = (.*);$",
    "javascript": r"^var x\d+ = (.*);$",
}
GIVEN = r"^ *(?!throw)\S.*? arg\d+ = (.*);$"  # an argument of a call, which JavaScript's calls have by its name
WANTED = {"java": r"^ +.+? v\d+ = (.*);$", "javascript": r"^var v\d+ = (.*);$"}
TYPED = re.compile(r"^ +(?=\S)((?!throw).+? x\d+ = .*;)$", re.M)
TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?[LdDfF]?)"""
    r"""|(?P<word>[A-Za-z_][\w.]*)|(?P<sign>[()\[\]{},:;]))"""
)
JAVA = """class Judged__ {
    static String show(Object v) throws Exception {
        String s = write(v);
        if (s.length() <= LONGEST) return s;
        StringBuilder b = new StringBuilder("hash ");
        for (byte x : java.security.MessageDigest.getInstance("SHA-256").digest(s.getBytes("UTF-8")))
            b.append(String.format("%02x", x));
        return b.toString();
    }
    static String write(Object v) {
        if (v == null) return "null";
        if (v instanceof Boolean) return v.toString();
        if (v instanceof Integer) return "i" + v;
        if (v instanceof Long) return "l" + v;
        if (v instanceof java.math.BigInteger) return "b" + v;
        if (v instanceof Double) return String.format("d%016x", Double.doubleToLongBits((Double) v));
        if (v instanceof String) {
            StringBuilder b = new StringBuilder("'");
            for (char c : ((String) v).toCharArray())
                if (c < 128 && (Character.isLetterOrDigit(c) || c == ' ')) b.append(c);
                else b.append(String.format("%%%04x", (int) c));
            return b.append("'").toString();
        }
        if (v instanceof java.util.Map) {
            java.util.List<String> all = new java.util.ArrayList<>();
            for (java.util.Map.Entry<?, ?> e : ((java.util.Map<?, ?>) v).entrySet())
                all.add(write(e.getKey()) + ":" + write(e.getValue()));
            return sorted(all, "{", "}");
        }
        if (v instanceof java.util.Set || v instanceof java.util.List) {
            java.util.List<String> all = new java.util.ArrayList<>();
            for (Object o : (java.util.Collection<?>) v) all.add(write(o));
            return v instanceof java.util.Set ? sorted(all, "<", ">") : "[" + String.join(",", all) + "]";
        }
        return "object of " + v.getClass().getName();
    }
    static String sorted(java.util.List<String> all, String open, String close) {
        java.util.Collections.sort(all);
        return open + String.join(",", all) + close;
    }
    public static void main(String[] a) throws Exception {
        java.io.PrintStream out = System.out;
        System.setOut(new java.io.PrintStream(java.io.OutputStream.nullOutputStream()));
        out.println("loaded");
TESTS        out.flush();
        System.exit(0);
    }
}
"""
JAVA_TEST = '        try {{ {} out.println(show({})); }} catch (Throwable e) {{ out.println("raised " + {}); }}\n'
JAVASCRIPT = """const __write = require("fs").writeSync, __hash = require("crypto").createHash;
function __show(value) {
    const open = [];
    const text = s => "'" + Array.from({length: s.length}, (_, i) => /[A-Za-z0-9 ]/.test(s[i]) ? s[i]
        : "%" + s.charCodeAt(i).toString(16).padStart(4, "0")).join("") + "'";
    function put(v) {
        if (v === null || v === undefined || typeof v === "boolean") return String(v);
        if (typeof v === "number") {
            const bytes = Buffer.alloc(8);
            bytes.writeDoubleBE(v === 0 ? 0 : v);
            return "n" + (Number.isNaN(v) ? "NaN" : bytes.toString("hex"));
        }
        if (typeof v === "string") return text(v);
        if (typeof v !== "object") return typeof v + " " + String(v);
        if (open.includes(v)) return "circle";
        open.push(v);
        let s;
        if (Array.isArray(v)) s = "[" + Array.from(v, put).join(",") + "]";
        else if (v instanceof Set) s = "<" + [...v].map(put).sort().join(",") + ">";
        else if (v instanceof Map) s = "Map{" + [...v].map(([k, w]) => put(k) + ":" + put(w)).sort().join(",") + "}";
        else {
            const kind = v.constructor && v.constructor !== Object ? String(v.constructor.name) : "";
            s = kind + "{" + Object.keys(v).map(k => text(k) + ":" + put(v[k])).sort().join(",") + "}";
        }
        open.pop();
        return s;
    }
    const line = put(value);
    return line.length <= LONGEST ? line : "hash " + __hash("sha256").update(line).digest("hex");
}
function __say(line) { __write(1, line + "\\n"); }
process.stdout.write = process.stderr.write = () => true;
//SOLUTION
__say("loaded");
TESTSprocess.exit(0);
"""
JAVASCRIPT_TEST = """try {{ __say(__show({})); }} catch (e) {{ __say("raised " + (e && e.name || typeof e)); }}
"""


def driver(test: str, language: str) -> str:
    """Return what prints the value of each call of the published tests, one to a line, after ``loaded``.

    JavaScript has a line ``//SOLUTION`` where the program belongs. What the program itself prints goes nowhere.
    """
    if language == "java":
        lines = []
        for statement in TYPED.findall(test):
            name = statement.partition(" = ")[0].split()[-1]
            lines.append(JAVA_TEST.format(statement, name, "e.getClass().getSimpleName()"))
        text = JAVA
    else:
        given = [line for line in test.splitlines() if re.match(GIVEN, line)]
        calls = [JAVASCRIPT_TEST.format(call) for call in re.findall(CALLED[language], test, re.M)]
        lines, text = ["\n".join([*given, ""]), *calls], JAVASCRIPT
    return text.replace("TESTS", "".join(lines)).replace("LONGEST", str(LONGEST))


def java_imports(source: str) -> tuple[str, str]:
    """Return the import lines at the head of a program, and the rest."""
    match = re.match(r"(?:\s*import [\w.*]+;)*", source)
    return source[: match.end()].strip(), source[match.end() :]


def reason_of(expected: list[str], found: list[str]) -> str:
    """Return why the first test failed: what it raised, or that its answer is wrong."""
    for wanted, line in zip(expected, [*found, *[""] * len(expected)], strict=False):
        if wanted != line:
            return re.sub(r"[^\w ]", "?", line[:80]) if line.startswith("raised ") else "wrong answer"
    return "wrong answer"


@lru_cache(maxsize=4096)
def _lines(test: str, language: str) -> tuple[str, ...]:
    wanted = re.findall(WANTED[language], test, re.M)
    if not wanted or len(wanted) != len(re.findall(CALLED[language], test, re.M)):
        raise ValueError(f"{len(wanted)} values for its calls")
    return tuple(_shown(read_value(text, language)) for text in wanted)


def expected_lines(test: str, language: str) -> list[str]:
    """Return the line of each value that the published tests expect; raise ValueError where one cannot be read."""
    return list(_lines(test, language))


def _shown(line: str) -> str:
    return line if len(line) <= LONGEST else f"hash {hashlib.sha256(line.encode()).hexdigest()}"


def read_value(text: str, language: str) -> str:
    """Return the form of a literal of the tests."""
    tokens, at = [], 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{text[at : at + 20]!r} in a value")
        tokens.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    reader = Reader(tokens, language)
    value = reader.value()
    if reader.tokens:
        raise ValueError(f"{reader.tokens[0][1]!r} after a value")
    return value


class Reader:
    """Reads literals from tokens (kind, text), which it takes from the front."""

    def __init__(self, tokens: list[tuple[Any, str]], language: str):
        self.tokens, self.language = tokens, language

    def take(self, *expected: str) -> str:
        """Take the next token, which must be one of those ``expected`` if there are any."""
        if not self.tokens or (expected and self.tokens[0][1] not in expected):
            raise ValueError(f"{self.tokens[0][1] if self.tokens else 'the end'!r}, expected {' or '.join(expected)}")
        return self.tokens.pop(0)[1]

    def next_is(self, *signs: str) -> bool:
        """Whether the next token is one of these."""
        return bool(self.tokens) and self.tokens[0][1] in signs

    def many(self, close: str) -> list[str]:
        """Read values separated by commas, and the sign that closes them."""
        values = []
        while not self.next_is(close):
            values.append(self.value())
            if self.next_is(","):
                self.take(",")
        self.take(close)
        return values

    def value(self) -> str:
        """Read one value; return its form."""
        kind, text = self.tokens[0] if self.tokens else (None, "the end")
        self.take()
        if kind == "text":
            return quoted(unescaped(text[1:-1]))
        if kind == "number":
            return self.number(text)
        if text in ("true", "false", "null", "undefined"):
            return text
        if text == "[":
            return f"[{','.join(self.many(']'))}]"
        if text == "{":
            return self.members()
        if text == "Arrays.asList":
            self.take("(")
            return f"[{','.join(self.many(')'))}]"
        if text == "new":
            return self.made()
        raise ValueError(f"{text!r} in a value")

    def number(self, text: str) -> str:
        """Return the form of a number: a double by its bits."""
        if self.language == "java" and re.fullmatch(r"-?\d+", text):
            return f"i{int(text)}"
        if text.endswith("L"):
            return f"l{int(text[:-1])}"
        bits = struct.pack(">d", float(text.rstrip("dDfF")) + 0.0).hex()
        return f"{'d' if self.language == 'java' else 'n'}{bits}"

    def members(self) -> str:
        """Read the rest of a JavaScript object."""
        found = {}
        while not self.next_is("}"):
            kind, text = self.tokens.pop(0)
            key = unescaped(text[1:-1]) if kind == "text" else text
            self.take(":")
            found[key] = self.value()
            if self.next_is(","):
                self.take(",")
        self.take("}")
        return "{" + ",".join(sorted(f"{quoted(k)}:{v}" for k, v in found.items())) + "}"

    def made(self) -> str:
        """Read what ``new`` makes: a collection, or a big number."""
        name = self.take("HashMap", "HashSet", "BigInteger", "Set")
        self.take("(")
        inner = self.tokens[0][1] if name in ("BigInteger", "Set") else ""
        values = self.many(")")
        if name == "BigInteger":
            return f"b{int(inner[1:-1])}"
        if name == "Set":
            return "<" + ",".join(sorted(set(split_list(values[0]) if values else []))) + ">"
        items = {}
        self.take("{"), self.take("{")
        while self.next_is("put", "add"):
            self.take()
            self.take("(")
            key, *rest = self.many(")")
            items[key] = f"{key}:{rest[0]}" if rest else key
            self.take(";")
        self.take("}"), self.take("}")
        inside = ",".join(sorted(items.values()))
        return f"{{{inside}}}" if name == "HashMap" else f"<{inside}>"


def split_list(form: str) -> list[str]:
    """Return the forms in the form of a list; texts in forms have no brackets or commas of their own."""
    parts, depth, last = [], 0, 1
    for i, sign in enumerate(form[1:-1], start=1):
        depth += (sign in "[{<") - (sign in "]}>")
        if sign == "," and not depth:
            parts.append(form[last:i])
            last = i + 1
    return [*parts, form[last:-1]] if form != "[]" else []


def quoted(text: str) -> str:
    """Return the form of a text: letters, digits and spaces of ASCII stand for themselves."""
    units = struct.unpack(f"<{len(text.encode('utf-16-le')) // 2}H", text.encode("utf-16-le"))
    plain = [chr(u) if u < 128 and (chr(u).isalnum() or u == 32) else f"%{u:04x}" for u in units]
    return f"'{''.join(plain)}'"


ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0"}


def unescaped(text: str) -> str:
    """Return what a literal's text stands for."""
    return re.sub(
        r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))",
        lambda m: chr(int(m[1] or m[2], 16)) if m[1] or m[2] else ESCAPES.get(m[3], m[3]),
        text,
    )
