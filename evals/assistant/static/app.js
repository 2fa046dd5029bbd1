"use strict";
// The page of the assistant. What a model or a program wrote is set as text alone, never as HTML.

const $ = (id) => document.getElementById(id);
const STOPS = ["\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```"];  // the last ends a chat model's code
// Control, direction and separator characters: written as Python escapes, so that nothing hides in a program.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;
const VIEWS = ["editor", "ladder", "chat"];
const state = { models: [], running: null, climbing: null, answering: null, turns: [], leaving: false, paths: new Map() };

// ---- text

function plain(text) {
  return text.replace(HIDDEN, (c) => {
    const code = c.codePointAt(0).toString(16);
    return code.length > 2 ? "\\u" + code.padStart(4, "0") : "\\x" + code.padStart(2, "0");
  });
}

function element(tag, text = "", kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function problem(error) {
  const text = error ? String(error.message || error).split("\n")[0] : "";
  $("problem").textContent = plain(text);
  $("problem").hidden = !text;
}

// A shell's quotes around any text.
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\\''") + "'");

// ---- colours of Python

const KEYWORDS = new Set(("False None True and as assert async await break case class continue def del elif else except " +
  "finally for from global if import in is lambda match nonlocal not or pass raise return try while with yield").split(" "));
const BUILTINS = new Set(("abs all any bool bytes chr dict divmod enumerate filter float frozenset int isinstance iter len list " +
  "map max min next object open ord pow print range repr reversed round self set sorted str sum super tuple type zip").split(" "));
const TOKEN = new RegExp([
  String.raw`(?<s>[rbfuRBFU]{0,2}(?:"""(?:\\[\s\S]|(?!""")[\s\S])*(?:"""|$)|'''(?:\\[\s\S]|(?!''')[\s\S])*(?:'''|$)` +
    String.raw`|"(?:\\[\s\S]|[^"\\\n])*"?|'(?:\\[\s\S]|[^'\\\n])*'?))`,
  String.raw`(?<c>#[^\n]*)`,
  String.raw`(?<n>\b(?:0[xob][\da-f_]+|\d[\d_]*(?:\.[\d_]*)?(?:e[-+]?\d+)?j?)\b)`,
  String.raw`(?<w>[\p{L}_][\p{L}\p{N}_]*)`,
].join("|"), "giu");

// Yield [text, kind] over all of a text: kinds are k(eyword), s(tring), c(omment), n(umber), d(efinition), b(uiltin), "".
function* tokens(text) {
  let end = 0, before = "";
  for (const match of text.matchAll(TOKEN)) {
    if (match.index > end) yield [text.slice(end, match.index), ""];
    const { s, c, n, w } = match.groups;
    let kind = s !== undefined ? "s" : c !== undefined ? "c" : n !== undefined ? "n" : "";
    if (w !== undefined) {
      kind = KEYWORDS.has(w) ? "k" : before === "def" || before === "class" ? "d" : BUILTINS.has(w) ? "b" : "";
      before = w;
    }
    yield [match[0], kind];
    end = match.index + match[0].length;
  }
  if (end < text.length) yield [text.slice(end), ""];
}

function coloured(text) {
  const parts = document.createDocumentFragment();
  for (const [part, kind] of tokens(text)) parts.append(kind ? element("span", part, kind) : part);
  return parts;
}

let painted = null;
function paint() {
  if (painted !== $("program").value) {
    painted = $("program").value;
    $("colours").replaceChildren(coloured(painted), "\n");
  }
  $("colours").scrollTop = $("program").scrollTop;
  $("colours").scrollLeft = $("program").scrollLeft;
}

// ---- the server

function headers(more = {}) {
  const token = sessionStorage.getItem("token");
  return token ? { ...more, authorization: "Bearer " + token } : more;
}

async function ask(path, body, signal) {
  const settings = body === undefined ? { headers: headers(), signal } :
    { method: "POST", headers: headers({ "content-type": "application/json" }), body: JSON.stringify(body), signal };
  let answer;
  try {
    answer = await fetch(path, settings);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("the server does not answer; is it still running?");
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    if (answer.status === 401) throw new Error("this server wants its token: open the address that it printed, with #token=");
    throw new Error(told.error ? told.error.message : "the server answered " + answer.status);
  }
  return answer;
}

// Yield the events of a streamed answer.
async function* events(path, body, signal) {
  const answer = await ask(path, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
        const event = JSON.parse(line.slice(6));
        if (event.error) throw new Error(event.error.message);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function number(id, fallback) {
  const value = $(id).valueAsNumber;
  if ($(id).value.trim() === "" && !$(id).validity.badInput) return fallback;
  if (!$(id).checkValidity() || Number.isNaN(value)) {
    $("sampling").open = true;
    $(id).focus();
    throw new Error($(id).parentElement.firstChild.textContent.trim() + ": " + ($(id).validationMessage || "not a number"));
  }
  return value;
}

function sampling() {
  const seed = number("seed", null);
  return {
    temperature: number("temperature", 0.2), top_p: number("top-p", 0.95), max_tokens: number("max-tokens", 128),
    seed: seed === null ? crypto.getRandomValues(new Uint32Array(1))[0] >>> 1 : seed,
  };
}

const stops = () => ($("stop-after").checked ? STOPS : []);

async function checkpoint(model) {
  if (!state.paths.has(model)) {
    const answer = await ask("/checkpoint?model=" + encodeURIComponent(model));
    const found = await answer.json();
    state.paths.set(model, quoted(found.checkpoint) + (found.precision === "bf16" ? " --precision bf16" : ""));
  }
  return state.paths.get(model);
}

// The command that draws the same text.
async function command(model, prompt, body) {
  if (body.suffix !== undefined) {
    const sent = { ...body, stream: false };
    return `curl ${location.origin}/v1/completions -H 'content-type: application/json' -d ${quoted(JSON.stringify(sent))}`;
  }
  const stop = body.stop.length ? ` --stop=${quoted(JSON.stringify(body.stop))}` : "";
  return `python launch/sample.py ${await checkpoint(model)} --temperature ${body.temperature} --top_p ${body.top_p}` +
    ` --seed ${body.seed} --max_new_tokens ${body.max_tokens}${stop} --prompt=${quoted(prompt)}`;
}

// ---- models

const row = (id) => state.models.find((model) => model.id === id);

const count = (value) => (value >= 1e9 ? (value / 1e9).toFixed(1) + "B" : value >= 1e6 ? (value / 1e6).toFixed(1) + "M" :
  value >= 1e3 ? (value / 1e3).toFixed(0) + "k" : String(value));

function about(model) {
  if (!model) return "";
  const scores = model.scores || {};
  const percent = (name, words) => (typeof scores[name] === "number" ? `${words} ${(100 * scores[name]).toFixed(1)} %` : null);
  return [
    model.size, count(model.parameters) + " parameters", model.tokens_trained ? count(model.tokens_trained) + " tokens" : null,
    typeof scores.val_loss === "number" ? "validation loss " + scores.val_loss.toFixed(3) : null,
    percent("humaneval", "HumanEval"), percent("mbpp", "MBPP"), model.adapter ? "adapter" : null,
    model.fim ? "fills gaps" : null, "step " + model.step,
  ].filter(Boolean).join(" · ");
}

// The sets that a person may compare: newest of each run, the steps of a run, a base with its adapters.
function rungs() {
  const runs = state.models.filter((model) => model.step_of === null || model.step_of === undefined);
  const plainRuns = runs.filter((model) => !model.adapter);
  const sorted = [...plainRuns].sort((a, b) => a.parameters - b.parameters || a.tokens_trained - b.tokens_trained);
  const sets = [{ name: "the ladder: runs by size", ids: sorted.map((model) => model.id) }];
  for (const run of runs) {
    const steps = state.models.filter((model) => model.step_of === run.id).sort((a, b) => a.step - b.step);
    if (steps.length > 1) sets.push({ name: "the steps of " + run.id, ids: steps.map((model) => model.id) });
  }
  const bases = new Map();
  for (const model of runs.filter((each) => each.adapter && each.base)) {
    const name = typeof model.base === "string" ? model.base : model.base.run || model.base.name || JSON.stringify(model.base);
    bases.set(name, [...(bases.get(name) || []), model.id]);
  }
  for (const [name, ids] of bases) {
    const base = runs.find((model) => `/${name}/`.includes(`/${model.id}/`));
    sets.push({ name: "adapters of " + (base ? base.id : name), ids: base ? [base.id, ...ids] : ids });
  }
  return sets;
}

const MOST_COLUMNS = 5;

// At most five of a set, its ends among them.
const spread = (ids) => (ids.length <= MOST_COLUMNS ? ids :
  [...Array(MOST_COLUMNS).keys()].map((i) => ids[Math.round((i * (ids.length - 1)) / (MOST_COLUMNS - 1))]));

function showRung() {
  const set = rungs()[$("rung").selectedIndex];
  const chosen = new Set(set ? spread(set.ids) : []);
  $("chosen").replaceChildren(element("legend", "Models"));
  for (const id of set ? set.ids : []) {
    const label = element("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.value = id;
    box.checked = chosen.has(id);
    label.append(box, " " + id);
    $("chosen").append(label);
  }
}

async function load() {
  const answer = await ask("/v1/models");
  state.models = (await answer.json()).data;
  for (const model of state.models) {
    const option = element("option", model.id);
    option.value = model.id;
    $("model").append(option);
  }
  const kept = sessionStorage.getItem("model");
  if (row(kept)) $("model").value = kept;
  chosen();
  $("rung").replaceChildren(...rungs().map((set) => element("option", set.name)));
  showRung();
}

// What is known of the chosen model; there is a chat where it has a template for one.
function chosen() {
  const model = row($("model").value), chats = Boolean(model && model.chat);
  $("about").textContent = about(model);
  $("tab-chat").hidden = !chats;
  if (!chats && !$("chat-view").hidden) view("editor");
}

// ---- one thing at a time in the editor

async function busy(words, work) {
  if (state.running) return;
  problem(null);
  state.running = new AbortController();
  setBusy(true);
  $("state").textContent = words;
  try {
    $("state").textContent = (await work(state.running.signal)) || "";
  } catch (error) {
    $("state").textContent = error.name === "AbortError" ? "stopped" : "";
    if (error.name !== "AbortError") problem(error);
  } finally {
    state.running = null;
    setBusy(false);
  }
}

function setBusy(on) {
  for (const id of ["complete", "run", "repair"]) $(id).disabled = on;
  $("stop").disabled = !on;
}

const stop = () => { if (state.running) state.running.abort(); };

// ---- completion

function complete() {
  return busy("completing", async (signal) => {
    const area = $("program"), place = area.selectionStart;
    const prefix = area.value.slice(0, place), after = area.value.slice(area.selectionEnd);
    const model = $("model").value, body = { model, prompt: prefix, ...sampling(), stop: stops(), stream: true };
    if ($("fill").checked && row(model) && row(model).fim && after.trim()) body.suffix = after;
    let text = "", reason = "", tokensDrawn = 0;
    area.value = prefix + after;
    area.setSelectionRange(place, place);
    body.stream_options = { include_usage: true };
    try {
      for await (const event of events("/v1/completions", body, signal)) {
        if (event.usage) tokensDrawn = event.usage.completion_tokens;
        for (const choice of event.choices) {
          const piece = plain(choice.text);
          area.setRangeText(piece, place + text.length, place + text.length, "end");
          text += piece;
          reason = choice.finish_reason || reason;
          paint();
        }
      }
    } finally {
      area.setSelectionRange(place + text.length, place + text.length);
      paint();
    }
    delete body.stream_options;
    $("command").textContent = plain(await command(model, prefix, body));
    $("again").hidden = false;
    return `${tokensDrawn} tokens, ended by ${reason === "stop" ? "a stop" : "the limit of tokens"}, seed ${body.seed}`;
  });
}

// ---- run

function verdictWords(found) {
  const tests = found.assertions ? `, ${found.assertions_passed} of ${found.assertions} tests hold` : "";
  return (found.passed ? "passed" : "not passed: " + plain(found.reason)) + tests;
}

function failureList(failures) {
  const list = element("ul");
  for (const failure of failures.slice(0, 5)) {
    const values = failure.got || failure.expected ? `: got ${failure.got}, expected ${failure.expected}` : "";
    const claim = failure.claimed ? ` (the program says: ${failure.claimed}${failure.line ? ", line " + failure.line : ""})` : "";
    list.append(element("li", plain((failure.test || "the program") + ": " + failure.reason + values + claim), "words"));
  }
  return list;
}

async function judge(program, tests, signal) {
  return (await ask("/run", { program, tests }, signal)).json();
}

function run() {
  return busy("running", async (signal) => {
    $("verdict").replaceChildren();
    const found = await judge($("program").value, $("tests").value, signal);
    $("verdict").append(element("p", verdictWords(found), found.passed ? "good" : "bad"));
    if (found.failures && found.failures.length) $("verdict").append(failureList(found.failures));
    if (found.output) $("verdict").append(element("h2", "Output"), element("pre", plain(found.output)));
    const where = found.isolation ? found.isolation.level : "";
    $("verdict").append(element("p", `${found.seconds.toFixed(2)} s of CPU time, sandbox: ${where}`, "soft"));
  });
}

// ---- repair

function diffView(lines) {
  const view = element("pre");
  for (const line of lines) {
    const head = /^(\+\+\+|---) [ab]\//.test(line);
    const kind = head ? " at" : line.startsWith("+") ? " plus" : line.startsWith("-") ? " minus" : line.startsWith("@") ? " at" : "";
    view.append(element("span", plain(line.replace(/\n$/, "")), "line" + kind));
  }
  return view;
}

function roundItem(event) {
  const item = element("li");
  item.append(element("h2", event.round === 0 ? "The program as it is" : "Round " + event.round));
  const words = `${event.held} of ${event.tests} tests hold` + (event.passed ? "" : `: ${event.reason}`);
  item.append(element("p", plain(words), event.passed ? "good" : "bad"));
  const notes = [
    event.repeat_of !== null ? `the same program as in round ${event.repeat_of}` : "",
    event.taken ? "" : "not taken: a test that held breaks", event.renamed ? "renamed " + event.renamed : "",
    event.new_tokens ? event.new_tokens + " tokens drawn" : "", event.prompt_truncated ? "the prompt lost its start" : "",
  ].filter(Boolean);
  if (notes.length) item.append(element("p", plain(notes.join(" · ")), "soft"));
  if (event.diff.length) item.append(diffView(event.diff));
  if (event.feedback) item.append(element("h2", "What the model is told"), element("p", plain(event.feedback), "words"));
  if (event.round > 0) {
    const take = element("button", "Put into the editor");
    take.addEventListener("click", () => { $("program").value = plain(event.program); paint(); $("program").focus(); });
    item.append(take);
  }
  return item;
}

function repair() {
  return busy("repairing", async (signal) => {
    const list = $("rounds-list");
    list.replaceChildren();
    const settings = sampling();
    const body = {
      model: $("model").value, program: $("program").value, tests: $("tests").value, ...settings,
      rounds: number("rounds", 3), critic: $("critic").value,
    };
    const draft = element("li"), text = element("pre");
    draft.append(element("h2", "Being written"), text);
    let last = null;
    try {
      for await (const event of events("/repair", body, signal)) {
        if (event.type === "draft") {
          if (!draft.isConnected) list.append(draft);
          text.append(plain(event.text));
        } else if (event.type === "round") {
          draft.remove();
          text.replaceChildren();
          list.append(roundItem(event));
        } else {
          last = event;
        }
      }
    } finally {
      draft.remove();
    }
    if (!last) return "";
    if (last.passed && last.round === 0) return "the program holds its tests, there is nothing to repair";
    return (last.passed ? `repaired in round ${last.round}` : "not repaired") + `, ${last.new_tokens} tokens, seed ${last.seed}`;
  });
}

// ---- the ladder

function column(id, prompt) {
  const box = element("article", "", "column"), model = row(id);
  const text = element("pre"), end = element("p", "waits", "soft"), seen = element("div");
  text.tabIndex = 0;
  text.setAttribute("aria-label", "What " + id + " writes");
  text.append(element("span", plain(prompt), "prompt"));
  box.append(element("h2", id), element("p", about(model), "soft"), text, end, seen);
  $("columns").append(box);
  return { text, end, seen };
}

async function climbOne(id, prompt, body, tests, signal) {
  const { text, end, seen } = column(id, prompt);
  try {
    let whole = "", reason = "";
    for await (const event of events("/v1/completions", { ...body, model: id }, signal)) {
      for (const choice of event.choices) {
        whole += choice.text;
        text.append(plain(choice.text));
        end.textContent = "writes";
        reason = choice.finish_reason || reason;
      }
    }
    text.replaceChildren(element("span", plain(prompt), "prompt"), coloured(plain(whole)));
    end.textContent = "ended by " + (reason === "stop" ? "a stop" : "the limit of tokens");
    if (tests.trim()) {
      const found = await judge(prompt + whole, tests, signal);
      seen.append(element("p", verdictWords(found), found.passed ? "good" : "bad"));
      if (found.failures && found.failures.length) seen.append(failureList(found.failures.slice(0, 2)));
    } else {
      seen.append(element("p", "not judged: there are no tests", "soft"));
    }
    const again = element("details");
    again.append(element("summary", "The same again"), element("p", plain(await command(id, prompt, body)), "words"));
    seen.append(again);
    return true;
  } catch (error) {
    end.textContent = error.name === "AbortError" ? "stopped" : plain(error.message);
    end.className = error.name === "AbortError" ? "soft" : "bad";
    return false;
  }
}

async function climb() {
  if (state.climbing) return;
  problem(null);
  $("columns").replaceChildren();
  const ids = [...$("chosen").querySelectorAll("input:checked")].map((box) => box.value);
  let body;
  try {
    if (!ids.length) throw new Error("choose at least one model");
    body = { prompt: $("program").value, ...sampling(), stop: stops(), stream: true };
  } catch (error) {
    problem(error);
    return;
  }
  state.climbing = new AbortController();
  $("climb").disabled = true;
  $("halt").disabled = false;
  $("ladder-state").textContent = `${ids.length} models write`;
  const tests = $("tests").value;
  const ended = await Promise.all(ids.map((id) => climbOne(id, body.prompt, body, tests, state.climbing.signal)));
  $("ladder-state").textContent = `${ended.filter(Boolean).length} of ${ids.length} models ended, seed ${body.seed}`;
  state.climbing = null;
  $("climb").disabled = false;
  $("halt").disabled = true;
}

const halt = () => { if (state.climbing) state.climbing.abort(); };

// ---- the chat

// An answer as text and, between lines of ```, programs.
function answerView(text) {
  const parts = document.createDocumentFragment();
  text.split(/^[ \t]*```[^\n]*(?:\n|$)/m).forEach((part, number) => {
    if (number % 2 === 0) {
      if (part.trim()) parts.append(element("p", plain(part.trim()), "words"));
      return;
    }
    const code = element("pre"), take = element("button", "Put into the editor");
    code.append(coloured(plain(part)));
    take.addEventListener("click", () => { $("program").value = plain(part); view("editor"); paint(); $("program").focus(); });
    parts.append(code, take);
  });
  return parts;
}

function turn(role, name) {
  const item = element("li", "", role === "user" ? "person" : ""), body = element("div");
  item.append(element("h2", name), body);
  $("turns").append(item);
  return body;
}

async function send() {
  const words = $("message").value;
  if (state.answering || !words.trim()) return;
  problem(null);
  const model = $("model").value;
  let body;
  try {
    body = { model, messages: [...state.turns, { role: "user", content: words }], ...sampling(), stream: true };
  } catch (error) {
    problem(error);
    return;
  }
  const asked = turn("user", "You"), answer = turn("assistant", model);
  asked.append(element("p", plain(words), "words"));
  $("message").value = "";
  state.answering = new AbortController();
  $("send").disabled = $("afresh").disabled = true;
  $("hush").disabled = false;
  $("chat-state").textContent = "answering";
  let text = "", ended = "stopped";
  try {
    for await (const event of events("/v1/chat/completions", body, state.answering.signal)) {
      for (const choice of event.choices) {
        if (choice.finish_reason) ended = choice.finish_reason === "stop" ? "ended" : "ended by the limit of tokens";
        if (!choice.delta.content) continue;
        text += choice.delta.content;
        answer.replaceChildren(element("p", plain(text), "words"));
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      problem(error);
      ended = "";
    }
  }
  if (text) {
    answer.replaceChildren(answerView(text));
    state.turns.push({ role: "user", content: words }, { role: "assistant", content: text });
  } else { // nothing came: the message is given back
    asked.parentElement.remove();
    answer.parentElement.remove();
    $("message").value = $("message").value || words;
  }
  $("chat-state").textContent = ended ? `${ended}, seed ${body.seed}` : "";
  state.answering = null;
  $("send").disabled = $("afresh").disabled = false;
  $("hush").disabled = true;
  $("message").focus();
}

const hush = () => { if (state.answering) state.answering.abort(); };

function afresh() {
  state.turns = [];
  $("turns").replaceChildren();
  $("chat-state").textContent = "";
  $("message").focus();
}

// ---- keys and tabs

function view(name) {
  for (const other of VIEWS) {
    const on = other === name;
    $(other + "-view").hidden = !on;
    $("tab-" + other).setAttribute("aria-selected", String(on));
    $("tab-" + other).tabIndex = on ? 0 : -1;
  }
  $("model-bar").hidden = name === "ladder";
  $("code").hidden = name === "chat";
  if (name !== "chat") paint(); // its size is known only where it is seen
}

function onKey(event) {
  const ladder = !$("ladder-view").hidden, chat = !$("chat-view").hidden;
  if (event.key === "Escape") {
    stop();
    halt();
    hush();
    state.leaving = true; // the next Tab leaves the editor
  } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (chat) send();
    else if (ladder) climb();
    else if (event.shiftKey) run();
    else complete();
  }
}

function onEditorKey(event) {
  const area = $("program");
  if (event.key !== "Tab") {
    if (event.key !== "Escape" && event.key !== "Shift") state.leaving = false;
    if (event.key === "Enter" && !event.ctrlKey && !event.metaKey && !event.isComposing) indentLine(event);
    return;
  }
  if (state.leaving || event.ctrlKey || event.altKey) return;
  event.preventDefault();
  if (event.shiftKey) {
    const start = area.value.lastIndexOf("\n", area.selectionStart - 1) + 1;
    const spaces = area.value.slice(start).match(/^ {0,4}/)[0].length;
    const place = Math.max(start, area.selectionStart - spaces);
    area.setRangeText("", start, start + spaces, "preserve");
    area.setSelectionRange(place, place);
  } else {
    area.setRangeText("    ", area.selectionStart, area.selectionEnd, "end");
  }
  paint();
}

// A new line begins as far in as the one before, further after a colon.
function indentLine(event) {
  const area = $("program");
  const line = area.value.slice(area.value.lastIndexOf("\n", area.selectionStart - 1) + 1, area.selectionStart);
  const spaces = line.match(/^ */)[0] + (/:\s*$/.test(line) ? "    " : "");
  if (!spaces) return;
  event.preventDefault();
  area.setRangeText("\n" + spaces, area.selectionStart, area.selectionEnd, "end");
  paint();
}

function start() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    sessionStorage.setItem("token", token);
    history.replaceState(null, "", location.pathname);
  }
  if (!$("program").value) $("program").value = "def fib(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n";
  if (!$("tests").value) $("tests").value = "assert fib(1) == 1\nassert fib(10) == 55\n";
  $("program").setSelectionRange($("program").value.length, $("program").value.length);
  paint();
  $("program").addEventListener("input", paint);
  $("program").addEventListener("scroll", paint);
  $("program").addEventListener("keydown", onEditorKey);
  $("program").addEventListener("blur", () => { state.leaving = false; });
  document.addEventListener("keydown", onKey);
  const clicks = { complete, run, repair, stop, climb, halt, send, hush, afresh };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", () => action());
  for (const name of VIEWS) {
    $("tab-" + name).addEventListener("click", () => view(name));
    $("tab-" + name).addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const there = VIEWS.filter((each) => !$("tab-" + each).hidden);
      const step = event.key === "ArrowRight" ? 1 : there.length - 1;
      const other = there[(there.indexOf(name) + step) % there.length];
      view(other);
      $("tab-" + other).focus();
    });
  }
  $("model").addEventListener("change", () => {
    sessionStorage.setItem("model", $("model").value);
    chosen();
  });
  $("rung").addEventListener("change", showRung);
  $("copy").addEventListener("click", () => {
    navigator.clipboard.writeText($("command").textContent).then(() => { $("state").textContent = "copied"; }, problem);
  });
  load().catch(problem);
}

start();
