"""The page of compared runs in a real browser, opened from disk: hover, hide, walk by keyboard, sort, light and dark."""

import json
import math

import numpy as np
import pytest

from eval.runs.comparison import Comparison, Group, Row, Score
from eval.runs.comparison_page import write_page
from medclm.tracked_runs import History, RunSummary
from tests.browser import BAD, NEEDS, headless

NAMES = ["first", BAD, "third"]
METRIC = "train/loss"
pytestmark = NEEDS
selenium = pytest.importorskip("selenium", reason="needs the package selenium")

from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402


@pytest.fixture(scope="module")
def browser():
    with headless(width=1400, height=1000) as driver:
        yield driver


def comparison():
    """Three runs whose loss falls on straight lines from 4, 3 and 2 to 1 at step 1000; the second has a gap."""
    rows, curves = [], {METRIC: {}, f"{BAD}/other": {}}
    step = np.arange(0, 1001, 10)
    for at, name in enumerate(NAMES):
        value = np.linspace(4.0 - at, 1.0, len(step))
        if at == 1:
            value[40:60] = np.nan
        for histories in curves.values():
            histories[str(at) * 32] = History(step=step, time=step.astype(float), value=value)
        score = Score(float(at), 1000, float(at), 1000, None, "", None) if at else None
        recipe = {"run.seed": str(at), "train.lr": f"0.{at} {BAD}", "curriculum.policy": BAD}
        run = RunSummary(str(at) * 32, name, "FINISHED", started=0.0, ended=100.0 * (3 - at))
        rows.append(Row(run, name, recipe, 1000, 100.0 * (3 - at), {METRIC: score} if score else {}))
    groups = tuple(Group(number, row.recipe, (row,)) for number, row in enumerate(rows, 1))
    return Comparison(BAD, "", (METRIC,), None, tuple(rows), groups, curves)


@pytest.fixture
def page(browser, tmp_path):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    write_page(comparison(), tmp_path / "compare.html")
    browser.get_log("performance")
    browser.get((tmp_path / "compare.html").as_uri())
    return browser


def charts(page):
    return page.find_elements(By.CSS_SELECTOR, "svg.chart")


def lit(page):
    """Runs whose curves stand out in the first chart."""
    return [one.get_attribute("data-run") for one in charts(page)[0].find_elements(By.CSS_SELECTOR, ".plot.lit path.on")]


def readout(page):
    return page.find_element(By.CSS_SELECTOR, ".readout").text.strip("\u00a0 ")


def shown(page):
    return [one.get_attribute("data-run") for one in charts(page)[0].find_elements(By.CSS_SELECTOR, ".plot path:not(.off)")]


def press(page, *keys):
    ActionChains(page).send_keys(*keys).perform()


def names(page):
    return [row.text for row in page.find_elements(By.CSS_SELECTOR, "table")[0].find_elements(By.CSS_SELECTOR, "tbody th")]


def test_texts_stay_texts_and_nothing_is_fetched(page):
    assert page.execute_script("return window.owned") is None
    assert len(page.find_elements(By.TAG_NAME, "script")) == 1
    assert not page.find_elements(By.TAG_NAME, "img")
    assert names(page)[1] == BAD
    assert page.title.startswith(BAD)
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert [address.rsplit("/", 1)[-1] for address in asked] == ["compare.html"]
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
    # the policy stops what a script could be made to insert, too
    page.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.owned = 3'; document.body.append(s)"
    )
    assert page.execute_script("return window.owned") is None
    assert [entry["source"] for entry in page.get_log("browser")] == ["security"]


def test_hovering_a_curve_names_run_step_and_value(page):
    chart = charts(page)[0]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    at = page.execute_script(
        """
        const plot = arguments[0].querySelector('.plot'), path = plot.querySelector('path[data-run="2"]');
        const point = path.getPointAtLength(path.getTotalLength() / 2), box = arguments[0].getBoundingClientRect();
        const on = new DOMPoint(point.x, point.y).matrixTransform(plot.getScreenCTM());
        return [on.x - box.x - box.width / 2, on.y - box.y - box.height / 2];
        """,
        chart,
    )
    ActionChains(page).move_to_element_with_offset(chart, round(at[0]), round(at[1])).perform()
    name, _, rest = readout(page).partition(": about ")
    value, _, step = rest.partition(" at step ")
    assert name == "third"
    assert math.isclose(float(value), 2.0 - int(step) / 1000, abs_tol=0.02)
    assert abs(int(step) - 500) <= 10
    assert lit(page) == ["2"]
    assert [len(one.find_elements(By.CSS_SELECTOR, ".plot.lit")) for one in charts(page)] == [1, 1]
    ActionChains(page).move_to_element(page.find_element(By.TAG_NAME, "h1")).perform()
    assert (lit(page), readout(page)) == ([], "")


def test_a_chart_is_walked_by_keyboard(page):
    page.execute_script("arguments[0].focus()", charts(page)[0])
    press(page, Keys.ARROW_RIGHT)
    assert readout(page) == "first: about 1 at step 1000"
    press(page, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert readout(page) == "first: about 1.06 at step 980"
    press(page, Keys.ARROW_DOWN)
    assert readout(page) == f"{BAD}: about 1.04 at step 980"
    assert lit(page) == ["1"]
    press(page, Keys.ESCAPE)
    assert (lit(page), readout(page)) == ([], "")


def test_runs_are_hidden_by_keyboard_and_by_buttons(page):
    boxes = page.find_elements(By.CSS_SELECTOR, "#runs input")
    assert shown(page) == ["0", "1", "2"]
    page.execute_script("arguments[0].focus()", page.find_element(By.ID, "none"))
    press(page, Keys.TAB)
    assert lit(page) == ["0"]  # a focused name lights its curves
    press(page, Keys.TAB, Keys.SPACE)
    assert not boxes[1].is_selected()
    assert shown(page) == ["0", "2"]
    page.execute_script("arguments[0].focus()", charts(page)[0])
    press(page, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert lit(page) == ["2"]  # the hidden one is passed over
    page.find_element(By.ID, "none").click()
    assert shown(page) == []
    press(page, Keys.ARROW_RIGHT)
    page.find_element(By.ID, "all").click()
    assert shown(page) == ["0", "1", "2"]
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def test_columns_sort_and_what_has_no_value_comes_last(page):
    head = {button.text: button for button in page.find_elements(By.CSS_SELECTOR, "table:first-of-type thead button")}
    assert names(page) == NAMES
    head["seconds"].click()
    assert names(page) == ["third", BAD, "first"]
    head["final"].click()
    assert names(page) == [BAD, "third", "first"]
    press(page, Keys.ENTER)  # the other way round, by keyboard
    assert names(page) == ["third", BAD, "first"]
    assert head["final"].find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"


def test_light_and_dark_follow_the_reader(page):
    def seen():
        return page.execute_script(
            "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('.plot .c0')).stroke]"
        )

    light = seen()
    assert light[0] == "rgb(255, 255, 255)"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    dark = seen()
    assert dark[0] == "rgb(22, 22, 26)"
    assert dark[1] != light[1]
