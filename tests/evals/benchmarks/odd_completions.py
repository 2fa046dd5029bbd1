"""Completions of HumanEval written in odd ways, most of them right: (task's number, completion)."""

# ruff: noqa: E501 - programs in lines

CLOSE = "    for i, a in enumerate(numbers):\n        for j, b in enumerate(numbers):\n            if i != j and abs(a - b) < threshold:\n                return True\n    return False\n"
GCD = "    while b:\n        a, b = b, a % b\n    return a\n"
COMPLETIONS = [
    # 0: has_close_elements(numbers, threshold) -> bool
    (0, CLOSE),
    (0, CLOSE + "\nif __name__ == '__main__':\n    n = input()\n    print(n)\n"),
    (0, CLOSE + '\nif __name__ == "__main__":\n    import doctest\n    doctest.testmod()\n'),
    (0, CLOSE + "\nif __name__ == '__main__':\n    import sys\n    sys.exit(1)\n"),
    (0, CLOSE + "\nif __name__ != '__main__':\n    raise ValueError\n"),
    (0, CLOSE + "\nassert has_close_elements([1.0, 1.1], 0.5)\n"),
    (0, CLOSE + "\nassert has_close_elements([1.0, 9.1], 0.5)\n"),
    (0, CLOSE + "\nprint(has_close_elements([1.0, 2.0], 0.5))\n"),
    (0, CLOSE + "\nimport sys\nprint('debug', file=sys.stderr)\n"),
    (0, CLOSE + "\nimport sys\nsys.exit(0)\n"),
    (0, CLOSE + "\nraise SystemExit\n"),
    (0, CLOSE + "\nprint('a' * 100000)\n"),
    (0, CLOSE + "\nn = input()\n"),
    (0, CLOSE + "\ntry:\n    n = input()\nexcept Exception:\n    pass\n"),
    (0, CLOSE + "\nhas_close_elements = None\n"),
    (0, CLOSE + "\nclass Solution:\n    pass\n"),
    (0, CLOSE + "\nfrom __future__ import annotations\n"),
    (0, CLOSE.replace("\n", "\r\n")),
    (0, CLOSE.replace("    ", "\t").replace("\tfor i", "    for i").replace("\treturn False", "    return False")),
    (0, CLOSE + "\n# \u00e9 \u4e2d\n"),
    (0, CLOSE + "\nx = '\\ud800'\n"),
    (0, CLOSE + "\n\x00"),
    (0, "    return any(abs(a - b) < threshold for i, a in enumerate(numbers) for b in numbers[:i])\n"),
    (0, "    numbers.sort()\n    return any(b - a < threshold for a, b in zip(numbers, numbers[1:]))\n"),
    (0, "    s = sorted(numbers)\n    return min((b - a for a, b in zip(s, s[1:])), default=9e9) < threshold\n"),
    (
        0,
        "    import threading\n    out = []\n    def go():\n        s = sorted(numbers)\n        out.append(any(b - a < threshold for a, b in zip(s, s[1:])))\n    t = threading.Thread(target=go)\n    t.start()\n    t.join()\n    return out[0]\n",
    ),
    (
        0,
        "    import asyncio\n    async def go():\n        await asyncio.sleep(0)\n        s = sorted(numbers)\n        return any(b - a < threshold for a, b in zip(s, s[1:]))\n    return asyncio.run(go())\n",
    ),
    (
        0,
        "    from fractions import Fraction\n    s = sorted(map(Fraction, numbers))\n    return any(b - a < threshold for a, b in zip(s, s[1:]))\n",
    ),
    (
        0,
        "    class T(int): pass\n    s = sorted(numbers)\n    return T(any(b - a < threshold for a, b in zip(s, s[1:])))\n",
    ),
    (0, "    s = sorted(numbers)\n    return [] if all(b - a >= threshold for a, b in zip(s, s[1:])) else [1]\n"),
    # 4: mean_absolute_deviation(numbers) -> float
    (
        4,
        "    from fractions import Fraction\n    n = [Fraction(x) for x in numbers]\n    m = sum(n) / len(n)\n    return sum(abs(x - m) for x in n) / len(n)\n",
    ),
    (4, "    from statistics import mean\n    m = mean(numbers)\n    return mean(abs(x - m) for x in numbers)\n"),
    # 5: intersperse(numbers, delimeter) -> list
    (
        5,
        "    class L(list): pass\n    out = L()\n    for n in numbers:\n        out += [n, delimeter]\n    del out[-1:]\n    return out\n",
    ),
    (5, "    for i, n in enumerate(numbers):\n        if i: yield delimeter\n        yield n\n"),
    (5, "    return tuple(x for n in numbers for x in (n, delimeter))[:-1]\n"),
    (5, "    from collections import deque\n    return deque([x for n in numbers for x in (n, delimeter)][:-1])\n"),
    # 7: filter_by_substring(strings, substring) -> list
    (7, "    return filter(lambda s: substring in s, strings)\n"),
    (7, "    return [*filter(lambda s: substring in s, strings)]\n"),
    (7, "    class S(str): pass\n    return [S(s) for s in strings if substring in s]\n"),
    # 8: sum_product(numbers) -> tuple
    (
        8,
        "    from collections import namedtuple\n    from math import prod\n    return namedtuple('R', 'sum product')(sum(numbers), prod(numbers))\n",
    ),
    (8, "    from math import prod\n    return [sum(numbers), prod(numbers)]\n"),
    (
        8,
        "    from math import prod\n    from decimal import Decimal\n    return (Decimal(sum(numbers)), Decimal(prod(numbers)))\n",
    ),
    # 13: greatest_common_divisor(a, b) -> int
    (13, GCD),
    (13, "    if b == 0:\n        return a\n    return greatest_common_divisor(b, a % b)\n"),
    (
        13,
        "    import enum\n    import math\n    g = math.gcd(a, b)\n    return enum.IntEnum('G', {'VALUE': g}).VALUE\n",
    ),
    (13, "    import math\n    return float(math.gcd(a, b))\n"),
    (13, "    import math\n    return complex(math.gcd(a, b))\n"),
    (13, "    import math\n    return math.gcd(a, b) + True - 1\n"),
    (
        13,
        "    import math\n    import sqlite3\n    c = sqlite3.connect(':memory:')\n    return c.execute('select ?', (math.gcd(a, b),)).fetchone()[0]\n",
    ),
    # 23: strlen(string) -> int
    (23, "    return string.__len__()\n"),
    (23, "    return sum(1 for _ in string)\n\ncandidate = strlen\n"),
    # 34: unique(l) -> list
    (34, "    return sorted({*l})\n"),
    (34, "    return {}.fromkeys(sorted(l)).keys()\n"),
    (34, "    l[:] = sorted(set(l))\n    return l\n"),
    # 53: add(x, y) -> int
    (53, "    return x.__add__(y)\n"),
    (53, "    global add\n    add = lambda a, b: a + b\n    return x + y\n"),
    (
        53,
        "    def rec(n):\n        return n and rec(n - 1) + 1\n    return rec(x) + rec(y) if x + y < 150 else x + y\n",
    ),
    (53, "    import warnings\n    warnings.warn('x')\n    return x + y\n"),
    (53, "    try:\n        return x + y\n    finally:\n        print('done')\n"),
    # 107, 111: even_odd_palindrome -> tuple, histogram -> dict
    (
        111,
        "    from collections import Counter\n    c = Counter(test.split())\n    m = max(c.values(), default=0)\n    return Counter({k: v for k, v in c.items() if v == m})\n",
    ),
    (
        111,
        "    from collections import defaultdict\n    c = defaultdict(int)\n    for w in test.split(): c[w] += 1\n    m = max(c.values(), default=0)\n    for k in [k for k in c if c[k] < m]: del c[k]\n    return c\n",
    ),
    (
        111,
        "    class D(dict):\n        def __missing__(self, key): return 0\n    c = D()\n    for w in test.split(): c[w] += 1\n    m = max(c.values(), default=0)\n    return D({k: v for k, v in c.items() if v == m})\n",
    ),
]
