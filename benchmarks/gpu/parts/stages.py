"""`retrieva preflight --recipe` of the 1.3 B recipe, the user's own command: its timing becomes measured.json.

With the demo's tokenizer and corpora in the place of the true ones; the embedding has its true number of rows.
"""

from __future__ import annotations

import json
import shutil
import time

from part import ROOT, TINY, Part, wait_for


def run(part: Part) -> None:
    """Run the command and keep its file."""
    data = [
        f"{{path: demo/data/{name}}}" for name in ("ja_cc", "refinedweb", "zh_wiki", "ko_wiki", "the_stack")
    ]
    overrides = ["tokenizer.model=demo/data/demo-tokenizer.model", f"data.blend=[{', '.join(data)}]"]
    if part.rehearse:
        overrides += TINY
    else:
        overrides.append("tokenizer.make_vocab_size_divisible_by=99584")
    measured = part.out / "measured.json"
    command = ["preflight", "--processes", "1", "--json", "--folder", str(part.work / "preflight")]
    command += ["--measured", str(measured), "--recipe", str(ROOT / "recipes" / "retrievabert-1.3b.yaml")]
    began = time.time()
    code = wait_for(part.retrieva("preflight", *command, *overrides), part.left - 2)
    if not measured.exists():  # ended by the clock: the stages that were done by then
        for left in (part.work / "preflight").glob("*/measured.json"):
            shutil.copyfile(left, measured)
    stages = json.loads(measured.read_text(encoding="utf-8")) if measured.exists() else None
    findings = [line for line in part.tail("preflight", 100_000).splitlines() if '"said"' in line]
    part.emit(
        "measured",
        code=code,
        seconds=time.time() - began,
        findings=[line.strip()[8:200] for line in findings],
        **({"measured": stages} if stages else {"error": part.tail("preflight")}),
    )
