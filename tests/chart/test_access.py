"""What the chart makes of `access`, and whether a router understands it."""

import pytest

from argosy_api.access import digest, parse, parse_entry, split_key


def named(objects, kind, name):
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found[0] if found else None


def document(objects):
    return parse(named(objects, "ConfigMap", "argosy-access")["data"]["access.yaml"])


def router(objects):
    return named(objects, "Deployment", "argosy-router")["spec"]["template"]["spec"]


def test_by_default_a_credential_is_asked_for_and_an_admin_has_one(render):
    objects = render()
    assert document(objects).required
    key = named(objects, "Secret", "argosy-admin-key")["stringData"]["key"]
    kept = named(objects, "Secret", "argosy-api-keys")["stringData"]
    key_id, secret = split_key(key)
    entry = parse_entry(kept[key_id])
    assert (entry.admin, entry.sha256) == (True, digest(key_id, secret))
    assert secret not in str(kept)
    mounted = next(v for v in router(objects)["volumes"] if v["name"] == "keys")["projected"]["sources"]
    assert [s["secret"]["name"] for s in mounted] == ["argosy-api-keys"]  # and not what people are given


def test_every_field_comes_to_the_router(render):
    objects = render("access-values.yaml")
    access = document(objects)
    issuer = access.issuers[0]
    assert (issuer.algorithms, issuer.tenant_claim, issuer.admin_value) == (("ES256",), "team", "operators")
    found = access.limits_of("team-a")
    assert (found.weight, found.max_priority, found.tokens_per_minute, found.kv_share) == (2, 5, 100_000, 0.5)
    mounted = next(v for v in router(objects)["volumes"] if v["name"] == "keys")["projected"]["sources"]
    assert [s["secret"]["name"] for s in mounted] == ["argosy-api-keys", "team-a-keys", "team-b-keys"]
    assert all(s["secret"]["optional"] for s in mounted)  # a router must come up though one is missing
    assert named(objects, "Secret", "argosy-admin-key") is None


@pytest.mark.parametrize("number", [100_000, 1_000_000, 123_456_789])
def test_large_numbers_are_numbers(render, number):
    access = document(render(f"access.defaults.tokensPerMinute={number}"))
    assert access.defaults.tokens_per_minute == number


def test_where_none_is_asked_for_there_is_nothing_of_it(render):
    objects = render("no-access-values.yaml")
    assert named(objects, "ConfigMap", "argosy-access") is None
    assert not [a for a in router(objects)["containers"][0]["args"] if "access" in a or "keys" in a]
    assert {o["metadata"]["name"] for o in objects if o["kind"] == "Secret"} == {"argosy-valkey"}
