"""Fixtures of the command line's tests. The helper module is imported from here, so that tests need no package."""

import pytest
from embedded_kit import Up


@pytest.fixture
def up(tmp_path):
    """Starts `argosy up` with resources given as YAML text; killed at the end if it still runs."""
    started = []

    def start(*texts, **settings):
        home = tmp_path / f"run{len(started)}"
        home.mkdir()
        files = [home / f"resource{i}.yaml" for i in range(len(texts))]
        for path, text in zip(files, texts, strict=True):
            path.write_text(text)
        one = Up(home, files, **settings)
        started.append(one)
        return one.start()

    yield start
    for one in started:
        one.clean_up()
