import pytest

from train.compare.page import Bullets, Strong, Table, html, html_text, markdown, markdown_text


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("joint_dropout", "joint_dropout"),
        ("_private_", r"\_private\_"),
        ("a|b", r"a\|b"),
        ("<b>*x*</b>", r"\<b>\*x\*\</b>"),
        ("[x](y) `c` ~z~ $m$ &lt;", r"\[x\](y) \`c\` \~z\~ \$m\$ \&lt;"),
        ("two\n# lines", "two # lines"),
        (Strong("best"), "**best**"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, marked: str) -> None:
    assert markdown_text(text) == marked


def test_html_shows_text_as_it_is() -> None:
    assert html_text('<a href="x">&') == "&lt;a href=&quot;x&quot;&gt;&amp;"
    assert html_text(Strong("1 < 2")) == "<strong>1 &lt; 2</strong>"
    assert html_text("\x00\ud800") == "\ufffd\ufffd"


def test_a_table_and_a_list() -> None:
    blocks = [Table(("a", "b"), [("x", "1"), ("y", Strong("2"))]), Bullets(["one", "two"])]
    assert markdown("T", blocks).endswith(
        "# T\n\n| a | b |\n|---|--:|\n| x | 1 |\n| y | **2** |\n\n- one\n- two\n"
    )
    page = html("T", blocks, {})
    assert '<tr><th scope="row">y</th><td><strong>2</strong></td></tr>' in page
    assert "<ul><li>one</li><li>two</li></ul>" in page
