"""Does a text parse, by the language's own parser: CPython's compile, V8's, javac's. Nothing of the text is run.

Many texts share a process in the sandbox. A text that ends the parser (too deep, too long) does not parse; where the
language's tool is missing nothing is said at all.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

from evals.sandbox.types import NOT_MEASURED, SANDBOX_LOST, Script
from evals.verdicts import Execution

BATCH = 50
SECONDS = 20.0  # of CPU for a batch
PYTHON = """import json, sys, warnings
warnings.simplefilter("ignore")
def parses(text):
    try:
        compile(text, "text", "exec", dont_inherit=True)
        return True
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
print("".join("y" if parses(text) else "n" for text in json.load(sys.stdin)))
"""
JAVASCRIPT = """const vm = require("vm");
function parses(text) {
    try { new vm.Script(text); return true; } catch (e) { return false; }
}
const all = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(all.map(text => parses(text) ? "y" : "n").join(""));
"""
# A line of standard input is a text in base64, as Java has no reader of JSON; c says that it also compiles.
JAVA = """import com.sun.source.util.JavacTask;
import java.io.*;
import java.net.URI;
import java.util.*;
import javax.tools.*;
public class Main {
    static class Text extends SimpleJavaFileObject {
        final String text;
        Text(String text) { super(URI.create("string:///Main.java"), Kind.SOURCE); this.text = text; }
        public CharSequence getCharContent(boolean ignore) { return text; }
    }
    static String check(JavaCompiler compiler, String text) {
        try {
            DiagnosticCollector<JavaFileObject> found = new DiagnosticCollector<>();
            JavacTask task = (JavacTask) compiler.getTask(null, null, found,
                List.of("-proc:none", "-XDshould-stop.ifError=FLOW"), null, List.of(new Text(text)));
            task.parse();
            if (failed(found)) return "n";
            task.analyze();
            return failed(found) ? "y" : "c";
        } catch (Throwable error) { return "n"; }
    }
    static boolean failed(DiagnosticCollector<JavaFileObject> found) {
        for (Diagnostic<?> d : found.getDiagnostics()) if (d.getKind() == Diagnostic.Kind.ERROR) return true;
        return false;
    }
    public static void main(String[] args) throws Exception {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        StringBuilder all = new StringBuilder();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null; )
            all.append(check(compiler, new String(Base64.getDecoder().decode(line), "UTF-8")));
        System.out.println(all);
    }
}
"""
CHECKERS = {"python": PYTHON, "java": JAVA, "javascript": JAVASCRIPT}


@dataclass(frozen=True)
class Syntax:
    """Whether a text parses, and in Java whether its names and types are right as well; None if that is not known."""

    parses: bool
    compiles: bool | None = None


def check_syntax(texts: Sequence[str], language: str, execution: Execution) -> list[Syntax | None]:
    """Return what the language's parser says of each text, None where it is not measured. A blank text does not parse.

    Java's texts are whole files, as are the others: a method stands in its class.
    """
    found: dict[int, Syntax | None] = {i: Syntax(False) for i, text in enumerate(texts) if not text.strip()}
    batches = [i for i in range(len(texts)) if i not in found]
    waiting = [batches[start : start + BATCH] for start in range(0, len(batches), BATCH)]
    while waiting:
        scripts = [_script([texts[i] for i in batch], language) for batch in waiting]
        verdicts = execution.judge(scripts, SECONDS, f"{language} syntax")
        again = []
        for batch, verdict in zip(waiting, verdicts, strict=True):
            letters = verdict.output.strip()
            if verdict.reason in (NOT_MEASURED, SANDBOX_LOST):
                found |= dict.fromkeys(batch)
            elif verdict.passed and len(letters) == len(batch):
                found |= {i: _syntax(letter, language) for i, letter in zip(batch, letters, strict=True)}
            elif len(batch) == 1:
                found[batch[0]] = Syntax(False)
            else:  # one of them ended the parser
                again += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        waiting = again
    return [found[i] for i in range(len(texts))]


def _syntax(letter: str, language: str) -> Syntax:
    return Syntax(letter != "n", letter == "c" if language == "java" else None)


def _script(texts: Sequence[str], language: str) -> Script:
    clean = [text.encode("utf-8", "replace").decode() for text in texts]
    if language == "java":
        stdin = "".join(f"{base64.b64encode(text.encode()).decode()}\n" for text in clean)
    else:
        stdin = json.dumps(clean)
    return Script(CHECKERS[language], stdin, language)
