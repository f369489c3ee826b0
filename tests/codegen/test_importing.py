"""What a catalogue names outside of itself is looked for in sources and stubs, without importing anything."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d9d_codegen.resolve import Resolver

from .workspace import SMALL, Workspace

MODULES = {
    "shop_types/__init__.py": "from .inner import *\nfrom . import late\nfrom .late import Moved as Renamed\n",
    "shop_types/inner.py": '__all__ = ["Shown"]\n\n\nclass Shown:\n    class Inner: ...\n\n\nclass Hidden: ...\n',
    "shop_types/nested.py": (
        "from .inner import Shown\n\n\n"
        "class Outer:\n    class Middle:\n        class Inner: ...\n        alias = int\n\n"
        "    if sys.version_info > (3,):\n        class Late: ...\n\n\n"
        "class Heir(Outer): ...\n\n\n@patched\nclass Decorated: ...\n\n\n"
        "class Patched: ...\n\n\nPatched.Given = int\n"
    ),
    "shop_types/late.py": (
        "from typing import TYPE_CHECKING\n\n"
        "if TYPE_CHECKING:\n    from shop_types.inner import Hidden\n"
        "try:\n    import json as fast\nexcept ImportError:\n    fast = None\n"
        "Moved, Other = int, str\nraise SystemExit('this module was executed')\n"
    ),
    "shop_types/stubbed.py": "class Old: ...\n\n\nNoted: type\n",
    "shop_types/stubbed.pyi": "class New: ...\n",
    "shop_types/only_stub.pyi": "class Only: ...\n",
    "shop_types/deleted.py": (
        "from .inner import *\nfrom .inner import Hidden\n\n\nclass Gone: ...\n\n\nclass Back: ...\n\n\n"
        "for Loop in (): ...\n\ndel Gone, (\n    Hidden\n)\ndel Shown, Back, Loop\nBack = int\n"
    ),
    "shop_types/again.py": "from .deleted import Gone, Back\n",
    "shop_types/versions.py": (
        "import sys\nfrom typing import TYPE_CHECKING\n\n"
        "if sys.version_info < (3, 8):\n    class Ancient: ...\nelse:\n    class Modern: ...\n"
        "if sys.platform == 'win32':\n    class Somewhere: ...\n"
        "if not TYPE_CHECKING:\n    class Live: ...\n"
        "if TYPE_CHECKING or not sys:\n    class Perhaps: ...\n"
        "if TYPE_CHECKING:\n    from .nested import *\n"
    ),
    "shop_types/lazy.py": 'def __getattr__(name): return {"Made": int}[name]\n\n\nclass Makers: ...\n',
    "shop_types/face.py": "def __getattr__(name): return int\n",
    "shop_types/face.pyi": "from .inner import Shown as Shown\n\n\nclass Lazily: ...\n",
    "shop_types/broken.py": "class (\n",
    "shop_types/odd.py": 'PATTERN = "\\d"\n\n\nclass Odd: ...\n',
    "shop_types/space/deep.py": "class Deep: ...\n",
    "shop_types/native.cpython-311-x86_64-linux-gnu.so": "",
    "shop_types/native.abi3.so": "",
    "shop_types/described.abi3.so": "",
    "shop_types/described.pyi": "Noted: type\n\n\nclass Described: ...\n",
    "shop_tools/__init__.py": "",
    "shop_tools-stubs/__init__.pyi": "class FromStubs: ...\n",
}


@pytest.fixture
def resolver(empty: Workspace) -> Resolver:
    """All that can be imported in a project with modules of many kinds."""
    for path, text in MODULES.items():
        empty.write(text, path)
    return Resolver([str(empty.root)])


@pytest.mark.parametrize(
    "path",
    [
        "shop_types.Shown",
        "shop_types.Renamed",
        "shop_types.late.Moved",
        "shop_types.late.Other",
        "shop_types.late.fast",
        "shop_types.stubbed.Old",
        "shop_types.deleted.Back",
        "shop_types.again.Back",
        "shop_types.versions.Modern",
        "shop_types.versions.Somewhere",
        "shop_types.versions.Live",
        "shop_types.versions.Perhaps",
        "shop_types.described.Described",
        "shop_types.described.Noted",
        "shop_types.lazy.Made",
        "shop_types.lazy.Unheard",
        "shop_types.face.Shown",
        "shop_types.face.Lazily",
        "shop_types.broken.Anything",
        "shop_types.native.Anything",
        "shop_types.space.deep.Deep",
        "shop_types.Shown.Inner",
        "shop_types.Shown.Uncertain",
        "shop_types.nested.Shown.Inner",
        "shop_types.nested.Outer.Middle.Inner",
        "shop_types.nested.Outer.Middle.alias",
        "shop_types.nested.Outer.Late",
        "shop_types.nested.Heir.Anything",
        "shop_types.nested.Decorated.Anything",
        "shop_types.nested.Patched.Given",
        "typing.Any",
        "collections.abc.Callable",
        "os.PathLike",
        "decimal.Decimal",
        "xml.etree.ElementTree.Element",
        "torch.Tensor",
        "torch.nn.Module",
        "torch.float32",
        "torch.utils.data.DataLoader",
        "torch.optim.lr_scheduler.LRScheduler",
        "numpy.typing.NDArray",
        "d9d.core.dist_context.DistributedContext",
        "d9d.loop.event.catalogue.train.EventStepContext",
    ],
)
def test_what_can_be_imported_or_cannot_be_known_is_accepted(resolver: Resolver, path: str) -> None:
    """Definitions, re-exports, stubs, branches, classes in classes, lazy names and extension modules all count."""
    assert resolver.unresolved(path) is None


@pytest.mark.parametrize(
    ("path", "part", "meant"),
    [
        ("shop_types.Shwon", "Shwon", "Shown"),
        ("shop_types.odd.Od", "Od", "Odd"),
        ("shop_types.late.Movd", "Movd", "Moved"),
        ("shop_types.stubbed.Odl", "Odl", "Old"),
        ("shop_types.described.Describd", "Describd", "Described"),
        ("shop_types.lazy.Makrs", "Makrs", "Makers"),
        ("shop_types.face.Lazly", "Lazly", "Lazily"),
        ("shop_types.space.dep.Deep", "dep", "deep"),
        ("shop_type.Shown", "shop_type", "shop_types"),
        ("shop_types.nested.Shown.Iner", "Iner", "Inner"),
        ("shop_types.nested.Outer.Middel.Inner", "Middel", "Middle"),
        ("shop_types.nested.Outer.Middle.Other", "Other", None),
        ("torch.Tensr", "Tensr", "Tensor"),
        ("torch.dtyp", "dtyp", "dtype"),
        ("torch.nn.Modul", "Modul", "Module"),
        ("decimal.Decimall", "Decimall", "Decimal"),
    ],
)
def test_the_first_part_that_is_missing_is_named(resolver: Resolver, path: str, part: str, meant: str) -> None:
    """A misspelt package, module or name is found, and so is what was meant."""
    missing = resolver.unresolved(path)
    assert missing is not None
    assert (missing.part, missing.meant) == (part, meant)
    assert path[missing.offset :].startswith(part)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("shop_types.late.Hidden", "only type checkers see it"),
        ("shop_types.versions.Outer", ""),
        ("shop_types.versions.Ancient", "only type checkers see it"),
        ("shop_types.stubbed.New", "only the stub has it"),
        ("shop_types.stubbed.Noted", ""),
        ("shop_types.only_stub.Only", "only the stub has it"),
        ("shop_tools.FromStubs", "only the stub has it"),
        ("shop_types.deleted.Gone", "the module deletes it"),
        ("shop_types.deleted.Hidden", "the module deletes it"),
        ("shop_types.deleted.Shown", "the module deletes it"),
        ("shop_types.deleted.Loop", "the module deletes it"),
        ("shop_types.again.Gone", "the module deletes it"),
    ],
)
def test_a_name_that_does_not_exist_at_run_time_is_missing(resolver: Resolver, path: str, why: str) -> None:
    """A name under `TYPE_CHECKING`, in a stub only, or deleted with `del` cannot be imported."""
    missing = resolver.unresolved(path)
    assert missing is not None
    assert (missing.part, missing.why) == (path.rpartition(".")[2], why)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.from_regex(r"[^\W\d]\w{0,8}", fullmatch=True), min_size=2, max_size=4))
def test_no_path_leads_to_a_traceback(parts: list[str]) -> None:
    """Whatever is named is there, or one of its parts is missing."""
    path = ".".join(parts)
    missing = Resolver([]).unresolved(path)
    assert missing is None or path[missing.offset :].startswith(missing.part)


def test_nothing_that_a_catalogue_names_is_executed(small: Workspace) -> None:
    """Types of modules that would end the process are resolved all the same."""
    small.write("raise SystemExit(3)\n\n\nclass Money: ...\n", "till.py")
    small.write(SMALL.replace("type: int", "type: till.Money"))
    assert small.run("generate")[0] == 0


def test_a_package_that_is_not_installed_is_reported(tmp_path: Path) -> None:
    """Where only the compiler is installed, `torch` is a module that cannot be found."""
    (tmp_path / "catalogue.yaml").write_text(SMALL.replace("type: int", "type: torch.Tensor"), encoding="utf-8")
    program = (
        "import sys, jinja2, yaml\n"
        "from d9d_codegen.cli import main\n"
        "sys.path = [path for path in sys.path if 'site-packages' not in path]\n"
        "sys.exit(main(['lint']))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "")
    assert 'but no package "torch" is installed' in result.stdout


def test_a_module_that_a_lazy_package_never_mentions_is_reported(small: Workspace) -> None:
    """A package that makes names up as they are asked for makes up no modules that it does not speak of."""
    lazy = (
        "def __getattr__(name):\n    if name == 'later':\n        return make(name)\n    raise AttributeError(name)\n"
    )
    small.write(lazy, "lazy/__init__.py")
    good = small.read("catalogue.yaml")
    small.write(good.replace("type: int", "type: lazy.later.Thing"))
    assert small.run("lint")[0] == 0
    [diagnostic] = small.refused(good.replace("type: int", "type: lazy.neural.Thing"))
    assert 'catalogue.yaml:10:29: error[unknown-module]: the type of field step names "lazy.neural.Thing"' in diagnostic
