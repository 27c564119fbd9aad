"""The review in a real browser: two readers, keyboard and mouse, text that wants to be code, and nothing leaves the machine."""

import http.client
import http.server
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.parse
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score

from medclm.corpus.review.sample import choose
from medclm.corpus.review.verdicts import exclusions, latest, read_verdicts
from medclm.data.shards import Corpus
from medclm.data.testing import record_row, write_small_corpus
from tests.browser import BAD, NEEDS, headless

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 6
pytestmark = NEEDS
selenium = pytest.importorskip("selenium", reason="needs the package selenium")

from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402


@pytest.fixture(scope="module")
def browser():
    with headless(width=1400, height=950, reach="127.0.0.1") as driver:
        yield driver


@pytest.fixture
def corpus(tmp_path):
    records = [record_row(k, images=12, no_finding_every=0) for k in range(SAMPLES - 1)]
    texts = {
        f"{part}_{stage}": f"{BAD} <box:0>" for part in ("question", "rationale", "answer") for stage in ("easy", "medium")
    }
    records.append(record_row(SAMPLES - 1, images=12, no_finding_every=0, **texts, question_hard=BAD, answer_hard=BAD))
    return write_small_corpus(tmp_path / "corpus", 12, records=records)


@contextmanager
def reviewing(corpus, reader):
    """The command as a reader starts it; gives the printed address and ends it as Ctrl-C does."""
    command = [sys.executable, "-u", "launch/corpus.py", "review", corpus, "--n", str(SAMPLES), "--reader", reader]
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it in what it starts with &
    )
    try:
        printed = ""
        while "open: " not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        yield re.search(r"open: (http://127\.0\.0\.1:\d+/[\w-]+/)", printed)[1]
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0, rest
    assert "Traceback" not in printed + rest


def position(browser):
    return int(browser.find_element(By.ID, "position").text.split("/")[0])


def wait_for(browser, number):
    """Until the sample is shown; the last one is followed by the overview."""
    if number > SAMPLES:
        WebDriverWait(browser, 10).until(lambda driver: driver.current_url.endswith("/done"))
    else:
        WebDriverWait(browser, 10).until(lambda driver: driver.current_url.endswith(f"/sample/{number}"))
        WebDriverWait(browser, 10).until(lambda driver: position(driver) == number)
        WebDriverWait(browser, 10).until(lambda driver: driver.execute_script("return document.readyState") == "complete")


def press(browser, keys):
    ActionChains(browser).send_keys(keys).perform()


def click(browser, selector):
    ActionChains(browser).click(browser.find_element(By.CSS_SELECTOR, selector)).perform()


def requested(browser):
    """Addresses that pages asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]


def by_keyboard(browser, url):
    """Reader A: corrects the second verdict, writes a note, comes back later for the last sample."""
    browser.get(url)
    for number, key in enumerate("1213", 1):
        wait_for(browser, number)
        press(browser, key)
    wait_for(browser, 5)
    press(browser, Keys.ARROW_LEFT)
    wait_for(browser, 4)
    press(browser, Keys.ARROW_LEFT)
    wait_for(browser, 3)
    press(browser, Keys.ARROW_LEFT)
    wait_for(browser, 2)
    current = browser.find_element(By.CSS_SELECTOR, "button.current")
    assert current.get_attribute("value") == "wrong_text"
    press(browser, "n")
    press(browser, "12 left of the aorta" + Keys.ENTER + "not right")
    press(browser, Keys.ESCAPE)
    press(browser, "4")
    wait_for(browser, 3)
    press(browser, "o")
    wait_for(browser, 5)
    browser.execute_cdp_cmd(
        "Input.dispatchKeyEvent", {"type": "keyDown", "key": "1", "text": "1", "autoRepeat": True}
    )  # a key that is still held from the sample before
    press(browser, "5")
    wait_for(browser, 6)


def test_two_readers_by_keyboard_and_mouse_give_verdicts_kappa_and_a_manifest(browser, corpus):
    path = corpus / "verdicts.jsonl"
    samples = choose(Corpus(corpus), SAMPLES)
    requested(browser)
    with reviewing(corpus, "A") as url:
        by_keyboard(browser, url)
        assert len(read_verdicts(path)) == 6, "five samples, one of them corrected"
    with reviewing(corpus, "A") as url:  # the same reader comes back
        browser.get(url)
        wait_for(browser, 6)
        press(browser, "1")
        wait_for(browser, 7)
        assert "All samples are judged" in browser.find_element(By.TAG_NAME, "body").text
    with reviewing(corpus, "B") as url:
        browser.get(url)
        for number, verdict in enumerate(["right", "wrong_side", "wrong_text", "wrong_box", "right", "right"], 1):
            wait_for(browser, number)
            assert not browser.find_elements(By.CSS_SELECTOR, "button.current"), "a reader does not see the other's verdicts"
            click(browser, f"button[value={verdict}]")
        wait_for(browser, 7)
        click(browser, "a[href='sample/6']")
        wait_for(browser, 6)
    lines = latest(read_verdicts(path))
    said = {reader: [lines[reader, one.record_id, one.stage].verdict for one in samples] for reader in "AB"}
    assert said["A"] == ["right", "wrong_side", "right", "wrong_box", "unanswerable", "right"]
    assert said["B"] == ["right", "wrong_side", "wrong_text", "wrong_box", "right", "right"]
    assert lines["A", samples[1].record_id, samples[1].stage].note == "12 left of the aorta\nnot right"
    assert all(line.seconds is not None and 0 <= line.seconds < 60 for line in lines.values())
    addresses = requested(browser)
    assert len(addresses) > 30
    assert {urllib.parse.urlsplit(address).hostname for address in addresses} == {"127.0.0.1"}

    done = subprocess.run(
        [sys.executable, "launch/corpus.py", "review", str(corpus), "--summary"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    entry = json.loads((corpus / "manifest.json").read_text())["review"]
    assert entry["kappa"] == pytest.approx(cohen_kappa_score(said["A"], said["B"]), abs=1e-6)
    assert (entry["state"], entry["n"], entry["readers"], entry["wrong"], entry["unanswerable"]) == (
        "reviewed",
        6,
        ["A", "B"],
        3,
        1,
    )
    assert entry["accepted"] is False
    assert "not accepted" in done.stdout
    assert "disagreements: 2" in done.stdout
    assert Counter(exclusions(path).values()) == {
        "review_wrong_side": 1,
        "review_wrong_text": 1,
        "review_wrong_box": 1,
        "review_unanswerable": 1,
    }
    Corpus(corpus, verify=True)


class _Elsewhere(http.server.BaseHTTPRequestHandler):
    """Another server of the machine, which must not be asked for anything."""

    hits = 0

    def do_GET(self):
        type(self).hits += 1
        self.send_response(200)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_):
        pass


def test_text_of_a_corpus_stays_text_and_the_policy_stops_what_is_injected(browser, corpus):
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    bad = f"r{SAMPLES - 1:05d}"
    number = next(number for number, one in enumerate(choose(Corpus(corpus), SAMPLES), 1) if one.record_id == bad)
    with reviewing(corpus, "A") as url:
        browser.get(f"{url}sample/{number}")
        wait_for(browser, number)
        assert BAD in browser.find_element(By.CSS_SELECTOR, ".texts .said").text
        assert browser.execute_script("return window.owned") is None
        assert len(browser.find_elements(By.TAG_NAME, "script")) == 1
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        broken = browser.execute_async_script(
            """
            const [target, done] = arguments;
            const broken = [];
            document.addEventListener('securitypolicyviolation', (event) => broken.push(event.effectiveDirective));
            const picture = document.createElement('img');
            picture.src = target;
            const inline = document.createElement('script');
            inline.textContent = 'window.owned = 3';
            const form = document.createElement('form');
            form.action = target;
            form.method = 'post';
            document.body.append(picture, inline, form);
            form.submit();
            fetch(target).catch(() => setTimeout(() => done(broken), 300));
            """,
            f"http://127.0.0.1:{other.server_address[1]}/stolen",
        )
        assert {"img-src", "script-src-elem", "connect-src", "form-action"} <= set(broken)
        assert browser.execute_script("return window.owned") is None
        assert _Elsewhere.hits == 0
    other.shutdown()


def test_the_real_command_refuses_a_foreign_host_and_a_verdict_without_token(browser, corpus):
    with reviewing(corpus, "A") as url:
        parts = urllib.parse.urlsplit(url)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        for method, headers, status in (("GET", {"Host": "evil.example"}, 421), ("POST", form, 403)):
            connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=10)
            connection.request(method, f"{parts.path}sample/1", b"verdict=right" if method == "POST" else None, headers)
            assert connection.getresponse().status == status
            connection.close()
        # nor can a page of another origin send one from a browser that has the review open
        browser.get("about:blank")
        browser.execute_script(
            """
            const form = document.createElement('form');
            form.method = 'post';
            form.action = arguments[0];
            form.innerHTML = "<input name='verdict' value='right'>";
            document.body.append(form);
            form.submit();
            """,
            f"{url}sample/1",
        )
        WebDriverWait(browser, 10).until(lambda driver: "taken from this page only" in driver.page_source)
    assert not (corpus / "verdicts.jsonl").exists()


def test_boxes_and_zoom_follow_keys_and_mouse(browser, corpus):
    samples = choose(Corpus(corpus), SAMPLES)
    number = next(number for number, one in enumerate(samples, 1) if one.stage == "medium")
    with reviewing(corpus, "A") as url:
        browser.get(f"{url}sample/{number}")
        wait_for(browser, number)
        outline = browser.find_element(By.CSS_SELECTOR, ".boxes rect")
        assert outline.is_displayed()
        press(browser, "b")
        assert not outline.is_displayed()
        click(browser, "label[for=boxes]")
        assert outline.is_displayed()
        width = outline.rect["width"]
        press(browser, "+")
        assert outline.rect["width"] == pytest.approx(2 * width, rel=0.05)
        click(browser, "label[for=zoom4]")
        assert outline.rect["width"] == pytest.approx(4 * width, rel=0.05)
        press(browser, "0")
        assert outline.rect["width"] == pytest.approx(width, rel=0.05)
        record = Corpus(corpus).row("records", samples[number - 1].record_row)
        box = Corpus(corpus).row("annotations", record["annotation_rows"][0])["box_xyxy_unit"]
        frame = browser.find_element(By.CSS_SELECTOR, "#picture > image").rect
        shown = browser.execute_script(
            "const r = arguments[0].getBoundingClientRect(); return [r.x, r.y, r.width, r.height]", outline
        )
        expected = [frame["x"] + box[0] * frame["width"], frame["y"] + box[1] * frame["height"]]
        expected += [(box[2] - box[0]) * frame["width"], (box[3] - box[1]) * frame["height"]]
        assert shown == pytest.approx(expected, abs=3)


def test_it_works_without_javascript(browser, corpus):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        with reviewing(corpus, "A") as url:
            browser.get(url)
            for number, verdict in enumerate(["right", "unanswerable"], 1):
                WebDriverWait(browser, 10).until(lambda driver, n=number: driver.current_url.endswith(f"/sample/{n}"))
                click(browser, f"button[value={verdict}]")
            WebDriverWait(browser, 10).until(lambda driver: driver.current_url.endswith("/sample/3"))
            press(browser, "1")  # no script, no keys
            click(browser, "#back")
            WebDriverWait(browser, 10).until(lambda driver: driver.current_url.endswith("/sample/2"))
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert [one.verdict for one in read_verdicts(corpus / "verdicts.jsonl")] == ["right", "unanswerable"]
