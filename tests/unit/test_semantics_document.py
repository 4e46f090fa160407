"""Every sentence of `icefs/vfs/SEMANTICS.md` names the tests that hold it, and the tests exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "icefs/vfs/SEMANTICS.md"
EXEMPT = "Not promised"

_CODE = re.compile(r"`[^`]*`")
_MARKS = r"(?:\s*\[\^[\w-]+\])+"


def sections() -> dict[str, str]:
    parts = re.split(r"^#+ (.*)$", DOCUMENT.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def definitions() -> dict[str, str]:
    return dict(re.findall(r"^\[\^([\w-]+)\]: `(.*)`$", sections()["The tests"], re.MULTILINE))


def statements() -> list[str]:
    """Returns sentences and rows of tables, each with the marks that follow it."""
    found = []
    for title, text in sections().items():
        if title in (EXEMPT, "The tests"):
            continue
        for paragraph in re.split(r"\n\n|\n(?=\d\. |\| )", text.strip()):
            words = " ".join(_CODE.sub("CODE", paragraph).split())
            if words.startswith("|"):
                if not re.fullmatch(r"[|\- ]+", words) and not words.startswith("| matter"):
                    found.append(words.strip("| "))
                continue
            end = rf"(?:[.!?:]{_MARKS}(?=\s|$)|[.!?:](?=\s+[A-Z0-9\[]|$)|$)"
            found += re.findall(rf"[^.].*?{end}", re.sub(r"^\d\. ", "", words))
    return [statement.strip() for statement in found if statement.strip()]


def test_each_sentence_names_its_tests():
    without = [one for one in statements() if not re.search(rf"{_MARKS}$", one) and not one.endswith(":")]
    introduction = "Every sentence here ends with the tests that hold it; they are listed at the end."
    assert [one for one in without if one != introduction] == []
    assert len(statements()) > 100


def test_each_test_that_is_named_exists():
    missing = []
    for path, name in (target.split("::") for target in definitions().values()):
        tree = ast.parse((ROOT / path).read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        names |= {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        if name not in names:
            missing.append(f"{path}::{name}")
    assert missing == []


def test_marks_and_the_list_of_tests_agree():
    text = DOCUMENT.read_text().partition("## The tests")[0]
    used = set(re.findall(r"\[\^([\w-]+)\]", text))
    assert used == definitions().keys()
