"""The page in a real browser: it loads whole and in silence, sorts, enlarges, fits a phone, and prints."""

import re
import time

import pytest
from browser import ENTER, ESCAPE, FOUND, Browser
from test_page import build

pytestmark = pytest.mark.skipif(not FOUND, reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    page = build(folder)
    with Browser(folder / "profile") as running:
        running.page = page
        yield running


@pytest.fixture
def page(browser) -> Browser:
    """The page freshly loaded, on a desk."""
    browser.emulate(1280, 900)
    browser.open(browser.page)
    return browser


def wait(page: Browser, script: str) -> None:
    """Until a condition of the page holds."""
    for _ in range(100):
        if page.run(f"return {script}"):
            return
        time.sleep(0.05)
    pytest.fail(f"never: {script}")


def test_every_picture_loads_and_the_console_is_silent(page):
    assert page.run("return document.images.length") >= 15
    wait(page, "[...document.images].every(image => image.complete)")
    assert page.run("return [...document.images].filter(image => !image.naturalWidth).map(image => image.alt)") == []
    assert (
        page.run("return performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length") == 0
    )
    assert page.console() == []


def test_a_heading_sorts_its_table_by_numbers_with_dashes_last(page):
    # cells of every kind, in the demo table's place
    cells = ["–", "10.5 ± 0.1", "0.48 ± 0.02", "−3", "9", "", "+2.00", "1\u202f497"]
    page.run(
        "const body = document.querySelector('table[data-sort]').tBodies[0], row = body.rows[0];"
        "body.replaceChildren(...arguments[0].map(text => {"
        "  const copy = row.cloneNode(true); copy.cells[2].textContent = text; return copy; }));",
        cells,
    )
    column = "[...document.querySelector('table[data-sort]').tBodies[0].rows].map(row => row.cells[2].textContent)"
    head = "document.querySelector('table[data-sort]').tHead.rows[0].cells[2]"
    rising = ["−3", "0.48 ± 0.02", "+2.00", "9", "10.5 ± 0.1", "1\u202f497"]
    page.run(f"{head}.querySelector('button').click()")
    assert page.run(f"return {column}") == [*rising, "–", ""]
    assert page.run(f"return {head}.getAttribute('aria-sort')") == "ascending"
    page.run(f"{head}.querySelector('button').focus()")
    page.press(ENTER)  # the keyboard does it as well
    assert page.run(f"return {column}") == [*rising[::-1], "–", ""]
    assert page.run(f"return {head}.getAttribute('aria-sort')") == "descending"
    page.run("document.querySelector('table[data-sort]').tHead.rows[0].cells[1].querySelector('button').click()")
    assert page.run("return document.querySelectorAll('[aria-sort]').length") == 1


def test_words_are_sorted_as_words(page):
    page.run("document.querySelectorAll('table[data-sort] th button')[1].click()")
    names = page.run(
        "return [...document.querySelector('table[data-sort]').tBodies[0].rows].map(row => row.cells[1].textContent)"
    )
    assert names == ["held-out real images", "initial distribution", "M-EBM", "M-JEM"]


def test_a_picture_is_enlarged_and_closed_by_hand_and_by_keyboard(page):
    state = "return document.querySelector('dialog').open"
    assert page.run(state) is False
    page.run("document.querySelectorAll('.zoom')[1].focus()")
    page.press(ENTER)
    assert page.run(state) is True
    widths = page.run(
        "const large = document.querySelector('dialog img'), small = document.querySelectorAll('.zoom img')[1];"
        "return [large.getBoundingClientRect().width, small.getBoundingClientRect().width, large.naturalWidth,"
        " large.alt === small.alt, document.querySelector('dialog').getBoundingClientRect().width]"
    )
    assert widths[0] > widths[1]
    assert widths[0] % widths[2] == 0  # pixels of a grid are whole squares
    assert widths[3] is True
    assert widths[4] <= 1280
    page.press(ESCAPE)
    assert page.run(state) is False
    assert page.run("return document.activeElement === document.querySelectorAll('.zoom')[1]") is True
    page.run("document.querySelectorAll('.zoom')[0].click()")
    assert page.run(state) is True
    page.run("document.querySelector('dialog button').click()")
    assert page.run(state) is False
    assert page.console() == []


def test_an_animation_can_be_stopped(page):
    moving = "return document.querySelector('img[data-still]').src.startsWith('data:image/webp')"
    assert page.run(moving) is True
    page.run("document.querySelector('.pause').click()")
    assert page.run(moving) is False
    page.run("document.querySelector('.pause').click()")
    assert page.run(moving) is True


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 700, 1280, 1600])
def test_it_fits_every_width_and_both_colour_schemes(page, width, scheme):
    page.emulate(width, 800, scheme)
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    colours = page.run(
        "const level = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => v / 255)"
        "  .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);"
        "  return .2126 * r + .7152 * g + .0722 * b; };"
        "const paper = level(getComputedStyle(document.body).backgroundColor);"
        "return [paper, ...['body', 'figcaption', '.absent', 'nav a', 'main a', '.over'].map(name => {"
        "  const ink = level(getComputedStyle(document.querySelector(name)).color);"
        "  return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05); })]"
    )
    assert (colours[0] > 0.5) == (scheme == "light")
    assert min(colours[1:]) >= 4.5  # contrast that WCAG asks of text
    card = page.run("return getComputedStyle(document.querySelector('.plot')).backgroundColor")
    assert (card == "rgb(255, 255, 255)") == (scheme == "dark")  # figures are drawn in dark ink


def test_on_a_phone_lists_wrap_and_text_in_pictures_is_not_shrunk(page):
    page.emulate(390, 800)
    edges = page.run(
        "return [...document.querySelectorAll('#mjem-generate td')].map(cell => cell.getBoundingClientRect().right)"
    )
    assert edges
    assert max(edges) <= 390
    drawn = page.run(
        "const image = document.querySelector('#mjem-pictures img');"
        "return [image.getBoundingClientRect().width, getComputedStyle(image).imageRendering]"
    )
    assert drawn == [640, "auto"]


def test_print_has_no_buttons_and_takes_few_sheets(page, tmp_path):
    page.emulate(760, 1000, media="print")
    shown = page.run(
        "return [...document.querySelectorAll('nav, .pause, .screen, dialog, .skip')]"
        ".filter(one => getComputedStyle(one).display !== 'none').length"
    )
    assert shown == 0
    wait(page, "document.querySelector('img[data-still]').currentSrc.startsWith('data:image/png')")
    assert page.run(
        "return [...document.querySelectorAll('.scroll')].every(one => one.scrollHeight <= one.clientHeight + 1)"
    )
    page.pdf(tmp_path / "page.pdf")
    sheets = re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())
    assert 2 <= len(sheets) <= 5  # two runs with few analyses; a page of the demo has at most 12
    wait(page, "!document.querySelector('.conditions[open]')")  # folded again afterwards


def test_the_skip_link_comes_first(page):
    page.press("\ue004")  # tab
    assert page.run("return document.activeElement.className") == "skip"
    page.press(ENTER)
    assert page.run("return location.hash") == "#content"
