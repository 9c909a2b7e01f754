"""The page in headless Chromium: filters, thoughts, hostile text, a narrow screen, the dark, print, and no network."""

import json
import shutil

import pytest
from test_report import HOSTILE, a_run, right

from eval import report

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"
)
LONG = "a" * 3000  # no place to break it


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium with an empty profile and no names to resolve; its log and its requests are kept."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.get("about:blank")  # it begins on a page of its own, which asks for much
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of two runs: first is wrong by hostile text on level 1, second without a place to break its lines."""
    folder = tmp_path_factory.mktemp("runs")
    first = a_run(folder / "first", ["plain", "sft"], 20, lambda p: right(p) if p.level > 1 else HOSTILE)
    second = a_run(folder / "second", ["plain"], 20, lambda p: LONG)
    report.write({"first": first, "second": second}, folder / "page.html")
    return f"file://{folder / 'page.html'}"


@pytest.fixture
def opened(browser, page):
    """Opens the page at a filter, on a screen of some width; afterwards nothing may stand in the console, and nothing
    but the page may have been asked for."""

    def open_at(filters="", width=1400, media="screen", scheme="light"):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        emulated = {"media": media, "features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
        browser.get("about:blank")
        browser.get(page + filters)
        waits(browser, "of 40 problems")
        return browser

    for log in ("browser", "performance"):
        browser.get_log(log)
    yield open_at
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url.partition("#")[0] for url in asked} == {page}


def waits(browser, text):
    """Waits until the count of problems says ``text``."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.expected_conditions import text_to_be_present_in_element
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 20).until(text_to_be_present_in_element((By.ID, "count"), text))


def found(browser, selector):
    return browser.find_elements("css selector", selector)


def choose(browser, name, value):
    """Choose as on a keyboard: selenium's own Select sends no input event, which browsers do."""
    found(browser, f"select[name={name}]")[0].send_keys(value)


def test_twenty_problems_are_shown_and_more_on_request(opened):
    browser = opened()
    assert found(browser, "#count")[0].text == "40 of 40 problems, the first 20 of them below"
    assert len(found(browser, "article")) == 20 and len(found(browser, ".answer")) == 60
    found(browser, "#more")[0].click()
    assert found(browser, "#count")[0].text == "40 of 40 problems"
    assert len(found(browser, "article")) == 40 and not found(browser, "#more")[0].is_displayed()


def test_the_filters_narrow_what_is_shown_and_the_address_keeps_them(opened):
    browser = opened()
    for name, value, shown in (
        ("level", "1", 8),
        ("stage", "sft", 8),
        ("verdict", "correct", 0),
        ("level", "2", 8),
        ("benchmark", "logic_v1", 4),
        ("base", "second", 0),
        ("verdict", "any", 0),  # second has no sft
        ("stage", "any", 4),
    ):
        choose(browser, name, value)
        waits(browser, f"{shown} of 40 problems")
        assert len(found(browser, "article")) == shown, (name, value)
    browser.refresh()
    waits(browser, "4 of 40 problems")
    assert "base=second" in browser.current_url


def test_kinds_of_error_and_text_can_be_looked_for(opened):
    from selenium.webdriver.common.keys import Keys

    browser = opened("#kind=no+attempt&base=first")
    assert found(browser, "#count")[0].text == "4 of 40 problems"
    browser = opened()
    [field] = found(browser, "input[name=text]")
    field.send_keys("ONERROR=alert", Keys.ENTER)
    waits(browser, "8 of 40 problems")
    field.send_keys(" which nothing says")
    waits(browser, "0 of 40 problems")
    assert not found(browser, "article")


def test_a_number_of_the_heat_map_leads_to_its_answers(opened):
    browser = opened()
    link = found(browser, "a[href*='benchmark=logic_v1&level=1&base=first&stage=sft']")[0]
    browser.execute_script("arguments[0].click()", link)
    waits(browser, "4 of 40 problems")
    assert browser.execute_script("return document.getElementById('answers').getBoundingClientRect().top") < 100
    assert {e.text.split(",")[0] for e in found(browser, "article > .quiet")} == {"logic_v1"}


def test_thoughts_are_folded_and_unfold(opened):
    browser = opened("#level=2&base=first")
    thoughts, texts = found(browser, "article details"), found(browser, "article details .text")
    assert len(thoughts) == 16 and not any(text.is_displayed() for text in texts)
    thoughts[0].find_element("css selector", "summary").click()
    assert [text.is_displayed() for text in texts] == [True] + [False] * 15 and texts[0].text
    found(browser, "input[name=unfold]")[0].click()
    assert all(text.is_displayed() for text in found(browser, "article details .text"))


def test_hostile_text_stays_text(opened):
    browser = opened("#level=1&base=first")
    assert found(browser, ".answer .text")[0].text == HOSTILE
    assert browser.title == "Ladder: first, second" and not found(browser, "img")
    assert len(found(browser, "article")) == 8 and len(found(browser, "script")) == 2


def test_markup_that_got_in_could_neither_run_nor_fetch(browser, page):
    """The content security policy holds where escaping would have failed."""
    browser.get(page)
    waits(browser, "of 40 problems")
    browser.get_log("browser")
    browser.execute_script(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"//a.example/x\" onerror=\"document.title = 1\">');"
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 2'}));"
    )
    assert browser.title == "Ladder: first, second"
    said = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "img-src" in said and "script-src" in said


@pytest.mark.parametrize("width", [390, 320])
def test_a_narrow_screen_does_not_scroll_sideways(opened, width):
    browser = opened("#unfold=on", width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    assert browser.execute_script(
        "return [...document.querySelectorAll('.wide')].some(e => e.scrollWidth > e.clientWidth)"
    )


CONTRAST = """
const seen = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
function rgb(...layers) {  // the last over the first
  for (const layer of layers) { seen.fillStyle = layer; seen.fillRect(0, 0, 1, 1); }
  return [...seen.getImageData(0, 0, 1, 1).data].slice(0, 3);
}
function light(color) {
  const [r, g, b] = color.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const page = getComputedStyle(document.body).backgroundColor;
const texts = document.querySelectorAll("h1, p, summary, th, td, td a, nav a, label, select, .mark, svg text");
const ratios = [...texts].map(e => {
  const style = getComputedStyle(e), behind = getComputedStyle(e.closest("td") ?? document.body).backgroundColor;
  const color = e.closest("svg") ? style.fill : style.color;
  const [a, b] = [light(rgb(page, behind, color)), light(rgb(page, behind))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
});
return [light(rgb(page)), Math.min(...ratios)];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_the_light_and_in_the_dark(opened, scheme):
    page, contrast = opened(scheme=scheme).execute_script(CONTRAST)
    assert page < 0.05 if scheme == "dark" else page > 0.9
    assert contrast >= 4.5  # WCAG 2.2, AA


def test_print_is_dark_on_light_without_the_form(opened):
    browser = opened(media="print", scheme="dark", width=700)
    page, contrast = browser.execute_script(CONTRAST)
    assert page > 0.9 and contrast >= 4.5
    assert not found(browser, "form")[0].is_displayed() and found(browser, "article")[0].is_displayed()
