"""Which shell blocks of the pages are run, by page and number from 1, and a pattern of what each prints."""

import pages

ON_ONE_MACHINE = {
    ("README.md", 3): None,  # the fixture itself
    ("README.md", 4): r'(?s)data: \{.*"content".*data: \[DONE\]',
    ("README.md", 5): r"\w+ \w+",
    ("README.md", 6): r"(?s)x-argosy-worker.*x-argosy-worker.*\"cached_tokens\": ?[1-9]",
}
"""By tests/integration/test_first_light.py."""

ON_A_CLUSTER = {
    ("docs/install.md", 3): r'(?s)STATUS: deployed.*deployment "argosy-router" successfully rolled out',
    ("docs/install.md", 4): r"(?s)condition met.*smollm2 +.*2/2 +Ready",
    ("docs/install.md", 5): r"(?m)^Ready=True Ready: .+",
    ("docs/install.md", 6): r'"text": ?".*Paris',
    ("docs/operations.md", 1): r"(?s)smollm2.*Conditions:.*argosy_router_",
    ("docs/operations.md", 2): r"argosy-operator +\S+",
    ("docs/plan.md", 1): r"(?s)smollm2: package://.*Does not fit",
    ("docs/plan.md", 2): r'"weightsBytes":',
    ("docs/troubleshooting.md", 1): r"(?s)smollm2.*2/2.*Ready",
    ("docs/rollouts.md", 1): r"(?s)smollm2\S* .*good.*\b(\w+) \1\b",
    ("docs/autoscaling.md", 1): r"(?s)smollm2 configured.*seldom created",
    ("docs/autoscaling.md", 2): r"(?s)STATUS: deployed.*horizontalpodautoscaler\S* created",
    ("docs/autoscaling.md", 4): r'"desiredReplicas": \d',
    ("docs/several-nodes.md", 1): r"(?s)condition met.*smollm2-group\S*-0 .*smollm2-group\S*-1 ",
}
"""By tests/e2e/test_pages.py, in this order."""

PAGES = ("README.md", "docs/install.md", "docs/autoscaling.md", "docs/rollouts.md", "docs/several-nodes.md",
         "docs/troubleshooting.md", "docs/operations.md", "docs/plan.md")  # fmt: skip
LEFT_OUT = {
    "README.md": 4, "docs/install.md": 4, "docs/autoscaling.md": 1, "docs/rollouts.md": 0, "docs/several-nodes.md": 1,
    "docs/troubleshooting.md": 0, "docs/operations.md": 1, "docs/plan.md": 0,
}  # fmt: skip
"""Blocks that say why no test runs them."""


def script(page, number):
    """The text of a page's shell block."""
    shell = [block for block in pages.blocks(page, (pages.ROOT / page).read_text()) if block.script]
    return shell[number - 1].script
