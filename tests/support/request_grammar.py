"""A grammar of request bodies for a schema: valid ones, nearly valid ones, and broken ones.

It draws from any ``random.Random``: a seeded one for millions of bodies, or one of hypothesis, which then shrinks what fails.
Cells are rendered once, into pools whose first entries are the simplest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from support.reference_rows import CURRENCIES

from serve_app.config import PROJECT_ROOT
from serve_app.scoring.schema import Column

__all__ = ["CORPUS", "Grammar", "broken"]

CORPUS: Path = PROJECT_ROOT / "tests" / "corpus"
POOL = 1500
SEPARATORS = (b",", b", ", b",\n", b" ,\t")
PARTS = (
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"\\u", b"\\ud800", b"null", b"1e", b"-", b"$", b"(", b"%", b" ", b"\r\n",
    b"NaN", b"Infinity", b"x53", b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"9" * 40, b"//", b"'", b"},{", b"01",
)  # fmt: skip
STRANGE_VALUES = (
    b"true", b"false", b"[]", b"{}", b"[1]", b'{"a": 1}', b"[[], [[]]]", b'"abc"', b'"--1"', b'"1_000"', b'"1,5"', b'"NaN"',
    b'"inf"', b'"-Infinity"', b'"0x10"', b'"1e"', b'"e5"', b'"."', b'"+"', b'"$"', b'"()"', b'"($-5)"', b'"-$-5"', b'"$5$"',
    b'"12,34"', b'"1,234,56"', b'"%"', b'"5%%"', b'"5 5"', b'"\\u0663"', b'"\\u00b2"', b'"\\uff11"', b"1e999", b"-1e999",
    b"1e300", b'"1e999"', b"9" * 400, b'"' + b"9" * 400 + b'"', b'"' + b"x" * 1001 + b'"', b'"' + b" " * 1001 + b'"',
    b'"2024-02-30"', b'"20240101"', b'"2024-01-01x"', b'"2024-01-01T"', b'"maybe"', b'"\\u0000"', b'"=1+1"',
    b'"\\ud83d\\ude00"',
)  # fmt: skip
UNUSED_VALUES = (
    b"0", b"null", b'""', b"[]", b'"}, {"', b'"\\"}, {\\""', b"1e999", b"[{}, {}]", b'{"x53": {"x53": [1]}}', b"-0.0e-0",
    b'"\\ud83d\\ude00"', b"9" * 400, b"[" * 20 + b"]" * 20, b'"' + b"y" * 2000 + b'"', b"[1, 2.5, true, null]",
)  # fmt: skip
TOO_DEEP = b'{"deep": ' + b"[" * 40 + b"]" * 40 + b"}"


class Grammar:
    """Draws bodies for some columns."""

    def __init__(self, columns: Sequence[Column], seed: int = 26) -> None:
        random = Random(seed)
        self._good = [_pool(random, column, _good_cell) for column in columns]
        self._any = [_pool(random, column, _any_cell) for column in columns]
        indices = range(len(columns))
        self._orders = [list(indices), *(random.sample(indices, len(columns)) for _ in range(50))]
        self._unused = [_field(random, f"u{number}", random.choice(UNUSED_VALUES)) for number in range(200)]
        self._seeds = [path.read_bytes()[:5000] for path in sorted(CORPUS.iterdir())]

    def body(self, random: Random) -> bytes:
        """One body: half of them have good rows only, a quarter some bad ones, a quarter is broken (a few stay JSON)."""
        kind = random.random()
        if kind < 0.5:
            return self._rows(random, is_good=True)
        if kind < 0.75:
            return self._rows(random, is_good=False)
        if kind < 0.95:
            return broken(random, self._rows(random, is_good=True), self._seeds)
        return broken(random, random.choice(self._seeds), self._seeds)

    def _rows(self, random: Random, *, is_good: bool) -> bytes:
        count = random.choice((1, 1, 1, 1, 2, 5))
        if not is_good and random.random() < 0.05:
            count = random.choice((0, 30, 60))
        if count == 1 and random.random() < 0.2:
            return self._row(random, is_good=is_good)
        rows = [self._row(random, is_good=is_good) for _ in range(count)]
        if not is_good and rows and random.random() < 0.2:
            rows[random.randrange(count)] = random.choice((b"7", b"null", b'"x"', b"[]", b"true", b"{}", TOO_DEEP))
        return b"[" + random.choice(SEPARATORS).join(rows) + b"]"

    def _row(self, random: Random, *, is_good: bool) -> bytes:
        fields = []
        for index in random.choice(self._orders):
            pool = self._good[index] if is_good or random.random() < 0.9 else self._any[index]
            fields.append(pool[int(random.random() * len(pool))])
        change = random.random()
        if change < 0.3:  # columns that the model does not use
            fields.insert(random.randrange(len(fields) + 1), random.choice(self._unused))
        elif change < 0.4:  # a field that occurs twice: the last one counts
            fields.insert(0, random.choice(self._any[random.randrange(len(self._any))]))
        elif change < 0.45 and not is_good:
            del fields[random.randrange(len(fields))]
        return b"{" + random.choice(SEPARATORS).join(fields) + b"}"


def broken(random: Random, body: bytes, others: Sequence[bytes]) -> bytes:
    """A body with one to three bytes or parts inserted, deleted, repeated or replaced."""
    changed = bytearray(body)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        at = random.randint(0, len(changed))
        kind = random.random()
        if kind < 0.3:
            changed[at:at] = random.choice(PARTS)
        elif kind < 0.5:
            del changed[at : at + random.randint(1, 20)]
        elif kind < 0.65:
            changed[at:at] = changed[max(0, at - random.randint(1, 50)) : at]
        elif kind < 0.8 and at < len(changed):
            changed[at] = random.randrange(256)
        elif kind < 0.9:
            del changed[at:]
        else:
            other = random.choice(others)
            changed[at:] = other[random.randint(0, len(other)) :]
    return bytes(changed[:20_000])


def _pool(random: Random, column: Column, draw: Callable[[Random, Column], bytes]) -> list[bytes]:
    fields = {_field(random, column.name, draw(random, column)) for _ in range(POOL)}
    return sorted(fields, key=lambda field: (len(field), field))


def _field(random: Random, name: str, value: bytes) -> bytes:
    key = _string(random, name) if random.random() < 0.05 else json.dumps(name).encode()
    return key + random.choice((b":", b": ", b" :\n")) + value


def _string(random: Random, text: str) -> bytes:
    """A JSON string in which some characters are escaped that need not be."""
    if random.random() < 0.8:
        return json.dumps(text, ensure_ascii=random.random() < 0.5).encode()
    parts = [
        f"\\u{ord(mark):04x}" if ord(mark) < 0x10000 and random.random() < 0.3 else json.dumps(mark)[1:-1] for mark in text
    ]
    return f'"{"".join(parts)}"'.encode()


def _any_cell(random: Random, column: Column) -> bytes:
    return random.choice(STRANGE_VALUES) if random.random() < 0.8 else _good_cell(random, column)


def _good_cell(random: Random, column: Column) -> bytes:
    if random.random() < 0.06 and column.null == "impute":
        return random.choice((b"null", b'""', b'" "', b'"\\t\\u00a0"'))
    if column.kind == "categorical":
        return _category(random, column)
    if column.kind == "boolean":
        return random.choice((b"true", b"false", b'"yes"', b'" No "', b'"T"', b'"f"', b'"TRUE"'))
    if column.kind == "date":
        day = f"{random.randint(1, 9999):04d}-{random.randint(1, 12):02d}-{random.randint(1, 28):02d}"
        return _string(random, day + random.choice(("", "T12:30", " 23:59:59.999999", "T00:00:00+14:00", "T12:30Z")))
    return _number_cell(random, column)


def _category(random: Random, column: Column) -> bytes:
    if column.unknown == "reject" or random.random() < 0.8:
        return _string(random, random.choice(column.levels))
    other = _string(random, column.levels[0].upper())
    return random.choice((b'"elsewhere"', b"7", b"true", b"1e5", b'"\\ud83d\\ude00"', other))


def _number_cell(random: Random, column: Column) -> bytes:
    number = _number(random)
    written = random.random()
    if column.kind == "percent" and written < 0.5:
        return _string(random, number + random.choice(("%", " %", "% ")))
    if column.kind == "money" and written < 0.7:
        return _string(random, _money(random))
    if written < 0.85:
        return number.encode()
    return _string(random, random.choice((" ", "")) + random.choice(("", "+")) * (number[0] != "-") + number)


def _number(random: Random) -> str:
    """A JSON number."""
    kind = random.random()
    if kind < 0.5:
        return repr(round(random.gauss(0, 10), random.randint(0, 12)))
    if kind < 0.6:
        return str(random.randint(-(10**6), 10**6))
    if kind < 0.7:
        return random.choice(("0", "-0", "-0.0", "1e5", "1E+5", "1e-400", "2.2250738585072014e-308", "5e-324", "0.1e1"))
    if kind < 0.8:
        return f"{random.uniform(-1, 1):.{random.randint(15, 40)}f}"
    if kind < 0.9:
        return str(random.getrandbits(random.choice((53, 63, 64, 65, 200))))
    return repr(random.uniform(-1, 1) * 10 ** random.randint(-250, 200))


def _money(random: Random) -> str:
    amount = f"{random.uniform(0, 10 ** random.randint(0, 9)):{random.choice((',', ''))}.{random.randint(0, 4)}f}"
    if "." not in amount:
        amount += random.choice(("", "."))
    elif amount.startswith("0."):
        amount = amount.removeprefix(random.choice(("", "0")))
    currency = random.choice(CURRENCIES)
    space = random.choice(("", " ")) if currency.isalpha() else ""
    return random.choice(
        (
            f"{currency}{space}{amount}",
            f"-{currency}{amount}",
            f"{currency}-{amount}",
            f"({currency}{amount})",
            f"({amount})",
            f"{amount} {currency}",
            f"-{amount}{currency}",
            amount,
        )
    )
