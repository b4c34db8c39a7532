"""docs/reference.md says what the docstrings say, of every public name."""

import re

import inscape as ins
from tests.docs.reference import GROUPS, PAGE, marked, paragraphs, reference, signature, summary


def test_every_public_name_stands_in_one_group():
    listed = [name for names in GROUPS.values() for name in names]
    assert sorted(listed) == sorted(set(ins.__all__) - {"__version__"}), (
        "sort it into GROUPS of tests/docs/reference.py"
    )


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference(), "python -m tests.docs.reference writes it again"


def test_every_name_of_a_table_links_to_its_own_heading():
    page = PAGE.read_text(encoding="utf-8")
    headings, slugs = [name.lower() for name in re.findall(r"^### `(\w+)`$", page, re.MULTILINE)], []
    for heading in headings:  # as GitHub and MyST number those that are alike
        before = headings[: len(slugs)].count(heading)
        slugs.append(f"{heading}-{before}" if before else heading)
    assert re.findall(r"^\| \[`\w+`\]\(#([\w-]+)\)", page, re.MULTILINE) == slugs


def test_signatures_are_as_in_the_source():
    assert signature("span", ins.span) == "ins.span(text: str, nth: int = 0, *, behind: bool = False) -> Span"
    assert signature("tokens", ins.tokens) == "ins.tokens(*ids: int) -> Tokens"
    assert "    *,\n    grad: bool = False,\n" in signature("run", ins.run)


def test_arguments_in_a_docstring_become_a_list_and_signs_stay_signs():
    text = "Do x * y.\n\nplain <b>\nat, by: where\n    and `a * b`. to: the file"
    shown = "Do x \\* y.\n\nplain \\<b>\n\n- **at, by**: where and `a * b`.\n- **to**: the file\n"
    assert paragraphs(text, ["at", "by", "to"]) == shown
    assert marked("layers.* `layers.*`") == r"layers.\* `layers.*`"


def test_a_stop_inside_a_formula_or_a_name_ends_no_sentence():
    def product():
        """Remove x - (x . u) u at layers.5: all
        of it. And more."""

    assert summary(product) == "Remove x - (x . u) u at layers.5: all of it."
