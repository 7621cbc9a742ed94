"""The syntax of CEL conditions: text to a tree with positions.

Own parser, because the common conditions are compiled to Python (docs/decisions/0030); what is beyond its subset
raises OutsideError and is left to the reference implementation.
Source: the Common Expression Language specification, "Syntax".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from dogwatch.errors import DogwatchError

MAX_CHARS = 10_000
MAX_DEPTH = 60
INT_MIN, INT_MAX = -(2**63), 2**63 - 1


class ConditionError(DogwatchError):
    """An expression that cannot be used. position: offset of the mistake in the text."""

    exit_code = 2
    code = "condition"

    def __init__(self, message: str, *, position: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.position = position


class OutsideError(Exception):
    """Valid CEL perhaps, but not of the subset that is compiled here."""


@dataclass(frozen=True, slots=True)
class Node:
    """A part of an expression; text[start:end] is how it was written."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Literal(Node):
    value: int | float | str | bool | None


@dataclass(frozen=True, slots=True)
class Name(Node):
    name: str


@dataclass(frozen=True, slots=True)
class Select(Node):
    operand: Node
    field: str


@dataclass(frozen=True, slots=True)
class Has(Node):
    operand: Node
    field: str


@dataclass(frozen=True, slots=True)
class Index(Node):
    operand: Node
    key: Node


@dataclass(frozen=True, slots=True)
class Call(Node):
    """function(args); a method's target is the first argument."""

    function: str
    args: tuple[Node, ...]
    method: bool


@dataclass(frozen=True, slots=True)
class Unary(Node):
    op: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary(Node):
    op: str
    left: Node
    right: Node
    at: int


@dataclass(frozen=True, slots=True)
class Chain(Node):
    """a && b && c, or the same with ||."""

    op: str
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice(Node):
    test: Node
    yes: Node
    no: Node


@dataclass(frozen=True, slots=True)
class ListOf(Node):
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int
    end: int


_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\n\f]+|//[^\n]*)+)
    |(?P<bytes>[bB][rR]?["']|[rR][bB]["'])
    |(?P<string>[rR]?(?:\"\"\"|'''|"|'))
    |(?P<float>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?)
    |(?P<int>0[xX][0-9a-fA-F]+[uU]?|\d+[uU]?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<op>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:()\[\]{},.`])
    """,
    re.VERBOSE | re.ASCII,
)
# fmt: off
RESERVED = frozenset((
    "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop",
    "package", "namespace", "null", "return", "true", "var", "void", "while",
))
# fmt: on
_SIMPLE = dict(zip("abfnrtv\\?\"'`", "\a\b\f\n\r\t\v\\?\"'`", strict=True))
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\?\"'`])|[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|)",
    re.ASCII,
)
_RELATIONS = frozenset(("==", "!=", "<", "<=", ">", ">=", "in"))
_LEVELS = (_RELATIONS, frozenset(("+", "-")), frozenset(("*", "/", "%")))


def _unescape(raw: str, start: int) -> str:
    def one(match: re.Match[str]) -> str:
        if match[1]:
            return _SIMPLE[match[1]]
        code = match[2] or match[3] or match[4]
        number = int(code, 16) if code else int(match[5], 8) if match[5] else -1
        if not 0 <= number <= 0x10FFFF or 0xD800 <= number <= 0xDFFF:
            raise ConditionError("unknown escape in a string", position=start + match.start())
        return chr(number)

    return _ESCAPE.sub(one, raw)


def _string(text: str, start: int, opening: str) -> tuple[Token, int]:
    raw = opening[0] in "rR"
    quote = opening.lstrip("rR")
    at = begin = start + len(opening)
    while not text.startswith(quote, at):
        if at >= len(text) or (text[at] in "\r\n" and len(quote) == 1):
            raise ConditionError("the string is not closed", position=start)
        at += 2 if text[at] == "\\" and not raw else 1
    body = text[begin:at]
    end = at + len(quote)
    return Token("string", body if raw else _unescape(body, begin), start, end), end


def tokens(text: str) -> list[Token]:
    """Return the tokens of an expression, ended by one of kind "end".

    Raises: ConditionError, OutsideError.
    """
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            hint = "write == to compare" if text[at] == "=" else ""
            hint = "write && and || for and and or" if text[at] in "&|" else hint
            raise ConditionError(f"unexpected {text[at]!r}", position=at, hint=hint)
        kind = str(match.lastgroup)
        if kind == "bytes" or match[0] == "`":
            raise OutsideError(kind)
        if kind == "string":
            token, at = _string(text, at, match[0])
            found.append(token)
            continue
        if kind != "space":
            found.append(Token(kind, match[0], at, match.end()))
        at = match.end()
    found.append(Token("end", "", len(text), len(text)))
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = tokens(text)
        self._at = 0
        self._depth = 0

    @property
    def _now(self) -> Token:
        return self._tokens[self._at]

    def _is(self, op: str) -> bool:
        token = self._now
        return token.kind == "op" and token.text == op

    def _next(self) -> Token:
        token = self._now
        self._at += 1
        return token

    def _accept(self, op: str) -> bool:
        if self._is(op):
            self._at += 1
            return True
        return False

    def _expect(self, op: str) -> Token:
        if not self._is(op):
            raise self._unexpected(f"expected '{op}'")
        return self._next()

    def _unexpected(self, wanted: str) -> ConditionError:
        token = self._now
        seen = "the end" if token.kind == "end" else f"'{token.text}'"
        hint = ""
        if token.kind == "name" and token.text in ("and", "or", "not"):
            hint = f"write {({'and': '&&', 'or': '||', 'not': '!'})[token.text]}"
        return ConditionError(f"{wanted}, found {seen}", position=token.start, hint=hint)

    def whole(self) -> Node:
        node = self.expression()
        if self._now.kind != "end":
            raise self._unexpected("expected an operator or the end")
        return node

    def expression(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ConditionError(f"nested deeper than {MAX_DEPTH} levels", position=self._now.start)
        node = self._chain("||")
        if self._accept("?"):
            yes = self._chain("||")
            self._expect(":")
            no = self.expression()
            node = Choice(node.start, no.end, node, yes, no)
        self._depth -= 1
        return node

    def _chain(self, op: str) -> Node:
        first = self._chain("&&") if op == "||" else self._level(0)
        items = [first]
        while self._accept(op):
            items.append(self._chain("&&") if op == "||" else self._level(0))
        return first if len(items) == 1 else Chain(first.start, items[-1].end, op, tuple(items))

    def _level(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self._unary()
        node = self._level(level + 1)
        count = 0
        while self._now.kind in ("op", "name") and self._now.text in _LEVELS[level]:
            count += 1
            if count > MAX_DEPTH:
                raise ConditionError(f"more than {MAX_DEPTH} operators in a row", position=self._now.start)
            op = self._next()
            right = self._level(level + 1)
            node = Binary(node.start, right.end, op.text, node, right, op.start)
        return node

    def _unary(self) -> Node:
        op = self._now
        if op.kind != "op" or op.text not in "!-":
            return self._member(self._primary())
        signs = []
        while self._is(op.text):
            signs.append(self._next())
        if len(signs) > MAX_DEPTH:
            raise ConditionError("too many signs", position=op.start)
        negative = op.text == "-" and self._now.kind in ("int", "float")
        node = self._member(self._number(signs.pop()) if negative else self._primary())
        for sign in reversed(signs):
            node = Unary(sign.start, node.end, sign.text, node)
        return node

    def _number(self, sign: Token | None) -> Node:
        token = self._next()
        start = sign.start if sign else token.start
        if token.kind == "float":
            return Literal(start, token.end, -float(token.text) if sign else float(token.text))
        if token.text[-1] in "uU":
            raise OutsideError("uint")
        value = int(token.text, 16 if token.text[:2] in ("0x", "0X") else 10) * (-1 if sign else 1)
        if not INT_MIN <= value <= INT_MAX:
            raise ConditionError(f"{token.text} is beyond 64 bits", position=start)
        return Literal(start, token.end, value)

    def _primary(self) -> Node:
        token = self._now
        if token.kind in ("int", "float"):
            return self._number(None)
        if token.kind == "string":
            self._at += 1
            return Literal(token.start, token.end, token.text)
        if self._accept("("):
            inner = self.expression()
            # With its parentheses, so that text[start:end] of every node is an expression by itself.
            return replace(inner, start=token.start, end=self._expect(")").end)
        if self._accept("["):
            items = self._arguments("]")
            return ListOf(token.start, self._tokens[self._at - 1].end, items)
        if self._is("{"):
            raise OutsideError("map literal")
        self._accept(".")
        if self._now.kind == "name":
            return self._named()
        raise self._unexpected("expected a value")

    def _named(self) -> Node:
        token = self._next()
        if token.text in ("true", "false", "null"):
            return Literal(token.start, token.end, {"true": True, "false": False, "null": None}[token.text])
        if token.text in RESERVED:
            raise ConditionError(f"'{token.text}' is a reserved word", position=token.start)
        if not self._accept("("):
            return Name(token.start, token.end, token.text)
        args = self._arguments(")")
        end = self._tokens[self._at - 1].end
        if token.text == "has":
            if len(args) != 1 or not isinstance(args[0], Select):
                raise ConditionError("has() wants a field, as in has(json.id)", position=token.start)
            return Has(token.start, end, args[0].operand, args[0].field)
        return Call(token.start, end, token.text, args, method=False)

    def _member(self, node: Node) -> Node:
        count = 0
        while True:
            count += 1
            if count > MAX_DEPTH:
                raise ConditionError(f"more than {MAX_DEPTH} selections in a row", position=node.start)
            if self._accept("."):
                field = self._next()
                if field.kind != "name" or field.text in ("in", "true", "false", "null"):
                    self._at -= 1
                    raise self._unexpected("expected a field name")
                if self._accept("("):
                    args = (node, *self._arguments(")"))
                    node = Call(node.start, self._tokens[self._at - 1].end, field.text, args, method=True)
                else:
                    node = Select(node.start, field.end, node, field.text)
            elif self._accept("["):
                key = self.expression()
                node = Index(node.start, self._expect("]").end, node, key)
            elif self._is("{"):
                raise OutsideError("message literal")
            else:
                return node

    def _arguments(self, closing: str) -> tuple[Node, ...]:
        items: list[Node] = []
        while not self._accept(closing):
            if items:
                self._expect(",")
                if closing == "]" and self._accept(closing):
                    break
            if self._is("?"):
                raise OutsideError("optional")
            items.append(self.expression())
        return tuple(items)


def parse(text: str) -> Node:
    """Return the tree of an expression.

    Raises: ConditionError with the position; OutsideError where the syntax is CEL's but not ours.
    """
    if len(text) > MAX_CHARS:
        raise ConditionError(f"longer than {MAX_CHARS} characters", position=MAX_CHARS)
    return _Parser(text).whole()


def children(node: Node) -> tuple[Node, ...]:
    """Return the parts of a node, in the order they are written."""
    match node:
        case Select() | Has() | Unary():
            return (node.operand,)
        case Index():
            return (node.operand, node.key)
        case Call():
            return node.args
        case Binary():
            return (node.left, node.right)
        case Chain() | ListOf():
            return node.items
        case Choice():
            return (node.test, node.yes, node.no)
    return ()


def names(node: Node) -> frozenset[str]:
    """Return every variable that the tree reads."""
    if isinstance(node, Name):
        return frozenset((node.name,))
    return frozenset().union(*(names(child) for child in children(node)))
