"""Throughput of the shared store beside `aws s3 cp`, over one S3 server on the loopback interface.

    cargo install --root PEERS --features binary s3s-fs
    python benches/remote/run.py --repro target/release/examples/toy --server PEERS/bin/s3s-fs --aws PEERS/venv/bin/aws

One file of 1 GiB and 10,000 files of 4 KiB, each pushed and pulled, every time into an empty bucket or cache. `repro` hashes
all bytes on both ways and knows what it has; `aws s3 cp` copies. It does not measure a network: both are as fast as the server,
the disk and the processors let them.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

KEY, SECRET = "AKEXAMPLE", "no-secret-at-all"
WORK = {"one file of 1 GiB": (1, 1 << 20), "10,000 files of 4 KiB": (10_000, 4)}
STEPS = """(default_profile: "mini", profiles: [(name: "mini", about: "bytes", sources: [], defaults: {})],
steps: [(name: "bytes", stage: "fill", params: (seed: 1, files: %d, kilobytes: %d))], targets: {})"""


class Server:
    """The server over an empty bucket `results`."""

    def __init__(self, program: str, root: Path):
        self.root = root
        (root / "results").mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        args = [program, "--access-key", KEY, "--secret-key", SECRET, "--host", "127.0.0.1", "--port", str(self.port), str(root)]
        self.process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"RUST_LOG": "off"})
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise SystemExit("the server does not answer")

    def environment(self) -> dict:
        address = f"http://127.0.0.1:{self.port}"
        return os.environ | {
            "AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "REPRO_REMOTE": "s3://results/paper",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def empty(self) -> None:
        shutil.rmtree(self.root / "results")
        (self.root / "results").mkdir()


def timed(args: list, folder: Path, environment: dict) -> float:
    subprocess.run(["sync"], check=True)
    since = time.monotonic()
    done = subprocess.run(args, cwd=folder, env=environment, capture_output=True, text=True)
    took = time.monotonic() - since
    if done.returncode != 0:
        raise SystemExit(f"{args}: code {done.returncode}: {done.stderr}")
    return took


def measure(options, server: Server, folder: Path, number: int, kilobytes: int) -> dict:
    environment = server.environment()
    here, there = folder / "here", folder / "there"
    here.mkdir()
    (here / "pipeline.ron").write_text(STEPS % (number, kilobytes))
    timed([options.repro, "make"], here, {**environment, "REPRO_REMOTE": ""})
    (tree,) = (here / "cache/trees").iterdir()
    times = {"repro push": [], "repro pull": [], "aws s3 cp, up": [], "aws s3 cp, down": []}
    for _ in range(options.runs):
        server.empty()
        times["repro push"].append(timed([options.repro, "push"], here, environment))
        there.mkdir()
        shutil.copy2(here / "pipeline.ron", there)
        times["repro pull"].append(timed([options.repro, "pull"], there, environment))
        shutil.rmtree(there)
        server.empty()
        up = [options.aws, "s3", "cp", "--recursive", "--quiet", str(tree), "s3://results/data"]
        times["aws s3 cp, up"].append(timed(up, here, environment))
        down = [options.aws, "s3", "cp", "--recursive", "--quiet", "s3://results/data", str(there)]
        times["aws s3 cp, down"].append(timed(down, here, environment))
        shutil.rmtree(there)
    shutil.rmtree(here)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repro", type=os.path.abspath, required=True)
    parser.add_argument("--server", type=os.path.abspath, required=True)
    parser.add_argument("--aws", type=os.path.abspath, required=True)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        server = Server(options.server, folder / "server")
        try:
            print("| work | repro push | aws, up | ratio | repro pull | aws, down | ratio |\n|---|---|---|---|---|---|---|")
            for name, (number, kilobytes) in WORK.items():
                took = measure(options, server, folder, number, kilobytes)
                push, up, pull, down = (took[way] for way in ("repro push", "aws s3 cp, up", "repro pull", "aws s3 cp, down"))
                print(f"| {name} | {push:.2f} s | {up:.2f} s | {up / push:.2f} | {pull:.2f} s | {down:.2f} s | {down / pull:.2f} |")
        finally:
            server.process.terminate()


if __name__ == "__main__":
    main()
