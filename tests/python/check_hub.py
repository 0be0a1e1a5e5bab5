"""Lets Python's library of the Hugging Face hub and lm-saes use each other's caches, against a hub on this machine.

    python check_hub.py LM_SAES FIXTURES      # needs huggingface_hub; FIXTURES holds saelens/*
"""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

PROGRAM, SAE = sys.argv[1], pathlib.Path(sys.argv[2]) / "saelens" / "abstopk"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {f"some/sae/{name}": (SAE / name).read_bytes() for name in ("cfg.json", "sae_weights.safetensors")}
asked = []


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, headers, body):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        asked.append(f"{self.command} {path}")
        if path.startswith("/api/models/org/repo"):
            listing = {"id": "org/repo", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            return self.answer(200, {"Content-Type": "application/json"}, json.dumps(listing).encode())
        for revision in ("main", COMMIT):
            body = FILES.get(path.removeprefix(f"/org/repo/resolve/{revision}/"))
            if body is not None:
                # Large files are named by sha256, small ones by git's hash.
                etag = hashlib.sha256(body).hexdigest() if len(body) > 2000 else hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
                headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
                begin = self.headers.get("Range", "").removeprefix("bytes=").split("-")[0]
                if begin:
                    headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
                    return self.answer(206, headers, body[int(begin):])
                return self.answer(200, headers, body)
        self.answer(404, {"X-Error-Code": "EntryNotFound"}, b"no")

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
ENDPOINT = f"http://127.0.0.1:{server.server_port}"


def run(command, home, offline):
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    env = {**plain, "HF_HOME": str(home), "HF_ENDPOINT": ENDPOINT, "HF_HUB_OFFLINE": "1" if offline else "0", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def by_python(home, offline):
    script = "import sys, huggingface_hub as h\nfor name in sys.argv[1:]: print(h.hf_hub_download('org/repo', name))"
    paths = run([sys.executable, "-c", script, *FILES], home, offline).split("\n")
    for path, body in zip(paths, FILES.values()):
        assert pathlib.Path(path).read_bytes() == body, path


def by_us(home, offline, out):
    run([PROGRAM, "convert", "org/repo:some/sae", str(out)], home, offline)
    return (out / "sae_weights.safetensors").read_bytes()


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    by_python(folder / "python", offline=False)
    before = len(asked)
    theirs = by_us(folder / "python", True, folder / "a")
    assert len(asked) == before, "offline nothing may be asked"
    # Online the cache that Python made is asked about and nothing is fetched again.
    assert by_us(folder / "python", False, folder / "b") == theirs
    assert not any(line.startswith("GET /org") for line in asked[before:]), asked[before:]
    assert by_us(folder / "ours", False, folder / "c") == theirs
    by_python(folder / "ours", offline=True)
    layout = [sorted(str(p.relative_to(folder / home)) for p in (folder / home / "hub").rglob("snapshots/*/some/sae/*")) for home in ("python", "ours")]
    assert layout[0] == layout[1] and len(layout[0]) == len(FILES), layout
print("lm-saes uses what Python's library of the hub fetched, and the reverse, offline and online")
