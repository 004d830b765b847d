"""Pictures of every page, to be looked at: run it after a change of templates, styles or scripts.

    PYTHONPATH=.:tests python -m support.screens OUT [--site full] [--width 390] [--page worklist]

Every page at the widths of a phone, a tablet and a desk; without work, after a day of work, and
in trouble; light and dark, English and Chinese. Beside the pictures it says what no picture
shows well: a page wider than its screen, text that is cut or too faint, an error in a script.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from support.pages import PATIENCE_MS, chromium
from support.screens_site import empty_site, full_site, troubled_site
from support.web import PASSWORD, Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SITES = {"empty": empty_site, "full": full_site, "trouble": troubled_site}
WIDTHS = {390: 844, 820: 1180, 1440: 900}
LOOKS = {"light": "en", "dark": "zh"}
_TALLEST = 2600
_MOST_BYTES = 300_000  # of a picture in the docs
# Elements whose text is wider than they are, and text with too little contrast (WCAG 1.4.3).
_FAULTS = """() => {
  const found = [];
  const wide = document.documentElement.scrollWidth;
  if (wide > window.innerWidth) found.push(`page is ${wide} wide`);
  const rgb = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0]).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => {
      const c = v / 255;
      return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.9) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  for (const element of document.querySelectorAll("main *, header *, footer *")) {
    const box = element.getBoundingClientRect();
    const style = getComputedStyle(element);
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !box.width || style.visibility === "hidden" || element.closest(".hidden")) continue;
    const said = element.textContent.trim().slice(0, 40);
    if (element.scrollWidth > element.clientWidth + 1 && style.overflowX === "hidden"
        && style.textOverflow !== "ellipsis") found.push(`cut: ${said}`);
    if (box.right > window.innerWidth + 1 && !element.closest(
        "table.plain, .scrolls, .chips, nav, pre, .card-text")) found.push(`outside: ${said}`);
    if (element.closest(".stage, [disabled], option, .skip")) continue;
    const [a, b] = [light(rgb(style.color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.45) found.push(`contrast ${ratio.toFixed(1)}: ${element.tagName} ${said}`);
  }
  return [...new Set(found)].slice(0, 12);
}"""


def pages_of(name: str, here: Site) -> Iterator[tuple[str, str]]:
    """Name and address of what is worth a picture."""
    yield "worklist", "/worklist"
    if name == "full":
        yield "worklist-filtered", "/worklist?state=failed&state=done&period=7d&q=phantom"
        yield "worklist-nothing", "/worklist?q=nobody-has-this-name"
    if name == "trouble":
        yield "worklist-done", "/worklist?done=retried&n=3&problem=one%20cannot%20be%20retried"
    yield "studies", "/studies"
    yield from _studies(name, here)
    for page in ("peers", "routes", "models", "system", "settings", "users", "audit", "account"):
        yield page, f"/{page}"
    if name == "full":
        yield "model", "/models/mr-flair-glioma"
        yield "error", "/studies/1.2.3.4.5"


def _studies(name: str, here: Site) -> Iterator[tuple[str, str]]:
    with here.ledger.read() as work:
        found = work.views.studies()
        lives = [work.views.job_life(job.id) for job in work.views.jobs()]
    if name == "trouble":
        for study in found:
            if study.conflict:
                yield "study-conflict", f"/studies/{study.study_instance_uid}"
        failed = next(life.job for life in lives if life.job.state == "failed")
        yield "study-failed", f"/studies/{failed.study_instance_uid}"
    if name != "full":
        return
    for study in found:
        if not study.study_instance_uid.startswith("1.2.826.0.1.77."):
            label = study.patient_id.lower().removeprefix("phantom-")
            yield f"study-{label}", f"/studies/{study.study_instance_uid}"
    done = next(life for life in lives if life.results)
    study_uid, series = done.job.study_instance_uid, done.job.series_instance_uids[0]
    yield "instances", f"/studies/{study_uid}/series/{series}/instances"
    sr = next(item for item in done.results if item.kind == "SR")
    with here.ledger.read() as work:
        (result, *_) = work.study_page.result(_result_id(here, done.job.id))
    assert result.kind == sr.kind
    yield "headers", f"/studies/{study_uid}/results/{result.id}"


def _result_id(here: Site, job: str) -> int:
    with here.ledger.read() as work:
        page = work.study_page.page(work.views.job_life(job).job.study_instance_uid)
    return next(
        item.id
        for found in page.jobs
        for item in found.results
        if found.job.id == job and item.kind == "SR"
    )


def shoot(page: Page, path: Path) -> list[str]:
    """Save what is shown, all of its height; what is wrong with it."""
    if page.locator("[data-viewer]").count():
        page.wait_for_selector(
            '[data-viewer][data-ready]:not([data-ready=""])', timeout=PATIENCE_MS
        )
        page.wait_for_timeout(300)
    faults: list[str] = page.evaluate(_FAULTS)
    height = page.evaluate("document.documentElement.scrollHeight")
    size = page.viewport_size
    assert size is not None
    clip = {"x": 0, "y": 0, "width": size["width"], "height": min(height, _TALLEST)}
    page.screenshot(path=path, full_page=True, clip=clip)  # type: ignore[arg-type]
    return faults


def take(browser: Browser, here: Site, name: str, out: Path, options: argparse.Namespace) -> None:
    """All pictures of one site."""
    looks = [(look, LOOKS[look]) for look in options.look or LOOKS]
    for width, (look, language) in itertools.product(options.width or WIDTHS, looks):
        told: list[str] = []
        context = browser.new_context(
            viewport={"width": width, "height": WIDTHS[width]}, color_scheme=look
        )
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("pageerror", lambda error, told=told: told.append(f"script: {error}"))
        with_language = {"name": "sentinode-language", "value": language, "url": here.base}
        context.add_cookies([with_language])  # type: ignore[list-item]
        tail = f"{width}-{look}-{language}.png"
        if not options.page:
            page.goto(f"{here.base}/sign-in?problem=wrong")
            _say(name, "sign-in", tail, shoot(page, out / f"{name}-sign-in-{tail}"))
        context.request.post(
            f"{here.base}/sign-in", form={"name": "administrator", "password": PASSWORD}
        )
        for label, address in pages_of(name, here):
            if options.page and label not in options.page:
                continue
            page.goto(here.base + address)
            faults = shoot(page, out / f"{name}-{label}-{tail}")
            _say(name, label, tail, faults + told)
            told.clear()
        context.close()


def for_docs(browser: Browser, here: Site, folder: Path) -> None:
    """The pictures of README and docs: what fits a screen."""
    folder.mkdir(parents=True, exist_ok=True)
    with here.ledger.read() as work:
        studies = {item.patient_id: item.study_instance_uid for item in work.views.studies()}
    for name, look, address in (
        ("worklist", "light", "/worklist"),
        ("study", "light", f"/studies/{studies['PHANTOM-1']}"),
        ("activation", "dark", f"/studies/{studies['PHANTOM-C']}"),
        ("system", "light", "/system"),
    ):
        context = browser.new_context(
            viewport={"width": 1280, "height": 800}, color_scheme=look, locale="en-US"
        )
        context.request.post(
            f"{here.base}/sign-in", form={"name": "operator", "password": PASSWORD}
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(here.base + address)
        page.wait_for_selector('[data-live-state="on"]')
        if page.locator("[data-viewer]").count():
            page.wait_for_selector('[data-viewer]:not([data-outlined="0"])[data-outlined]')
        if name == "activation":
            page.get_by_role("button", name="Activation").click()
            page.wait_for_selector('[data-viewer][data-heated="true"]')
        picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
        path = folder / f"{name}.png"
        picture.save(path, optimize=True)
        if path.stat().st_size > _MOST_BYTES:
            picture.quantize(256, kmeans=2).save(path, optimize=True)
        context.close()


def _say(site: str, label: str, tail: str, faults: list[str]) -> None:
    for fault in faults:
        print(f"{site} {label} {tail.removesuffix('.png')}: {fault}")


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--site", action="append", choices=SITES)
    parser.add_argument("--width", action="append", type=int, choices=WIDTHS)
    parser.add_argument("--look", action="append", choices=LOOKS)
    parser.add_argument("--page", action="append")
    parser.add_argument("--docs", type=Path, help="only the pictures of README and docs, there")
    options: Any = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        browser = stack.enter_context(chromium())
        if options.docs:
            with full_site(options.out / "sites" / "full") as here:
                for_docs(browser, here, options.docs)
            return
        for name in options.site or SITES:
            with SITES[name](options.out / "sites" / name) as here:
                take(browser, here, name, options.out, options)


if __name__ == "__main__":
    main()
