"""The page of an evaluated suite in a real browser, opened from disk: enlarge, filter, search, sort, walk by keyboard, print."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from eval.pages.case_pictures import save_pictures
from eval.pages.cases import DRAWN, choose, read_cases
from eval.pages.report import write_report
from eval.pages.side_by_side import write_side_by_side
from medclm.draws import generator
from tests.browser import BAD, NEEDS, headless
from tests.evaluations import case, evaluated, phantom_pool

pytestmark = NEEDS
selenium = pytest.importorskip("selenium", reason="needs the package selenium")

from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402


@pytest.fixture(scope="module")
def browser():
    with headless(width=1300, height=1000) as driver:
        yield driver


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models on one suite; screenshots are kept beside them."""
    place = tmp_path_factory.mktemp("evaluation")
    pool = phantom_pool(place / "corpus", count=160, size=96)
    evaluated(pool, place / "first", suites=["grounding"], skill=0.5)
    evaluated(pool, place / "second", suites=["grounding"], skill=0.8, seed=1)
    write_side_by_side(place / "side.html", *(place / name / "grounding-test" for name in ("first", "second")))
    return place


def scheme(browser, name):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": name}]})


def sized(browser, width, height):
    device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)


def opened(browser, path):
    scheme(browser, "light")
    sized(browser, 1300, 1000)
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(path.as_uri())
    return browser


@pytest.fixture
def page(browser, folder):
    yield opened(browser, folder / "first" / "grounding-test" / "report.html")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def cases(folder):
    found = [one for one in read_cases(folder / "first" / "grounding-test") if one.chosen]
    return {one.id: one for one in found}


def cards(page):
    """Ids of the visible cards, in order."""
    return page.execute_script(
        "return [...document.querySelectorAll('#cards > .case')].filter((one) => one.checkVisibility({}))"
        ".map((one) => one.querySelector('details code').textContent)"
    )


def count(page):
    return page.find_element(By.ID, "count").text


def press(page, *keys):
    ActionChains(page).send_keys(*keys).perform()


def is_open(page):
    return page.execute_script("return document.getElementById('view').open")


def enlarged(page):
    return page.execute_script("return document.querySelector('#large details code')?.textContent")


def picture(page, at):
    return page.find_elements(By.CSS_SELECTOR, "#cards .enlarge")[at]


# Whole page.


@pytest.mark.parametrize("name", ["first/grounding-test/report.html", "side.html"])
def test_nothing_is_fetched_and_all_is_shown(browser, folder, name):
    page = opened(browser, folder / name)
    shown = page.execute_script(
        "return [...document.querySelectorAll('.picture use')].map((one) => document.querySelector(one.getAttribute('href')) !== null"
        " && one.getBBox().width > 50)"
    )
    assert len(shown) > 30
    assert all(shown)
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert [address for address in asked if not address.startswith("data:")] == [(folder / name).as_uri()]
    assert not page.get_log("browser")


def test_the_picture_under_the_boxes_is_the_case_own(page, cases, folder):
    """What the browser paints is the kept file: the mean grey of one picture on the screen."""
    for kind in ("truth", "said"):
        page.find_element(By.CSS_SELECTOR, f"#filters .switch[value={kind}]").click()
    button = picture(page, 0)
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.screenshot(str(folder / "picture.png"))
    one = cases[cards(page)[0]]
    expected = Image.open(folder / "first" / "grounding-test" / "pictures" / one.picture).convert("L").resize((64, 64))
    painted = Image.open(folder / "picture.png").convert("L").resize((64, 64))
    assert np.corrcoef(np.asarray(painted, float).ravel(), np.asarray(expected, float).ravel())[0, 1] > 0.98


def test_texts_stay_texts_and_a_stored_script_does_not_run(browser, tmp_path):
    one = case(
        id=BAD, question=BAD, domain=f"' autofocus onfocus='window.owned = 3' {BAD}", patient=BAD, groups={BAD: BAD}, answers=(BAD,)
    )  # fmt: skip
    evil = [
        replace(one, answer=BAD, rationale=f"</script>{BAD}<!--", chosen=(DRAWN,), scores={BAD: 1.0}),
        replace(case(1), chosen=(DRAWN,)),
    ]
    score = {"value": 0.5, "ci95": None, "floor": None, "n": 1}
    results = {"suite": BAD, "n": 1, "headline": [BAD], "scores": {BAD: score}, "breakdown": {BAD: {BAD: {BAD: score}}}}
    write_report(tmp_path / "report.html", results=results, settings={BAD: BAD}, cases=evil)
    page = opened(browser, tmp_path / "report.html")
    Select(page.find_element(By.CSS_SELECTOR, "[data-key=domain]")).select_by_index(1)
    assert cards(page) == [BAD]
    assert page.execute_script("return window.owned") is None
    assert len(page.find_elements(By.TAG_NAME, "script")) == 1
    assert not page.find_elements(By.TAG_NAME, "img")
    assert page.find_element(By.CSS_SELECTOR, ".case h3").text == BAD
    assert not page.get_log("browser")
    # the policy stops what a script could be made to insert, too
    page.execute_script("document.body.insertAdjacentHTML('beforeend', arguments[0])", BAD)
    assert page.execute_script("return window.owned") is None
    assert {entry["source"] for entry in page.get_log("browser")} == {"security"}


# Filters.


def test_an_outcome_is_hidden_and_comes_back(page, cases):
    assert set(cards(page)) == set(cases)
    page.find_element(By.CSS_SELECTOR, "#filters .group[value=wrong]").click()
    assert set(cards(page)) == {name for name, one in cases.items() if one.outcome != "wrong"}
    assert count(page) == f"{len(cards(page))} of {len(cases)} cases"
    page.find_element(By.CSS_SELECTOR, "#filters .reset").click()
    assert set(cards(page)) == set(cases)
    assert count(page) == f"{len(cases)} cases"


@pytest.mark.parametrize(("key", "value"), [("domain", lambda one: one.domain), ("kind", lambda one: one.kind)])
def test_a_domain_or_kind_is_chosen(page, cases, key, value):
    choice = Select(page.find_element(By.CSS_SELECTOR, f"[data-key={key}]"))
    wanted = choice.options[1].get_attribute("value").removeprefix("=")
    choice.select_by_index(1)
    assert set(cards(page)) == {name for name, one in cases.items() if value(one) == wanted}
    assert cards(page)


def test_the_random_draw_is_shown_alone(page, cases):
    Select(page.find_element(By.CSS_SELECTOR, "[data-key=why]")).select_by_value(f"={DRAWN}")
    assert set(cards(page)) == {name for name, one in cases.items() if DRAWN in one.chosen}
    assert len(cards(page)) == 30


def test_search_finds_every_word_in_any_case(page, cases):
    box = page.find_element(By.ID, "search")
    box.send_keys("KIDNEY  left")
    found = set(cards(page))
    assert found
    for name in found:
        text = page.execute_script(
            "return [...document.querySelectorAll('.case')].find((one) => one.querySelector('details code').textContent === arguments[0])"
            ".textContent.toLowerCase()",
            name,
        )
        assert "kidney" in text
        assert "left" in text
    told = {name for name, one in cases.items() if "left kidney" in " ".join([*one.answers, one.text]).lower()}
    assert told <= found
    box.send_keys(" no such word")
    assert cards(page) == []
    assert page.find_element(By.ID, "nothing").is_displayed()
    page.find_element(By.CSS_SELECTOR, "#nothing .reset").click()
    assert set(cards(page)) == set(cases)


def test_cards_sort_by_a_score_and_those_without_come_last(page, cases):
    order = Select(page.find_element(By.ID, "sort"))
    before = cards(page)
    for sign, value in ((1, "+mean_iou"), (-1, "-mean_iou")):
        order.select_by_value(value)
        found = [round(cases[name].scores["mean_iou"], 4) if "mean_iou" in cases[name].scores else None for name in cards(page)]
        scored = [one for one in found if one is not None]
        assert scored == sorted(scored, key=lambda one: sign * one)
        assert found == scored + [None] * (len(found) - len(scored))
        assert len(scored) < len(found)
    order.select_by_value("")
    assert cards(page) == before


def test_boxes_are_switched_off_one_by_one(page):
    def seen():
        return page.execute_script(
            "return ['truth', 'said'].map((kind) => getComputedStyle(document.querySelector(`.picture .${kind}`)).display !== 'none')"
        )

    assert seen() == [True, True]
    for kind, left in (("truth", [False, True]), ("said", [False, False]), ("truth", [True, False])):
        page.find_element(By.CSS_SELECTOR, f"#filters .switch[value={kind}]").click()
        assert seen() == left


def test_score_columns_sort(page):
    def column():
        return [float(one.text) for one in page.find_elements(By.CSS_SELECTOR, "details[open] td.strong")]

    if not page.find_element(By.TAG_NAME, "details").get_attribute("open"):
        page.find_element(By.TAG_NAME, "summary").click()
    head = next(one for one in page.find_elements(By.CSS_SELECTOR, "details[open] thead button") if one.text == "value")
    head.click()
    assert column() == sorted(column())
    head.click()
    assert column() == sorted(column(), reverse=True)


# Enlarged.


def test_a_click_enlarges_and_arrows_walk_the_visible_cases(page, cases, folder):
    page.find_element(By.CSS_SELECTOR, "#filters .group[value=right]").click()
    visible = cards(page)
    small = page.execute_script("return arguments[0].getBoundingClientRect().width", picture(page, 0))
    first = next(one for one in page.find_elements(By.CSS_SELECTOR, "#cards .enlarge") if one.is_displayed())
    first.click()
    assert is_open(page)
    assert enlarged(page) == visible[0]
    assert page.find_element(By.CSS_SELECTOR, "#large .picture").rect["width"] > 1.5 * small
    page.save_screenshot(str(folder / "enlarged.png"))
    press(page, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert enlarged(page) == visible[2]
    press(page, Keys.ARROW_LEFT)
    assert page.find_element(By.ID, "place").text == f"2 of {len(visible)}"
    page.find_element(By.ID, "before").click()
    page.find_element(By.ID, "before").click()
    assert enlarged(page) == visible[-1]  # round the corner
    page.find_element(By.CSS_SELECTOR, "#view .switch[value=truth]").click()
    assert not page.find_element(By.CSS_SELECTOR, "#filters .switch[value=truth]").is_selected()
    press(page, Keys.ESCAPE)
    assert not is_open(page)
    label = page.switch_to.active_element.find_element(By.XPATH, "ancestor::article").get_attribute("textContent")
    assert visible[-1] in label  # the focus is where the reader has got to
    assert page.find_element(By.CSS_SELECTOR, "#large").get_attribute("textContent") == ""


def test_a_click_beside_the_case_or_on_its_picture_closes(page):
    for where in ("arguments[0].click()", "document.querySelector('#large .enlarge').click()"):
        picture(page, 1).click()
        assert is_open(page)
        page.execute_script(where, page.find_element(By.ID, "view"))
        assert not is_open(page)


def test_all_is_reached_by_keyboard(page):
    """Tab goes from the links through table, filters and pictures, each with a visible ring; Enter opens, Escape closes."""
    page.execute_script("document.querySelector('nav a').focus()")
    seen = []
    for _ in range(120):
        press(page, Keys.TAB)
        where, ring = page.execute_script(
            "const one = document.activeElement, style = getComputedStyle(one);"
            "return [one.id || one.className || one.tagName, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1]"
        )
        seen.append(where)
        assert ring, where
        if where == "enlarge":
            break
    assert {"scroll", "group", "switch", "only", "sort", "search", "reset", "enlarge"} <= set(seen)
    press(page, Keys.ENTER)
    assert is_open(page)
    for _ in range(12):  # the dialog keeps the focus
        press(page, Keys.TAB)
        inside = page.execute_script(
            "return document.activeElement === document.body || document.getElementById('view').contains(document.activeElement)"
        )
        assert inside
    press(page, Keys.ESCAPE)
    assert not is_open(page)
    assert page.execute_script("return document.activeElement.className") == "enlarge"
    page.execute_script("document.querySelector('#filters .group').focus()")
    press(page, Keys.SPACE)
    assert " of " in count(page)


# Looks.


@pytest.mark.parametrize("name", ["first/grounding-test/report.html", "side.html"])
@pytest.mark.parametrize(("width", "height"), [(1300, 1000), (390, 800), (320, 600)])
def test_no_width_scrolls_sideways(browser, folder, name, width, height):
    page = opened(browser, folder / name)
    sized(page, width, height)
    for state in ("page", "enlarged"):
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        wide = page.execute_script(
            "return [...document.querySelectorAll('#filters *, .case, .case *, #view *, .headline *')].filter((one) => one.checkVisibility({}))"
            ".filter((one) => one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80))"
        )
        assert wide == []
        page.save_screenshot(str(folder / f"{name.replace('/', '-')}-{width}-{state}.png"))
        page.execute_script("document.querySelector('.enlarge').click()")


def test_light_and_dark_follow_the_reader(page, folder):
    def seen():
        colours = (
            "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('.badge')).color]"
        )
        return page.execute_script(colours)

    light = seen()
    assert light[0] == "rgb(255, 255, 255)"
    scheme(page, "dark")
    dark = seen()
    assert dark[0] == "rgb(22, 22, 26)"
    assert dark[1] != light[1]
    page.save_screenshot(str(folder / "dark.png"))


def test_a_print_has_the_cases_and_no_controls(page, folder):
    scheme(page, "dark")
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.execute_script("return document.getElementById('filters').checkVisibility()") is False
    assert len(cards(page)) > 30
    printed = page.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    (folder / "print.pdf").write_bytes(base64.b64decode(printed["data"]))
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_without_script_all_is_shown(browser, folder):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page = opened(browser, folder / "first" / "grounding-test" / "report.html")
        assert not page.find_element(By.ID, "filters").is_displayed()
        assert all(one.is_displayed() for one in page.find_elements(By.CSS_SELECTOR, ".case h3")[:5])
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_two_hundred_cases_with_sixty_pictures_open_and_filter(browser, tmp_path):
    """How long it takes is printed, not asserted."""
    made = [case(number, question=f"What is seen in number {number}?", values={"right": number % 2}) for number in range(200)]
    made = choose(made, seed=0, numbers={DRAWN: 200})

    def noise(case_id):
        pixels = generator(int(case_id.rpartition("-")[2]) % 60, "noise").normal(120, 40, size=(640, 640))
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

    made = save_pictures(made, tmp_path, noise)
    score = {"value": 0.5, "ci95": None, "floor": None, "n": 200}
    results = {"suite": "vqa", "n": 200, "headline": ["right"], "scores": {"right": score}}
    write_report(tmp_path / "report.html", results=results, settings={}, cases=made)
    assert (tmp_path / "report.html").stat().st_size < 6e6
    page = opened(browser, tmp_path / "report.html")
    assert len(cards(page)) == 200
    timing = page.execute_script(
        "const [one] = performance.getEntriesByType('navigation'); return [one.domInteractive, one.loadEventEnd]"
    )
    print(f"200 cases, 60 pictures: interactive after {timing[0]:.0f} ms, loaded after {timing[1]:.0f} ms")
    page.find_element(By.ID, "search").send_keys("number 177?")
    assert cards(page) == ["case-177"]
