"""`join --model A --model B`: one machine, two engines, both models from one pool."""

from __future__ import annotations

import shutil
from pathlib import Path

from parhelion.testing.processes import start_join, start_run

ASK = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 8, "seed": 1}


def test_one_node_serves_two_models_and_says_what_it_runs_on(smollm2: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.gguf"
    shutil.copyfile(smollm2, second)
    with second.open("ab") as tail:
        tail.write(b"bytes after the last tensor are nobody's: another artefact, the same model")
    pool = start_run(tmp_path / "pool", 1, "-m", "smollm2", "-m", str(second))
    join = pool.ready.get("join") or f"127.0.0.1:{pool.api.rpartition(':')[2]}"
    node = start_join(tmp_path / "node", join, "-m", "smollm2", "-m", str(second))
    try:
        assert "second" in node.ready["models"] and len(node.ready["models"]) == 2
        assert node.ready["refused"] == []
        (shown,) = pool.call("GET", "/v1/nodes")[2]["data"]
        assert (shown["slots"], len(shown["models"])) == (16, 2)
        assert shown["device"].startswith(("cpu: ", "gpu: ")) and "device" in shown["reported"]
        texts = {}
        for model in ("second", "SmolLM2-135M-Instruct"):
            status, _headers, answer = pool.call(
                "POST", "/v1/chat/completions", {**ASK, "model": model}
            )
            assert status == 200, answer
            texts[answer["model"]] = answer["choices"][0]["message"]["content"]
        assert len(texts) == 2 and len(set(texts.values())) == 1, "the same weights and seed"
    finally:
        assert node.stop() == 0
        assert pool.stop() == 0
        for running in (node, pool):
            assert running.process.stdout is not None
            running.process.stdout.close()
