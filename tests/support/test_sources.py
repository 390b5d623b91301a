"""Imports of a package are followed through its modules; only code changes a checksum."""

import pytest

from convnext_dense.support.sources import code_checksum, imported_modules, imports_of


def test_imports_are_found_at_any_place():
    source = "import a.b as x\ndef f():\n    from c import d, e\n    import g\n"
    assert imports_of(source) == {"a.b", "c.d", "c.e", "g"}
    with pytest.raises(ValueError, match="line 2: relative import"):
        imports_of("\nfrom . import a\n")


def test_imports_are_followed_through_modules(tmp_path):
    files = {
        "pkg/__init__.py": "import pkg.public",
        "pkg/public.py": "",
        "pkg/a.py": "from pkg.inner.b import function\nimport json, pkgs.other",
        "pkg/inner/__init__.py": "import pkg.public",
        "pkg/inner/b.py": "def function():\n    from pkg import c, stopped\n    from pkg import inner",
        "pkg/c.py": "import pkg.a  # a circle",
        "pkg/stopped.py": "import pkg.beyond",
        "pkg/beyond.py": "",
        "pkg/unused.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = imported_modules(tmp_path / "pkg", ["pkg.a"], stop=("pkg.stopped",))
    assert list(found) == ["pkg.a", "pkg.c", "pkg.inner", "pkg.inner.b", "pkg.public"]
    assert found["pkg.inner"] == tmp_path / "pkg/inner/__init__.py"
    assert list(imported_modules(tmp_path / "pkg", ["pkg.inner.b"])) == [
        *("pkg.a", "pkg.beyond", "pkg.c", "pkg.inner", "pkg.inner.b", "pkg.public", "pkg.stopped")
    ]


BEFORE = '"""Words."""\ndef f(x):\n    """More words."""\n    return x + 1  # a reason\n'


@pytest.mark.parametrize(
    ("after", "same"),
    [
        ("def f(x):\n    return (x + 1)\n", True),
        ('"""Other words."""\n\n\ndef f( x ):\n    return x + 1\n', True),
        ("def f(x):\n    return x + 2\n", False),
        ('def f(x):\n    "not a docstring only" + x\n    return x + 1\n', False),
        ("def f(y):\n    return y + 1\n", False),
    ],
)
def test_only_code_changes_the_checksum(after, same):
    assert (code_checksum(after) == code_checksum(BEFORE)) == same


def test_a_body_of_a_docstring_alone():
    assert code_checksum('class A(Exception):\n    """Words."""\n') == code_checksum(
        "class A(Exception): pass"
    )
