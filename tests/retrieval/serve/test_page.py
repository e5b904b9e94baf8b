"""The page in a real browser: type, look, play, go back, mistakes."""

import re

import pytest
from browser import accessibility_problems, chromium
from colour_encoder import ColourMatcher
from PIL import Image
from running_service import running

WHITE = "sub folder/blue_red's.mp4"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(browser, collection_path):
    with running(collection_path, ColourMatcher()) as (address, _):
        yield address


@pytest.fixture
def page(browser, address):
    """A page on which no script fails and nothing is loaded from elsewhere."""
    with browser.new_context(viewport={"width": 1200, "height": 800}) as context:
        context.set_default_timeout(10_000)
        page = context.new_page()
        errors, elsewhere = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request",
            lambda one: (
                None
                if one.url.startswith((address, "blob:", "data:"))
                else elsewhere.append(one.url)
            ),
        )
        page.goto(address)
        page.wait_for_selector(".card-link")
        yield page
        assert errors == [] and elsewhere == []


def search(page, words):
    page.fill("#text", words)
    page.press("#text", "Enter")
    page.wait_for_function("() => document.querySelector('#status').textContent.includes(' ms')")


def titles(page):
    return page.locator(".card .title").all_inner_texts()


def seconds(page):
    """Where the player is, once it has reached its place."""
    page.wait_for_function("() => document.querySelector('.stage video')?.readyState >= 2")
    return page.evaluate("document.querySelector('.stage video').currentTime")


def test_type_see_play_and_back(page):
    assert titles(page) == ["red-blue", "blue red's"]
    search(page, "a white wall")
    assert titles(page)[0] == "blue red's"
    best = page.locator(".card").first
    assert best.locator(".time").inner_text() == "0:02 – 0:04"
    assert float(best.locator(".score").inner_text()) == pytest.approx(1, abs=1e-3)
    page.wait_for_function("() => document.querySelector('.card img').naturalWidth > 0")
    best.locator(".card-link").click()
    assert 2.0 <= seconds(page) < 4.2
    assert page.locator(".marks button").count() == 2
    chosen = page.locator(".marks button[aria-current]")
    assert chosen.get_attribute("aria-label").startswith("0:02")
    assert chosen.evaluate("one => parseFloat(one.style.left)") == pytest.approx(50, abs=2)
    page.go_back()
    page.wait_for_selector(".card-link")
    assert titles(page)[0] == "blue red's"
    assert page.input_value("#text") == "a white wall"
    page.go_back()
    page.wait_for_function(
        "() => document.querySelector('#status').textContent.includes('segments')"
    )
    page.go_forward()
    page.wait_for_function("() => document.querySelector('#status').textContent.includes(' ms')")


def test_a_mark_and_keys_move_the_player(page, address):
    page.goto(f"{address}watch?v=red-blue.mp4")
    assert seconds(page) < 2
    page.locator(".marks button").nth(1).click()
    page.wait_for_function("() => document.querySelector('.stage video').currentTime >= 2")
    assert "t=2.0" in page.url
    page.keyboard.press("p")
    page.wait_for_function("() => document.querySelector('.stage video').currentTime < 2")
    page.keyboard.press("k")
    page.wait_for_function("() => document.querySelector('.stage video').paused")
    assert page.locator(".metadata").inner_text().split() == ["camera", "north", "hour", "3"]
    page.keyboard.press("Escape")
    page.wait_for_selector(".card-link")


def test_more_like_this_and_its_removal(page):
    search(page, "white")
    page.locator(".card button.link").first.click()
    page.wait_for_selector(".chip img")
    page.wait_for_selector(".card:not(.skeleton) .title")
    assert "blue_red's.mp4 at 0:02" in page.locator(".chip").inner_text()
    places = list(zip(titles(page), page.locator(".time").all_inner_texts(), strict=True))
    assert ("blue red's", "0:02 – 0:04") not in places and places
    page.locator(".chip button").click()
    page.wait_for_function(
        "() => document.querySelector('#status').textContent.includes('segments')"
    )


def test_a_picture_is_dropped(page, tmp_path):
    Image.new("RGB", (32, 32), (0, 255, 0)).save(tmp_path / "green.png")
    page.set_input_files("#file", tmp_path / "green.png")
    page.wait_for_function("() => document.querySelector('#status').textContent.includes(' ms')")
    assert titles(page)[0] == "red-blue"
    assert page.locator(".time").first.inner_text() == "0:02 – 0:04"
    (tmp_path / "odd.png").write_bytes(b"no picture")
    page.set_input_files("#file", tmp_path / "odd.png")
    page.wait_for_selector("[role=alert] >> text=the upload")


def test_groups_and_filters(page):
    search(page, "white")
    page.check("#group")
    page.wait_for_selector(".group h2")
    assert page.locator(".group h2 a").all_inner_texts() == ["blue red's", "red-blue"]
    page.click("summary")
    page.click("text=north")
    page.wait_for_function("() => document.querySelectorAll('.group').length === 1")
    assert page.input_value("#where") == "`camera` = 'north'"
    page.fill("#where", "camra = 1")
    page.press("#where", "Enter")
    page.wait_for_selector("[role=alert] >> text=did you mean camera")


def test_keys_walk_through_results(page):
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#status').textContent.includes(' ms')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    place = "[...document.querySelectorAll('.card-link')].indexOf(document.activeElement)"
    assert page.evaluate(place) == 1
    page.keyboard.press("Enter")
    seconds(page)
    page.keyboard.press("?")
    assert page.locator("#shortcuts").is_visible()


def test_pointing_at_a_result_plays_it(page):
    search(page, "white")
    page.locator(".card-link").first.hover()
    page.wait_for_selector(".preview.playing")
    assert page.evaluate("document.querySelector('.preview').currentTime") >= 2
    page.mouse.move(0, 0)
    page.wait_for_function("() => !document.querySelector('.preview')")


def test_failures_are_told(page, address):
    page.goto(f"{address}watch?v=nowhere.mp4")
    page.wait_for_selector("[role=alert] >> text=no video 'nowhere.mp4'")
    page.goto(f"{address}?upload=gone@x.png")
    page.wait_for_selector("[role=alert] >> text=upload it again")
    page.goto(address)
    page.wait_for_selector(".card-link")
    page.route("**/search", lambda route: route.abort())
    page.fill("#text", "blue")
    page.press("#text", "Enter")
    page.wait_for_selector("[role=alert] >> text=cannot be reached")
    page.unroute("**/search")
    page.click("text=Try again")
    page.wait_for_function("() => document.querySelector('#status').textContent.includes(' ms')")
    page.route("**/media/**", lambda route: route.abort())
    page.locator(".card-link").first.click()
    page.wait_for_selector(".unplayable >> text=Download it")


def test_signing_in(browser, collection_path):
    with (
        running(collection_path, ColourMatcher(), token="a-token-of-mine") as (address, _),
        browser.new_context() as context,
    ):
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.goto(address)
        page.fill("#token", "a wrong one")
        page.press("#token", "Enter")
        page.wait_for_selector("text=this is not the token")
        page.fill("#token", "a-token-of-mine")
        page.press("#token", "Enter")
        page.wait_for_selector(".card-link")
        page.wait_for_function("() => document.querySelector('.card img').naturalWidth > 0")


def test_a_telephone_and_dark_and_light(browser, address):
    with browser.new_context(
        viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True
    ) as context:
        page = context.new_page()
        for path in ("", "?q=white", "?q=white&group=video", "watch?v=red-blue.mp4&q=white"):
            page.goto(address + path)
            page.wait_for_selector(".card-link, .marks button")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
        colour = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(colour)
        page.click("#theme")
        light = page.evaluate(colour)
        assert (
            sum(map(int, re.findall(r"\d+", dark))) < 200 < sum(map(int, re.findall(r"\d+", light)))
        )
        page.reload()
        assert page.evaluate(colour) == light


def test_assistive_technology_finds_its_way(browser, address):
    for scheme in ("light", "dark"):
        with browser.new_context(color_scheme=scheme, bypass_csp=True) as context:
            page = context.new_page()
            for path in ("", "?q=white&group=video", "watch?v=red-blue.mp4&q=white", "watch?v=x"):
                page.goto(address + path)
                page.wait_for_selector(".card-link, .marks button, [role=alert] h1")
                problems = accessibility_problems(page)
                if problems is None:
                    pytest.skip(
                        "axe is not here: npm install axe-core, REELSCAN_AXE=.../axe.min.js"
                    )
                assert problems == [], (scheme, path)
