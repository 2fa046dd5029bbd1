"""Java and JavaScript programs behind the same walls; skipped where the tool is not installed."""

import json
import os
import shutil
import socket

import psutil
import pytest

from evals import code_suite
from evals.benchmarks import apps
from evals.benchmarks.apps import AppsConfig
from evals.benchmarks.rows import Row
from evals.benchmarks.suite import Suite
from evals.results import read_completions
from evals.sandbox import pool, worker
from evals.sandbox.pool import Sandbox
from evals.sandbox.tools import find_tool
from evals.sandbox.types import NOT_MEASURED, Script
from evals.verdicts import Execution
from llama_scale.errors import InputError

HONEST = {
    "java": """import java.util.*;
public class Main {
    static int twice(int n) { return 2 * n; }
    public static void main(String[] a) {
        Scanner in = new Scanner(System.in);
        List<Integer> all = new ArrayList<>();
        while (in.hasNextInt()) all.add(twice(in.nextInt()));
        Thread t = new Thread(() -> System.out.println(all));
        t.start();
    }
}""",
    "javascript": """const lines = require("fs").readFileSync(0, "utf8").trim().split(/\\s+/);
const all = lines.map(n => 2 * parseInt(n));
setTimeout(() => console.log("[" + all.join(", ") + "]"), 5);""",
}
# Each says "harm" if it did what it must not be able to do.
JAVA = {
    "write": 'java.nio.file.Files.writeString(java.nio.file.Path.of("/tmp/harm"), "x");',
    "write elsewhere": 'new java.io.FileOutputStream("/dev/shm/harm").write(1);',
    "passwd": 'java.nio.file.Files.readString(java.nio.file.Path.of("/etc/passwd"));',
    "home": 'if (new java.io.File("/root").listFiles().length < 1) throw new Exception();',
    "connect": 'new java.net.Socket("127.0.0.1", PORT);',
    "listen": "new java.net.ServerSocket(0);",
    "datagram": "new java.net.DatagramSocket();",
    "shell": 'new ProcessBuilder("/bin/sh", "-c", "true").start();',
    "itself": 'new ProcessBuilder("TOOL", "-version").start();',
    "runtime": 'Runtime.getRuntime().exec("TOOL");',
    "others": "if (ProcessHandle.allProcesses().count() < 2) throw new Exception();",
    "modules": 'java.nio.file.Files.createSymbolicLink(java.nio.file.Path.of("/tmp/harm_link"), '
    'java.nio.file.Path.of("/etc"));',
}
JAVASCRIPT = {
    "write": 'fs.writeFileSync("/tmp/harm", "x")',
    "append to itself": 'fs.appendFileSync("/tmp/main.js", "x")',
    "passwd": 'fs.readFileSync("/etc/passwd")',
    "home": 'fs.readdirSync("/root")',
    "unlink": 'fs.unlinkSync("/tmp/main.js")',
    "link": 'fs.symlinkSync("/etc", "/tmp/harm_link")',
    "shell": 'const r = child.spawnSync("/bin/sh", ["-c", "true"]); if (r.error) throw r.error',
    "itself": 'const r = child.spawnSync("TOOL", ["-v"]); if (r.error) throw r.error',
    "kill": 'process.kill(-1, "SIGKILL")',
    "user": "process.setuid(1000)",
    "connect": 'await new Promise((yes, no) => require("net").connect(PORT, "127.0.0.1")'
    '.on("connect", yes).on("error", no))',
    "listen": 'await new Promise((yes, no) => require("net").createServer().listen(0)'
    '.on("listening", yes).on("error", no))',
    "datagram": 'await new Promise((yes, no) => require("dgram").createSocket("udp4").bind(0)'
    '.on("listening", yes).on("error", no))',
}
BOMBS = {
    "java": [
        "public class Main { public static void main(String[] a) { while (true) { } } }",
        'public class Main { public static void main(String[] a) { while (true) System.out.println("harm"); } }',
        "import java.util.*; public class Main { public static void main(String[] a) {"
        " List<long[]> l = new ArrayList<>(); while (true) l.add(new long[1 << 20]); } }",
        'public class Main { public static void main(String[] a) { System.out.println("harm");'
        " Runtime.getRuntime().halt(1); } }",
        "public class Main { public static void main(String[] a) { new Thread(() -> {"
        ' while (true) { } }).start(); System.out.println("harm"); } }',
        "public class Main { not Java",
    ],
    "javascript": [
        "while (true) { }",
        'while (true) console.log("harm")',
        "const l = []; while (true) l.push(new Array(1 << 20).fill(1))",
        'console.log("harm"); process.exit(1)',
        'console.log("harm"); setInterval(() => { while (true) { } }, 1)',
        "not JavaScript",
    ],
}


@pytest.fixture(scope="module")
def box():
    with Sandbox(2) as box:
        if box.level != "isolated":
            pytest.skip("these languages need the level isolated")
        yield box


@pytest.fixture(params=["java", "javascript"])
def language(request):
    if find_tool(request.param) is None:
        pytest.skip(f"no tool for {request.param} on this machine")
    return request.param


def run(box, language, sources, stdin="", timeout=2.0):
    return list(box.run([Script(source, stdin, language) for source in sources], timeout))


def test_honest_programs_run(box, language):
    (verdict,) = run(box, language, [HONEST[language]], "1 2\n30\n")
    assert (verdict.passed, verdict.output.strip()) == (True, "[2, 4, 60]"), verdict


# Each prints the two numbers of its input, and something to standard error.
QUIET = {
    "java": [
        "import java.util.*; public class Main { public static void main(String[] a) { System.err.println(1);"
        " List raw = new ArrayList(); raw.add(1); Scanner in = new Scanner(System.in);"
        ' System.out.println(in.nextInt() + " " + in.nextInt()); } }',
        "import java.nio.file.*; public class Main { public static void main(String[] a) throws Exception {"
        ' System.out.print(new String(Files.readAllBytes(Path.of("/dev/stdin")))); } }',
        "import java.util.*; public class Main implements Runnable { public void run() {"
        ' Scanner in = new Scanner(System.in); System.out.println(in.nextInt() + " " + in.nextInt()); }'
        ' public static void main(String[] a) { new Thread(null, new Main(), "", 1 << 28).start(); } }',
    ],
    "javascript": [
        'console.error(1); console.warn(2); console.log(require("fs").readFileSync(0, "utf8").trim())',
        'console.log(require("fs").readFileSync("/dev/stdin", "utf8").trim())',
        'process.stdin.on("data", text => process.stdout.write(text)); process.emitWarning("x")',
        'require("readline").createInterface({input: process.stdin}).on("line", line => console.log(line))',
    ],
}


def test_standard_error_is_not_output_and_input_is_read_in_every_way(box, language):
    scripts = [Script(source, "1 2\n", language, expected="1 2") for source in QUIET[language]]
    assert [verdict.reason for verdict in box.run(scripts, 4.0)] == ["passed"] * len(scripts)


def test_attacks_do_no_harm(box, language):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, tool = str(server.getsockname()[1]), find_tool(language).argv[0]
        if language == "java":
            sources = [
                "public class Main { public static void main(String[] a) throws Throwable { "
                f'{line} System.out.println("harm"); }} }}'
                for line in JAVA.values()
            ]
        else:
            sources = [
                'const fs = require("fs"), child = require("child_process");\n'
                f'(async () => {{ {line}; console.log("harm"); process.exit(0) }})()'
                ".catch(e => process.exit(3))"
                for line in JAVASCRIPT.values()
            ]
        sources = [s.replace("PORT", port).replace("TOOL", tool) for s in sources]
        before = set(psutil.pids())
        verdicts = run(box, language, sources)
        server.settimeout(0)
        with pytest.raises(OSError):
            server.accept()
    for name, verdict in zip(JAVA if language == "java" else JAVASCRIPT, verdicts, strict=True):
        assert not verdict.passed and "harm\n" not in verdict.output, (name, verdict)
        assert verdict.reason == "raised", (name, verdict)  # refused, not out of time
    left = os.listdir("/tmp") + os.listdir("/dev/shm")
    assert not [name for name in left if name.startswith("harm")]
    assert not [pid for pid in set(psutil.pids()) - before if is_ours(pid, tool)]


def is_ours(pid, program):
    """Whether a process runs ``program`` for this test, or has lost the process that started it."""
    try:
        process = psutil.Process(pid)
        parents = [parent.pid for parent in process.parents()]
        return process.exe() == program and (os.getpid() in parents or parents[:1] in ([], [1]))
    except psutil.Error:
        return False


def test_bombs_end(box, language):
    verdicts = run(box, language, BOMBS[language], timeout=0.5)
    assert [verdict.passed for verdict in verdicts] == [False] * len(verdicts), verdicts
    assert verdicts[0].reason == verdicts[4].reason == "timeout"
    assert len(verdicts[1].output) <= worker.OUTPUT_BYTES
    (verdict,) = run(box, language, [HONEST[language]], "4")
    assert verdict.passed


def suite(*rows):
    config = AppsConfig()
    problems = [apps.parse_problem(Row("", "", row), row["problem_id"]) for row in rows]
    return Suite(config, [apps.task(problem, config) for problem in problems], {})


def test_a_missing_tool_is_not_measured_and_never_passed(box, monkeypatch):
    monkeypatch.setattr(pool, "find_tool", lambda language: None)
    verdict, python = box.run([Script("x", "", "java"), Script("print(input())", "a")], 2.0)
    assert (verdict.passed, verdict.reason) == (False, NOT_MEASURED) and python.passed
    problem = {
        "problem_id": 7, "question": "Add.", "difficulty": "introductory", "starter_code": "",
        "solutions": '["print(sum(map(int, input().split())))"]',
        "input_output": json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]}),
    }  # fmt: skip
    call = problem | {"problem_id": 8, "input_output": json.dumps(
        {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]})}  # fmt: skip
    found = suite(problem, call)
    java = {"task_id": "APPS/7", "sample": 0, "completion": "class A {}", "language": "java"}
    rows = [java, {"task_id": "APPS/7", "sample": 1, "completion": "print(3)"}]
    with Execution() as execution:
        execution._sandbox = box
        result, samples = code_suite.score(rows, found, execution)
        assert result["not_measured"] == 1 and result["pass_at_k"] == {"1": 1.0}
        assert [s["reason"] for s in samples] == [NOT_MEASURED, "passed"]
        result, _ = code_suite.score([java], found, execution)
        assert result["pass_at_k"] == {} and result["n_tasks"] == 0
        result, _ = code_suite.score([java | {"task_id": "APPS/8"}], found, execution)
        assert result["pass_at_k"] == {} and result["not_measured"] == 1
        execution._sandbox = None


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_apps_samples_in_another_language(box, tmp_path):
    file = tmp_path / "s.jsonl"
    source = 'const [a, b] = require("fs").readFileSync(0, "utf8").split(" ").map(Number);'
    right = {"task_id": "APPS/7", "completion": f"{source} console.log(a + b)"}
    rows = [right | {"language": "javascript"}, right]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = {
        "problem_id": 7, "question": "Add.", "difficulty": "introductory", "starter_code": "",
        "input_output": json.dumps({"inputs": ["1 2", "5 6"], "outputs": ["3", "11"]}),
    }  # fmt: skip
    found = suite(row)
    with Execution() as execution:
        _, samples = code_suite.score(read_completions(file), found, execution)
    assert [(s["passed"], s["assertions_passed"]) for s in samples] == [(True, 2), (False, 0)]
    file.write_text(json.dumps(right | {"language": "cobol"}))
    with pytest.raises(InputError, match=r"s\.jsonl: line 1: field 'language' is 'cobol'"):
        read_completions(file)
