"""The pages of docs/reference list every name that is exported."""

from __future__ import annotations

import importlib
import re

from pages import ROOT

MODULES = ["", ".batch", ".distributed", ".errors", ".events", ".simulator", ".testing"]
MODULES += [".virtual", ".webhook"]


def test_every_exported_name_is_in_the_reference() -> None:
    """By its name, or as a member of a module that is listed whole."""
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    whole = re.findall(r"automodule:: ([\w.]+)\n   :members:\n", text)
    listed = {name for module in whole for name in importlib.import_module(module).__all__}

    missing = [
        f"apikley_async{module}.{name}"
        for module in MODULES
        for name in importlib.import_module(f"apikley_async{module}").__all__
        if name not in listed and not re.search(rf"\b{name}\b", text)
    ]

    assert missing == []
