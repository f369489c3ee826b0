"""The summary of one module: its syntax tree in a small form that JSON can hold.

A summary keeps what the rules look at (names, attributes, calls, assignments, conditions, definitions) and drops the
rest. It depends on the text of the file alone, so it is cached by that text. An expression and a statement are lists:
first the kind, then the parts, and where a rule may report it, last the position.
"""

import ast
from collections.abc import Callable, Sequence
from typing import Any, Final

CONFIGURATORS: Final = frozenset({"TrainingConfigurator", "InferenceConfigurator"})
"""The classes by which a program configures a loop."""

Node = list[Any]
Position = list[int]
"""First line, first column, last line, last column: lines from 1, columns from 0, in bytes of UTF-8."""

_FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def lower(tree: ast.Module) -> dict[str, Any]:
    """Return the summary of a module."""
    return _Lowering().module(tree)


def position_of(node: ast.stmt | ast.expr | ast.arg) -> Position:
    """Return where a node is."""
    end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
    return [node.lineno, node.col_offset, end_line, end_column]


class _Lowering:
    """Lowers one module; functions and classes are collected in tables, and statements refer to them by number."""

    def __init__(self) -> None:
        self._functions: list[dict[str, Any]] = []
        self._classes: list[dict[str, Any]] = []
        self._prefix = ""
        self._class_name = ""
        self._yields = False
        self._mentioned: set[str] = set()
        self._called: set[str] = set()
        self._read: set[str] = set()
        self._bound: set[str] = set()
        self._assigned: set[str] = set()
        self._imports: list[Node] = []
        self._configures = False
        self._expressions: dict[type[ast.AST], Callable[[Any], Node]] = {
            ast.Name: self._name,
            ast.Attribute: self._attribute,
            ast.Call: self._call,
            ast.Constant: self._constant,
            ast.Tuple: lambda node: self._sequence("tuple", node),
            ast.List: lambda node: self._sequence("list", node),
            ast.Set: lambda node: self._sequence("set", node),
            ast.Dict: self._dict,
            ast.Lambda: self._lambda,
            ast.IfExp: lambda node: ["choice", *map(self.expression, (node.test, node.body, node.orelse))],
            ast.BoolOp: lambda node: [
                "and" if isinstance(node.op, ast.And) else "or",
                [self.expression(value) for value in node.values],
            ],
            ast.UnaryOp: self._unary,
            ast.BinOp: self._binary,
            ast.Compare: self._compare,
            ast.JoinedStr: self._formatted,
            ast.ListComp: lambda node: self._comprehension("list", [node.elt], node),
            ast.SetComp: lambda node: self._comprehension("set", [node.elt], node),
            ast.GeneratorExp: lambda node: self._comprehension("generator", [node.elt], node),
            ast.DictComp: lambda node: self._comprehension("dict", [node.key, node.value], node),
            ast.Subscript: lambda node: [
                "item",
                self.expression(node.value),
                self.expression(node.slice),
                position_of(node),
            ],
            ast.Slice: self._slice,
            ast.Starred: lambda node: ["star", self.expression(node.value)],
            ast.NamedExpr: lambda node: ["walrus", self._mangled(node.target.id), self.expression(node.value)],
            ast.Await: lambda node: ["await", self.expression(node.value)],
            ast.Yield: self._yield,
            ast.YieldFrom: self._yield,
        }
        self._statements: dict[type[ast.AST], Callable[[Any], Node]] = {
            ast.Expr: lambda node: ["expression", self.expression(node.value), position_of(node)],
            ast.Assign: lambda node: [
                "assign",
                [self.expression(target) for target in node.targets],
                self.expression(node.value),
            ],
            ast.AugAssign: lambda node: ["augment", self.expression(node.target), self.expression(node.value)],
            ast.AnnAssign: lambda node: [
                "annotate",
                self.expression(node.target),
                self._annotation(node.annotation),
                None if node.value is None else self.expression(node.value),
            ],
            ast.Return: lambda node: ["return", None if node.value is None else self.expression(node.value)],
            ast.Raise: lambda node: ["raise", None if node.exc is None else self.expression(node.exc)],
            ast.Assert: lambda node: ["assert", self.expression(node.test)],
            ast.Delete: lambda node: ["delete", [self.expression(target) for target in node.targets]],
            ast.If: lambda node: [
                "if",
                self.expression(node.test),
                self.block(node.body),
                self.block(node.orelse),
                position_of(node.test),
            ],
            ast.For: self._for,
            ast.AsyncFor: self._for,
            ast.While: lambda node: [
                "while",
                self.expression(node.test),
                self.block(node.body),
                self.block(node.orelse),
                position_of(node.test),
            ],
            ast.With: self._with,
            ast.AsyncWith: self._with,
            ast.Try: self._try,
            ast.TryStar: self._try,
            ast.Match: self._match,
            ast.FunctionDef: self._define,
            ast.AsyncFunctionDef: self._define,
            ast.ClassDef: self._class,
            ast.Import: self._import,
            ast.ImportFrom: self._import_from,
            ast.Global: lambda node: ["global", node.names],
            ast.Nonlocal: lambda node: ["global", node.names],
            ast.Break: lambda _: ["break"],
            ast.Continue: lambda _: ["continue"],
        }

    def module(self, tree: ast.Module) -> dict[str, Any]:
        body = self.block(tree.body)
        return {
            "body": body,
            "imports": self._imports,
            "configures": self._configures,
            "functions": self._functions,
            "classes": self._classes,
        }

    def block(self, statements: Sequence[ast.stmt]) -> list[Node]:
        """Lower statements; those without an effect on the rules are left out."""
        found = (
            self._statements[type(statement)](statement)
            for statement in statements
            if type(statement) in self._statements
        )
        return [node for node in found if node != ["expression", ["constant", None]]]

    def expression(self, node: ast.expr) -> Node:
        """Lower an expression; one of a kind that no rule knows keeps its parts."""
        known = self._expressions.get(type(node))
        if known is not None:
            return known(node)
        parts = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        return ["operation", [self.expression(part) for part in parts]]

    def _annotation(self, node: ast.expr | None) -> Node | None:
        """Lower an annotation; one in quotes is parsed."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                parsed = ast.parse(node.value, mode="eval").body
            except SyntaxError:
                return None
            # Positions inside the text mean nothing in the file; nothing is reported at an annotation.
            return self.expression(parsed)
        return None if node is None else self.expression(node)

    def _mangled(self, name: str) -> str:
        """Return a name as Python knows it: one that begins with two underscores belongs to the class around it."""
        is_private = self._class_name and name.startswith("__") and not name.endswith("__")
        return f"_{self._class_name}{name}" if is_private else name

    def _name(self, node: ast.Name) -> Node:
        self._mentioned.add(node.id)
        (self._read if isinstance(node.ctx, ast.Load) else self._bound).add(node.id)
        return ["name", self._mangled(node.id), position_of(node)]

    def _attribute(self, node: ast.Attribute) -> Node:
        self._mentioned.add(node.attr)
        if not isinstance(node.ctx, ast.Load):
            self._assigned.add(self._mangled(node.attr))
        elif node.attr == "handlers" and isinstance(node.value, ast.Name) and node.value.id not in self._read:
            # To look at the handlers of an emitter triggers nothing.
            owner = self._name(node.value)
            self._read.discard(node.value.id)
            return ["attribute", owner, node.attr, position_of(node)]
        return ["attribute", self.expression(node.value), self._mangled(node.attr), position_of(node)]

    def _call(self, node: ast.Call) -> Node:
        named = [[keyword.arg or "", self.expression(keyword.value)] for keyword in node.keywords]
        callee = self.expression(node.func)
        self._called.add(_last_name(node.func))
        self._configures |= any(_last_name(each) in CONFIGURATORS for each in (node.func, *node.args))
        return ["call", callee, [self.expression(argument) for argument in node.args], named, position_of(node)]

    def _constant(self, node: ast.Constant) -> Node:
        value = node.value
        return ["constant", value if isinstance(value, str | int | float) else None, value is None]

    def _sequence(self, kind: str, node: ast.Tuple | ast.List | ast.Set) -> Node:
        return ["sequence", kind, [self.expression(item) for item in node.elts], position_of(node)]

    def _dict(self, node: ast.Dict) -> Node:
        keys = [None if key is None else self.expression(key) for key in node.keys]
        return ["dict", keys, [self.expression(value) for value in node.values], position_of(node)]

    def _binary(self, node: ast.BinOp) -> Node:
        is_format = isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant)
        if is_format and isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
            shown = node.right.elts if isinstance(node.right, ast.Tuple) else [node.right]
            return ["formatted", [self.expression(part) for part in shown], position_of(node)]
        return ["operation", [self.expression(node.left), self.expression(node.right)]]

    def _unary(self, node: ast.UnaryOp) -> Node:
        operand = self.expression(node.operand)
        return ["not", operand] if isinstance(node.op, ast.Not) else ["operation", [operand]]

    def _compare(self, node: ast.Compare) -> Node:
        operators = [type(operator).__name__ for operator in node.ops]
        return ["compare", operators, [self.expression(each) for each in (node.left, *node.comparators)]]

    def _formatted(self, node: ast.JoinedStr) -> Node:
        shown = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        return ["formatted", [self.expression(part) for part in shown], position_of(node)]

    def _comprehension(
        self, kind: str, results: Sequence[ast.expr], node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> Node:
        loops = [
            [self.expression(each.target), self.expression(each.iter), [self.expression(test) for test in each.ifs]]
            for each in node.generators
        ]
        return ["comprehension", kind, [self.expression(result) for result in results], loops, position_of(node)]

    def _yield(self, node: ast.Yield | ast.YieldFrom) -> Node:
        self._yields = True
        value = None if node.value is None else self.expression(node.value)
        return ["yield", ["star", value] if isinstance(node, ast.YieldFrom) else value]

    def _slice(self, node: ast.Slice) -> Node:
        bounds = [self.expression(each) for each in (node.lower, node.upper, node.step) if each is not None]
        return ["slice", bounds, position_of(node)]

    def _lambda(self, node: ast.Lambda) -> Node:
        outer, self._mentioned = self._mentioned, set()
        outer_called, self._called = self._called, set()
        number = self._function(node, "<lambda>", [], [["return", self.expression(node.body)]])
        self._mentioned |= outer
        self._called |= outer_called
        return ["lambda", number]

    def _define(self, node: _FunctionNode) -> Node:
        outer, yields = self._prefix, self._yields
        self._prefix, self._yields = f"{outer}{node.name}.", False
        around, self._mentioned = self._mentioned, set()
        called_around, self._called = self._called, set()
        assigned_around, self._assigned = self._assigned, set()
        bound_around, self._bound = self._bound, set()
        read_around, self._read = self._read, set()
        body = self.block(node.body)
        is_generator = self._yields
        self._prefix, self._yields = outer, yields
        decorators = [self.expression(decorator) for decorator in node.decorator_list]
        number = self._function(node, node.name, decorators, body)
        self._functions[number] |= {"generator": is_generator, "unread": sorted(self._bound - self._read)}
        self._bound, self._read = bound_around, self._read | read_around
        self._mentioned |= around
        self._called |= called_around
        self._assigned |= assigned_around
        return ["define", number]

    def _function(self, node: _FunctionNode | ast.Lambda, name: str, decorators: list[Node], body: list[Node]) -> int:
        line, column = node.lineno, node.col_offset
        head = [line, column, line, column + len(name)]
        if not isinstance(node, ast.Lambda):  # the name, and not the whole body, is what a rule points at
            start = column + (len("async def ") if isinstance(node, ast.AsyncFunctionDef) else len("def "))
            head = [line, start, line, start + len(name.encode())]
        self._functions.append(
            {
                "name": name,
                "key": self._mangled(name),
                "path": f"{self._prefix}{name}",
                "parameters": self._parameters(node.args),
                "decorators": decorators,
                "body": body,
                "returns": None if isinstance(node, ast.Lambda) else self._annotation(node.returns),
                "mentions": sorted(self._mentioned),
                "calls": sorted(self._called),
                "assigns": sorted(self._assigned),
                "async": isinstance(node, ast.AsyncFunctionDef),
                "generator": False,
                "unread": [],
                "position": head,
            }
        )
        return len(self._functions) - 1

    def _parameters(self, arguments: ast.arguments) -> list[Node]:
        """Return the parameters: name, kind, annotation, default."""
        plain = [*arguments.posonlyargs, *arguments.args]
        missing: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
        found = [(each, "plain", default) for each, default in zip(plain, [*missing, *arguments.defaults], strict=True)]
        if arguments.vararg is not None:
            found.append((arguments.vararg, "star", None))
        keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        found += [(each, "keyword", default) for each, default in keywords]
        if arguments.kwarg is not None:
            found.append((arguments.kwarg, "stars", None))
        return [
            [each.arg, kind, self._annotation(each.annotation), None if default is None else self.expression(default)]
            for each, kind, default in found
        ]

    def _class(self, node: ast.ClassDef) -> Node:
        outer, outer_class = self._prefix, self._class_name
        self._prefix, self._class_name = f"{outer}{node.name}.", node.name.lstrip("_")
        body = self.block(node.body)
        self._prefix, self._class_name = outer, outer_class
        start = node.col_offset + len("class ")
        self._classes.append(
            {
                "name": node.name,
                "path": f"{outer}{node.name}",
                "bases": [self.expression(base) for base in node.bases],
                "keywords": [[keyword.arg or "", self.expression(keyword.value)] for keyword in node.keywords],
                "decorators": [self.expression(decorator) for decorator in node.decorator_list],
                "body": body,
                "position": [node.lineno, start, node.lineno, start + len(node.name.encode())],
            }
        )
        return ["class", len(self._classes) - 1]

    def _for(self, node: ast.For | ast.AsyncFor) -> Node:
        target, source = self.expression(node.target), self.expression(node.iter)
        return ["for", target, source, self.block(node.body), self.block(node.orelse), position_of(node.iter)]

    def _with(self, node: ast.With | ast.AsyncWith) -> Node:
        items = [
            [self.expression(item.context_expr), item.optional_vars and self.expression(item.optional_vars)]
            for item in node.items
        ]
        return ["with", items, self.block(node.body)]

    def _try(self, node: ast.Try | ast.TryStar) -> Node:
        handlers = [
            [None if each.type is None else self.expression(each.type), each.name, self.block(each.body)]
            for each in node.handlers
        ]
        return ["try", self.block(node.body), handlers, self.block(node.orelse), self.block(node.finalbody)]

    def _match(self, node: ast.Match) -> Node:
        cases = [
            [
                sorted({part.name for part in ast.walk(case.pattern) if isinstance(part, ast.MatchAs) and part.name}),
                None if case.guard is None else self.expression(case.guard),
                self.block(case.body),
            ]
            for case in node.cases
        ]
        return ["match", self.expression(node.subject), cases]

    def _import(self, node: ast.Import) -> Node:
        # `import a.b` binds `a`.
        names = [[each.asname or each.name.partition(".")[0], each.name, bool(each.asname)] for each in node.names]
        self._imports += [[0, each.name, []] for each in node.names]
        return ["import", names]

    def _import_from(self, node: ast.ImportFrom) -> Node:
        names = [[each.asname or each.name, each.name] for each in node.names]
        self._imports.append([node.level, node.module or "", [each.name for each in node.names]])
        return ["from", node.level, node.module or "", names]


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
