"""The small random model, in both layouts."""

import pytest
import small_model


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "model"
    small_model.write_folder(small_model.make(), folder)
    return folder


@pytest.fixture(scope="session")
def small_gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    small_model.write_gguf(small_model.make(), path)
    return path
