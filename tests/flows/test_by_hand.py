"""Runs by hand in Prefect's own UI, in a real browser: started with other parameters, cancelled."""

import json
from typing import Any

import psutil
import pytest

from tests.browser import CHROMIUM, Page, open_page

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.slow]


def button(text: str) -> str:
    """The button that says this, as JavaScript."""
    return f"[...document.querySelectorAll('button')].find(b => b.textContent.trim() == '{text}')"


def fill(page: Page, field: str, text: str) -> None:
    """Type over what stands in a field."""
    page.value(f"document.querySelector('{field}').select()")
    page.call("Input.insertText", text=text)


def test_a_run_is_started_with_other_parameters_and_cancelled(house, chain, tmp_path, root):
    (chain.root / "params.yaml").write_text((root / "params.yaml").read_text())
    cmd = "echo $$ > pid.txt; echo > out.txt; sleep 120"
    chain.stages = {"relabel": {"cmd": cmd, "params": ["relabel"], "outs": ["out.txt"]}}
    chain.change("relabel")
    ui, deployment = house.api.removesuffix("/api"), house.deployment()["id"]
    address = f"{ui}/deployments/deployment/{deployment}/run"
    with open_page(address, tmp_path / "chromium") as page:
        for text in ('such as {"relabel.coverage": 0.5}', "a stage that takes longer is ended"):
            page.wait(f"document.body?.innerText.includes('{text}')", 60)  # the parameters' help
        page.wait("document.querySelector('.p-code-input__textarea')")
        fill(page, ".p-textarea__control", str(chain.root))
        fill(page, ".p-code-input__textarea", json.dumps({"relabel.coverage": 0.5}))
        page.click(button("Submit"))

        def running() -> list[dict[str, Any]]:
            found = house.post(
                "flow_runs/filter", flow_runs={"state": {"type": {"any_": ["RUNNING"]}}}
            )
            return [run for run in found if run["parameters"]["workspace"] == str(chain.root)]

        house.until(running, 60)
        (run,) = running()
        house.until(lambda: (chain.root / "pid.txt").is_file(), 60)
        assert run["parameters"]["overrides"] == {"relabel.coverage": 0.5}
        assert house.run(run["id"])["name"].startswith("relabel.coverage=0.5")
        assert "coverage: 0.5 " in (chain.root / "params.yaml").read_text()

        page.call("Page.navigate", url=f"{ui}/runs/flow-run/{run['id']}")
        page.click(button("Cancel"), 60)
        page.click("document.querySelector('.p-modal .p-button--destructive')")
        assert house.wait(run["id"])["state_type"] == "CANCELLED"
    stage = int((chain.root / "pid.txt").read_text())
    house.until(lambda: not psutil.pid_exists(stage), 20)
