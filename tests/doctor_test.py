"""What the doctor finds, and that it says how to cure it."""

import hashlib
import http.server
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub
import pytest
import tiny_tokenizers
from huggingface_hub import _local_folder
from tiny_pipeline import experiment

from rcsd_jax import checks, doctor, lm
from rcsd_jax.checks import Asked

ROOT = Path(__file__).parents[1]
LATE = threading.Event()  # set when answers that are late may be given up


class Handler(http.server.BaseHTTPRequestHandler):
    """A judge and a hub: what a GET of each path is answered with."""

    def do_GET(self):
        key = self.headers.get("Authorization")
        page = {"/v1/models": {"data": [{"id": "judge-8b"}, {"id": "judge-1b"}]}, "/odd/models": {"data": "?"}}
        page["/api/models/a/b"] = {"id": "a/b", "sha": "0123456789abcdef", "gated": False, "private": False}
        if self.path == "/late/models":
            LATE.wait(10)
        elif self.path == "/closed/models" and key != "Bearer secret":
            self.send_error(401, "Unauthorized")
        elif self.path == "/html/models":
            self.answer("<html>")
        else:
            found = page.get(self.path, page["/v1/models"] if self.path == "/closed/models" else None)
            self.send_error(404, "Not Found") if found is None else self.answer(json.dumps(found))

    def answer(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    """The address of a web server on loopback."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        LATE.set()
        server.shutdown()
        thread.join()


def test_a_judge_that_answers_is_named_by_its_models(server):
    assert checks.judge(Asked(judge=f"{server}/v1/")) == checks.Finding("ok", f"{server}/v1/ has judge-8b, judge-1b")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/closed", "401 Unauthorized: set OPENAI_API_KEY"),
        ("/nothing", "404 Not Found: is this its base URL, with /v1?"),
        ("/html", "is no list of models"),
        ("/odd", "is no list of models"),
        ("/late", "does not answer (timed out)"),
    ],
)
def test_a_judge_that_does_not_is_told_with_the_cure(server, monkeypatch, path, says):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    found = checks.judge(Asked(judge=server + path), timeout=0.2)
    assert found.status == "failed" and says in found.says


def test_a_judge_is_shown_the_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert checks.judge(Asked(judge=f"{server}/closed")).status == "ok"


@pytest.mark.parametrize(
    ("url", "says"),
    [("http://127.0.0.1:9/v1", "start the judge"), ("file:///etc", "give a URL"), ("x:80", "give a URL")],
)
def test_what_is_no_judge_is_told(url, says):
    found = checks.judge(Asked(judge=url))
    assert found.status == "failed" and says in found.says


def test_what_was_not_asked_for_is_skipped_and_does_not_fail():
    for check in (checks.judge, checks.hub, checks.model, checks.bucket):
        assert check(Asked()).status == "skipped"
    for check in (checks.hub, checks.bucket):
        assert check(Asked(experiment(), "runs/x")).status == "skipped"
    assert checks.model(Asked(experiment())).status == "ok"


def test_versions_are_those_of_requirements_txt(monkeypatch, tmp_path):
    assert checks.versions(Asked()).status != "failed"
    (tmp_path / "requirements.txt").write_text("# all\njax>=99  # the machine\nno-such-package[x]>=1\nnumpy>=2.0\n")
    monkeypatch.setattr(checks.machine, "REQUIREMENTS", tmp_path / "requirements.txt")
    found = checks.versions(Asked())
    assert found.status == "failed" and "pip install -r requirements.txt" in found.says
    assert "not >=99" in found.says and "no-such-package is None" in found.says and "numpy" not in found.says


def test_a_tpu_compiler_that_was_not_made_for_this_jax_is_told(monkeypatch):
    [asked] = [line for line in importlib.metadata.requires("jax") if line.startswith("libtpu")]
    made_for, version = re.search(r"==(\d+\.\d+\.\d+)", asked)[1], checks.machine._version
    for installed, status in ((None, "ok"), (made_for, "ok"), ("99.0", "warning")):
        monkeypatch.setattr(
            checks.machine, "_version", lambda name, here=installed: here if name == "libtpu" else version(name)
        )
        found = checks.versions(Asked())
        assert found.status == status and (status == "ok" or f"libtpu =={made_for}" in found.says)


def test_devices_are_counted_and_a_mesh_that_does_not_fit_them_is_told():
    assert "8 x cpu" in checks.devices(Asked()).says
    assert "mesh data 1 x fsdp 4 x tensor 2" in checks.devices(Asked(experiment(mesh__tensor=2))).says
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        checks.devices(Asked(experiment(mesh__tensor=3)))


@pytest.mark.parametrize(("card", "hint"), [("1ae0 0063", True), ("1ae0 0042", False), ("8086 0063", False)])
def test_a_tpu_that_jax_does_not_use_is_told_by_its_number_and_no_other_card_is_one(monkeypatch, tmp_path, card, hint):
    (tmp_path / "0000:00:05.0").mkdir()
    for name, number in zip(("vendor", "device"), card.split(), strict=True):
        (tmp_path / "0000:00:05.0" / name).write_text(f"0x{number}\n")
    monkeypatch.setattr(checks.machine, "PCI", tmp_path)
    found = checks.devices(Asked())
    assert ("this machine has a TPU" in found.says) == hint == (found.status == "warning")


def test_what_never_answers_is_given_up():
    assert checks.within(10, lambda: 3) == 3
    with pytest.raises(KeyError):
        checks.within(10, lambda: {}["a"])
    stop = threading.Event()
    with pytest.raises(TimeoutError, match="no answer within 0 s"):
        checks.within(0.05, stop.wait)
    stop.set()


# The model and the room for it


@pytest.fixture
def folder(tmp_path):
    """A model with its tokenizer."""
    shutil.copytree(ROOT / "tests" / "references" / "smollm2_like", tmp_path / "model")
    tokenizer = lm.ChatTokenizer.from_tokenizer(
        tiny_tokenizers.word_level(), tiny_tokenizers.CHATML, eos="<|im_end|>", pad="<pad>"
    )
    tokenizer.save(tmp_path / "model")
    return tmp_path / "model"


def asked(folder, **changes):
    return Asked(experiment(model__source=str(folder), **changes), str(folder.parent / "run"))


def test_a_model_folder_is_looked_through(folder):
    assert checks.hub(asked(folder)).status == "skipped"
    found = checks.model(asked(folder))
    assert found.status == "ok" and "llama" in found.says
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-8])
    assert "damaged" in checks.model(asked(folder)).says
    (folder / "tokenizer.json").unlink()
    found = checks.model(asked(folder))
    assert found.status == "failed" and "copy the tokenizer files" in found.says


@pytest.mark.parametrize("way", ["cache", "folder"])
def test_a_flipped_bit_of_what_the_hub_sent_is_noticed(folder, tmp_path, way):
    weights = folder / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if way == "folder":
        _local_folder.write_download_metadata(folder, weights.name, commit_hash="c" * 40, etag=digest)
    else:
        (tmp_path / "blobs").mkdir()
        weights = weights.rename(tmp_path / "blobs" / digest)
        (folder / "model.safetensors").symlink_to(weights)
    assert "1 files of weights as the hub sent them" in checks.model(asked(folder)).says
    bits = bytearray(weights.read_bytes())
    bits[-1] ^= 1
    weights.write_bytes(bits)
    found = checks.model(asked(folder))
    assert found.status == "failed" and "model.safetensors in" in found.says and "fetch them again" in found.says


def test_a_checkpoint_too_large_for_the_disk_is_noticed_before_it_is_written(folder):
    assert checks.disk(asked(folder)).status == "ok"
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "intermediate_size": 10**12}))
    found = checks.disk(asked(folder))
    assert found.status == "failed" and "make room" in found.says
    wanted = float(found.says.split("GiB wanted")[0].split()[-1])
    weights = 3 * values["num_hidden_layers"] * values["hidden_size"] * 10**12 * 4 / 2**30
    # Three checkpoints of weights, two moments and the base that teaches; and one export.
    assert wanted == pytest.approx((3 * 4 + 1) * weights, rel=1e-3)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    for workdir in ("/proc/runs/x", str(tmp_path / "file" / "x")):
        found = checks.disk(Asked(workdir=workdir))
        assert found.status == "failed" and "give another --workdir" in found.says
    assert checks.disk(Asked(workdir=str(tmp_path / "new" / "x"))).status == "ok"
    assert os.listdir(tmp_path) == ["file"], "nothing is left behind"


def test_a_model_of_the_hub_that_is_out_of_reach_is_told():
    found = checks.hub(Asked(experiment(model__source="nobody/nothing")))
    assert found.status == "failed" and "HF_HUB_OFFLINE" in found.says and "\n" not in found.says


def test_a_model_that_the_hub_has_is_named_by_its_commit(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert checks.hub(Asked(experiment(model__source="a/b"))) == checks.Finding("ok", "a/b at 0123456789ab")
    found = checks.hub(Asked(experiment(model__source="a/c")))
    assert found.status == "failed" and "a/c" in found.says and "check the name" in found.says


# Buckets: a folder stands in, for there is none on loopback


@pytest.fixture
def buckets(monkeypatch, tmp_path):
    monkeypatch.setattr(
        checks.surroundings.epath, "Path", lambda path: pathlib.Path(str(path).replace("gs:/", str(tmp_path)))
    )
    return tmp_path


def test_a_bucket_is_written_read_and_left_as_it_was(buckets):
    (buckets / "mine").mkdir()
    assert checks.bucket(Asked(workdir="gs://mine/runs/x")).status == "ok"
    assert [path.name for path in buckets.rglob("*")] == ["mine", "runs", "x"]
    wanted = experiment(data__source="jsonl", data__path="gs://mine/q.jsonl")
    found = checks.bucket(Asked(wanted, "gs://mine/runs/x"))
    assert found.status == "failed" and "gs://mine/q.jsonl is not there" in found.says
    (buckets / "mine" / "q.jsonl").touch()
    assert checks.bucket(Asked(wanted, "runs/x")) == checks.Finding("ok", "gs://mine/q.jsonl")


def test_a_bucket_that_refuses_is_told_with_the_cure(buckets):
    (buckets / "closed").touch()
    found = checks.bucket(Asked(workdir="gs://closed/x"))
    assert found.status == "failed" and "storage.objectAdmin" in found.says


def test_a_bucket_without_its_client_is_told_what_to_install():
    if importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is here")
    # In a process of its own: others of this one may have put a bucket in the place of the client.
    look = "from rcsd_jax import checks; print(checks.bucket(checks.Asked(workdir='gs://mine/x')))"
    found = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "status='failed'" in found and "requirements-tpu.txt" in found


# The command


def test_a_failed_check_and_one_that_breaks_make_the_exit_code(monkeypatch):
    lines = []
    monkeypatch.setattr(checks, "CHECKS", {"a": lambda _: checks.Finding("warning", "so\nso")})
    assert doctor.examine(Asked(), lines.append)
    monkeypatch.setattr(checks, "CHECKS", {**checks.CHECKS, "b": lambda _: {}["gone"], "c": lambda _: 1 / 0})
    assert not doctor.examine(Asked(), lines.append)
    assert lines == [
        *["warning  a         so\n                   so"] * 2,
        "failed   b         KeyError: 'gone'",
        "failed   c         ZeroDivisionError: division by zero",
    ]


def test_the_command_tells_a_line_for_every_check_and_ends_with_0(server, tmp_path):
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, "-m", "rcsd_jax.doctor", f"--workdir={tmp_path}/x", f"--judge={server}/v1"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[1] for line in lines] == list(checks.CHECKS), done.stderr
    skipped = {"hub": "skipped", "model": "skipped", "bucket": "skipped"}
    assert {line[1]: line[0] for line in lines if line[0] != "ok"} == skipped
    assert done.returncode == 0
