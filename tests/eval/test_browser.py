"""The page in headless Chromium: filters, thoughts, hostile text, narrow screens, dark, print, and no network."""

import json
import shutil

import pytest

from eval.report import render_report

BROWSER = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="no Chromium: apt-get install chromium chromium-driver",
)

# No place to break it.
LONG_TEXT = "a" * 3000


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium with an empty profile and no names to resolve; its console and its requests are kept."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
    flags += ["disable-background-networking", "disable-component-update", "host-resolver-rules=MAP * ~NOTFOUND"]
    for flag in [*flags, f"user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(f"--{flag}")

    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    # It begins on a page of its own, which asks for much.
    driver.get("about:blank")
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory, make_view, answer_correctly, hostile_text):
    """The page of two runs: hostile text on level 1 of the first, no place to break a line in the second."""

    def write(problem):
        return answer_correctly(problem) if problem.level > 1 else hostile_text

    first = make_view("first", ["plain", "sft"], 20, write)
    second = make_view("second", ["plain"], 20, lambda p: LONG_TEXT)
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(render_report([first, second]))
    return f"file://{path}"


@pytest.fixture
def open_page(browser, page):
    """Open the page at a filter; afterwards the console must be empty, and nothing else may have been asked for."""

    def open_at(filters="", width=1400, media="screen", scheme="light"):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        emulated = {"media": media, "features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)

        browser.get("about:blank")
        browser.get(page + filters)
        wait_for_count(browser, "of 40 problems")
        return browser

    for log in ("browser", "performance"):
        browser.get_log(log)
    yield open_at

    assert browser.get_log("browser") == []
    urls = set()
    for entry in browser.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            urls.add(event["params"]["request"]["url"].partition("#")[0])
    assert urls == {page}


def wait_for_count(browser, text):
    """Wait until the count of problems has a text."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.expected_conditions import text_to_be_present_in_element
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 20).until(text_to_be_present_in_element((By.ID, "count"), text))


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def choose(browser, name, value):
    """Choose as on a keyboard: selenium's own Select sends no input event, which browsers do."""
    find(browser, f"select[name={name}]")[0].send_keys(value)


def test_twenty_problems_are_shown_and_more_on_request(open_page):
    browser = open_page()
    assert find(browser, "#count")[0].text == "40 of 40 problems, the first 20 of them below"
    assert len(find(browser, "article")) == 20
    assert len(find(browser, ".answer")) == 60

    find(browser, "#more")[0].click()
    assert find(browser, "#count")[0].text == "40 of 40 problems"
    assert len(find(browser, "article")) == 40
    assert not find(browser, "#more")[0].is_displayed()


def test_filters_narrow_what_is_shown_and_the_address_keeps_them(open_page):
    browser = open_page()
    steps = [
        ("level", "1", 8),
        ("stage", "sft", 8),
        ("verdict", "correct", 0),
        ("level", "2", 8),
        ("benchmark", "logic_v1", 4),
        ("run", "second", 0),
        ("verdict", "any", 0),
        ("stage", "any", 4),
    ]
    for name, value, count in steps:
        choose(browser, name, value)
        wait_for_count(browser, f"{count} of 40 problems")
        assert len(find(browser, "article")) == count

    browser.refresh()
    wait_for_count(browser, "4 of 40 problems")
    assert "run=second" in browser.current_url


def test_kinds_of_error_and_text_can_be_searched(open_page):
    from selenium.webdriver.common.keys import Keys

    browser = open_page("#kind=no+attempt&run=first")
    assert find(browser, "#count")[0].text == "4 of 40 problems"

    browser = open_page()
    [field] = find(browser, "input[name=text]")
    field.send_keys("ONERROR=alert", Keys.ENTER)
    wait_for_count(browser, "8 of 40 problems")
    field.send_keys(" which nothing has")
    wait_for_count(browser, "0 of 40 problems")


def test_a_number_of_the_heat_map_leads_to_its_answers(open_page):
    browser = open_page()
    link = find(browser, "a[href*='benchmark=logic_v1&level=1&run=first&stage=sft']")[0]
    browser.execute_script("arguments[0].click()", link)

    wait_for_count(browser, "4 of 40 problems")
    assert browser.execute_script("return document.getElementById('answers').getBoundingClientRect().top") < 100
    assert {element.text.split(",")[0] for element in find(browser, "article > .quiet")} == {"logic_v1"}


def test_thoughts_are_folded_and_unfold(open_page):
    browser = open_page("#level=2&run=first")
    thoughts = find(browser, "article details")
    texts = find(browser, "article details .text")
    assert len(thoughts) == 16
    assert not any(text.is_displayed() for text in texts)

    thoughts[0].find_element("css selector", "summary").click()
    assert [text.is_displayed() for text in texts] == [True] + [False] * 15
    assert texts[0].text

    find(browser, "input[name=unfold]")[0].click()
    assert all(text.is_displayed() for text in find(browser, "article details .text"))


def test_hostile_text_stays_text(open_page, hostile_text):
    browser = open_page("#level=1&run=first")
    assert find(browser, ".answer .text")[0].text == hostile_text
    assert browser.title == "Ladder: first, second"
    assert not find(browser, "img")
    assert len(find(browser, "script")) == 2


def test_markup_that_got_in_could_neither_run_nor_fetch(browser, page):
    """The content security policy holds where escaping would have failed."""
    browser.get(page)
    wait_for_count(browser, "of 40 problems")
    browser.get_log("browser")
    browser.execute_script(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"//a.example/x\" onerror=\"document.title = 1\">');"
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 2'}));"
    )

    assert browser.title == "Ladder: first, second"
    messages = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "img-src" in messages
    assert "script-src" in messages


@pytest.mark.parametrize("width", [390, 320])
def test_a_narrow_screen_does_not_scroll_sideways(open_page, width):
    browser = open_page("#unfold=on", width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width


def test_a_narrow_screen_shows_the_accuracy_of_each_stage(open_page):
    browser = open_page(width=400)
    # The first table compares the runs.
    table = find(browser, "#results ~ h3 + .wide > table")[1]
    headings = table.find_elements("css selector", "thead th")
    assert [heading.text for heading in headings[:4]] == ["stage", "variant", "n", "accuracy"]
    assert headings[3].rect["x"] + headings[3].rect["width"] <= 400


# The luminance of the page, and the least contrast of a text with what is behind it.
CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
function mix(...layers) {
  for (const layer of layers) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
}
function luminance(color) {
  const [r, g, b] = color.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const page = getComputedStyle(document.body).backgroundColor;
const texts = document.querySelectorAll("h1, p, summary, th, td, td a, nav a, label, select, .mark, svg text");
const ratios = [...texts].map(text => {
  const style = getComputedStyle(text);
  const behind = getComputedStyle(text.closest("td") ?? document.body).backgroundColor;
  const color = text.closest("svg") ? style.fill : style.color;
  const [a, b] = [luminance(mix(page, behind, color)), luminance(mix(page, behind))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
});
return [luminance(mix(page)), Math.min(...ratios)];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_light_and_dark(open_page, scheme):
    page, contrast = open_page(scheme=scheme).execute_script(CONTRAST)
    assert page < 0.05 if scheme == "dark" else page > 0.9
    # WCAG 2.2, AA.
    assert contrast >= 4.5


def test_print_is_dark_on_light_without_the_form(open_page):
    browser = open_page(media="print", scheme="dark", width=700)
    page, contrast = browser.execute_script(CONTRAST)
    assert page > 0.9
    assert contrast >= 4.5
    assert not find(browser, "form")[0].is_displayed()
    assert find(browser, "article")[0].is_displayed()
