"""A downloaded file appears only when complete; a source reports in one line what is missing."""

import contextlib
import hashlib
import http.server
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from repository import ROOT
from waiting import HANGS, wait_until

from convnext_dense.checkpoints import download
from convnext_dense.checkpoints.fetch import fetch
from convnext_dense.checkpoints.read import read_state_dict
from convnext_dense.errors import CheckpointError
from convnext_dense.support.locks import locked

BODY = bytes(range(256)) * 4000  # 1 MB


class Files(http.server.BaseHTTPRequestHandler):
    """Serves ``server.files`` (path -> bytes) with ranges and ETags; ``server.faults`` break answers."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        server, path = self.server, self.path.partition("?")[0]
        server.requests.append((self.command, self.path, self.headers.get("Range")))
        content = server.files.get(path)
        fault = server.faults.pop(0) if body and server.faults else None
        if fault == "unavailable" or content is None:
            self.send_response(503 if fault else 404)
            self.send_header("Content-Length", "0")
            self.send_hub_headers(path)
            self.end_headers()
            return
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start, size = 0, len(content)
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", server.types.get(path, "application/octet-stream"))
        self.send_header("Content-Length", str(size - start))
        self.send_header("ETag", etag)
        self.send_header("Accept-Ranges", "bytes")
        self.send_hub_headers(path)
        self.end_headers()
        if not body:
            return
        end = start + (size - start) // 2 if fault in ("cut", "stall") else size
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content[start:end])
            self.wfile.flush()
            if fault == "stall":
                server.release.wait(HANGS)
        if fault:
            self.close_connection = True

    def send_hub_headers(self, path):
        """Send what the library of the Hugging Face hub asks for: the commit, and why a file is missing."""
        _, found, revision = path.partition("/resolve/")
        if found:
            self.send_header("X-Repo-Commit", hashlib.sha1(revision.partition("/")[0].encode()).hexdigest())
            self.send_header("X-Error-Code", "EntryNotFound")

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        server.files, server.types = {}, {}
        server.faults, server.requests, server.release = [], [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(download, "RETRY_SECONDS", (0.01, 0.01, 0.01))
    return tmp_path / "hub/checkpoints"


def names(folder):
    """Files of a folder without those that are only there to be locked."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_url_is_downloaded_once_under_its_plain_name(server, cache):
    server.files["/w.pth"] = BODY
    path = fetch(f"{server.url}/w.pth?token=secret")
    assert path == cache / "w.pth" and path.read_bytes() == BODY
    server.files.clear()
    assert fetch(f"{server.url}/w.pth?token=secret", progress=False) == path
    assert len(server.requests) == 1
    assert names(cache) == ["w.pth", "w.pth.json"]
    assert "secret" not in (cache / "w.pth.json").read_text()


def test_progress_is_a_bar(server, cache, capsys):
    pytest.importorskip("tqdm")
    server.files["/w.pth"] = BODY
    fetch(f"{server.url}/w.pth")
    assert "w.pth" in capsys.readouterr().err


def test_progress_without_tqdm_is_a_line_now_and_then(server, cache, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(download._log_progress, "__defaults__", (0.0,))
    server.files["/w.pth"] = BODY
    with caplog.at_level("INFO", logger="convnext_dense"):
        fetch(f"{server.url}/w.pth")
    assert "w.pth: 1 of 1 MiB" in caplog.text


@pytest.mark.parametrize("faults", [["cut"], ["unavailable"], ["cut", "cut", "unavailable"]])
def test_an_interrupted_connection_continues_where_it_stopped(server, cache, faults):
    server.files["/w.pth"] = BODY
    server.faults = list(faults)
    assert fetch(f"{server.url}/w.pth", progress=False).read_bytes() == BODY
    ranges = [wanted for _, _, wanted in server.requests if wanted]
    assert ranges == [f"bytes={len(BODY) // 2}-"] if faults == ["cut"] else bool(ranges) == ("cut" in faults)
    assert names(cache) == ["w.pth", "w.pth.json"]


def test_a_short_download_is_not_stored_and_is_resumed_later(server, cache):
    server.files["/w.pth"] = BODY
    server.faults = ["cut"] * 20
    with pytest.raises(
        CheckpointError, match=r"cannot download .*w\.pth \(incomplete: \d+ of 1024000 bytes\)"
    ):
        fetch(f"{server.url}/w.pth", progress=False)
    (partial,) = names(cache)
    assert partial.startswith("w.pth.") and partial.endswith(".partial")
    kept = (cache / partial).stat().st_size
    assert 0 < kept < len(BODY)
    server.faults = []
    server.requests.clear()
    assert fetch(f"{server.url}/w.pth", progress=False).read_bytes() == BODY
    assert server.requests[-1][2] == f"bytes={kept}-"
    assert names(cache) == ["w.pth", "w.pth.json"]


def test_a_file_that_changed_on_the_server_starts_from_zero(server, cache):
    server.files["/w.pth"] = BODY
    server.faults = ["cut"] * 20
    with pytest.raises(CheckpointError):
        fetch(f"{server.url}/w.pth", progress=False)
    server.files["/w.pth"] = BODY[::-1]  # of the same size
    server.faults = []
    assert fetch(f"{server.url}/w.pth", progress=False).read_bytes() == BODY[::-1]
    assert names(cache) == ["w.pth", "w.pth.json"], "the stale partial file stayed"


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", "application/octet-stream", r"empty \(0 bytes\)"),
        (b"<html>log in</html>", "text/html; charset=utf-8", "web page"),
        (b"\n <!DOCTYPE html><p>quota", "application/octet-stream", "web page"),
    ],
)
def test_what_is_no_file_is_not_stored(server, cache, content, kind, words):
    server.files["/w.pth"], server.types["/w.pth"] = content, kind
    with pytest.raises(CheckpointError, match=rf"cannot download {server.url}/w\.pth: .*{words}"):
        fetch(f"{server.url}/w.pth", progress=False)
    assert names(cache) == []
    assert len(server.requests) == 1, "retried without need"


def test_out_of_reach(server, cache):
    with pytest.raises(CheckpointError, match=rf"cannot download {server.url}/no\.pth \(HTTP Error 404"):
        fetch(f"{server.url}/no.pth")
    with pytest.raises(CheckpointError, match=r"cannot download http://127\.0\.0\.1:9/w\.pth"):
        fetch("http://user:secret@127.0.0.1:9/w.pth?key=secret")
    with pytest.raises(CheckpointError, match="names no file"):
        fetch(f"{server.url}/")
    assert not cache.exists() or names(cache) == []


def test_checksums_whole_prefix_and_in_the_name(server, cache, tmp_path):
    digest = hashlib.sha256(BODY).hexdigest()
    for name in ("a.pth", "b.pth", f"c-{digest[:8]}.pth", "d-0badc0de.pth", "e-20220426.pth"):
        server.files[f"/{name}"] = BODY
    fetch(f"{server.url}/a.pth", digest.upper(), progress=False)
    fetch(f"{server.url}/b.pth", digest[:10], progress=False)
    fetch(f"{server.url}/c-{digest[:8]}.pth", progress=False)
    fetch(f"{server.url}/e-20220426.pth", progress=False)  # a date
    before = names(cache)
    with pytest.raises(CheckpointError, match=f"has sha256 {digest}, not 0badc0de"):
        fetch(f"{server.url}/d-0badc0de.pth", progress=False)
    assert names(cache) == before
    with pytest.raises(CheckpointError, match="not 1234567890"):
        fetch(f"{server.url}/a.pth", "1234567890", progress=False)
    with pytest.raises(CheckpointError, match="not 8 to 64 hexadecimal"):
        fetch(f"{server.url}/a.pth", "xyz", progress=False)
    local = tmp_path / "local.pth"
    local.write_bytes(BODY)
    assert fetch(local, digest) == local
    with pytest.raises(CheckpointError, match=r"local\.pth has sha256"):
        fetch(local, "00000000")


def test_one_name_of_two_hosts_gives_two_files(server, cache):
    with serving() as other:
        server.files["/w.pth"], other.files["/w.pth"] = BODY, BODY[::-1]
        first, second = (fetch(f"{s.url}/w.pth", progress=False) for s in (server, other))
        assert first == cache / "w.pth" and first.read_bytes() == BODY
        assert second != first and second.read_bytes() == BODY[::-1]
        assert second.name.endswith("-w.pth")
        count = len(other.requests)
        assert fetch(f"{other.url}/w.pth", progress=False) == second
        assert len(other.requests) == count


def test_a_name_that_was_taken_meanwhile_is_left_alone(server, cache):
    server.files["/w.pth"] = BODY
    cache.mkdir(parents=True)
    (cache / "w.pth").write_bytes(b"of another address, which landed during the download")
    path = download.download(f"{server.url}/w.pth", cache / "w.pth", progress=False)
    assert path != cache / "w.pth" and path.read_bytes() == BODY
    assert (cache / "w.pth").read_bytes().startswith(b"of another")


def test_systems_without_file_locks(server, cache, monkeypatch):
    @contextlib.contextmanager
    def no_lock(path):
        yield False

    monkeypatch.setattr(download, "locked", no_lock)
    cache.mkdir(parents=True)
    other = cache / "w.pth.0123456789abcdef.77.partial"  # of a process that is writing
    other.write_bytes(b"x")
    server.files["/w.pth"] = BODY
    server.faults = ["cut"]
    assert fetch(f"{server.url}/w.pth", progress=False).read_bytes() == BODY
    assert names(cache) == ["w.pth", other.name, "w.pth.json"]


def test_a_file_of_torch_hub_is_used_unless_it_is_another(server, cache):
    server.files["/w.pth"] = BODY
    cache.mkdir(parents=True)
    torch.hub.download_url_to_file(f"{server.url}/w.pth", str(cache / "w.pth"), progress=False)
    server.requests.clear()
    assert fetch(f"{server.url}/w.pth") == cache / "w.pth"
    assert fetch(f"{server.url}/w.pth") == cache / "w.pth"
    assert [command for command, _, _ in server.requests] == ["HEAD"], "requested again, or downloaded"
    (cache / "w.pth.json").unlink()
    assert fetch("http://127.0.0.1:9/w.pth") == cache / "w.pth"  # no network: as torch.hub does
    server.files["/w.pth"] = BODY[:1000]
    assert fetch(f"{server.url}/w.pth", progress=False).read_bytes() == BODY[:1000]
    assert (cache / "w.pth").read_bytes() == BODY


def test_a_full_disk_is_one_line_and_keeps_what_arrived(server, cache, monkeypatch):
    server.files["/w.pth"] = BODY
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(download.os, "fsync", lambda handle: (_ for _ in ()).throw(full))
    with pytest.raises(CheckpointError, match=r"cannot download .*w\.pth \(.*No space left on device\)"):
        fetch(f"{server.url}/w.pth", progress=False)
    (left,) = names(cache)
    assert left.endswith(".partial")


def test_the_index_of_a_sharded_checkpoint_brings_its_shards(server, cache):
    shards = {"a": {"x": torch.arange(3.0)}, "b": {"y": torch.ones(2)}}
    for name, state in shards.items():
        server.files[f"/m/{name}.bin"] = saved(state)
    index = {"weight_map": {"x": "a.bin", "y": "b.bin"}}
    server.files["/m/pytorch_model.bin.index.json"] = json.dumps(index).encode()
    path = fetch(f"{server.url}/m/pytorch_model.bin.index.json", progress=False)
    state = read_state_dict(path)
    assert torch.equal(state["x"], shards["a"]["x"]) and torch.equal(state["y"], shards["b"]["y"])
    (path.parent / "b.bin").unlink()
    assert torch.equal(
        read_state_dict(fetch(f"{server.url}/m/{path.name}", progress=False))["y"], torch.ones(2)
    )
    index["weight_map"]["y"] = "../../b.bin"
    server.files["/n/pytorch_model.bin.index.json"] = json.dumps(index).encode()
    with pytest.raises(CheckpointError, match=r"shard '\.\./\.\./b\.bin'"):
        fetch(f"{server.url}/n/pytorch_model.bin.index.json", progress=False)


def saved(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def python(code, home, **env):
    env = {**os.environ, "TORCH_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, stdout=-1, stderr=-1, text=True
    )


def test_processes_that_want_one_file_all_get_it_whole(server, tmp_path):
    server.files["/w.pth"] = BODY
    server.faults = ["stall"]  # the first stops half way while the others come
    code = f"""
        from convnext_dense.checkpoints.fetch import fetch
        print(len(fetch("{server.url}/w.pth", progress=False).read_bytes()), flush=True)
    """
    first = python(code, tmp_path)
    wait_until(lambda: server.requests)
    others = [python(code, tmp_path) for _ in range(2)]
    for process in others:
        assert "w.pth: waiting for another process" in process.stderr.readline()
    server.release.set()
    for process in (first, *others):
        out, err = process.communicate(timeout=HANGS)
        assert (process.returncode, out) == (0, f"{len(BODY)}\n"), err
    assert all(command == "GET" for command, _, _ in server.requests)
    assert sum(wanted is None for _, _, wanted in server.requests) <= 2, "the others downloaded, too"
    assert names(tmp_path / "hub/checkpoints") == ["w.pth", "w.pth.json"]


def test_who_waits_for_a_download_can_stop_waiting(server, tmp_path):
    server.files["/w.pth"] = BODY
    code = f"""
        import signal
        from convnext_dense.checkpoints.fetch import fetch
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        fetch("{server.url}/w.pth")
    """
    cache = tmp_path / "hub/checkpoints"
    cache.mkdir(parents=True)
    with locked(cache / "w.pth"):
        process = python(code, tmp_path)
        assert "waiting" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=HANGS)
    assert "KeyboardInterrupt" in said and names(cache) == [] and not server.requests


def test_ctrl_c_leaves_the_partial_file_and_nothing_else(server, tmp_path):
    server.files["/w.pth"] = BODY
    server.faults = ["stall"] * 99  # also where the process is so slow that it tries again
    code = f"""
        import signal
        from convnext_dense.checkpoints.fetch import fetch
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        fetch("{server.url}/w.pth")
    """
    process = python(code, tmp_path)
    cache = tmp_path / "hub/checkpoints"
    wait_until(lambda: any(path.stat().st_size for path in cache.glob("*.partial")))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=HANGS)
    assert "KeyboardInterrupt" in said
    assert len(names(cache)) == 1, names(cache)
    (left,) = names(cache)
    assert left.endswith(".partial") and 0 < (cache / left).stat().st_size <= len(BODY) // 2
    server.requests.clear()
    server.faults.clear()
    process = python(
        f"from convnext_dense.checkpoints.fetch import fetch; fetch('{server.url}/w.pth')", tmp_path
    )
    assert process.wait(HANGS) == 0
    assert (cache / "w.pth").read_bytes() == BODY
    assert server.requests[-1][2] is not None, "it did not resume"


def test_local_sources(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at absent\.pth; a source is a file, a folder"):
        fetch("absent.pth")
    with pytest.raises(CheckpointError, match=r"cannot fetch s3://bucket/w\.pth: a source is"):
        fetch("s3://bucket/w.pth")
    with pytest.raises(CheckpointError, match="no checkpoint in the folder"):
        fetch(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert fetch(tmp_path) == tmp_path


@pytest.mark.parametrize("source", ["timm:convnext_tiny", "hf:timm/convnext_tiny"])
@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("none"), OSError("libx.so: no such file"), RuntimeError("x")]
)
def test_an_absent_or_broken_library_is_named_with_its_remedy(monkeypatch, source, error):
    def broken(name, *args):
        raise error

    monkeypatch.setattr("importlib.import_module", broken)
    library = "timm" if source.startswith("timm") else "huggingface_hub"
    with pytest.raises(CheckpointError, match=f"{source} needs {library}.*; pip install {library}$"):
        fetch(source)


# ---- the hub's own library against a small hub on this machine


def hub_file(server, repo, name, content, revision="main"):
    server.files[f"/{repo}/resolve/{revision}/{name}"] = content


HUB_CODE = """
from convnext_dense.checkpoints.fetch import fetch
from convnext_dense.errors import CheckpointError
from convnext_dense.checkpoints.read import read_state_dict
try:
    path = fetch({source!r}, progress=False)
    print(path.name, {{key: value.tolist() for key, value in read_state_dict(path).items()}})
except CheckpointError as error:
    print("error:", error)
"""


def from_hub(server, tmp_path, source):
    process = python(
        HUB_CODE.format(source=source),
        tmp_path,
        HF_ENDPOINT=server.url,
        HF_HOME=str(tmp_path / "hf"),
        HF_HUB_OFFLINE="0",
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
    )
    out, err = process.communicate(timeout=HANGS)
    assert process.returncode == 0, err
    return out.strip()


def test_hub_repositories(server, tmp_path):
    pytest.importorskip("huggingface_hub")
    hub_file(server, "me/old", "pytorch_model.bin", saved({"x": torch.tensor([1.0])}))
    hub_file(server, "me/old", "pytorch_model.bin", saved({"x": torch.tensor([2.0])}), "v2")
    index = {"weight_map": {"x": "a.bin", "y": "b.bin"}}
    hub_file(server, "me/big", "pytorch_model.bin.index.json", json.dumps(index).encode())
    hub_file(server, "me/big", "a.bin", saved({"x": torch.tensor([3.0])}))
    hub_file(server, "me/big", "b.bin", saved({"y": torch.tensor([4.0])}))
    assert from_hub(server, tmp_path, "hf:me/old") == "pytorch_model.bin {'x': [1.0]}"
    assert from_hub(server, tmp_path, "hf:me/old@v2") == "pytorch_model.bin {'x': [2.0]}"
    assert from_hub(server, tmp_path, "hf:me/big").endswith("index.json {'x': [3.0], 'y': [4.0]}")
    assert "error: cannot fetch hf:me/none" in from_hub(server, tmp_path, "hf:me/none")


def test_timm_names(server, tmp_path):
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    safetensors = pytest.importorskip("safetensors.torch")
    content = safetensors.save({"x": torch.tensor([5.0])})
    hub_file(server, "timm/convnext_atto.d2_in1k", "model.safetensors", content)
    assert from_hub(server, tmp_path, "timm:convnext_atto.d2_in1k") == "model.safetensors {'x': [5.0]}"
    assert "error: cannot fetch timm:nothing: timm has no" in from_hub(server, tmp_path, "timm:nothing")
    assert "Invalid pretrained tag" in from_hub(server, tmp_path, "timm:convnext_atto.nothing")
