"""Every snippet of the pages about clients, in the client's environment: it ends well and prints what it should."""

import re

import pytest
from clients_kit import pointed_at, run, snippets

SNIPPETS = {
    ("docs/clients.md", "OpenAI's SDK"): ("sdks", r"(?s)Tokyo.*name=[\'\"].*year=\d+"),
    ("docs/clients.md", "LangChain"): ("langchain", r"(?s)Tokyo.*weather \{'city': .*name=[\'\"].*year=\d+"),
    ("docs/clients.md", "LiteLLM"): ("litellm", r"Tokyo"),
    ("docs/clients.md", "llama-index"): ("llama-index", r"Tokyo"),
    ("docs/clients.md", "tritonclient"): ("triton", r"(?s)TYPE_STRING.*\w+ \w+"),
    ("docs/clients.md", "tritonclient over HTTP"): ("triton", r"Once upon a time\W+\w+ \w+"),
    ("docs/anthropic.md", "Clients of Anthropic's API"): ("sdks", r"\w+ \w+"),
    ("docs/ollama.md", "Coming from Ollama"): ("sdks", r"(?s)smollm2.*\w+ \w+"),
    ("README.md", "Ask"): (("sdks", "triton"), r"\w+ \w+"),
}
"""Environments, and patterns of what is printed, of pages and headings."""
PAGES = sorted({page for page, _ in SNIPPETS})


@pytest.mark.parametrize("page", PAGES)
def test_each_snippet_is_sound_and_is_run(page):
    """Also where no client is installed."""
    found = snippets(page, "python")
    assert {(page, heading) for heading, _ in found} == {key for key in SNIPPETS if key[0] == page}
    for heading, code in found:
        compile(code, f"{page}: {heading}", "exec")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES)
def test_each_snippet_does_what_the_page_says(page, environment, server, tmp_path):
    counts = {}
    for heading, code in snippets(page, "python"):
        names, prints = SNIPPETS[page, heading]
        number = counts[heading] = counts.get(heading, -1) + 1
        where = environment(names if isinstance(names, str) else names[number])
        script = tmp_path / f"snippet-{number}.py"
        script.write_text(pointed_at(server, code))
        out = run(where, server, where / "bin" / "python", script, cwd=tmp_path)
        assert re.search(prints, out), f"{page}: {heading} printed {out!r}"
