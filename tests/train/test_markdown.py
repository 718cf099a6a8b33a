import pytest

from train.markdown import Bold, bullets, escape, table


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("joint_dropout", "joint_dropout"),
        ("_private_", r"\_private\_"),
        ("a|b", r"a\|b"),
        ("<b>*x*</b>", r"\<b>\*x\*\</b>"),
        ("[x](y) `c` ~z~ $m$ &lt;", r"\[x\](y) \`c\` \~z\~ \$m\$ \&lt;"),
        ("two\n# lines", "two # lines"),
        (Bold("best"), "**best**"),
        (Bold(""), ""),
    ],
)
def test_escaped_text_appears_as_written(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_table_aligns_numbers_to_the_right() -> None:
    rows = [("x", "1"), ("y", Bold("2"))]
    assert table(("a", "b"), rows) == "| a | b |\n|---|--:|\n| x | 1 |\n| y | **2** |"
    assert table(("a", "b"), rows, numbers=False).splitlines()[1] == "|---|---|"


def test_bullets_have_a_line_each() -> None:
    assert bullets(["one", "two"]) == "- one\n- two"
