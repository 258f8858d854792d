"""The code for phones on ``docs/on-device.md`` is Kotlin and Swift, as far as parsers can tell."""

import re
from pathlib import Path
from typing import Any

import pytest
import tree_sitter
import tree_sitter_kotlin
import tree_sitter_swift

PAGE = Path(__file__).parent.parent / "docs" / "on-device.md"


@pytest.mark.parametrize(("language", "grammar"), [("kotlin", tree_sitter_kotlin), ("swift", tree_sitter_swift)])
def test_the_loop_for_phones_parses(language: str, grammar: Any) -> None:
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    root = parser.parse(code.encode()).root_node
    assert not root.has_error
    assert parser.parse(code.replace(")", "", 1).encode()).root_node.has_error
