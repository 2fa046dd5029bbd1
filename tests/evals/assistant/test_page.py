"""The page: nothing from elsewhere, no HTML of a model's; driven in a Chromium where there is one."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import httpx2
import pytest

from evals.assistant import repairing
from evals.assistant.app import KINDS, PAGE, assistant_routes
from evals.repair.backends.scripted import Scripted
from llama_scale.checkpoint.base import find_base
from llama_scale.checkpoint.export import import_checkpoint
from tests.browser import NAMES
from tests.llama_scale.serving.conftest import Server, runs, served, small_model, tokenizer, write_run  # noqa: F401

SOURCES = {name: (PAGE / name).read_text() for name in ("index.html", "app.js", "style.css")}
RIGHT = "def f(x):\n    return x * x\n"
TESTS = "assert f(2) == 4\nassert f(3) == 9\n"


def test_nothing_comes_from_elsewhere_and_nothing_is_html():
    assert {path.name for path in PAGE.iterdir()} == {*SOURCES, "icon.svg"}
    assert all(path.suffix in KINDS for path in PAGE.iterdir())
    for name, text in SOURCES.items():
        assert not re.search(r"(https?:)?//[a-z]+\.[a-z]|@import|url\(", text), name
    script, page = SOURCES["app.js"], SOURCES["index.html"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|localStorage", script)
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=", page)
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) == {
        "/static/icon.svg", "/static/style.css", "/static/app.js",
    }  # fmt: skip


def test_every_control_has_a_label_and_the_script_finds_its_elements():
    script, page = SOURCES["app.js"], SOURCES["index.html"]
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\$\("([\w-]+)"\)', script)) <= set(ids)
    for tag, attributes in re.findall(r"<(input|select|textarea)\b([^>]*)>", page):
        name = re.search(r'id="([^"]+)"', attributes)[1]
        wrapped = re.search(rf'<label[^>]*>(?:(?!</label>).)*id="{name}"', page, re.DOTALL)
        assert f'for="{name}"' in page or wrapped, (tag, name)


def luminance(color):
    digits = color.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(c * 2 for c in digits)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    return sum(w * (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4)
               for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True))  # fmt: skip


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_has_contrast_in_both_modes():
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[\da-f]+)", block))
        for block in re.findall(r":root \{(.*?)\}", SOURCES["style.css"], re.DOTALL)
    )
    words = ("ink", "soft", "keyword", "string", "comment", "number", "name", "builtin")
    for colors in (light, dark):
        pairs = [(word, ground) for word in words for ground in ("paper", "panel")]
        pairs += [("good", "paper"), ("bad", "gone"), ("on-accent", "accent"), ("ink", "added"), ("ink", "gone")]
        assert {pair: c for pair in pairs if (c := contrast(colors[pair[0]], colors[pair[1]])) < 4.5} == {}


def test_files_and_the_folder_of_a_model(assistant):
    for name, kind in [("app.js", "text/javascript"), ("style.css", "text/css"), ("icon.svg", "image/svg+xml")]:
        answer = httpx2.get(f"{assistant.url}/static/{name}")
        assert answer.headers["content-type"].startswith(kind) and answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    folder = httpx2.get(f"{assistant.url}/checkpoint?model=a@10").json()["checkpoint"]
    assert folder == str(assistant.shelf.root / "a" / "checkpoints" / "step-00000010")
    assert httpx2.get(f"{assistant.url}/checkpoint?model=../a").status_code == 404


@pytest.fixture(scope="module")
def ladder(tmp_path_factory, isolated, served):  # noqa: F811
    """A server of a run of three steps and two other runs, whose repairs are right in round 2."""
    root = tmp_path_factory.mktemp("ladder") / "runs"
    write_run(root / "M1", served.llama, served.tokenizer.path, (10, 20, 30))
    for number, layers in ((2, 3), (3, 4)):
        write_run(root / f"M{number}", small_model(served.tokenizer, n_layers=layers), served.tokenizer.path)

    class Model(Scripted):
        stopped = False

        def __init__(self, engine, loaded, drawn):
            programs = ["def f(x):\n    return 4  # <img src=x onerror=alert(1)> \u202e\n", RIGHT]
            super().__init__(lambda ask, n: f"```python\n{programs[ask.key[1] - 1]}```")

        def stop(self):
            self.stopped = True

    with pytest.MonkeyPatch.context() as patch, assistant_routes() as routes:
        patch.setattr(repairing, "ServedBackend", Model)
        server = Server(root, routes=routes)
        yield server
        server.close()


class Driven:
    """A page in a browser, with what its console said and where it asked."""

    def __init__(self, page, url):
        self.page, self.url, self.words, self.asked = page, url, [], []
        page.on("console", lambda message: self.words.append(message.text))
        page.on("pageerror", lambda error: self.words.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(url)
        self.until(lambda: page.locator("#model option").count() > 0)

    def until(self, holds, seconds=60):
        """Wait for something; the page's policy forbids the evaluation that the driver's own waiting needs."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.page.inner_text("main")
            self.page.wait_for_timeout(20)

    def state(self, id, words):
        self.until(lambda: re.search(words, self.page.text_content(f"#{id}")))


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright (extra test) is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as driver:
        try:
            found = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        except sync_api.Error as error:
            pytest.skip(f"Chromium does not start on this machine: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_does_all_it_is_for(ladder, browser, tmp_path, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(60_000)
    driven = Driven(page, ladder.url)
    shots = Path(os.environ.get("LLAMA_SCALE_SHOTS", tmp_path))

    # Complete with the keyboard: text comes at the cursor, and the line says how to have it again.
    page.fill("#program", "def f(x):\n")
    page.fill("#tests", TESTS)
    page.focus("#program")
    page.keyboard.press("Control+End")
    page.keyboard.press("Tab")
    page.click("#sampling summary")
    page.fill("#seed", "7")
    page.fill("#max-tokens", "24")
    page.focus("#program")
    page.keyboard.press("Control+Enter")
    driven.state("state", "tokens, ended by")
    program = page.input_value("#program")
    assert program.startswith("def f(x):\n    ") and len(program) > len("def f(x):\n    ")
    assert "launch/sample.py" in page.text_content("#command") and "--seed 7" in page.text_content("#command")
    assert page.text_content("#colours").rstrip("\n") == program.rstrip("\n")

    # Stop: Esc ends a long one, and what had come stays. Then Tab leaves the editor.
    page.uncheck("#stop-after")
    page.fill("#max-tokens", "230")
    page.fill("#program", "x = 1\n")
    page.focus("#program")
    page.keyboard.press("Control+End")
    page.keyboard.press("Control+Enter")
    driven.until(lambda: len(page.input_value("#program")) > 8)
    page.keyboard.press("Escape")
    driven.state("state", "stopped|ended by")
    driven.until(lambda: page.is_enabled("#complete"))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "tests"

    # Run: a verdict with both values; repair: rounds as diffs, the hostile one as text.
    page.fill("#program", "def f(x):\n    return x + x\n")
    page.click("#run")
    driven.state("verdict", "not passed: wrong answer, 1 of 2 tests hold")
    assert "got 6, expected 9" in page.text_content("#verdict")
    page.click("#repair")
    driven.state("state", "repaired in round 2")
    rounds = page.locator("#rounds-list > li")
    assert rounds.count() == 3 and "<img src=x onerror=alert(1)> \\u202e" in rounds.nth(1).text_content()
    assert rounds.nth(1).locator("img").count() == 0
    assert rounds.nth(2).locator(".plus").count() >= 1
    page.screenshot(path=shots / f"assistant-{width}.png", full_page=True)
    rounds.nth(2).locator("button").click()
    assert page.input_value("#program") == RIGHT

    # The ladder: three models side by side, each judged.
    page.fill("#program", "def f(x):\n    return")
    page.fill("#max-tokens", "16")
    page.click("#tab-ladder")
    assert page.locator("#chosen input:checked").count() == 3
    page.click("#climb")
    driven.state("ladder-state", "3 of 3 models ended")
    columns = page.locator("#columns .column")
    assert columns.count() == 3
    assert all(
        "tests hold" in columns.nth(i).text_content() or "not passed" in columns.nth(i).text_content() for i in range(3)
    )
    tops = {round(columns.nth(i).bounding_box()["y"]) for i in range(3)}
    assert len(tops) == (1 if width == 1280 else 3)
    page.screenshot(path=shots / f"assistant-ladder-{width}.png", full_page=True)
    page.select_option("#rung", "the steps of M1")
    assert page.locator("#chosen input").count() == 3
    adapters = [{**row, "id": f"tuned/{n}", "adapter": {"rank": 4}, "step_of": None,
                 "base": {"name": "/elsewhere/runs/M2/checkpoints/step-00000010", "kind": "run"}}
                for n, row in enumerate(httpx2.get(f"{ladder.url}/v1/models").json()["data"][:2])]  # fmt: skip
    page.route("**/v1/models", lambda route: route.fulfill(
        json={"data": [*httpx2.get(f"{ladder.url}/v1/models").json()["data"], *adapters]}))  # fmt: skip
    page.reload()
    driven.until(lambda: page.locator("#rung option").count() == 3)
    page.click("#tab-ladder")
    page.select_option("#rung", "adapters of M2")
    assert [page.locator("#chosen input").nth(n).get_attribute("value") for n in range(3)] == [
        "M2",
        "tuned/0",
        "tuned/1",
    ]

    # An error is one line; nothing on the console, nothing from elsewhere, nothing wider than the window.
    page.click("#tab-editor")
    page.click("#sampling summary")
    page.fill("#max-tokens", "0")
    page.click("#complete")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert driven.words == []
    assert {url.split("/")[2] for url in driven.asked} == {ladder.url.split("/")[2]}
    context.close()


TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
HOSTILE = "<img src=x onerror=alert(1)>\u202e see:\n```python\ndef f(x):\n    return x * x\n```\nDone."


def sent_chat(text):
    """A streamed answer of a chat as the server sends it."""
    parts = [{"delta": {"content": text}, "finish_reason": None}, {"delta": {}, "finish_reason": "stop"}]
    lines = [f"data: {json.dumps({'choices': [part]})}\n\n" for part in parts]
    return "".join([*lines, "data: [DONE]\n\n"])


@pytest.mark.slow
def test_a_chat_where_the_model_has_a_template(runs, browser, tmp_path):  # noqa: F811
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    with assistant_routes() as routes:
        plain, chatty = Server(runs, routes=routes), Server(runs, routes=routes, template=tmp_path / "t.jinja")
        context = browser.new_context(viewport={"width": 390, "height": 900})
        try:
            without = Driven(context.new_page(), plain.url)
            assert not without.page.is_visible("#tab-chat")
            driven = Driven(context.new_page(), chatty.url)
            page = driven.page
            page.set_default_timeout(60_000)

            # With the keyboard: to the third tab, a message, an answer, a second one that knows the first.
            page.focus("#tab-editor")
            page.keyboard.press("ArrowLeft")
            assert page.is_visible("#chat-view") and not page.is_visible("#code")
            page.click("#sampling summary")
            page.fill("#max-tokens", "12")
            page.fill("#message", "hi")
            page.focus("#message")
            page.keyboard.press("Control+Enter")
            driven.state("chat-state", "ended.*seed")
            assert page.locator("#turns > li").count() == 2 and page.input_value("#message") == ""
            bodies = []
            page.route("**/v1/chat/completions", lambda route: (
                bodies.append(route.request.post_data_json),
                route.fulfill(content_type="text/event-stream", body=sent_chat(HOSTILE)),
            ))  # fmt: skip
            page.fill("#message", "a square?")
            page.click("#send")
            driven.until(lambda: page.locator("#turns > li").count() == 4 and page.is_enabled("#send"))
            assert [m["role"] for m in bodies[0]["messages"]] == ["user", "assistant", "user"]
            last = page.locator("#turns > li").nth(3)
            assert "<img src=x onerror=alert(1)>\\u202e see:" in last.text_content()
            assert last.locator("img").count() == 0 and last.locator("pre").text_content() == RIGHT
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            last.locator("button").click()
            assert page.input_value("#program") == RIGHT and page.is_visible("#editor-view")

            # A fault gives the message back; a new chat is empty.
            page.click("#tab-chat")
            page.unroute("**/v1/chat/completions")
            page.fill("#message", "x " * 4000)
            page.click("#send")
            page.wait_for_selector("#problem:not([hidden])")
            assert page.input_value("#message") == "x " * 4000 and page.locator("#turns > li").count() == 4
            page.click("#afresh")
            assert page.locator("#turns > li").count() == 0
            assert [words for words in driven.words if "400" not in words] == []  # the browser's own line on the fault
        finally:
            context.close()
            plain.close()
            chatty.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_smollm2_answers_and_completes(smol, browser, tmp_path, width, scheme):
    shots = Path(os.environ.get("LLAMA_SCALE_SHOTS", tmp_path))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    try:
        driven = Driven(context.new_page(), smol.url)
        page = driven.page
        page.set_default_timeout(60_000)
        page.click("#sampling summary")
        page.fill("#temperature", "0")
        page.fill("#max-tokens", "48")
        page.click("#sampling summary")
        page.click("#tab-chat")
        page.fill("#message", "What is the capital of France?")
        page.click("#send")
        driven.until(lambda: page.is_enabled("#send"), 600)
        assert "Paris" in page.locator("#turns > li").nth(1).text_content()
        page.screenshot(path=shots / f"assistant-chat-{width}.png", full_page=True)
        page.click("#tab-editor")
        page.fill("#program", "def add(a, b):\n    return")
        page.fill("#tests", "assert add(2, 3) == 5\nassert add(-1, 1) == 0\n")
        page.focus("#program")
        page.keyboard.press("Control+End")
        page.keyboard.press("Control+Enter")
        driven.until(lambda: re.search("tokens, ended by", page.text_content("#state")), 600)
        page.click("#run")
        driven.state("verdict", "passed, 2 of 2 tests hold")
        assert driven.words == []
        page.screenshot(path=shots / f"assistant-smollm2-{width}.png", full_page=True)
    finally:
        context.close()


@pytest.fixture(scope="module")
def smol(request, tmp_path_factory, isolated):
    """A server of SmolLM2-135M-Instruct, which a package carries, taken over as a run."""
    base = find_base(str(request.getfixturevalue("smollm2_gguf")), tmp_path_factory.mktemp("bases"))
    root = tmp_path_factory.mktemp("smol") / "runs"
    import_checkpoint(base.folder, root / "SmolLM2-135M-Instruct" / "checkpoints" / "step-00000000")
    with assistant_routes() as routes:
        server = Server(root, routes=routes, memory=2 << 30)
        yield server
        server.close()
