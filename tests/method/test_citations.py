"""docs/method.md has the sections that docstrings cite."""

import re

from smoke import ROOT


def test_every_section_that_is_cited_is_there():
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    sections = re.findall(r"^###? (.+)$", page, re.MULTILINE)
    modules = [*(ROOT / "mebm").rglob("*.py"), *(ROOT / "stages").glob("*.py")]
    texts = (path.read_text(encoding="utf-8") for path in modules)
    cited = {words for text in texts for words in re.findall(r"docs/method\.md, (.+)", text)}
    assert len(cited) > 8
    assert not [text for text in cited if not re.match(rf"({'|'.join(map(re.escape, sections))})(?!\w)", text)]
