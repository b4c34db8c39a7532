"""How alike two recipes are, and which files are large."""

import pytest

from bench.drift import alike, largest, likeness, main

SOURCE = '"""Doc."""\nimport x\n\ndef run(a, b):\n    return x.add(a, b) + x.add(b, a)\n'


def test_a_file_is_itself_whatever_its_docstring_and_layout():
    other = (
        SOURCE.replace("Doc", "Something else, and longer").replace("return ", "return \\\n        ") + "# the end\n"
    )
    assert likeness(SOURCE, other) == 1.0


def test_files_that_share_nothing_are_not_alike():
    assert likeness(SOURCE, "class A:\n    b = {1: 2, 3: 4, 5: 6, 7: 8}\n") == 0.0


def test_half_a_copy_is_between():
    assert 0.2 < likeness(SOURCE, SOURCE + "def more(c, d):\n    return c * d - c / d + c ** d\n") < 0.8


def test_the_most_alike_pair_and_the_largest_file_come_first(tmp_path):
    for name, text in (("a", SOURCE), ("b", SOURCE), ("c", "x = 1\n" * 30)):
        (tmp_path / f"{name}.py").write_text(text)
    share, first, second = alike(sorted(tmp_path.glob("*.py")))[0]
    assert (share, first.stem, second.stem) == (pytest.approx(1.0), "a", "b")
    assert largest(tmp_path)[0][0].stem == "c"


def test_it_prints_both(capsys):
    main()
    out = capsys.readouterr().out
    assert "the largest:" in out
    assert "recipes" in out
