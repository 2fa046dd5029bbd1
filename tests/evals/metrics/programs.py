"""Programs that the similarities are computed of: a reference and what may be written in its place."""

REFERENCE = "def add(a, b):\n    total = a + b\n    if total > 10:\n        return total\n    return 0\n"
OTHERS = {
    "equal": REFERENCE,
    "indentation": REFERENCE.replace("    return 0", "        return 0"),
    "operator": REFERENCE.replace("a + b", "a - b"),
    "names": REFERENCE.replace("total", "x"),
    "short": "return 0",
    "cut": REFERENCE[:40],
    "other": "class A:\n    def f(self):\n        return [self, 1]\n",
    "broken": "def add(a, b:\n  return (a +\n",
}
JAVA = "int add(int a, int b) { int t = a + b; if (t > 10) { return t; } return 0; }"
JAVASCRIPT = "function add(a, b) { const t = a + b; for (const x of [t]) { t += x; } return t; }"
