"""What a person does in the browser: signs in, watches a study, reads it, decides about jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.pages import (
    LABEL,
    PATIENCE_MS,
    Analysed,
    Screen,
    chromium,
    sign_in,
    tinted,
)
from support.pages_node import Node, Sent, segmented, whole_node
from support.phantoms import cr, us
from support.web import PASSWORD, Site, site_of_its_own

from core.domain import ResultKind
from core.lifecycle import JobState

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.timeout(400)

EVIL = '<img src=x onerror="window.evil=1">'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_of_its_own(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture
def page(browser: Browser, here: Site) -> Iterator[Page]:
    """A page whose reader is an administrator; it must not complain about anything."""
    with opened(browser, here, "administrator") as made:
        yield made


class opened:
    """A page of its own browser profile, signed in; complaints of scripts fail the test."""

    def __init__(self, browser: Browser, here: Site | Node, name: str, **options: Any) -> None:
        self.context = browser.new_context(
            viewport={"width": 1400, "height": 900}, locale="en-US", **options
        )
        self.context.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.name, self.here = name, here

    def __enter__(self) -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text)
                if message.type in {"error", "warning"}
                else None
            ),
        )
        sign_in(page, self.here, self.name, PASSWORD)
        page.wait_for_url("**/worklist")
        return page

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.complaints == []


def test_a_wrong_password_is_refused_and_the_right_one_leads_where_one_wanted(
    browser: Browser, here: Site
) -> None:
    context = browser.new_context(locale="en-US")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{here.base}/studies")
    page.wait_for_url("**/sign-in?next=/studies")
    page.get_by_label("Name", exact=True).fill("viewer")
    page.get_by_label("Password", exact=True).fill("wrong password")
    page.get_by_role("button", name="Sign in").click()
    assert page.get_by_role("alert").inner_text() == "Name or password is wrong."
    page.get_by_label("Name", exact=True).fill("viewer")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/studies")
    # who may only look sees no button that decides
    page.goto(f"{here.base}/worklist")
    assert page.get_by_role("button", name="Retry").count() == 0
    assert page.get_by_role("link", name="Users").count() == 0
    page.goto(f"{here.base}/users")
    assert "Not allowed" in page.get_by_role("heading", level=1).inner_text()
    context.close()


def test_a_study_arrives_is_analysed_before_ones_eyes_and_is_read(
    browser: Browser, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    sent = Sent.phantom(tmp_path / "study", patient_name="Phantom^Live", patient_id="LIVE-1")
    with whole_node(tmp_path) as node, opened(browser, node, "administrator") as page:
        page.wait_for_selector('[data-live-state="on"]')
        # nothing below loads a page by itself until the link is clicked
        page.evaluate("window.same = true")
        sent.send(node, 0, 9)
        page.locator("#arriving").get_by_text("9 images").wait_for()
        sent.send(node, 9, 24)
        row = page.locator("tr[data-row]")
        row.get_by_text("mr-flair-glioma", exact=True).wait_for()
        row.get_by_text("done").first.wait_for()
        row.get_by_text("3 sent").wait_for()
        assert page.evaluate("window.same") is True

        row.get_by_role("link", name="Phantom, Live").click()
        _look_around(page, sent, node)
        explained = page.locator("#explanation").inner_text()
        assert "24 images; nothing came for" in explained
        assert "matched (Modality, SeriesDescription; 24 images)" in explained

        # the raw header of one of its images
        page.get_by_role("link", name="raw headers").first.click()
        page.locator("table a.uid").first.click()
        page.get_by_placeholder("Find in this list").fill("0010,0010")
        lines = page.locator("table.headers tbody tr:visible")
        expect(lines).to_have_count(1, timeout=PATIENCE_MS)
        assert "Phantom^Live" in lines.inner_text()


def _look_around(page: Page, sent: Sent, node: Node) -> None:
    """Read the finding, and do with the image what readers do."""
    screen = Screen(page)
    # it opens where the finding is seen best, its outline drawn
    page.wait_for_selector(
        '[data-viewer]:not([data-outlined="0"])[data-ready]:not([data-ready=""])'
    )
    at = int(screen.root.get_attribute("data-ready") or 0)
    image = pydicom.dcmread(sent.study.files("FLAIR")[at - 1], stop_before_pixels=True)
    mask = segmented(node.made("SEG"), str(image.SOPInstanceUID))
    truth = sent.study.truth[at - 1]
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.7
    assert "Not for clinical use" in page.locator(".patient").inner_text()
    finding = page.locator("table.findings tbody tr").first.inner_text()
    assert LABEL in finding
    assert "mL" in finding
    assert "mm" in finding

    # red runs along the border of what was segmented, and nowhere far from it
    page.keyboard.press("l")  # the label would be on top of it
    red = tinted(screen.pixels(*mask.shape))
    near = np.zeros_like(mask)
    for down in (-2, -1, 0, 1, 2):
        for right in (-2, -1, 0, 1, 2):
            near |= np.roll(mask, (down, right), axis=(0, 1))
    assert red.any()
    assert not (red & ~near).any()
    outlined = screen.root.get_attribute("data-outlined")
    page.keyboard.press("o")
    screen.outlined(0)
    assert not tinted(screen.canvas()).any()
    page.get_by_role("button", name="Outlines").click()
    screen.outlined(int(outlined or 0))

    # slices by wheel, by keys and by the finding's link
    stage = page.locator("[data-stage]")
    stage.hover()
    page.mouse.wheel(0, 120)
    screen.wait(at + 1)
    page.locator("[data-canvas]").focus()
    page.keyboard.press("Home")
    screen.wait(1)
    page.keyboard.press("ArrowDown")
    screen.wait(2)
    page.keyboard.press("End")
    screen.wait(24)
    page.get_by_role("button", name=f"show {at}").first.click()
    screen.wait(at)

    # window and level by drag, by keys
    before = screen.corner("window")
    box = stage.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 380, box["y"] + 340, steps=4)
    page.mouse.up()
    assert screen.corner("window") != before
    page.keyboard.press("1")
    assert screen.corner("window") == before
    plain = screen.canvas().mean()
    page.keyboard.press("i")
    assert screen.canvas().mean() > plain  # a dark picture turns bright
    page.keyboard.press("i")
    page.keyboard.press("+")
    assert np.abs(screen.canvas().astype(int).mean() - plain) > 0.5
    page.keyboard.press("0")
    assert abs(screen.canvas().mean() - plain) < 0.5


def test_failed_jobs_tell_why_and_are_run_again_together(
    here: Site, page: Page, tmp_path: Path
) -> None:
    jobs = []
    for number in (1, 2):
        study = Analysed.phantom(
            tmp_path / str(number), patient_name=f"Phantom^Failed{number}", seed=20 + number
        )
        study.arrive(here)
        job = study.job(here)
        study.begin(here, job)
        study.finish(
            here, job, JobState.FAILED, reason="the disk was full", remedy="Free space; then retry."
        )
        jobs.append(job)
    page.goto(f"{here.base}/worklist?state=failed")
    why = page.locator("tr.why")
    assert why.count() == 2
    assert "the disk was full → Free space; then retry." in why.first.inner_text()
    retry = page.get_by_role("button", name="Retry")
    assert retry.is_disabled()
    # by keyboard: the first line, then the next
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("x")
    assert "2 selected" in page.locator("[data-selected]").inner_text()
    retry.click()
    page.get_by_text("2 job(s) run again").wait_for()
    page.locator("a.chip.s-failed").click()  # takes the filter away
    page.locator("a.chip.s-waiting").click()
    page.wait_for_url("**/worklist?state=waiting")
    again = page.locator("tr[data-row]")
    assert again.count() == 2
    assert "run 2" in again.first.inner_text()
    # ended again: it is asked first
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("[data-all]").check()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("2 job(s) cancelled").wait_for()


def test_radiographs_and_ultrasound_are_shown_as_they_are(here: Site, page: Page) -> None:
    radiograph, ultrasound = cr().datasets[0], us(frames=3).datasets[0]
    for name, dataset in (("CR-1", radiograph), ("US-1", ultrasound)):
        dataset.PatientID = name
        dataset.StudyInstanceUID = f"1.2.77.{len(name)}.{ord(name[0])}"
        here.add_images(datasets=[dataset])
    screen = Screen(page)
    page.goto(f"{here.base}/studies/{radiograph.StudyInstanceUID}")
    screen.wait(1)
    stored = radiograph.pixel_array
    grey = screen.pixels(*stored.shape)[..., 0].astype(int)
    # the least value is white
    assert grey[stored == stored.min()].mean() > grey[stored == stored.max()].mean() + 60
    page.goto(f"{here.base}/studies/{ultrasound.StudyInstanceUID}")
    screen.wait(2)
    frame = ultrasound.pixel_array[1]
    shown = screen.pixels(*frame.shape[:2], aspect=1.5)
    rows, columns = np.nonzero((frame == frame[0, 0]).all(axis=-1))
    middle = len(rows) // 2
    # away from the corners, where text lies on the image
    assert np.abs(shown[rows[middle], columns[middle]].astype(int) - frame[0, 0]).max() < 8
    page.locator("[data-canvas]").focus()
    page.keyboard.press("ArrowDown")
    screen.wait(3)


def test_where_a_classifier_looked_is_shown_over_the_image(here: Site, page: Page) -> None:
    film = cr().datasets[0]
    film.PatientID, film.StudyInstanceUID = "CR-2", "1.2.77.2"
    film.SeriesInstanceUID, film.SOPInstanceUID = "1.2.77.2.1", "1.2.77.2.1.1"
    here.add_images(datasets=[film])
    # the second of two tiles belongs to it, and is warm in its upper left quarter
    sheet = np.full((16, 32), 255, np.uint8)
    sheet[:, 16:] = 0
    sheet[:8, 16:24] = 128
    text = PngInfo()
    text.add_text("maps", json.dumps({"1.2.3": [0, 0, 16, 16], "1.2.77.2.1.1": [16, 0, 16, 16]}))
    made = BytesIO()
    Image.fromarray(sheet).save(made, "png", pnginfo=text)
    here.add_job(
        study="1.2.77.2",
        series="1.2.77.2.1",
        state=JobState.DONE,
        results=[(ResultKind.HEAT, made.getvalue())],
    )
    page.goto(f"{here.base}/studies/1.2.77.2")
    screen = Screen(page)
    screen.wait(1)
    button = page.get_by_role("button", name="Activation")
    button.click()
    page.wait_for_selector('[data-viewer][data-heated="true"]')
    rows, columns = film.Rows, film.Columns
    warm = tinted(screen.pixels(rows, columns))
    assert warm[rows // 8 : rows * 3 // 8, columns // 8 : columns * 3 // 8].all()
    assert not warm[rows * 5 // 8 :].any()
    assert not warm[:, columns * 5 // 8 :].any()
    page.locator("[data-canvas]").focus()
    page.keyboard.press("h")
    page.wait_for_selector('[data-viewer][data-heated="false"]')
    assert not tinted(screen.canvas()).any()


def test_every_page_fits_each_screen_by_keyboard_and_runs_no_text_of_an_image(
    browser: Browser, here: Site, tmp_path: Path
) -> None:
    study = Analysed.phantom(tmp_path, patient_name=f"{EVIL}^X", patient_id="EVIL", seed=31)
    for image in study.images:
        image.SeriesDescription = image.StudyDescription = EVIL[:60]
    study.arrive(here)
    job = study.job(here)
    study.begin(here, job)
    study.finish(here, job, JobState.FAILED, reason=EVIL, remedy=EVIL)
    paths = [
        "/worklist", "/studies", f"/studies/{study.study}", "/peers", "/routes", "/models",
        "/models/mr-flair-glioma", "/system", "/settings", "/users", "/audit", "/account",
    ]  # fmt: skip
    with opened(browser, here, "administrator", color_scheme="dark") as page:
        for width in (390, 820):
            page.set_viewport_size({"width": width, "height": 844})
            for path in paths:
                page.goto(here.base + path)
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, (path, width)
        page.set_viewport_size({"width": 1400, "height": 900})
        page.goto(f"{here.base}/studies/{study.study}")
        Screen(page).wait(7)
        assert page.evaluate("window.evil") is None
        assert EVIL in page.locator("#work").inner_text()
        # by keyboard alone
        page.goto(f"{here.base}/worklist")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("?")
        page.get_by_role("heading", name="Keyboard").wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("g")
        page.keyboard.press("s")
        page.wait_for_url("**/studies")
        page.keyboard.press("/")
        page.keyboard.type("EVIL")
        page.keyboard.press("Enter")
        page.wait_for_url("**/studies?q=EVIL*")
        assert page.locator("tr[data-row]").count() == 1
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/studies/{study.study}")
        # the other language, kept
        page.locator("details.who summary").click()
        page.get_by_role("link", name="中文").click()
        page.wait_for_selector('html[lang="zh"]')
        assert "未经验证不得用于临床" in page.locator(".patient").inner_text()
        page.goto(f"{here.base}/worklist")
        assert "工作列表" in page.locator("nav").inner_text()
