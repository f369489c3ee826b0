"""A process that compiles whatever it receives, and reports the cost and the outcome.

It is a program for `test_fuzz.py`: each request is a line of JSON with a catalogue's bytes in base64, each reply a line
of JSON. One process for all requests, so that the peak of its memory is the peak of all of them.
"""

import ast
import base64
import contextlib
import importlib
import io
import json
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from d9d_codegen.catalogue import Catalogue, Context, EventSpec, Module, with_status
from d9d_codegen.cli import main
from d9d_codegen.lint import lint_file

CATALOGUE = Path("catalogue.yaml")


def answer(content: bytes, *, imports: bool) -> dict[str, object]:
    """Compile one catalogue in the current folder, and clear all of it away."""
    CATALOGUE.write_bytes(content)
    printed, error, status = io.StringIO(), "", None
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(printed):
            status = main(["generate"])
        seconds = time.perf_counter() - start
        if status == 0:
            verify(imports=imports)
    except BaseException:  # noqa: BLE001 -- every traceback is an answer
        seconds = time.perf_counter() - start
        error = traceback.format_exc()
    files = sorted(str(path) for path in Path().rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    for path in Path().iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {
        "status": status,
        "error": error,
        "seconds": seconds,
        "peak_megabytes": peak_megabytes(),
        "files": files,
        "diagnostics": printed.getvalue().count("]: "),
    }


def peak_megabytes() -> float:
    """Return the most memory that this program has held; `ru_maxrss` would count that of the one which started it."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def verify(*, imports: bool) -> None:
    """Compile what was generated; import it and compare all docs if asked to."""
    for path in Path().rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
    catalogue = lint_file(CATALOGUE)
    if not imports:
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == catalogue.package.partition(".")[0]]:
        del sys.modules[name]
    importlib.invalidate_caches()
    for module in catalogue.modules:
        imported = importlib.import_module(f"{catalogue.package}.{module.name}")
        expected, found = list(declared(module)), list(carried(catalogue, module, imported))
        assert expected == found, (expected, found)


def declared(module: Module) -> Iterator[tuple[str, list[str]]]:
    """Yield every doc of a module, as declared, in words."""
    yield "", module.doc.split()
    for context in module.own_contexts:
        yield context.name, [word for part in parts(context) for word in part.split()]
        for field in context.fields:
            if field.status.replaced_by:
                yield f"{context.name}.{field.name}", with_status(field.doc, field.status).split()
    for entry in (*module.own_events, *aliases(module)):
        yield entry.name, with_status(entry.doc, entry.status).split()


def parts(context: Context) -> Iterator[str]:
    """Yield the parts of the docstring of a context."""
    yield with_status(context.doc, context.status)
    if context.own_fields:
        yield "Attributes:"
    for field in context.own_fields:
        yield f"{field.name}: {with_status(field.doc, field.status)}"


def aliases(module: Module) -> list[EventSpec | Context]:
    """Return the entries of a module that are only aliases."""
    return [entry for entry in module.entries if entry.status.replaced_by]


def carried(catalogue: Catalogue, module: Module, imported: ModuleType) -> Iterator[tuple[str, list[str]]]:
    """Yield every doc of a module, as it is in the imported module and its source, in words."""
    yield "", str(imported.__doc__).split()
    for context in module.own_contexts:
        kind = getattr(imported, context.name)
        yield context.name, str(kind.__doc__).split()
        for field in context.fields:
            if field.status.replaced_by:
                yield f"{context.name}.{field.name}", str(getattr(kind, field.name).__doc__).split()
    path = Path(*catalogue.package.split("."), f"{module.name}.py")
    docs = dict(docs_below(ast.parse(path.read_text(encoding="utf-8")).body))
    for entry in (*module.own_events, *aliases(module)):
        yield entry.name, docs[entry.name].split()


def docs_below(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Yield the names that are assigned in a module, with the texts that stand below them."""
    for statement, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(statement, ast.If):
            yield from docs_below(statement.body)
        match statement, following:
            case ((ast.AnnAssign(target=ast.Name(name)) | ast.Assign(targets=[ast.Name(name)])), ast.Expr(text)):
                yield name, str(ast.literal_eval(text))


if __name__ == "__main__":
    sys.path.insert(0, "")
    sys.dont_write_bytecode = True
    for line in sys.stdin:
        request = json.loads(line)
        reply = answer(base64.b64decode(request["catalogue"]), imports=request["imports"])
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
