#!/usr/bin/env python3
"""Looks at a report's page with a real browser: python3 tests/report/page.py reports/mini/index.html

Needs Chromium and nothing else; ends with code 0 and says so where there is none. Checks at 1400 and 400 pixels, light and
dark, on screen and in print: no console message, no request but the page itself, nothing wider than the page, every
table whole at 1400 pixels and in print, and at 400 with a shade where it is cut, Table II and the first curve within two
screens, an anchor for every row, values under the pointer, links that lead somewhere, files within the page, steps that a
click opens, all that is folded open in print, the same words without scripts, a focus ring for the keyboard, a PDF that is
one. --shots FOLDER keeps pictures of the page and the PDF for a person to look at.
"""

import argparse, base64, fcntl, json, os, pathlib, shutil, subprocess, sys, tempfile

BROWSERS = ["chromium", "chromium-browser", "google-chrome"]


class Browser:
    """Chromium on a pipe: commands to descriptor 3, answers from descriptor 4, each ended by a zero byte."""

    def __init__(self, program, folder):
        # Out of the way of the descriptors that the browser is to find them at.
        to_read, self.to, self.back, to_write = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
                                                 for fd in (*os.pipe(), *os.pipe()))
        quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={folder}"]

        def ends():
            os.dup2(to_read, 3)
            os.dup2(to_write, 4)

        self.process = subprocess.Popen([program, *flags, *quiet, "about:blank"], preexec_fn=ends, close_fds=False,
                                        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.number, self.rest, self.events, self.session = 0, b"", [], None
        target = [t for t in self.do("Target.getTargets")["targetInfos"] if t["type"] == "page"][0]["targetId"]
        self.session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Network", "Runtime", "Log"]:
            self.do(f"{domain}.enable")

    def message(self):
        while b"\0" not in self.rest:
            piece = os.read(self.back, 1 << 20)
            assert piece, "the browser went away"
            self.rest += piece
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def do(self, method, **params):
        self.number += 1
        command = {"id": self.number, "method": method, "params": params}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.to, json.dumps(command).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)

    def open(self, address):
        self.events.clear()
        self.do("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.message())

    def value(self, script):
        found = self.do("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


OPEN = "document.querySelectorAll('details').forEach(details => details.open = true)"
WIDE = "[...document.querySelectorAll('section .wide')].filter(e => e.querySelector('table') && " \
       "e.scrollWidth > e.clientWidth).map(e => e.getAttribute('aria-labelledby'))"
# What is cut at an edge without a shade that says so.
BARE = "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth && " \
       "['auto', 'scroll', 'hidden'].includes(getComputedStyle(e).overflowX) && " \
       "!getComputedStyle(e).backgroundImage.includes('gradient')).map(e => e.tagName + '.' + e.className)"
OVER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--shots", type=pathlib.Path, metavar="FOLDER", help="keep pictures and the PDF here")
    args = parser.parse_args()
    page, shots = args.page.resolve().as_uri(), args.shots
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        print("no Chromium here: the page is not looked at")
        return 0
    failures = []

    def expect(holds, what):
        if not holds:
            failures.append(what)

    folder = tempfile.mkdtemp()
    browser = Browser(program, folder)
    try:
        for width in (1400, 400):
            for scheme in ("light", "dark"):
                where = f"at {width} pixels, {scheme}"
                browser.do("Emulation.setEmulatedMedia", media="",
                           features=[{"name": "prefers-color-scheme", "value": scheme}])
                browser.do("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
                           mobile=False)
                browser.open(page)
                if shots:
                    size = browser.do("Page.getLayoutMetrics")["cssContentSize"]
                    shot = browser.do("Page.captureScreenshot", captureBeyondViewport=True,
                                      clip={"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1})
                    (shots / f"{width}-{scheme}.png").write_bytes(base64.b64decode(shot["data"]))
                ground = browser.value("getComputedStyle(document.body).backgroundColor")
                light = sum(map(int, ground[4:-1].split(",")[:3])) > 384
                expect(light == (scheme == "light"), f"the ground is {ground} {where}")
                expect(browser.value(OVER) <= 0, f"the page is wider than the window {where}")
                if width == 1400:
                    for first in ("#table-2 table", "figure svg"):
                        bottom = browser.value(f"document.querySelector('{first}')?.getBoundingClientRect().bottom")
                        expect(not bottom or bottom <= 1800, f"{first} ends at {bottom} pixels {where}: two screens are 1800")
                browser.value(OPEN)
                expect(browser.value(OVER) <= 0, f"the page is wider than the window when all is open {where}")
                if width == 1400:
                    expect(browser.value(WIDE) == [], f"tables are cut off {where}: {browser.value(WIDE)}")
                expect(browser.value(BARE) == [], f"cut without a hint {where}: {browser.value(BARE)}")
                said = [e for e in browser.events if e.get("method") in
                        ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")]
                expect(not said, f"the console says something {where}: {said}")
                asked = [e["params"]["request"]["url"] for e in browser.events
                         if e.get("method") == "Network.requestWillBeSent"
                         and not e["params"]["request"]["url"].startswith("data:")]
                expect(asked == [page], f"it asks for {asked} {where}")

        browser.do("Emulation.setDeviceMetricsOverride", width=1400, height=900, deviceScaleFactor=1, mobile=False)
        browser.open(page)
        at = browser.value(
            "(() => { const p = document.querySelector('.point'); if (!p) return null; p.scrollIntoView({block: 'center'});"
            "const b = p.querySelector('circle, path').getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] })()")
        expect(at, "no curve has a value to point at")
        if at:
            shown = ("(() => { const p = document.elementFromPoint(%f, %f).closest('.point'); return p && "
                     "getComputedStyle(p.querySelector('text')).visibility })()" % tuple(at))
            browser.do("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
            expect(browser.value(shown) == "hidden", "a value shows before anybody points at it")
            browser.do("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1])
            expect(browser.value(shown) == "visible", "the value under the pointer does not show")

        for kind in ("keyDown", "keyUp"):
            browser.do("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        ring = browser.value("document.activeElement.tagName + ' ' + getComputedStyle(document.activeElement).outlineStyle")
        expect(ring == "A solid", f"the first thing the keyboard reaches is {ring}")
        unnamed = browser.value("[...document.querySelectorAll('[role=region], svg[role=img]')].filter(e => "
                                "!e.getAttribute('aria-labelledby') && !e.getAttribute('aria-label') && !e.querySelector('title')).length")
        expect(unnamed == 0, f"{unnamed} regions or pictures have no name")

        twice = browser.value("(() => { const ids = [...document.querySelectorAll('[id]')].map(e => e.id);"
                              "return ids.filter((id, at) => ids.indexOf(id) < at) })()")
        expect(twice == [], f"two elements have one id: {twice}")
        bare = browser.value("[...document.querySelectorAll('table .anchor')].filter(a => "
                             "a.closest('tr').id !== a.hash.slice(1)).length")
        expect(bare == 0 and browser.value("document.querySelectorAll('table .anchor').length") > 0,
               f"{bare} rows have an anchor that leads elsewhere, or none has one")
        offered = browser.value("[...document.querySelectorAll('a[download]')].map(a => [a.download, a.href.slice(0, 5)])")
        expect(offered and all(start == "data:" for _, start in offered), f"files are not within the page: {offered}")
        expect(any(name.endswith(".csv") for name, _ in offered), "no table is offered as CSV")

        lost = browser.value("[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href'))"
                             ".filter(h => !document.getElementById(h.slice(1)))")
        expect(lost == [], f"links lead nowhere: {lost}")
        link = browser.value("(() => { const a = document.querySelector('.origin a'); if (!a) return null;"
                             "a.scrollIntoView({block: 'center'}); const b = a.getBoundingClientRect();"
                             "return [b.x + b.width / 2, b.y + b.height / 2, a.hash.slice(1)] })()")
        if link:
            told = "document.getElementById('%s').checkVisibility({contentVisibilityAuto: true})" % link[2]
            expect(not browser.value(told), "a step is told of before anybody asks")
            for kind in ("mousePressed", "mouseReleased"):
                browser.do("Input.dispatchMouseEvent", type=kind, x=link[0], y=link[1], button="left", clickCount=1)
            expect(browser.value(told), f"a click on the step of a table does not open what is told of {link[2]}")
            browser.open(page)

        words = browser.value("document.body.innerText")
        browser.do("Emulation.setScriptExecutionDisabled", value=True)
        browser.open(page)
        browser.do("Emulation.setScriptExecutionDisabled", value=False)
        expect(browser.value("document.body.innerText") == words, "it reads otherwise without scripts")

        # A4 less two margins of 14 mm, at 96 pixels an inch.
        browser.do("Emulation.setEmulatedMedia", media="print", features=[])
        browser.do("Emulation.setDeviceMetricsOverride", width=688, height=1000, deviceScaleFactor=1, mobile=False)
        shut = browser.value("[...document.querySelectorAll('details > :not(summary)')].filter(e => "
                             "!e.checkVisibility({contentVisibilityAuto: true}) || !e.offsetHeight).length")
        expect(shut == 0, f"{shut} folded parts are not printed")
        wide = browser.value("[...document.querySelectorAll('table')].filter(t => t.offsetWidth > "
                             "document.body.clientWidth + 1).map(t => t.parentElement.getAttribute('aria-labelledby'))")
        expect(wide == [], f"tables are wider than the printed page: {wide}")
        pdf = base64.b64decode(browser.do("Page.printToPDF", preferCSSPageSize=True)["data"])
        if shots:
            (shots / "print.pdf").write_bytes(pdf)
        expect(pdf.startswith(b"%PDF-") and len(pdf) > 20_000, "what is printed is no PDF")
    finally:
        browser.process.kill()
        browser.process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if not failures:
        print("the page is as it should be")
    return 1 if failures else 0


sys.exit(main())
