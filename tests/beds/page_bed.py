"""Opening pages in a real browser without a network, and axe-core's rules on them."""

from __future__ import annotations

import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; install the package chromium")


class Opener:
    """Opens tabs and keeps what went wrong in them: messages, errors, and requests that `allowed` refuses."""

    def __init__(self, browser, allowed):
        self.browser, self.allowed = browser, allowed
        self.contexts, self.trouble = [], []

    def __call__(self, address, width=1400, scheme="light", offline=True, **more):
        context = self.browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=offline, **more
        )
        self.contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: self.trouble.append(message.text))
        tab.on("pageerror", lambda error: self.trouble.append(str(error)))
        tab.on("request", lambda request: None if self.allowed(request.url) else self.trouble.append(request.url))
        tab.goto(address)
        if more.get("java_script_enabled", True):
            tab.wait_for_selector("body[data-ready]")
        return tab

    def close(self):
        for context in self.contexts:
            context.close()


def violations(tab):
    """What axe-core finds wrong: rule and the elements, as texts."""
    found = Axe().run(tab).response["violations"]
    return [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in found for node in one["nodes"]]
